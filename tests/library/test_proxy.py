"""A proxy on the caller's event loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fetching import fetch
from harness import read_head, serving

import spliceproxy
from spliceproxy import Allow, AuthConfig, Config, Deny, Proxy, Record, Request, Timeouts
from spliceproxy.forward.lane import Lane
from spliceproxy.processes.listeners import ListenError
from spliceproxy.processes.worker import new_loop
from spliceproxy.relay.choice import NATIVE_MODULE, EngineError

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def run(each_loop: bool) -> Run:
    """Runs a coroutine function on uvloop's loop, then on asyncio's."""

    def on_loop(main: Callable[[], Awaitable[None]]) -> None:
        loop = new_loop()[0] if each_loop else asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    return on_loop


ROUNDS = 8


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def settle(before: int) -> None:
    """Waits until no more descriptors are open than ``before``, but for a few that are opened
    once: c-ares closes its own in a thread, the event loop its own in its next turns."""
    end = time.monotonic() + 20
    while descriptors() >= before + ROUNDS:
        assert time.monotonic() < end, f"{descriptors()} descriptors, before {before}"
        await asyncio.sleep(0.01)


async def get(proxy: Proxy, url: str, *fields: str) -> bytes:
    """The whole answer to a request on a connection of its own."""
    host, port = proxy.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    lines = [f"GET {url} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def tunnel(proxy: Proxy, authority: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rsplit(":", 1)[1]))
    writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    return reader, writer


def test_forwards_and_records(run: Run, origin: str) -> None:
    async def main() -> None:
        async with Proxy(record=True) as proxy:
            assert b"hello" in await get(proxy, f"http://{origin}/a")
            reader, writer = await tunnel(proxy, origin)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await asyncio.wait_for(reader.readexactly(42), 20)
            plain, tunnelled = proxy.records
            assert not tunnelled.ended
            writer.close()
        assert proxy.destinations == {origin}
        assert (plain.method, tunnelled.method) == ("GET", "CONNECT")
        for record in (plain, tunnelled):
            assert isinstance(record, Record)
            assert record.ended
            assert record.status == 200
            assert record.client == "127.0.0.1"
            assert f"{record.host}:{record.port}" == record.destination == origin
            assert record.bytes_out > 30
        head = f"GET http://{origin}/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert plain.bytes_in == len(head)
        head = f"CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n"
        assert tunnelled.bytes_in == len(head) + len(b"GET / HTTP/1.1\r\n\r\n")

    run(main)


class OneFamilyIsLate:
    """Names of which the second family of addresses comes while the first is dialled."""

    def __init__(self) -> None:
        self._late: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, config: Config, row: memoryview | None = None) -> OneFamilyIsLate:
        return cls()

    def cached(self, host: str) -> tuple[str, ...] | None:
        known = self._late is not None and self._late.done()
        return ("::2", "127.0.0.1") if known else None

    async def resolve(self, host: str) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        self._late = loop.create_future()
        loop.call_later(0.05, self._late.set_result, None)
        return ("::2",)  # leads nowhere

    def late(self, host: str) -> asyncio.Future[None] | None:
        return None if self._late is None or self._late.done() else self._late

    async def close(self) -> None: ...


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_request_that_is_judged_twice_is_one_record(
    run: Run, origin: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spliceproxy.embed.library.Resolver", OneFamilyIsLate)
    port = origin.rpartition(":")[2]
    seen: list[Request] = []

    def authorize(request: Request) -> Allow:
        seen.append(request)
        return Allow()

    async def main() -> None:
        async with Proxy(record=True, policy=authorize) as proxy:
            if method == "GET":
                assert b"hello" in await get(proxy, f"http://a.test:{port}/a")
            else:
                (await tunnel(proxy, f"a.test:{port}"))[1].close()
        assert len(seen) == 2
        (record,) = proxy.records
        assert record.status == 200
        seen.clear()

    run(main)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_policy_and_on_close(run: Run, origin: str, kind: str) -> None:
    closed: list[Record] = []
    seen: list[Request] = []

    def authorize(request: Request) -> Allow | Deny:
        seen.append(request)
        return Deny("not here", rule="mine") if request.path == "/no" else Allow(tags={"a": "b"})

    async def authorize_later(request: Request) -> Allow | Deny:
        await asyncio.sleep(0)
        return authorize(request)

    async def main() -> None:
        policy = authorize if kind == "plain" else authorize_later
        async with Proxy(policy=policy, on_close=closed.append) as proxy:
            denied = await get(proxy, f"http://{origin}/no")
            assert denied.startswith(b"HTTP/1.1 403 ")
            assert b"not here" in denied
            assert b"hello" in await get(proxy, f"http://{origin}/yes")

    run(main)
    assert [request.path for request in seen] == ["/no", "/yes"]
    assert [(record.status, record.rule) for record in closed] == [(403, "mine"), (200, "")]
    assert repr(closed[0]) == (
        f"<Record GET 'http://{origin}/no' status=403 bytes_out={closed[0].bytes_out} "
        "rule='mine' error='http_request_denied'>"
    )
    assert closed[1].tags == {"a": "b"}
    assert closed[1].destination == origin


def test_a_policy_that_fails_denies(
    run: Run, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    def authorize(request: Request) -> Allow:
        raise RuntimeError("broken")

    async def main() -> None:
        async with Proxy(policy=authorize) as proxy:
            assert (await get(proxy, f"http://{origin}/")).startswith(b"HTTP/1.1 500 ")

    run(main)
    assert "broken" in caplog.text


def test_many_requests_of_one_connection_are_all_recorded(run: Run, origin: str) -> None:
    async def main() -> None:
        async with Proxy(record=True) as proxy:
            port = int(proxy.url.rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for n in range(5):
                writer.write(f"GET http://{origin}/{n} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await asyncio.wait_for(reader.readuntil(b"hello"), 20)
            writer.close()
        assert [record.target[-2:] for record in proxy.records] == [f"/{n}" for n in range(5)]

    run(main)


def test_settings(run: Run, origin: str) -> None:
    config = Config(listen=(), auth=AuthConfig(user=("alice", "secret")), access_log="off")

    async def main() -> None:
        async with Proxy(config=config, record=True) as proxy:
            assert b" 407 " in await get(proxy, f"http://{origin}/")
            field = "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0"
            assert b"hello" in await get(proxy, f"http://{origin}/", field)
        assert [record.user for record in proxy.records] == ["", "alice"]

    run(main)


def test_two_in_a_row(run: Run, origin: str) -> None:
    """One is the other's origin: that is no loop."""

    async def main() -> None:
        async with Proxy() as outer, Proxy(record=True) as inner:
            assert outer.url != inner.url
            reader, writer = await tunnel(outer, inner.url.removeprefix("http://"))
            writer.write(f"GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await asyncio.wait_for(reader.readuntil(b"hello"), 20)
            writer.close()
            via = [f"Via: 1.1 {outer._config.via}"]
            assert b"hello" in await get(inner, f"http://{origin}/", *via)

    run(main)


def test_unix_socket_and_every_address(run: Run, origin: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        async with Proxy(listen=[f"unix:{path}"]) as proxy:
            assert proxy.url == f"unix:{path}"
            assert path.is_socket()
        assert not path.exists()
        async with Proxy(listen=["0.0.0.0:0", f"unix:{path}"]) as proxy:
            assert proxy.url.startswith("http://127.0.0.1:")
            assert b"hello" in await get(proxy, f"http://{origin}/")

    run(main)


@pytest.mark.parametrize("name", ["policy", "on_close"])
def test_functions_that_cannot_be_called(name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{name}: it is called with one argument, but takes \(\);"
    ):
        Proxy(**{name: lambda: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "localhost:1"])
def test_bad_address(listen: str) -> None:
    words = rf"^listen: invalid value '{listen}'; allowed: :8888, 127.0.0.1:8888"
    with pytest.raises(ValueError, match=words):
        Proxy(listen=[listen])


@pytest.mark.parametrize("name", ["listen", "policy", "on_close"])
def test_a_text_in_the_wrong_place(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: '127.0.0.1:0'; allowed: a "):
        Proxy(**{name: "127.0.0.1:0"})  # type: ignore[arg-type]


def test_what_cannot_start_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    bad_rule = spliceproxy.PolicyConfig(
        rules=(spliceproxy.RuleConfig(id="a", action="deny", networks=("x",)),)
    )

    unix = f"unix:{tmp_path}/socket"

    async def main() -> None:
        async with Proxy() as proxy:
            taken = proxy.url.removeprefix("http://")
            for config, listen, error in (
                (Config(listen=()), taken, ListenError),
                (Config(listen=(), policy=bad_rule), "127.0.0.1:0", ValueError),
                (Config(listen=(), engine="none"), "127.0.0.1:0", EngineError),
                (
                    Config(listen=(), access_log=str(tmp_path / "no/such")),
                    "127.0.0.1:0",
                    FileNotFoundError,
                ),
            ):
                before = descriptors()
                kept = []  # with their frames, so that nothing is closed by being forgotten
                for _ in range(ROUNDS):
                    with pytest.raises(error) as caught:
                        await Proxy(config=config, listen=[listen, unix]).__aenter__()
                    kept.append(caught)
                await settle(before)
                assert not (tmp_path / "socket").exists()

    run(main)


def test_nothing_is_left_behind(run: Run, origin: str) -> None:
    async def main() -> None:
        before = descriptors()
        for _ in range(ROUNDS):
            async with Proxy() as proxy:
                assert b"hello" in await get(proxy, f"http://{origin}/")
                _, writer = await tunnel(proxy, origin)
                writer.close()
                await writer.wait_closed()
        await settle(before)

    run(main)


def test_open_tunnels_are_cut_at_the_end(
    run: Run, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Proxy(record=True) as proxy:
            reader, writer = await tunnel(proxy, origin)
        (record,) = proxy.records
        assert record.ended
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 20)
        writer.close()

    run(main)


def test_cancelled_while_it_drains(run: Run) -> None:
    """The end comes at once then, and it is whole."""
    config = Config(listen=(), access_log="off", timeouts=Timeouts(drain=600.0))
    asked = threading.Event()

    def never_answers(connection: socket.socket) -> None:
        read_head(connection)
        asked.set()
        assert not connection.recv(1)

    async def main(url: str) -> None:
        loop = asyncio.get_running_loop()
        draining = asyncio.Event()
        proxy = Proxy(config=config, record=True)
        requests = []

        async def block() -> None:
            async with proxy:
                requests.append(asyncio.ensure_future(get(proxy, url)))
                await loop.run_in_executor(None, asked.wait, 20)
                loop.call_soon(draining.set)

        task = asyncio.ensure_future(block())
        await asyncio.wait_for(draining.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 20)
        assert proxy.records[0].ended
        assert await requests[0] == b""
        await loop.shutdown_default_executor()

    with serving(never_answers) as (host, port):
        run(lambda: main(f"http://{host}:{port}/"))


def test_misuse(run: Run) -> None:
    async def main() -> None:
        proxy = Proxy()
        with pytest.raises(RuntimeError, match="before it has been entered"):
            _ = proxy.url
        async with proxy:
            with pytest.raises(RuntimeError, match="record=True"):
                _ = proxy.records
            with pytest.raises(RuntimeError, match="runs already"):
                await proxy.__aenter__()
        first = proxy.url
        async with proxy:  # once more
            assert proxy.url != first

    run(main)


def test_it_logs_nothing_to_standard_output(
    run: Run, origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with Proxy() as proxy:
            await get(proxy, f"http://{origin}/")

    run(main)
    assert capfd.readouterr() == ("", "")


def test_blocking_client_in_a_thread(run: Run, origin: str) -> None:
    async def main() -> None:
        async with Proxy() as proxy:
            loop = asyncio.get_running_loop()
            got = await loop.run_in_executor(None, fetch, f"http://{origin}/", proxy.url)
            assert got == b"hello"
            await loop.shutdown_default_executor()

    run(main)


def test_names_of_the_package() -> None:
    for name in spliceproxy.__all__:
        assert getattr(spliceproxy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spliceproxy.nothing


def test_a_client_that_comes_at_the_very_end_is_closed(run: Run) -> None:
    """Its task is cancelled before it has begun."""

    async def main() -> None:
        async with Proxy(config=Config(listen=("127.0.0.1:0",), access_log="off")) as proxy:
            assert proxy._instance is not None
            server = proxy._instance.server
            outer, inner = socket.socketpair()
            with outer:
                server._begin(inner, "127.0.0.1", "", b"")
                assert server.connections == 1
                await server._end_all()
                assert server.connections == 0
                outer.settimeout(20)
                assert outer.recv(1) == b""

    run(main)


def test_a_pause_ends_though_a_socket_cannot_be_listened_to_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no memory for it, or epoll takes no more."""
    pytest.importorskip(NATIVE_MODULE)
    faults: list[Exception] = [MemoryError(), OSError(errno.ENOSPC, "no watch is left")]
    real = Lane.listen

    def listen(lane: Lane, sock: socket.socket, **more: Any) -> None:
        if faults:
            raise faults.pop()
        real(lane, sock, **more)

    async def main() -> None:
        async with Proxy() as proxy:
            monkeypatch.setattr(Lane, "listen", listen)
            assert proxy._instance is not None
            proxy._instance.server._pause("of a test")
            assert b" 400 " in await get(proxy, "/")
            assert not faults

    asyncio.run(asyncio.wait_for(main(), 20))
