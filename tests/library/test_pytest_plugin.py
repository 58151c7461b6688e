"""The fixture, in a pytest of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import spliceproxy

pytest_plugins = ["pytester"]

TESTS = """
import os, urllib.request
import pytest

def get(path="/"):
    # urlopen() keeps the proxy that it has seen first.
    opener = urllib.request.build_opener()
    return opener.open("http://ORIGIN" + path, timeout=20).read()

def test_only(spliceproxy):
    assert get() == b"hello"
    spliceproxy.assert_only("ORIGIN")

def test_other(spliceproxy):
    get()
    spliceproxy.assert_only("github.com:443")

def deny(request):
    from spliceproxy import Allow, Deny
    return Deny("no", rule="none")

@pytest.mark.spliceproxy(policy=deny, no_proxy="localhost")
def test_marker(spliceproxy):
    with pytest.raises(OSError, match="403"):
        get()
    assert os.environ["NO_PROXY"] == "localhost"
    assert spliceproxy.records[0].rule == "none"

@pytest.mark.spliceproxy(environment=False)
def test_no_environment(spliceproxy):
    assert os.environ.get("HTTP_PROXY") != spliceproxy.url

@pytest.mark.spliceproxy("127.0.0.1:0")
def test_no_name(spliceproxy):
    pass

def test_without():
    assert not os.environ.get("HTTP_PROXY")
"""


def test_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # installed or not
    monkeypatch.setenv("PYTHONPATH", str(Path(spliceproxy.__file__).parents[1]))
    pytester.makepyfile(TESTS.replace("ORIGIN", origin))
    result = pytester.runpytest_subprocess(
        "-p", "spliceproxy.embed.pytest_plugin", "--strict-markers"
    )
    result.assert_outcomes(passed=4, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *TypeError: spliceproxy(*127.0.0.1:0*): the marker's arguments have names",
            "*spliceproxy.assert_only(*",
            "E *AssertionError: requests to other destinations:",
            f"E *{origin}: 1 x GET (200, went through)",
            "E *allowed: github.com:443",
        ]
    )
