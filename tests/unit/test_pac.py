"""PAC files: what their answers mean, and that a fault never means that a request goes straight."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from spliceproxy.config import Url
from spliceproxy.embed.explaining import as_text, explain
from spliceproxy.errors import Failure
from spliceproxy.policy.request import Request
from spliceproxy.settings.loading import SettingsError, load
from spliceproxy.upstream import pac
from spliceproxy.upstream.pac import Pac, ways_of

pytest.importorskip("pacparser")

HTTP, HTTPS = Url("http", "a.test", 3128), Url("https", "b.test", 443)
SOCKS = Url("socks4a", "s.test", 1080)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("DIRECT", (None,)),
        ("PROXY a.test:3128", (HTTP,)),
        ("proxy A.test:3128 ; HTTPS b.test;DIRECT", (HTTP, HTTPS, None)),
        ("DIRECT; PROXY a.test:3128", (None,)),
        (
            "SOCKS s.test; SOCKS4 s.test:1",
            (Url("socks4a", "s.test", 1080), Url("socks4a", "s.test", 1)),
        ),
        ("SOCKS5 [2001:db8::1]:9", (Url("socks5h", "2001:db8::1", 9),)),
        ("QUIC q.test:1; PROXY a.test:3128", (HTTP,)),
        ("PROXY a.test:3128; PROXY a.test:3128", (HTTP,)),
    ],
)
def test_what_an_answer_means(answer: str, wanted: tuple[Url | None, ...]) -> None:
    assert ways_of(answer) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ";",
        "null",
        "5",
        "DIRECT x",
        "PROXY",
        "PROXY a b",
        "PROXY a:0",
        "PROXY a:99999",
        "QUIC a:1",
    ],
)
def test_what_means_nothing(answer: str) -> None:
    with pytest.raises(ValueError, match="it names no proxy"):
        ways_of(answer)


def run(script: str, use: Callable[[Pac], Awaitable[None]]) -> None:
    async def main() -> None:
        made = Pac(asyncio.get_running_loop(), script)
        try:
            await use(made)
        finally:
            made.finish()

    asyncio.run(main())


SCRIPT = """
var asked = 0;
function FindProxyForURL(url, host) {
    if (host == "hang.test") while (true) {}
    if (host == "fault.test") return nothing.at.all;
    if (host == "count.test") return "PROXY n" + (++asked) + ":1";
    if (isInNet(host, "10.0.0.0", "255.0.0.0")) return "DIRECT";
    var parts = url.split("/");
    return "PROXY " + parts[0].slice(0, -1) + "." + parts[2].replace(":", "-") + ":1";
}
"""


def test_what_a_file_is_asked() -> None:
    async def use(made: Pac) -> None:
        assert await made.find("http", "x.test", 80) == (Url("http", "http.x.test", 1),)
        assert await made.find("https", "x.test", 443) == (Url("http", "https.x.test", 1),)
        assert await made.find("http", "x.test", 81) == (Url("http", "http.x.test-81", 1),)
        assert await made.find("https", "10.1.2.3", 443) == (None,)
        first = await made.find("http", "count.test", 80)
        assert await made.find("http", "count.test", 80) == first

    run(SCRIPT, use)


def test_a_fault_is_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(made: Pac) -> None:
        await made.find("http", "x.test", 80)
        monkeypatch.setattr(pac, "SECONDS", 0.5)
        for host, why in (("fault.test", "nothing is not defined"), ("hang.test", "within 0.5 s")):
            for _ in range(2):
                with pytest.raises(Failure) as caught:
                    await made.find("http", host, 80)
                assert caught.value.status == 502
                assert why in caught.value.detail
        monkeypatch.setattr(pac, "SECONDS", 10.0)
        assert await made.find("http", "y.test", 80) == (Url("http", "http.y.test", 1),)

    run(SCRIPT, use)


def test_a_helper_that_dies_is_started_anew() -> None:
    async def use(made: Pac) -> None:
        await made.find("http", "x.test", 80)
        assert made._process is not None
        os.kill(made._process.pid, 9)
        with pytest.raises(Failure, match="its helper has ended"):
            await made.find("http", "y.test", 80)
        assert await made.find("http", "z.test", 80) == (Url("http", "http.z.test", 1),)

    run(SCRIPT, use)


def test_who_leaves_takes_no_answer_of_anothers() -> None:
    async def use(made: Pac) -> None:
        task = asyncio.ensure_future(made.find("http", "hang.test", 80))
        while made._process is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await made.find("http", "y.test", 80) == (Url("http", "http.y.test", 1),)

    run(SCRIPT, use)


def test_those_who_wait_when_it_ends_get_their_answers() -> None:
    async def use(made: Pac) -> None:
        task = asyncio.ensure_future(made.find("http", "x.test", 80))
        while made._process is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        made.finish()
        assert await asyncio.wait_for(task, 20) == (Url("http", "http.x.test", 1),)
        assert made._process is None

    run(SCRIPT, use)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("function FindProxyForURL(", "Could not parse pac script string JSERROR: SyntaxError"),
        ("function Other() {}", "Could not find proxy"),
        (None, "cannot read it (No such file or directory)"),
    ],
)
def test_files_that_are_none(tmp_path: Path, script: str | None, why: str) -> None:
    path = tmp_path / "proxy.pac"
    if script is not None:
        path.write_text(script)
    with pytest.raises(SettingsError) as caught:
        load({"pac": str(path)}, None, {}, start=False)
    assert str(caught.value).startswith(f"--pac {path}: {why}")


def test_explain(tmp_path: Path) -> None:
    path = tmp_path / "proxy.pac"
    path.write_text(SCRIPT)
    config = load({"pac": str(path)}, None, {}, start=False)[0]
    text = as_text(explain(config, Request("127.0.0.1", host="x.test", port=443)))
    assert "the PAC file: http://https.x.test:1" in text
    assert text.endswith("allowed: would connect through http://https.x.test:1 by name")
    text = as_text(explain(config, Request("127.0.0.1", host="fault.test", port=443)))
    assert "=> route    no   the PAC file: Could not find proxy" in text
    assert "refused with 502: the PAC file" in text
