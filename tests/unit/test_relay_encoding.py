"""What moves to another process, as bytes: all of it comes back, and nothing else is taken."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.relay.checking import FOUND
from spliceproxy.relay.encoding import (
    MOST,
    TUNNEL,
    TUNNEL_DATA,
    VERSION,
    Kind,
    decode,
    encode,
    of_tunnel,
    seconds,
    text,
    tunnel_of,
    whole,
)
from spliceproxy.relay.encoding_handoff import DATA, HANDOFF, handoff_of, of_handoff
from spliceproxy.relay.handoff import BODY, RESPONSE, Begun, Chunks, Handoff
from spliceproxy.relay.interface import REASONS
from spliceproxy.relay.moving import CheckState, TunnelState, Unmovable, WayState

KINDS = {"tunnel": Kind(TUNNEL, {"name": text, "port": whole(16), "since": seconds}, TUNNEL_DATA)}


def made(state: TunnelState, said: dict[str, Any]) -> bytes:
    fields, data = of_tunnel(state)
    return encode("tunnel", fields, said, data)


def read(data: bytes) -> tuple[TunnelState, dict[str, Any]]:
    found = decode(data, KINDS)
    assert found.kind == "tunnel"
    return tunnel_of(found.state, found.data), found.facts


numbers = st.integers(0, 2**53 - 1)
small = st.integers(0, 2**31 - 1)
waits = st.integers(0, 2**32 - 1)
ways = st.builds(
    WayState,
    numbers,
    numbers,
    st.binary(max_size=300),
    small,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    numbers,
    numbers,
    waits,
    waits,
    waits,
)
states = st.builds(
    TunnelState,
    ways,
    ways,
    st.integers(-1, 1),
    st.sampled_from(REASONS),
    st.integers(0, 4095),
    st.integers(0, 1),
    st.booleans(),
    small,
    numbers,
    st.sampled_from(FOUND),
    st.none()
    | st.builds(CheckState, st.text("a.", max_size=9), st.integers(0, 511), numbers, st.binary()),
)
facts = st.fixed_dictionaries(
    {
        "name": st.text(max_size=99),
        "port": st.integers(0, 65535),
        "since": st.floats(0, 1e9),
    }
)


@given(states, facts)
def test_all_of_it_comes_back(state: TunnelState, said: dict[str, Any]) -> None:
    assert read(made(state, said)) == (state, said)


@given(states, facts, st.data())
def test_a_state_that_is_cut_short(
    state: TunnelState, said: dict[str, Any], data: st.DataObject
) -> None:
    whole_one = made(state, said)
    cut = data.draw(st.integers(0, len(whole_one) - 1))
    with pytest.raises(Unmovable):
        read(whole_one[:cut])


@given(states, facts, st.data())
def test_a_state_that_is_garbled(
    state: TunnelState, said: dict[str, Any], data: st.DataObject
) -> None:
    """It is refused, or is another one that could be."""
    garbled = bytearray(made(state, said))
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    try:
        other = read(bytes(garbled))
    except Unmovable:
        return
    assert read(made(*other)) == other


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    with pytest.raises(Unmovable):
        read(data)
    with pytest.raises(Unmovable):
        read(b"spliceproxy-flow/%d\n" % VERSION + data)


WAY = WayState(1, 2, b"held", 0, False, True, False, False, 3, 4, 5, 6, 7)
STATE = TunnelState(WAY, WAY, -1, "", 0, 1, False, 0, 0)
SAID = {"name": "x", "port": 1, "since": 1.0}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("state", "up", "copied"), -1),
        (("state", "up", "copied"), 1 << 63),
        (("state", "up", "copied"), 1.0),
        (("state", "up", "copied"), True),
        (("state", "up", "over"), 0),
        (("data", 0), 3),
        (("data", 1), 5),
        (("data",), [4]),
        (("data",), [4, 4]),
        (("data",), [4, 4, 0, 0]),
        (("state", "found"), "a name"),
        (("state", "check"), {"name": "a.test", "refused": 512, "since": 0}),
        (("state", "check"), {"name": "a.test"}),
        (("data",), [9, -1]),
        (("state", "up", "held"), 5),
        (("state", "up"), []),
        (("state", "dead"), 2),
        (("state", "reason"), "bored"),
        (("state", "reason"), []),
        (("state", "new"), 1),
        (("state",), None),
        (("facts", "name"), None),
        (("facts", "name"), "x" * 70_000),
        (("facts", "port"), 65536),
        (("facts", "since"), float("nan")),
        (("facts", "since"), float("inf")),
        (("facts", "new"), 1),
        (("facts",), []),
        (("kind",), "teapot"),
        (("kind",), {}),
        (("new",), 1),
    ],
)
def test_values_that_cannot_be(where: tuple[Any, ...], value: object) -> None:
    first, line, held = made(STATE, SAID).split(b"\n", 2)
    said = json.loads(line)
    at = said
    for name in where[:-1]:
        at = at[name]
    at[where[-1]] = value
    with pytest.raises(Unmovable):
        read(b"\n".join([first, json.dumps(said).encode(), held]))


def test_a_field_that_is_missing() -> None:
    first, line, held = made(STATE, SAID).split(b"\n", 2)
    for path in [
        ("kind",),
        ("state", "spoke"),
        ("state", "up", "mark"),
        ("data",),
        ("facts", "port"),
    ]:
        said = json.loads(line)
        at = said
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]
        with pytest.raises(Unmovable):
            read(b"\n".join([first, json.dumps(said).encode(), held]))


# ---- clients -----------------------------------------------------------------------------------

chunks = st.builds(Chunks, st.integers(-2, 2**40), st.booleans(), st.binary(max_size=99), numbers)
begun = st.builds(
    Begun,
    st.integers(200, 599),
    st.text(max_size=30),
    st.booleans(),
    st.booleans(),
    numbers,
    numbers,
    st.integers(-1, 2**40),
    st.binary(max_size=99),
    st.none() | chunks,
)
four = st.tuples(waits, waits, waits, waits)
handoffs = st.builds(
    Handoff,
    cause=st.just(RESPONSE),
    client=st.just(-1),
    address=st.sampled_from(["", "127.0.0.1", "::1"]),
    requests=small,
    buffer=st.binary(max_size=99).map(lambda more: b"GET / HTTP/1.1\r\n\r\n" + more),
    origin=st.just(-1),
    answer=st.binary(max_size=99),
    peer=st.text(max_size=30),
    reused=st.booleans(),
    started=st.floats(0, 1e9),
    left=numbers,
    sent=numbers,
    number=numbers,
    stages=four,
    spliced=numbers,
    waits=four,
    chunks=st.none() | chunks,
    begun=st.none() | begun,
    moved=numbers,
    accounted=numbers,
    summed=st.none() | st.tuples(numbers, numbers),
)


@pytest.fixture(scope="module")
def two_sockets() -> Iterator[tuple[int, int]]:
    pair = socket.socketpair()
    for one in pair:
        one.setblocking(False)
    yield pair[0].fileno(), pair[1].fileno()
    for one in pair:
        one.close()


@given(handoffs)
def test_all_of_a_client_comes_back(two_sockets: tuple[int, int], handoff: Handoff) -> None:
    if handoff.begun is not None:
        handoff.cause = BODY
    state, data = of_handoff(handoff)
    found = decode(encode("exchange", state, {}, data), {"exchange": Kind(HANDOFF, {}, DATA)})
    again = handoff_of(found.state, found.data, two_sockets)
    assert (again.client, again.origin) == two_sockets
    again.client = again.origin = -1
    assert again == handoff


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cause": BODY}, "has begun"),
        ({"begun": None}, "has begun"),
        ({"buffer": b"GET / HTTP/1.1\r\n"}, "without its head"),
        ({"owed": b"x"}, "not in chunks"),
        ({"fds": 1}, "descriptors"),
        ({"fds": 3}, "descriptors"),
    ],
)
def test_clients_that_cannot_be(
    two_sockets: tuple[int, int], change: dict[str, Any], why: str
) -> None:
    begun_now = Begun(200, "", False, True, 9, 0, 9, b"", None)
    cause = change.get("cause", RESPONSE if "buffer" in change or "owed" in change else BODY)
    made_now = Handoff(
        cause, -1, "", 0, change.get("buffer", b"GET / HTTP/1.1\r\n\r\n"), -1, b"", "", False, 0.0
    )
    if "begun" not in change and cause == BODY and change.get("cause") is None:
        made_now.begun = begun_now
    state, data = of_handoff(made_now)
    data[2] = change.get("owed", b"")
    fds = (*two_sockets, two_sockets[0])[: change.get("fds", 2)]
    with pytest.raises(Unmovable, match=why):
        handoff_of(state, data, fds)


def test_another_version() -> None:
    data = made(STATE, SAID).replace(b"/%d\n" % VERSION, b"/%d\n" % (VERSION + 1), 1)
    with pytest.raises(Unmovable, match=f"version {VERSION + 1}, and this program knows {VERSION}"):
        read(data)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"{}", b"null", b'"x"', b"\xff", b"1" * 5000])
def test_no_object(line: bytes) -> None:
    with pytest.raises(Unmovable):
        read(b"spliceproxy-flow/%d\n%s\n" % (VERSION, line))


def test_a_long_one() -> None:
    with pytest.raises(Unmovable, match="are the most"):
        read(made(STATE._replace(up=WAY._replace(held=bytes(MOST))), SAID))
