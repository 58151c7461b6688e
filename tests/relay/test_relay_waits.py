"""What a tunnel's end says beside its reason: whose time limit it was, what it has waited for, and
that an operator has ended it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from relay_rig import FLOOD, Rig, fill, payload, recv_all, recv_exactly

from spliceproxy.relay.interface import HALF_CLOSE, IDLE, KILLED

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)


def test_kill(rig: Rig) -> None:
    kept, ended = rig.tunnel(), rig.tunnel()
    assert rig.call(rig.driver.kill, ended.ident) is True
    assert ended.end().reason == KILLED
    assert recv_all(ended.client)[0] == b""
    assert rig.call(rig.driver.kill, ended.ident) is False
    kept.client.sendall(b"x")
    assert recv_exactly(kept.origin, 1) == b"x"


@one_loop
@pytest.mark.parametrize(
    ("speaks", "silent"), [("client", "s"), ("origin", "c"), ("nobody", "c"), ("both", "c")]
)
def test_an_idle_limit_is_of_who_was_spoken_to(
    new_rig: Callable[..., Rig], speaks: str, silent: str
) -> None:
    rig = new_rig(idle=0.3)
    tunnel = rig.tunnel()
    if speaks in ("client", "both"):
        tunnel.client.sendall(b"x")
        assert recv_exactly(tunnel.origin, 1) == b"x"
    if speaks == "both":
        time.sleep(0.02)  # longer than a tick of the clock
    if speaks in ("origin", "both"):
        tunnel.origin.sendall(b"x")
        assert recv_exactly(tunnel.client, 1) == b"x"
    end = tunnel.end()
    assert (end.reason, end.silent) == (IDLE, silent)


@one_loop
@pytest.mark.parametrize(("side", "silent"), [("client", "s"), ("origin", "c")])
def test_a_half_close_limit_is_of_who_has_yet_to_end(
    new_rig: Callable[..., Rig], side: str, silent: str
) -> None:
    rig = new_rig(half_close=0.3)
    tunnel = rig.tunnel()
    ended = tunnel.client if side == "client" else tunnel.origin
    ended.shutdown(1)
    end = tunnel.end()
    assert (end.reason, end.silent) == (HALF_CLOSE, silent)


@one_loop
@pytest.mark.parametrize(("slow", "silent", "which"), [("client", "c", 0), ("origin", "s", 2)])
def test_a_side_that_takes_nothing(
    new_rig: Callable[..., Rig], slow: str, silent: str, which: int
) -> None:
    rig = new_rig(idle=2.0)
    tunnel = rig.tunnel("narrow")
    fill(tunnel.origin if slow == "client" else tunnel.client, payload(FLOOD), rig)
    end = tunnel.end()
    assert (end.reason, end.silent) == (IDLE, silent)
    assert end.waits[which] >= 900  # ms
    assert end.waits[2 - which] < 100


@one_loop
def test_an_origin_that_lets_its_client_wait(rig: Rig) -> None:
    """Behind a question its silence counts, and behind an answer it does not."""
    tunnel = rig.tunnel()
    tunnel.client.sendall(b"question")
    assert recv_exactly(tunnel.origin, 8) == b"question"
    time.sleep(1.3)  # more than a gap in a flow of bytes
    tunnel.origin.sendall(b"answer")
    assert recv_exactly(tunnel.client, 6) == b"answer"
    time.sleep(1.6)
    tunnel.client.close()
    tunnel.origin.close()
    to_client, of_origin, to_origin, silent = tunnel.end().waits
    assert 1200 <= of_origin < 1600
    assert silent >= 1500
    assert (to_client, to_origin) == (0, 0)
