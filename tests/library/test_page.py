"""The examples of docs/library.md, with an origin of ours in place of those that they name."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import spliceproxy
from spliceproxy import Request

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "library.md"

UPDATE = """
import urllib.request

def update():
    urllib.request.install_opener(None)
    for url in URLS:
        urllib.request.urlopen(url, timeout=20).read()
"""


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The indented texts of the page."""
    if not PAGE.exists():
        pytest.skip("not in a source tree")
    texts = re.findall(r"(?:^(?:    .*)?\n)+", PAGE.read_text(), re.M)
    return [textwrap.dedent(text).strip("\n") + "\n" for text in texts if text.strip()]


def one(blocks: list[str], word: str) -> str:
    (block,) = [block for block in blocks if word in block]
    return block


def test_the_program_runs(blocks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = one(blocks, "asyncio.run(main())").replace("sleep(3600)", "sleep(0)")
    names: dict[str, object] = {}
    exec(text, names)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", capsys.readouterr().out)


def test_the_config_is_as_private_as_it_says(blocks: list[str]) -> None:
    names: dict[str, spliceproxy.Config] = {}
    exec(one(blocks, "private = Config("), names)
    answer = spliceproxy.explain(
        names["private"], Request(client="10.0.0.1", host="a.example", addresses=("10.0.0.9",))
    )
    assert (answer.allowed, answer.rule) == (False, "guard")
    with spliceproxy.run(config=names["private"]) as proxy:
        assert proxy.url


def run_tests(pytester: pytest.Pytester, text: str, urls: list[str]) -> pytest.RunResult:
    """The tests of ``text``, in a pytest of its own, with an ``update`` that fetches these."""
    pytester.makepyfile(UPDATE.replace("URLS", repr(urls)) + text)
    return pytester.runpytest_subprocess(
        "-p", "spliceproxy.embed.pytest_plugin", "--strict-markers"
    )


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this environment is in the way of the inner pytest."""
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # installed or not
    monkeypatch.setenv("PYTHONPATH", str(Path(spliceproxy.__file__).parents[1]))


@pytest.mark.usefixtures("alone")
def test_the_test_passes_and_fails(
    pytester: pytest.Pytester, blocks: list[str], origin: str
) -> None:
    text = one(blocks, "def test_update():")
    ours = text.replace("github.com:443", origin)
    run_tests(pytester, ours, [f"http://{origin}/"]).assert_outcomes(passed=1)
    shown = one(blocks, "AssertionError: requests to other destinations:").split("\n")
    assert shown[1].startswith("  telemetry.example:443: 1 x CONNECT (")
    result = run_tests(pytester, text, [f"http://{origin}/"])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f"E *{shown[0]}", f"E *{origin}: 1 x GET (200, went through)", f"E *{shown[2]}"]
    )


@pytest.mark.usefixtures("alone")
def test_the_tests_with_the_fixture_pass(
    pytester: pytest.Pytester, blocks: list[str], origin: str
) -> None:
    text = one(blocks, "@pytest.mark.spliceproxy(").replace("github.com:443", origin)
    run_tests(pytester, text, [f"http://{origin}/"]).assert_outcomes(passed=2)
