"""The check of the name inside TLS in a tunnel: what is right goes on as it came, and nothing of
what is refused."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable

import pytest
from hellos import MADE, MOST, NAME, hello, records
from relay_rig import Ends, Rig, payload, recv_all, recv_exactly, reset, send_all, until
from test_relay_moving import Two, adopt, freeze, move, refuse, two

from spliceproxy.relay import columns
from spliceproxy.relay.checking import FOUND, MATCH, PASSED, REFUSED, NameCheck, refusing
from spliceproxy.relay.interface import (
    ABORTED,
    CLIENT_RESET,
    DONE,
    HALF_CLOSE,
    ORIGIN_RESET,
    TLS_NAME,
)
from spliceproxy.relay.moving import CheckState, Unmovable, check

assert two  # a fixture

CHECK = NameCheck(NAME, refusing(("mismatch", "malformed", "late")))
REQUIRE = NameCheck(NAME, refusing(word for word in FOUND if word not in ("", MATCH)))
TOLD = NameCheck(NAME, 0)
RIGHT, WRONG = MADE["chromium"].said, MADE["another_of_a_browser"].said
HALF = 700

NewRig = Callable[..., Rig]


@pytest.fixture
def loop_name() -> str:
    return "asyncio"  # which loop it is makes no difference


@pytest.fixture
def row() -> memoryview:
    return columns.private()


@pytest.fixture
def rig(new_rig: NewRig, row: memoryview) -> Rig:
    return new_rig(row=row)


def counted(row: memoryview) -> dict[tuple[str, ...], int]:
    family = columns.FAMILIES["tls_names"]
    numbers = {values: row[family.column(*values)] for values in family.values}
    return {values: number for values, number in numbers.items() if number}


def quiet(sock: socket.socket) -> bool:
    """Whether nothing can be read, after the relay had time for it."""
    return not select.select([sock], [], [], 0.05)[0]


def cut(tunnel: Ends, *, told: bool = False) -> bytes:
    """Waits until both sides are reset, unless the client was ``told``; what the origin has got
    before."""
    got, error = recv_all(tunnel.origin)
    assert error == errno.ECONNRESET
    assert told or recv_all(tunnel.client)[1] == errno.ECONNRESET
    return got


def close(tunnel: Ends) -> None:
    tunnel.client.close()
    tunnel.origin.close()


SOME = ("plain", "chromium", "records_of_100", "with_early_data", "ech", "no_name", "ssh", "zeros")


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_passes(rig: Rig, row: memoryview, name: str, kind: str) -> None:
    said, found = MADE[name]
    tunnel = rig.tunnel(kind, check=CHECK)
    for at in range(0, len(said), 600):
        tunnel.client.sendall(said[at : at + 600])
    assert recv_exactly(tunnel.origin, len(said)) == said
    tunnel.client.sendall(b"more")
    assert recv_exactly(tunnel.origin, 4) == b"more"
    close(tunnel)
    end = tunnel.end()
    assert (end.reason, end.found, end.up_copied) == (DONE, found, len(said) + 4)
    assert counted(row) == {(found, PASSED): 1}


@pytest.mark.parametrize("name", ["another", "another_in_two_records", "nul", "alert_before"])
@pytest.mark.parametrize("size", [1, 600, MOST])
def test_what_is_refused(rig: Rig, row: memoryview, name: str, size: int) -> None:
    said, found = MADE[name]
    tunnel = rig.tunnel(to_client=b"200", check=CHECK)
    assert recv_exactly(tunnel.client, 3) == b"200"
    told = False
    for at in range(0, len(said), size):
        try:
            tunnel.client.sendall(said[at : at + size])
        except ConnectionError:
            told = True
            break
    assert cut(tunnel, told=told) == b""
    end = tunnel.end()
    assert (end.reason, end.found, end.up_copied, end.down_copied) == (TLS_NAME, found, 0, 3)
    assert counted(row) == {(found, REFUSED): 1}


def test_nothing_goes_on_before_all_of_it_is_there(rig: Rig) -> None:
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    tunnel.client.sendall(RIGHT[HALF:-1])
    assert quiet(tunnel.origin)
    tunnel.client.sendall(RIGHT[-1:] + b"more")
    assert recv_exactly(tunnel.origin, len(RIGHT) + 4) == RIGHT + b"more"


@pytest.mark.parametrize("asked", [CHECK, REQUIRE], ids=["check", "require"])
@pytest.mark.parametrize("name", ["plain", "ech", "no_name", "ssh", "another", "empty_message"])
def test_require_lets_nothing_pass_but_the_name(rig: Rig, asked: NameCheck, name: str) -> None:
    said, found = MADE[name]
    tunnel = rig.tunnel(check=asked)
    tunnel.client.sendall(said)
    if asked.refuses(found):
        assert cut(tunnel) == b""
        assert tunnel.end()[:1] == (TLS_NAME,)
        assert found != "match"
    else:
        assert recv_exactly(tunnel.origin, len(said)) == said
        assert found == "match" or asked is CHECK


@pytest.mark.parametrize("early", [HALF, len(RIGHT), len(RIGHT) - 1, 0])
def test_early_data(rig: Rig, early: int) -> None:
    """Bytes that came with the request for the tunnel are the first."""
    tunnel = rig.tunnel(to_origin=RIGHT[:early], to_client=b"200", check=CHECK)
    assert recv_exactly(tunnel.client, 3) == b"200"
    tunnel.client.sendall(RIGHT[early:] + b"more")
    assert recv_exactly(tunnel.origin, len(RIGHT) + 4) == RIGHT + b"more"


@pytest.mark.parametrize("said", [WRONG, records(hello([bytes(4)]))], ids=["mismatch", "malformed"])
def test_early_data_that_is_refused(rig: Rig, said: bytes) -> None:
    tunnel = rig.tunnel(to_origin=said, to_client=b"200", check=CHECK)
    assert cut(tunnel) == b""
    assert tunnel.end().reason == TLS_NAME


def test_much_early_data(rig: Rig) -> None:
    """More than is looked at."""
    for data, found in ((RIGHT + payload(3 * MOST), "match"), (b"x" * 5 * MOST, "not-tls")):
        tunnel = rig.tunnel(to_origin=data, check=CHECK)
        tunnel.client.sendall(b"more")
        assert recv_exactly(tunnel.origin, len(data) + 4) == data + b"more"
        close(tunnel)
        assert tunnel.end().found == found


def test_much_early_data_that_is_refused(rig: Rig) -> None:
    """No more of it is kept, for whoever is told of the name, than is looked at."""
    data = WRONG + payload(4 * MOST)
    tunnel = rig.tunnel(to_origin=data, check=CHECK)
    assert cut(tunnel) == b""
    end = tunnel.end()
    assert (end.reason, end.found, end.flight) == (TLS_NAME, "mismatch", data[:MOST])


def test_bulk_behind_it(rig: Rig) -> None:
    data = RIGHT + payload(4 << 20)
    tunnel = rig.tunnel(check=CHECK)
    sender = send_all(tunnel.client, data, fin=True)
    assert recv_all(tunnel.origin) == (data, 0)
    sender.result()
    close(tunnel)
    assert tunnel.end().found == "match"


def test_the_origin_speaks_first(rig: Rig) -> None:
    """Its bytes are not held back, whatever the client has said, or has not."""
    tunnel = rig.tunnel(check=CHECK)
    tunnel.origin.sendall(b"220 ready\r\n")
    assert recv_exactly(tunnel.client, 11) == b"220 ready\r\n"
    tunnel.client.sendall(MADE["smtp"].said)
    assert recv_exactly(tunnel.origin, len(MADE["smtp"].said)) == MADE["smtp"].said
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    sender = send_all(tunnel.origin, payload(1 << 20))
    assert recv_exactly(tunnel.client, 1 << 20) == payload(1 << 20)
    sender.result()
    tunnel.client.sendall(RIGHT[HALF:])
    assert recv_exactly(tunnel.origin, len(RIGHT)) == RIGHT


def test_a_banner_and_then_another_name(rig: Rig) -> None:
    tunnel = rig.tunnel(check=CHECK)
    tunnel.origin.sendall(b"220")
    assert recv_exactly(tunnel.client, 3) == b"220"
    tunnel.client.sendall(WRONG)
    assert cut(tunnel) == b""


@pytest.mark.parametrize("asked", [CHECK, REQUIRE], ids=["check", "require"])
def test_a_client_that_says_nothing_and_ends(rig: Rig, asked: NameCheck) -> None:
    tunnel = rig.tunnel(check=asked)
    tunnel.client.shutdown(socket.SHUT_WR)
    if asked is REQUIRE:
        assert cut(tunnel) == b""
        assert tunnel.end()[0] == TLS_NAME
        return
    assert recv_all(tunnel.origin) == (b"", 0)
    tunnel.origin.sendall(b"bye")
    assert recv_exactly(tunnel.client, 3) == b"bye"
    close(tunnel)
    assert tunnel.end()[:1] == (DONE,)
    assert tunnel.end().found == "not-tls"


@pytest.mark.parametrize("asked", [CHECK, TOLD], ids=["check", "told"])
def test_half_of_it_and_an_end(rig: Rig, asked: NameCheck) -> None:
    tunnel = rig.tunnel(check=asked)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    tunnel.client.shutdown(socket.SHUT_WR)
    if asked is CHECK:
        assert cut(tunnel) == b""
    else:
        assert recv_all(tunnel.origin) == (RIGHT[:HALF], 0)
        close(tunnel)
    assert tunnel.end().found == "malformed"


def test_an_origin_that_ends_meanwhile(rig: Rig) -> None:
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    tunnel.origin.shutdown(socket.SHUT_WR)
    assert recv_all(tunnel.client) == (b"", 0)
    tunnel.client.sendall(RIGHT[HALF:])
    assert recv_exactly(tunnel.origin, len(RIGHT)) == RIGHT
    tunnel.client.close()
    assert recv_all(tunnel.origin) == (b"", 0)
    assert tunnel.end().reason == DONE


def test_the_shorter_limit_of_a_tunnel_that_has_half_ended(new_rig: NewRig) -> None:
    """It holds when it is known what the client says, as without a check."""
    rig = new_rig(half_close=0.2, tls_name=60)
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    tunnel.origin.shutdown(socket.SHUT_WR)
    assert recv_all(tunnel.client) == (b"", 0)
    tunnel.client.sendall(RIGHT[HALF:])
    assert tunnel.end().reason == HALF_CLOSE


@pytest.mark.parametrize("side", ["client", "origin"])
def test_reset_meanwhile(rig: Rig, side: str) -> None:
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    peers = (tunnel.client, tunnel.origin)
    cutter, other = peers if side == "client" else peers[::-1]
    reset(cutter)
    assert recv_all(other) == (b"", errno.ECONNRESET)
    reasons = {"client": CLIENT_RESET, "origin": ORIGIN_RESET}
    assert tunnel.end()[0] == reasons[side]
    assert tunnel.end().found == ""


def test_ended_from_outside(rig: Rig) -> None:
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    rig.call(rig.relay.abort, tunnel.ident)
    assert cut(tunnel) == b""
    assert tunnel.end().reason == ABORTED


# ---- in time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [CHECK, TOLD], ids=["check", "told"])
def test_late(new_rig: NewRig, row: memoryview, asked: NameCheck) -> None:
    """Bytes of the origin do not make it later."""
    rig = new_rig(tls_name=0.2, row=row)
    tunnel = rig.tunnel(check=asked)
    since = time.monotonic()
    tunnel.client.sendall(b"\x16")
    until(lambda: quiet(tunnel.origin), "the relay has it")
    tunnel.origin.sendall(b"x")
    assert recv_exactly(tunnel.client, 1) == b"x"
    if asked is CHECK:
        assert cut(tunnel) == b""
        assert tunnel.end()[0] == TLS_NAME
    else:
        assert recv_exactly(tunnel.origin, 1) == b"\x16"
        close(tunnel)
    assert time.monotonic() - since >= 0.2
    assert tunnel.end().found == "late"
    assert counted(row) == {("late", REFUSED if asked is CHECK else PASSED): 1}


def test_nobody_is_late_who_has_said_nothing(new_rig: NewRig) -> None:
    """Or who has said what is no TLS."""
    rig = new_rig(tls_name=0.05)
    silent, other = rig.tunnel(check=REQUIRE), rig.tunnel(check=CHECK)
    other.client.sendall(b"HELO")
    assert recv_exactly(other.origin, 4) == b"HELO"
    time.sleep(0.2)
    for tunnel in (silent, other):
        tunnel.origin.sendall(b"x")
        assert recv_exactly(tunnel.client, 1) == b"x"
    silent.client.sendall(RIGHT)
    assert recv_exactly(silent.origin, len(RIGHT)) == RIGHT


def test_another_limit(new_rig: NewRig) -> None:
    """It holds for those as well that have begun."""
    rig = new_rig(tls_name=60)
    tunnel = rig.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    rig.call(rig.driver.limits, 60.0, 60.0, 0.1)
    assert cut(tunnel) == b""
    assert tunnel.end().found == "late"


# ---- addresses ---------------------------------------------------------------------------------


def test_of_an_address_nothing_is_asked(rig: Rig, row: memoryview) -> None:
    tunnel = rig.tunnel(check=NameCheck("", REQUIRE.refused))
    tunnel.client.sendall(WRONG)
    assert recv_exactly(tunnel.origin, len(WRONG)) == WRONG
    close(tunnel)
    assert tunnel.end().found == "address"
    assert counted(row) == {("address", PASSED): 1}


# ---- from one process to another ---------------------------------------------------------------


@pytest.fixture
def checked(two: Two) -> Ends:
    """A tunnel whose client has said half of it."""
    tunnel = two.here.tunnel(check=CHECK)
    tunnel.client.sendall(RIGHT[:HALF])
    assert quiet(tunnel.origin)
    return tunnel


def test_it_goes_on_elsewhere(two: Two, checked: Ends) -> None:
    refuse(two.here, two.there, checked)
    moved = move(two.here, two.there, checked)
    assert quiet(moved.origin)
    moved.client.sendall(RIGHT[HALF:])
    assert recv_exactly(moved.origin, len(RIGHT)) == RIGHT
    again = move(two.there, two.here, moved)
    close(again)
    assert (again.end().reason, again.end().found) == (DONE, "match")
    assert counted(two.rows[0]) == {}
    assert counted(two.rows[1]) == {("match", PASSED): 1}


def test_it_is_refused_elsewhere(two: Two) -> None:
    tunnel = two.here.tunnel(check=CHECK)
    tunnel.client.sendall(WRONG[:HALF])
    assert quiet(tunnel.origin)
    moved = move(two.here, two.there, tunnel)
    moved.client.sendall(WRONG[HALF:])
    assert cut(moved) == b""
    assert (moved.end().reason, moved.end().found) == (TLS_NAME, "mismatch")


def test_its_time_goes_on_elsewhere(two: Two, checked: Ends) -> None:
    there = two.rig(1, tls_name=0.2)
    time.sleep(0.2)
    moved = move(two.here, there, checked)
    assert cut(moved) == b""
    assert moved.end().found == "late"


def test_one_that_has_said_nothing_goes_on_elsewhere(two: Two) -> None:
    there = two.rig(1, tls_name=0.05)
    tunnel = move(two.here, there, two.here.tunnel(check=REQUIRE))
    time.sleep(0.15)
    tunnel.client.sendall(WRONG)
    assert cut(tunnel) == b""


def test_states_that_no_check_has(two: Two, checked: Ends) -> None:
    state, fds = freeze(two.here, checked.ident) or pytest.fail("it cannot move")
    assert state.check is not None
    for wrong in (
        state.check._replace(name=""),
        state.check._replace(data=bytes(MOST)),
        state.check._replace(since=0),
        CheckState(NAME, 1, 7, b""),
    ):
        with pytest.raises(Unmovable):
            check(state._replace(check=wrong))
    with pytest.raises(Unmovable):
        check(state._replace(found="match"))
    moved = adopt(two.there, checked, (state, fds))
    two.here.call(two.here.driver.release, checked.ident)
    two.there.call(two.there.driver.thaw, moved.ident)


def test_one_whose_origin_has_failed_goes_on_elsewhere(two: Two, checked: Ends) -> None:
    """What that had said before is on its way to the client, and nothing more is asked of that."""
    state, fds = freeze(two.here, checked.ident) or pytest.fail("it cannot move")
    failed = state._replace(dead=1, reason=ORIGIN_RESET, up=state.up._replace(over=True))
    moved = adopt(two.there, checked, (failed, fds))
    two.here.call(two.here.driver.release, checked.ident)
    reset(moved.origin)
    two.there.call(two.there.driver.thaw, moved.ident)
    assert recv_all(moved.client) == (b"", errno.ECONNRESET)
    assert (moved.end().reason, moved.end().found) == (ORIGIN_RESET, "")
