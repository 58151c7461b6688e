"""What a first flight says to a check of the name inside TLS, in Python and in C: of every way to
cut it the same."""

from __future__ import annotations

import random

import pytest
from hellos import MADE, MOST, NAME, First, records, said, some
from hypothesis import given
from hypothesis import strategies as st
from relay_rig import native_relay

from spliceproxy.relay.checking import FOUND, NameCheck
from spliceproxy.relay.portable.gate import Gate, found_of
from spliceproxy.tls import hello

CHECK = NameCheck(NAME, 0)


def in_c(data: bytes) -> str:
    native_relay()
    from spliceproxy.relay import _native

    return _native.found_of(CHECK, data)


def in_python(data: bytes) -> str:
    return found_of(CHECK, hello.read(data))


def cut_at_every_byte(first: First) -> None:
    data = first.said
    whole = False
    gate = Gate(CHECK)
    for at in range(len(data) + 1):
        found = in_c(data[:at])
        assert found in ("", first.found), at
        assert not whole or found, "once there is an answer it stays"
        whole = bool(found)
        if at:
            assert gate.hear(data[at - 1 : at], 1.0) == found, at
        if at % 61 == 0:
            assert in_python(data[:at]) == found, at
        if whole:
            break
    assert whole
    for more in (b"", b"\0", records(b"\1", kind=20), bytes(MOST)):
        assert in_c(data + more) == in_python(data + more) == first.found


@pytest.mark.parametrize("name", MADE)
def test_made(name: str) -> None:
    cut_at_every_byte(MADE[name])


def test_said_by_programs() -> None:
    for name, first in said():
        assert in_c(first.said) == first.found, name
        cut_at_every_byte(first)


def test_there_are_enough() -> None:
    """Each outcome has some, and none is left out of the comparison."""
    assert len(MADE) >= 60
    assert {first.found for first in MADE.values()} == {*FOUND} - {"", "late", "address"}


@pytest.mark.parametrize("seed", range(40))
def test_changed_at_random(seed: int) -> None:
    """A flight with some bytes changed, taken out or put in: both make the same of it."""
    odds = random.Random(seed)
    names = list(MADE)
    for _ in range(150):
        data = bytearray(MADE[odds.choice(names)].said[:4000])
        for _ in range(odds.randrange(1, 4)):
            at = odds.randrange(len(data))
            what = odds.randrange(3)
            if what == 0:
                data[at] = odds.randrange(256)
            elif what == 1 and len(data) > 1:
                del data[at]
            else:
                data.insert(at, odds.randrange(256))
        whole = bytes(data)
        assert in_c(whole) == in_python(whole), whole.hex()
        early = whole[: odds.randrange(len(whole))]
        assert in_c(early) == in_python(early) in ("", in_c(whole))


@given(data=st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for start in (b"", b"\x16", b"\x16\x03\x01\x00\x40\x01", b"\x15\x03\x01"):
        assert in_c(start + data) == in_python(start + data)


def test_a_flight_in_records_of_a_byte_is_read_in_time() -> None:
    """As large as is looked at, and a byte at a time: each byte is looked at once."""
    data = records(some(MOST), 1)[: MOST - 1]
    data = data[:5] + b"\1" + data[6:11] + b"\0" + data[12:17] + b"\x3f" + data[18:]
    gate = Gate(CHECK)
    for at in range(len(data)):
        assert gate.hear(data[at : at + 1], 1.0) == ""
    assert gate.hear(b"x", 1.0) == "malformed"
