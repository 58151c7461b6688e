"""What the owner of a lane hands over and gets back, between two steps of the relay."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import select
import socket
import stat
import time
from collections.abc import Iterator

import pytest
from harness import memory
from plain_oracle import HOST, OK, OK_GOT, Plain
from relay_rig import native_relay, open_fds, tcp_pair
from sanitizer import release_only

from spliceproxy.net import tcp
from spliceproxy.net.stream import Stream
from spliceproxy.relay.choice import NATIVE_MODULE
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import REQUEST, Handoff

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"


@pytest.fixture
def plain() -> Iterator[Plain]:
    native_relay()
    before = open_fds()
    made = Plain()
    made.lane._native.add_client("", "")
    yield made
    made.close()
    assert open_fds() <= before


def test_a_client_that_comes_straight_back_is_not_left_waiting(plain: Plain) -> None:
    """Nothing happens on any descriptor, and still the driver must step."""
    outer, inner = tcp_pair()

    async def give() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(plain.relay, loop)
        plain.lane._driver = driver
        stream = Stream(inner, loop)
        stream.buffer += b"POST / HTTP/1.1\r\n"
        assert plain.lane.hand_over(stream, "192.0.2.1", 1)
        assert driver._timer is not None
        while not plain.handoffs:
            await loop.run_in_executor(None, lambda: None)
        driver.close()

    with outer:
        asyncio.run(asyncio.wait_for(give(), 20))
        (handoff,) = plain.handoffs
        socket.socket(fileno=handoff.client).close()
    assert handoff.buffer == b"POST / HTTP/1.1\r\n"


def test_the_limits_of_what_is_given_are_watched(plain: Plain) -> None:
    async def give() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(plain.relay, loop)
        plain.lane._driver = driver
        outer, inner = tcp_pair()
        with outer:
            plain.lane.put(("o", 80, ""), Stream(inner, loop), HOST)
            assert driver._timer is not None
            driver.close()
            assert outer.recv(1) == b""

    asyncio.run(asyncio.wait_for(give(), 20))


@release_only("memory is measured with theirs")
def test_a_tunnel_keeps_no_room_of_requests_before_it(plain: Plain) -> None:
    """They may have been 64 KiB, and it may last for days."""
    native = plain.lane._native
    long = ASK[:-2] + b"X: " + b"x" * 7900 + b"\r\n\r\n"
    data = long * 8 + b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
    for kind, authority in (("G", b"o"), ("C", b"o:1")):
        far = *plain.lane.dialled, "", ""
        native.add_route(kind, "", b"", authority, b"o", authority, 60.0, *far)
    with contextlib.ExitStack() as stack:
        origin, idle = map(stack.enter_context, tcp_pair())
        native.put(b"o", idle.detach(), HOST)

        def tunnel() -> None:
            outer, inner = map(stack.enter_context, tcp_pair())
            native.hand_over(inner.detach(), "", data, 0)
            for _ in range(8):
                assert origin.recv(1 << 16).startswith(b"GET / ")
                origin.sendall(OK)
                select.select([plain.relay.fileno()], [], [], 20)
                plain.step()
            stack.enter_context(plain.accept())
            assert outer.recv(1 << 16).startswith(OK_GOT)

        tunnel()
        before = memory(os.getpid(), "Rss")
        for _ in range(100):
            tunnel()
        assert memory(os.getpid(), "Rss") - before < 3 << 20
        assert plain.relay.tunnels == 101


def test_a_closed_relay_closes_what_was_not_told(plain: Plain) -> None:
    outer, inner = tcp_pair()
    with outer:
        plain.lane._native.hand_over(inner.detach(), "192.0.2.1", b"POST ", 0)
        plain.relay.close()
        with contextlib.suppress(ConnectionResetError):
            assert outer.recv(1) == b""
    assert not plain.handoffs


def test_a_decision_holds_while_its_origin_is_dialled(plain: Plain) -> None:
    native = plain.lane._native
    route = ("C", "", b"", b"o:1", b"o", b"o:1")
    native.add_route(*route, 60.0, *plain.lane.dialled, "", "")
    outer, inner = tcp_pair()
    with outer:
        data = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
        native.hand_over(inner.detach(), "", data, 0)
        native.add_route(*route, -1.0, *plain.lane.dialled, "", "")
        with plain.accept() as peer:
            assert not plain.handoffs
            assert outer.recv(100) == b"HTTP/1.1 200 Connection established\r\n\r\n"
            outer.close()
            plain.step()
            assert peer.recv(1) == b""
    plain.step()


def test_one_request_renews_a_route(plain: Plain) -> None:
    """In the last quarter of its time one is given back, and the others are served."""
    native = plain.lane._native
    at = plain.lane.dialled
    for _ in range(10):
        begin = time.monotonic()
        native.add_route("G", "", b"", b"o", b"o", b"o", 2.0, *at, "", "")
        time.sleep(1.6)  # the relay's clock is the kernel's
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                outer, inner = socket.socketpair()
                inner.setblocking(False)
                stack.callback(outer.close)
                native.hand_over(inner.detach(), "", ASK, 0)
                plain.step()
            late = time.monotonic() - begin > 1.9
            handoffs = len(plain.handoffs)
            for handoff in plain.handoffs:
                socket.socket(fileno=handoff.client).close()
            plain.handoffs.clear()
        plain.step()
        if not late:  # else this machine was held up
            assert handoffs == 1
            return
    pytest.skip("the machine is too slow")


def test_a_request_that_was_not_dialled_has_all_of_its_time() -> None:
    """However long the relay has had it."""
    native_relay()
    with contextlib.closing(Plain(log=True)) as plain:
        outer, handoff = back(plain)
        outer.close()
    assert (handoff.cause, handoff.dialling, handoff.tried) == (REQUEST, 0.0, ())


def test_the_owner_is_told_of_records_that_found_no_room() -> None:
    """It takes none, until there are 4 MiB of them."""
    native_relay()
    path = b"/" + b"x" * 7900
    ask = b"GET http://o" + path + b" HTTP/1.1\r\nHost: o\r\n\r\n"
    with contextlib.closing(Plain(log=True)) as plain, contextlib.ExitStack() as stack:
        native = plain.lane._native
        native.add_client("", "")
        native.add_route("G", "", b"", b"o", b"o", b"o", 60.0, *plain.lane.dialled, "", "")
        origin, idle = map(stack.enter_context, tcp_pair())
        outer, inner = map(stack.enter_context, tcp_pair())
        native.put(b"o", idle.detach(), HOST)
        native.hand_over(inner.detach(), "", b"", 0)
        asked = 0
        while not plain.missed:
            asked += 1
            assert asked < 2000
            outer.sendall(ask)
            for far, near, answer in ((origin, b"GET " + path, OK), (outer, OK_GOT, b"")):
                got = b""
                while not got.startswith(near):
                    select.select([plain.relay.fileno()], [], [], 20)
                    plain.step()
                    with contextlib.suppress(BlockingIOError):
                        got += far.recv(1 << 16)
                far.sendall(answer)
        lines, kept = native.take_log()
        assert (kept, plain.missed) == (asked - 1, [1])
        assert lines.count(b"\n") == kept
        assert native.take_log() == (b"", 0)


def back(plain: Plain) -> tuple[socket.socket, Handoff]:
    """A client whose request comes back."""
    outer, inner = socket.socketpair()
    inner.setblocking(False)
    plain.lane._native.hand_over(inner.detach(), "", ASK, 0)
    plain.step()
    (handoff,) = plain.handoffs
    socket.socket(fileno=handoff.client).close()
    return outer, handoff


def test_a_connection_that_cannot_be_kept_is_closed(plain: Plain) -> None:
    outer, inner = tcp_pair()
    with outer:
        with pytest.raises(ValueError, match="an address of more than"):
            plain.lane._native.put(b"o", inner.detach(), "fe80::1%" + "x" * 40)
        assert outer.recv(1) == b""


def test_a_client_that_is_not_taken_is_still_its_owners(plain: Plain) -> None:
    outer, inner = tcp_pair()
    with outer, inner:
        with pytest.raises(ValueError, match="an address of more than"):
            plain.lane._native.hand_over(inner.fileno(), "fe80::1%" + "x" * 40, b"", 0)
        assert plain.relay.clients == 0


def test_clients_of_a_class_share_its_routes(plain: Plain) -> None:
    """Once the owner has said of which one they are."""
    native = plain.lane._native
    at = plain.lane.dialled
    native.add_route("G", "*near", b"", b"o", b"o", b"o", 60.0, *at, "", "")
    native.add_client("192.0.2.7", "*near")
    native.add_client("192.0.2.8", "*far")
    for address, served in (("192.0.2.7", True), ("192.0.2.8", False), ("192.0.2.9", False)):
        outer, inner = socket.socketpair()
        inner.setblocking(False)
        native.hand_over(inner.detach(), address, ASK, 0)
        plain.step()
        assert plain.dialling == served
        assert len(plain.handoffs) == (not served)
        for handoff in plain.handoffs:
            socket.socket(fileno=handoff.client).close()
        plain.handoffs.clear()
        outer.close()
        plain.step()
        if served:
            plain._listener.accept()[0].close()
    assert not plain.handoffs


def test_a_class_is_no_longer_than_an_address(plain: Plain) -> None:
    with pytest.raises(ValueError, match="45 bytes"):
        plain.lane._native.add_client("192.0.2.7", "*" * 46)


# ---- TCP keep-alive --------------------------------------------------------------------------


def probed(peer: socket.socket) -> tuple[int, int, int, int]:
    """SO_KEEPALIVE and its three times of this process's socket that is connected to ``peer``."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if not os.path.exists(f"/proc/self/fd/{fd}") or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue  # of the listing itself, or no socket
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
            if sock.getsockname() == peer.getpeername() and sock.getpeername():
                tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                return (
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp),
                )
    raise AssertionError("no such socket")


