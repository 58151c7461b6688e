"""A pace: the kernel is told it for the sockets that are written to, and goes with the tunnel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from relay_rig import Rig, payload, recv_exactly, send_all

from spliceproxy.relay.interface import LIMIT

ANY = 2**64 - 1
SO_MAX_PACING_RATE = 47


def sockets() -> dict[str, int]:
    """Descriptors of this process by the inodes of their sockets."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if name.startswith("socket:"):
            found[name] = int(fd)
    return found


@contextmanager
def inner(rig: Rig, peer: socket.socket) -> Iterator[socket.socket]:
    """A copy of the relay's socket, whose peer this is."""
    for fd in sockets().values():
        copy = socket.socket(fileno=os.dup(fd))
        try:
            if copy.getpeername() == peer.getsockname() and copy.type == peer.type:
                yield copy
                return
        except OSError:
            pass
        finally:
            copy.close()
    raise AssertionError("the relay has no such socket")


def pace_of(rig: Rig, peer: socket.socket) -> int:
    with inner(rig, peer) as copy:
        value = copy.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
    return int(struct.unpack("=Q", value)[0])


def test_each_side_has_its_pace(rig: Rig) -> None:
    one, other = rig.tunnel(), rig.tunnel()
    assert rig.call(rig.relay.pace, one.ident, 40_000_000, 50_000_000)
    assert (pace_of(rig, one.client), pace_of(rig, one.origin)) == (50_000_000, 40_000_000)
    assert (pace_of(rig, other.client), pace_of(rig, other.origin)) == (ANY, ANY)
    data = payload(3_000_000)
    sending = send_all(one.origin, data)
    assert recv_exactly(one.client, len(data)) == data
    sending.result()
    assert rig.call(rig.relay.pace, one.ident, 0, 0)
    assert (pace_of(rig, one.client), pace_of(rig, one.origin)) == (ANY, ANY)
    sending = send_all(one.client, data)
    assert recv_exactly(one.origin, len(data)) == data
    sending.result()


def test_nothing_is_paced_that_has_gone(rig: Rig) -> None:
    one = rig.tunnel()
    assert rig.call(rig.driver.kill, one.ident, LIMIT)
    assert one.end().reason == LIMIT
    assert not rig.call(rig.relay.pace, one.ident, 1000, 1000)


def test_sockets_without_a_pace(rig: Rig) -> None:
    one = rig.tunnel("unix")
    assert rig.call(rig.relay.pace, one.ident, 1_000_000, 1_000_000)
    one.client.sendall(b"x")
    assert recv_exactly(one.origin, 1) == b"x"
