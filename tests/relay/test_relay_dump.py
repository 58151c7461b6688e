"""Relay.dump: a line of counters, and one for each flow, without a byte of what they carry."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plain_oracle import OK, Plain, conversation, received
from relay_rig import FLOOD, Rig, fill, narrow_pair, native_relay, payload, recv_exactly

from spliceproxy.relay.choice import NATIVE_MODULE
from spliceproxy.relay.portable import moves, tunnel

NATIVE = Path(__file__).parents[2] / "native"


def dump(rig: Rig, most: int = 100) -> list[str]:
    text: str = rig.call(rig.driver.dump, most)
    assert text.endswith("\n")
    return text.splitlines()


def test_tunnel(rig: Rig) -> None:
    one = rig.tunnel(to_origin=b"SECRET")
    assert recv_exactly(one.origin, 6) == b"SECRET"
    counters, line = dump(rig)
    assert counters.startswith(f"{rig.relay.engine}: ")
    assert " tunnels=1 transfers=0 " in counters
    assert re.match(r"\d+ tunnel ", line)
    assert re.search(r" rests=\d+\.\d{3}", line)
    assert " up(" in line
    assert " copied=6 " in line
    assert "SECRET" not in line
    one.client.close()
    one.origin.close()
    one.end()
    (counters,) = dump(rig)
    assert " tunnels=0 " in counters


def test_bytes_that_wait(rig: Rig) -> None:
    one = rig.tunnel("narrow")
    fill(one.client, payload(FLOOD), rig)
    line = dump(rig)[1]
    waits = re.search(r" up\(.*?waits=(\d+)", line)
    assert waits is not None
    assert int(waits[1]) > 0, line


def test_transfer(rig: Rig) -> None:
    source, inner_source = narrow_pair()
    target, inner_target = narrow_pair()
    rig.keep(source, inner_source, target, inner_target)
    future = rig.transfer(inner_source, inner_target, 10)
    source.sendall(b"12345")
    assert recv_exactly(target, 5) == b"12345"
    counters, line = dump(rig)
    assert " transfers=1 " in counters
    assert " transfer " in line
    assert " left=5 " in line
    source.sendall(b"67890")
    assert future.result(20).copied == 10


def test_no_age_is_negative() -> None:
    """Of a request that has begun within the same millisecond."""
    native_relay()
    plain = Plain(log=True)  # else the lane does not look at the clock
    head = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
    with conversation(plain) as one:
        one.allow(head)
        for _ in range(20):
            assert one.send(one.client, head)
            text = plain.relay.dump(10)
            assert re.search(r" client queue=.* since=", text)
            assert "=-" not in text
            asked = one.asked()
            assert asked is not None
            assert one.send(one.keys[asked[0]], OK)
            assert received(one.client)
    plain.close()


def test_more_than_are_shown(rig: Rig) -> None:
    for _ in range(5):
        rig.tunnel("unix")
    lines = dump(rig, 3)
    assert len(lines) == 1 + 3 + 1
    assert lines[-1] == "... 2 more"
    assert len(dump(rig, 5)) == 1 + 5


def test_half_closed(rig: Rig) -> None:
    one = rig.tunnel()
    one.client.shutdown(1)
    assert one.origin.recv(1) == b""
    line = dump(rig)[1]
    assert "half" in line
    assert "up(ended,fin-sent" in line or "up(over," in line


def test_closed_relay(new_relay: Callable[..., object]) -> None:
    relay = new_relay()
    relay.close()  # type: ignore[attr-defined]
    assert relay.dump(10).count("\n") == 1  # type: ignore[attr-defined]


def enumerators(text: str, start: str) -> list[str]:
    """The names in the enum that begins with the line ``start``."""
    body = re.split(r"\n(?=\S)", text[text.index(start) + len(start) :])[0]
    words = re.sub(r"#.*", "", body).replace(",", "\n").split("\n")
    return [word.partition("=")[0].strip() for word in words if word.strip()]


def shown(name: str) -> str:
    return re.sub(r"^[A-Z]_", "", name).lower().replace("_", "-")


def test_every_enumerator_has_its_name() -> None:
    native_relay()
    names = importlib.import_module(NATIVE_MODULE).NAMES
    if not NATIVE.exists():
        pytest.skip("not in a source tree")
    core = (NATIVE / "core" / "types.pxd").read_text()
    lane = (NATIVE / "lane" / "types.pxd").read_text()
    kinds = enumerators(core, "cdef enum Kind:")
    queues = enumerators(core, "cdef enum Queue:")
    assert (kinds.pop(), queues.pop()) == ("LANE_KIND", "Q_LANE")  # the lane's begin here
    kinds += enumerators(lane, "# Flow.kind\ncdef enum:")
    queues += enumerators(lane, "wheels of the lane, LANE_QUEUES of them\ncdef enum:")
    expected = {
        "Kind": kinds,
        "Queue": queues,
        "Phase": enumerators(lane, "cdef enum Phase:"),
        "Way.flags": enumerators(core, "# Way.flags\ncdef enum:"),
    }
    assert {one: tuple(map(shown, found)) for one, found in expected.items()} == names
    for which, least in (("Kind", 6), ("Queue", 11), ("Phase", 5)):
        assert len(names[which]) >= least


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (moves.STATES, "READY BLOCKED OVER SOURCE_FAILED TARGET_FAILED"),
        (moves.MODES, "COPY SPLICE COPY_FOR_GOOD"),
        (tunnel.PHASES, "OPEN HALF DRAIN ACK"),
        (tunnel.SIDES, "CLIENT ORIGIN BOTH"),
    ],
)
def test_names_of_the_portable_engines(names: tuple[str, ...], values: str) -> None:
    module = tunnel if hasattr(tunnel, "PHASES") and values.split()[0] not in vars(moves) else moves
    assert [getattr(module, value) for value in values.split()] == list(range(len(names)))
    assert tuple(map(shown, values.split())) == names