ALIVE = (1, tcp.KEEPALIVE_IDLE, tcp.KEEPALIVE_INTERVAL, tcp.KEEPALIVE_COUNT)


@contextlib.contextmanager
def asking(plain: Plain) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client whose request has been sent on a connection that the relay has made."""
    native = plain.lane._native
    at = plain.lane.dialled
    native.add_route("G", "", b"", b"o", b"o", b"o", 60.0, *at, "", "")
    native.add_client("", "")
    outer, inner = socket.socketpair()
    outer.settimeout(20)
    inner.setblocking(False)
    native.hand_over(inner.detach(), "", ASK, 0)
    with outer, plain._listener.accept()[0] as peer:
        peer.settimeout(20)
        select.select([plain.relay.fileno()], [], [], 20)
        plain.step()
        assert peer.recv(100).startswith(b"GET / ")
        yield outer, peer
        outer.close()
        plain.step()


def test_an_exchange_that_rests_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long poll: NATs forget it, and a dead origin is never found. Most exchanges are over
    long before, and are spared the system calls."""
    native_relay()
    monkeypatch.setattr(importlib.import_module(NATIVE_MODULE), "YOUNG", 0.5)
    with contextlib.closing(Plain()) as plain, asking(plain) as (outer, peer):
        began = time.monotonic()
        first = probed(peer)
        if time.monotonic() - began < 0.4:  # else this machine was held up
            assert first[0] == 0
        while probed(peer) != ALIVE:
            assert time.monotonic() < began + 20, probed(peer)
            select.select([plain.relay.fileno()], [], [], plain.relay.next_wake())
            plain.step()
        peer.sendall(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok")
        plain.step()
        assert outer.recv(1000).endswith(b"ok")
        assert not plain.handoffs


def test_what_leaves_the_relay_is_kept_alive(plain: Plain) -> None:
    """An answer that ends where its connection does is for Python to read."""
    with asking(plain) as (_, peer):
        assert probed(peer)[0] == 0
        peer.sendall(b"HTTP/1.1 200 OK\r\nDate: d\r\n\r\n")
        plain.step()
        assert probed(peer) == ALIVE
        (handoff,) = plain.handoffs
        for fd in (handoff.client, handoff.origin):
            socket.socket(fileno=fd).close()


def test_an_idle_connection_that_is_taken_is_kept_alive(plain: Plain) -> None:
    """By Python, for a request with a body whose answer may be long in coming."""
    with asking(plain) as (outer, peer):
        peer.sendall(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok")
        plain.step()
        assert outer.recv(1000).endswith(b"ok")
        assert probed(peer)[0] == 0
        taken = plain.lane._native.take(b"o", {HOST})
        assert taken is not None
        assert probed(peer) == ALIVE
        socket.socket(fileno=taken[0]).close()
