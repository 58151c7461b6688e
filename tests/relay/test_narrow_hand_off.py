"""A client whose body was narrow, and that the lane gives back: its sockets are as they were."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest
from plain_oracle import Plain
from relay_rig import PATIENCE, native_relay, tcp_pair, until

from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay import interface
from spliceproxy.relay.portable.crowd import SO_BUF_LOCK, TCP_NOTSENT_LOWAT

BIG = 8 << 20
HEAD = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: %d\r\n\r\n" % BIG
NOT_PLAIN = b"HTTP/1.1 200 OK\r\nDate: d\r\nProxy-Status: x\r\nContent-Length: 2\r\n\r\n"


def narrow(client: int, origin: int) -> tuple[bool, bool]:
    """Whether what is read from the one is bounded, and what waits at the other."""
    found = []
    for fd, level, option in (
        (client, socket.SOL_SOCKET, SO_BUF_LOCK),
        (origin, socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT),
    ):
        with socket.socket(fileno=os.dup(fd)) as sock:
            found.append(bool(sock.getsockopt(level, option)))
    return found[0], found[1]


def test_sockets_of_a_body_go_back_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    native_relay()
    monkeypatch.setattr(interface, "CROWD", -1)  # always
    plain = Plain(asks="")
    outer, inner = tcp_pair()
    outer.setblocking(False)
    kept = inner.dup()
    plain.lane._native.hand_over(inner.detach(), "127.0.0.1", b"", 0)
    plain.lane.allow(
        Standing(True, True, True, 0),
        parse_request(HEAD),
        Verdict("o", 80, ("127.0.0.1",), "", 3600.0),
        Record("127.0.0.1", 0.0),
    )
    left = memoryview(HEAD + bytes(BIG))
    got, seen = 0, False
    origin: socket.socket | None = None
    limit = time.monotonic() + PATIENCE
    while got < BIG:
        assert time.monotonic() < limit
        with contextlib.suppress(BlockingIOError):
            left = left[outer.send(left[: 1 << 20]) :] if left else left
        plain.step()
        if origin is None and plain.dialling:
            origin = plain._listener.accept()[0]
            origin.setblocking(False)
        if origin is not None:
            with contextlib.suppress(BlockingIOError):
                got += len(origin.recv(1 << 18))
        seen = seen or narrow(kept.fileno(), kept.fileno())[0]
    assert seen, "it was narrow"
    assert origin is not None
    origin.send(NOT_PLAIN)

    def given_back() -> bool:
        plain.step()
        return bool(plain.handoffs)

    until(given_back, "the client is given back")
    (handoff,) = plain.handoffs
    assert narrow(handoff.client, handoff.origin) == (False, False)
    handoff.close()
    for sock in (outer, kept, origin):
        sock.close()
    plain.close()
