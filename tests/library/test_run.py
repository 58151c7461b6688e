"""A proxy in a thread, beside a test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
from fetching import fetch, fetch_in_a_child
from harness import read_head

import spliceproxy
from spliceproxy import Allow, Config, Deny, Request
from spliceproxy.processes.listeners import ListenError

VARIABLES = [
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (upper, upper.lower())
]


def connect(proxy: spliceproxy.Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1])), 20)


def test_records(origin: str) -> None:
    with spliceproxy.run() as proxy:
        assert fetch(f"http://{origin}/a", proxy.url) == b"hello"
        assert proxy.destinations == {origin}
        proxy.assert_only(origin)
    (record,) = proxy.records
    assert (record.status, record.method, record.target) == (200, "GET", f"http://{origin}/a")
    assert record.ended
    assert record.bytes_out > 5
    assert not [thread for thread in threading.enumerate() if thread.name == "spliceproxy"]


def test_destinations_of_open_tunnels_are_known(origin: str) -> None:
    host, port = origin.split(":")
    with spliceproxy.run() as proxy, connect(proxy) as s:
        s.sendall(f"CONNECT {origin} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_head(s)
        assert proxy.destinations == {origin}
        with pytest.raises(AssertionError):
            proxy.assert_only(f"{host}:{int(port) - 1}")


def test_environment(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://elsewhere:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    before = dict(os.environ)
    with spliceproxy.run(environment=True) as proxy:
        assert fetch(f"http://{origin}/") == b"hello"
        assert fetch_in_a_child(f"http://{origin}/") == b"hello"
        assert [os.environ.get(name) for name in VARIABLES] == [proxy.url] * 6 + [None] * 2
    assert dict(os.environ) == before
    assert len(proxy.records) == 2
    with spliceproxy.run(environment=True, no_proxy="127.0.0.1") as proxy:
        assert fetch(f"http://{origin}/") == b"hello"
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "127.0.0.1"
    assert proxy.records == ()


def test_environment_is_restored_after_an_error() -> None:
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), spliceproxy.run(environment=True):
        _ = 1 / 0
    assert dict(os.environ) == before


def test_environment_stays_without_being_asked() -> None:
    before = dict(os.environ)
    with spliceproxy.run():
        assert dict(os.environ) == before


def test_policy_runs_beside_the_test(origin: str) -> None:
    threads = []

    async def authorize(request: Request) -> Allow | Deny:
        threads.append(threading.current_thread())
        return Allow() if request.path == "/yes" else Deny("no", rule="only-yes")

    with spliceproxy.run(policy=authorize) as proxy:
        assert fetch(f"http://{origin}/yes", proxy.url) == b"hello"
        with pytest.raises(OSError, match="403"):
            fetch(f"http://{origin}/no", proxy.url)
        with pytest.raises(AssertionError, match=r"GET \(403, denied by only-yes\)"):
            proxy.assert_only("example.org")
    assert threading.current_thread() not in threads
    assert len(threads) == 2


def test_message(origin: str) -> None:
    with spliceproxy.run() as proxy:
        for path in ("/a", "/b"):
            fetch(f"http://{origin}/{path}", proxy.url)
        with pytest.raises(OSError, match="502"):
            fetch("http://nothing.invalid/", proxy.url)
    with pytest.raises(AssertionError) as caught:
        proxy.assert_only("github.com:443", "*.example.org")
    assert str(caught.value).splitlines() == [
        "requests to other destinations:",
        f"  {origin}: 2 x GET (200, went through)",
        "  nothing.invalid:80: 1 x GET (502, dns_error)",
        "allowed: github.com:443, *.example.org",
    ]


def test_what_cannot_start_is_raised_here() -> None:
    with spliceproxy.run() as proxy:
        taken = proxy.url.removeprefix("http://")
        with (
            pytest.raises(ListenError, match="another program uses it"),
            spliceproxy.run(listen=[taken]),
        ):
            pass
    bad = spliceproxy.PolicyConfig(hook="no.such.module")
    with (
        pytest.raises(ValueError, match=r"no\.such\.module"),
        spliceproxy.run(config=Config(listen=(), policy=bad)),
    ):
        pass


def test_import_is_light() -> None:
    """pytest loads the plugin at every start, and the command line the package."""
    program = (
        "import sys, spliceproxy, spliceproxy.embed.pytest_plugin; "
        "print([n for n in ('asyncio', 'ssl', 'aiodns', 'uvloop', 'spliceproxy.embed.library', "
        "'spliceproxy.config', 'passlib') if n in sys.modules])"
    )
    command = [sys.executable, "-c", f"import sys, pytest; had = set(sys.modules); {program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
