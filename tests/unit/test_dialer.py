"""The dialer: order, delays, failures, and that no descriptor outlives its attempt."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from harness import free_port

from spliceproxy.errors import Failure
from spliceproxy.net import tcp
from spliceproxy.relay import columns
from spliceproxy.upstream import dialer as module
from spliceproxy.upstream.dialer import Dialer

# A socket that only the garbage collector closes is a leak too.
pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

Run = Callable[[Coroutine[Any, Any, Any]], Any]

NEVER = 3600.0
"""A delay or limit that a test must not wait for; pytest-timeout ends it if it does."""


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a new loop of each kind, and counts descriptors around it."""
    runner = asyncio.run if request.param == "asyncio" else pytest.importorskip("uvloop").run
    runner(asyncio.sleep(0))  # uvloop opens a pair of descriptors once

    def counted(main: Coroutine[Any, Any, Any]) -> Any:
        gc.collect()  # what other tests have left must not go meanwhile
        before = _descriptors()
        result = runner(main)
        assert _descriptors() == before
        return result

    return counted


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="needs IPv6 on the loopback interface")


def _listen(address: str, port: int = 0, backlog: int = 1024) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(backlog)
    return sock


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with _listen("127.0.0.1") as sock:
        yield sock


@pytest.fixture
def port(listener: socket.socket) -> int:
    """A port on which 127.0.0.1 listens and the other loopback addresses refuse."""
    return int(listener.getsockname()[1])


@pytest.fixture
def hole(port: int) -> Iterator[str]:
    """An address that does not answer on that port: its accept queue is full."""
    address = "127.0.0.9"
    fillers = []
    with _listen(address, port, backlog=0):
        full = False
        while not full:
            filler = socket.socket()
            filler.settimeout(0.2)
            fillers.append(filler)
            try:
                filler.connect((address, port))
            except TimeoutError:
                full = True
        yield address
    for filler in fillers:
        filler.close()


def dialer(timeout: float = NEVER) -> Dialer:
    """One that only connects: it has no resolver."""
    return Dialer(timeout)


async def fails(dialer: Dialer, addresses: list[str], port: int) -> Failure:
    with pytest.raises(Failure) as caught:
        await dialer.connect(addresses, port)
    return caught.value


# Success


def _check(sock: socket.socket) -> None:
    def option(level: int, name: int) -> int:
        return sock.getsockopt(level, name)

    assert sock.type == socket.SOCK_STREAM
    assert not sock.getblocking()
    assert not os.get_inheritable(sock.fileno())
    assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option(socket.SOL_SOCKET, socket.SO_OOBINLINE)
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == tcp.KEEPALIVE_IDLE
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == tcp.KEEPALIVE_INTERVAL
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == tcp.KEEPALIVE_COUNT


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_connects(run: Run, address: str) -> None:
    async def main() -> None:
        port = listener.getsockname()[1]
        sock, peer = await dialer().connect([address], port)
        assert peer == address
        assert sock.getpeername()[:2] == (address, port)
        _check(sock)
        # Off the loop: nobody watches the descriptor.
        assert not asyncio.get_running_loop().remove_writer(sock.fileno())
        sock.close()

    with _listen(address) as listener:
        run(main())


def test_dials_from_an_address(run: Run, listener: socket.socket, port: int) -> None:
    async def main() -> None:
        sock, peer = await dialer().connect(["::1", "127.0.0.1"], port, "127.0.0.5")
        assert peer == "127.0.0.1"
        assert sock.getsockname()[0] == "127.0.0.5"
        sock.close()
        with pytest.raises(Failure, match="no address that can be dialled from"):
            await dialer().connect(["::1"], port, "127.0.0.5")
        with pytest.raises(Failure) as caught:  # TEST-NET-3: not of this machine
            await dialer().connect(["127.0.0.1"], port, "203.0.113.9")
        assert caught.value.error == "destination_ip_unroutable"

    run(main())


def test_an_urgent_byte_stays_in_the_stream(run: Run, listener: socket.socket, port: int) -> None:
    async def main() -> None:
        sock, _ = await dialer().connect(["127.0.0.1"], port)
        origin, _ = listener.accept()
        with sock, origin:
            origin.send(b"ab")
            origin.send(b"c", socket.MSG_OOB)
            origin.send(b"d")
            origin.shutdown(socket.SHUT_WR)
            sock.settimeout(10.0)
            received = b""
            while data := sock.recv(10):
                received += data
        assert received == b"abcd"

    run(main())


# Several addresses


def test_a_failed_attempt_gives_way_at_once(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_DELAY", NEVER)
    refusing = [f"127.0.0.{n}" for n in range(2, 8)]

    async def main() -> None:
        sock, peer = await dialer().connect([*refusing, "224.0.0.1", "127.0.0.1"], port)
        assert peer == "127.0.0.1"
        _check(sock)
        sock.close()

    run(main())


def test_a_silent_address_is_overtaken(run: Run, port: int, hole: str) -> None:
    async def main() -> None:
        started = time.monotonic()
        sock, peer = await dialer().connect([hole, "127.0.0.1"], port)
        assert peer == sock.getpeername()[0] == "127.0.0.1"
        assert time.monotonic() - started >= module.ATTEMPT_DELAY - 0.01
        sock.close()

    run(main())


def test_a_failure_beside_a_silent_address_starts_the_next(
    run: Run, port: int, hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_DELAY", 0.05)
    opened: list[str] = []

    def count(address: str, source: str) -> socket.socket:
        opened.append(address)
        if len(opened) == 2:  # from now on only a failure starts another attempt
            monkeypatch.setattr(module, "ATTEMPT_DELAY", NEVER)
        return socket.socket(type=module._STREAM)

    monkeypatch.setattr(module, "_open", count)
    addresses = [hole, "127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.4"]

    async def main() -> None:
        sock, peer = await dialer().connect(addresses, port)
        assert peer == "127.0.0.1"
        assert opened == addresses[:4]  # in order, and none after the winner
        sock.close()

    run(main())


def test_the_first_to_answer_wins_whatever_its_place(
    run: Run, port: int, hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in flight; the older one answers after the younger has started."""
    monkeypatch.setattr(module, "ATTEMPT_DELAY", 0.05)

    async def main() -> None:
        task = asyncio.create_task(dialer().connect(["127.0.0.8", hole], port))
        await started.wait()
        late.accept()[0].close()  # room in the queue: the retransmitted SYN gets through
        sock, peer = await task
        assert peer == "127.0.0.8"
        sock.close()

    started = asyncio.Event()
    original = module._open

    def watch(address: str, source: str) -> socket.socket:
        if address == hole:
            started.set()
        return original(address, source)

    monkeypatch.setattr(module, "_open", watch)
    with _listen("127.0.0.8", port, backlog=0) as late, socket.socket() as filler:
        filler.connect(("127.0.0.8", port))
        run(main())


# Failure


def test_refused(run: Run, port: int) -> None:
    async def main() -> None:
        failure = await fails(dialer(), ["127.0.0.2"], port)
        assert failure.error == "connection_refused"
        assert failure.status == 502
        assert failure.detail == f"127.0.0.2:{port}: Connection refused"

    run(main())


def test_unroutable(run: Run) -> None:
    async def main() -> None:
        failure = await fails(dialer(), ["224.0.0.1"], 80)
        assert failure.error == "destination_ip_unroutable"
        assert failure.detail == "224.0.0.1:80: Network is unreachable"

    run(main())


@needs_ipv6
def test_link_local_without_link(run: Run) -> None:
    async def main() -> None:
        failure = await fails(dialer(), ["fe80::1"], 80)
        assert failure.error == "destination_ip_unroutable"
        assert failure.detail.startswith("[fe80::1]:80: ")

    run(main())


def test_silence_is_a_timeout(run: Run, port: int, hole: str) -> None:
    async def main() -> None:
        for addresses in ([hole], ["127.0.0.2", hole], [hole, "127.0.0.2", "127.0.0.3"]):
            started = time.monotonic()
            failure = await fails(dialer(0.3), addresses, port)
            assert 0.29 <= time.monotonic() - started < 10.0
            assert failure.error == "connection_timeout"
            assert failure.status == 504
            assert failure.detail.startswith(f"{hole}:{port}: no connection within 0.3 s")

    run(main())


class Failing(socket.socket):
    """A socket whose connect fails at once, or later, as the test says."""

    now = 0
    later = 0

    def connect_ex(self, address: Any, /) -> int:
        return self.now or super().connect_ex(address)

    def getsockopt(self, level: int, name: int, *args: Any) -> Any:
        return self.later or super().getsockopt(level, name, *args)


@pytest.mark.parametrize("when", ["now", "later"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ECONNREFUSED, "connection_refused"),
        (errno.ENETUNREACH, "destination_ip_unroutable"),
        (errno.EHOSTUNREACH, "destination_ip_unroutable"),
        (errno.EADDRNOTAVAIL, "destination_ip_unroutable"),
        (errno.ETIMEDOUT, "connection_timeout"),
        (errno.ECONNRESET, "connection_terminated"),
        (errno.ENOBUFS, "connection_limit_reached"),
        (errno.EACCES, "destination_ip_prohibited"),
        (errno.EPERM, "destination_ip_prohibited"),
        (errno.EPROTO, "destination_unavailable"),
    ],
)
def test_errors(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch, code: int, error: str, when: str
) -> None:
    def failing(address: str, source: str) -> socket.socket:
        sock = Failing(type=module._STREAM)
        setattr(sock, when, code)
        return sock

    monkeypatch.setattr(module, "_open", failing)

    async def main() -> None:
        failure = await fails(dialer(), ["127.0.0.1"], port)
        assert failure.error == error
        assert failure.detail == f"127.0.0.1:{port}: {os.strerror(code)}"

    run(main())


@pytest.mark.parametrize(
    ("codes", "reported"),
    [
        ((errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNREFUSED), 1),
        ((errno.ENETUNREACH, errno.EHOSTUNREACH), 0),
        ((errno.ETIMEDOUT, errno.ECONNRESET, errno.EPERM), 1),
        ((errno.EPERM, errno.EPROTO, errno.ENETUNREACH), 0),
        ((errno.ECONNREFUSED, errno.ENOBUFS), 1),
    ],
)
def test_of_several_failures_the_one_that_says_most(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...], reported: int
) -> None:
    left = iter(codes)

    def failing(address: str, source: str) -> socket.socket:
        sock = Failing(type=module._STREAM)
        sock.now = next(left)
        return sock

    monkeypatch.setattr(module, "_open", failing)

    async def main() -> None:
        addresses = [f"127.0.0.{n}" for n in range(1, len(codes) + 1)]
        failure = await fails(dialer(), addresses, port)
        text = os.strerror(codes[reported])
        assert failure.detail == (
            f"{addresses[reported]}:{port}: {text} ({len(codes)} addresses tried)"
        )

    run(main())


def test_without_descriptors(run: Run, port: int) -> None:
    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        fillers = []
        try:
            while len(fillers) <= highest:
                try:
                    fillers.append(socket.socket())
                except OSError:
                    break
            for addresses in (["127.0.0.1"], ["127.0.0.1", "::1"]):
                failure = await fails(dialer(), addresses, port)
                assert failure.error == "connection_limit_reached"
                assert failure.status == 503
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                filler.close()

    run(main())


def test_without_room_in_epoll(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(loop, "add_writer", full)
        failure = await fails(dialer(), ["127.0.0.1", "127.0.0.2"], port)
        assert failure.error == "destination_unavailable"

    before = _descriptors()
    asyncio.run(main())
    assert _descriptors() == before


def test_a_connection_to_itself_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    def bound(address: str, source: str) -> socket.socket:
        sock = socket.socket(type=module._STREAM)
        sock.bind(("127.0.0.1", port))
        return sock

    monkeypatch.setattr(module, "_open", bound)

    async def main() -> None:
        assert (await fails(dialer(), ["127.0.0.1"], port)).error == "connection_refused"

    run(main())


# Cancelling, and storms


def test_cancelling_closes_at_once(run: Run, port: int, hole: str) -> None:
    async def main() -> None:
        before = _descriptors()
        for addresses in ([hole], [hole] * 3):
            task = asyncio.create_task(dialer().connect(addresses, port))
            await asyncio.sleep(0)
            assert _descriptors() == before + 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert _descriptors() == before

    run(main())


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
def test_cancelling_at_every_step_of_a_success(
    run: Run, listener: socket.socket, port: int, addresses: list[str]
) -> None:
    async def main() -> None:
        before = _descriptors()
        outcomes = set()
        for steps in [*range(12)] * 8:
            task = asyncio.create_task(dialer().connect(addresses, port))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                sock, _ = await task
                outcomes.add("connected")
                sock.close()
            except asyncio.CancelledError:
                outcomes.add("cancelled")
            assert _descriptors() == before
        assert outcomes == {"connected", "cancelled"}

    run(main())


def test_cancelling_beside_the_winner(run: Run, port: int, hole: str) -> None:
    """The winner is known, but the task that waits for it has not run yet."""

    async def main() -> None:
        before = _descriptors()
        race = module._Race([hole, "127.0.0.1"], port, NEVER, "", 0.0, None, columns.private())
        task = asyncio.create_task(race.run())
        race._done.add_done_callback(lambda _: task.cancel())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert race._done.result() >= 0
        assert _descriptors() == before

    run(main())


def test_storms_leave_no_descriptor(
    run: Run, port: int, hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_DELAY", 0.01)
    kinds = (
        (["127.0.0.1"], NEVER),
        (["127.0.0.2"], NEVER),
        ([hole], 0.1),
        (["127.0.0.2", hole, "127.0.0.3", "127.0.0.1"], NEVER),
        ([hole, hole, hole, "127.0.0.2"], 0.1),
        ([hole, hole], NEVER),  # cancelled
    )

    async def main() -> None:
        before = _descriptors()
        tasks = [
            asyncio.create_task(dialer(timeout).connect(addresses, port))
            for _ in range(20)
            for addresses, timeout in kinds
        ]
        endless = set(tasks[len(kinds) - 1 :: len(kinds)])
        await asyncio.wait(set(tasks) - endless)
        for task in endless:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        connected = [result for result in results if isinstance(result, tuple)]
        assert len(connected) == 40
        assert sum(isinstance(result, Failure) for result in results) == 60
        assert _descriptors() == before + len(connected)
        for sock, _ in connected:
            sock.close()

    run(main())


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# What others have tried


async def _told(
    made: Dialer, tried: list[tuple[str, int]], addresses: list[str], port: int
) -> None:
    """A Failure is that of an attempt here, word for word."""
    real = await fails(made, addresses, port)
    told = made.failure_of(tried, addresses, port)
    assert told is not None
    for name in ("error", "detail", "status", "why", "where"):
        assert getattr(told, name) == getattr(real, name), name


def test_attempts_elsewhere_fail_in_the_same_words(run: Run, port: int, hole: str) -> None:
    async def main() -> None:
        nowhere, one, two = "255.255.255.255", "127.0.0.11", "127.0.0.12"
        refused = [(nowhere, errno.ENETUNREACH), (one, errno.ECONNREFUSED)]
        await _told(dialer(), refused, [nowhere, one], port)
        await _told(dialer(), refused[:1], [nowhere], port)
        refused.append((two, errno.ECONNREFUSED))
        await _told(dialer(), refused, [nowhere, one, two], port)
        late = [(one, errno.ECONNREFUSED), (hole, module.TIME_IS_UP)]
        await _told(dialer(0.1), late, [one, hole, two], port)

    run(main())


def test_attempts_elsewhere_that_say_nothing() -> None:
    """There is another address, or what was short may be there by now."""
    made, one, two = dialer(), ("127.0.0.1", errno.ECONNREFUSED), ("127.0.0.2", errno.EMFILE)
    assert made.failure_of([one], ["127.0.0.1", "127.0.0.2"], 80) is None
    assert made.failure_of([one, two], ["127.0.0.1", "127.0.0.2"], 80) is None
    assert made.failure_of([two], ["127.0.0.2"], 80) is None
    assert made.failure_of([one], ["127.0.0.1"], 80) is not None
    assert made.failure_of([one], ["127.0.0.1", "::1"], 80, "127.0.0.9") is not None
