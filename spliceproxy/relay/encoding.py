"""What moves to another process, as bytes, and from them.

    spliceproxy-flow/1 LF
    a JSON object, on one line, LF
    bytes that are held, one text after the other

The other process may be of another version, so each says what it is: the number in the first line
changes with whatever changes below. Nothing is guessed: another number, a name that is missing or
is not known, a value of another kind or out of its range is Unmovable, and so is any other text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from spliceproxy.relay.checking import FOUND
from spliceproxy.relay.interface import REASONS
from spliceproxy.relay.moving import CheckState, TunnelState, Unmovable, WayState

VERSION = 1
MOST = 4 << 20
"""Bytes of the longest. Two pipes whose bytes had to be read out of them make 2 MiB."""

TEXT_MOST = 64 * 1024
_NAME = b"spliceproxy-flow/"

Check = Callable[[Any], bool]
"""Whether a value of JSON is what it should be."""

Json = Mapping[str, Any]

_written = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
"""Made once: thousands of tunnels may move at a time."""


def whole(bits: int) -> Check:
    """A number of so many bits, not negative."""
    return lambda value: type(value) is int and 0 <= value < 1 << bits


def truth(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def text(value: Any) -> bool:
    """A text of bounded length."""
    return type(value) is str and len(value) <= TEXT_MOST


def seconds(value: Any) -> bool:
    """A moment or a span: at most a few centuries. NaN is neither."""
    return type(value) in (int, float) and 0 <= value < 1e10


def some(count: int, check: Check) -> Check:
    """A list of so many values."""
    return lambda value: type(value) is list and len(value) == count and all(map(check, value))


def obj(fields: Mapping[str, Check]) -> Check:
    """An object with these fields."""
    return lambda value: check_object(value, fields)


def maybe(check: Check) -> Check:
    """That, or nothing."""
    return lambda value: value is None or check(value)


def check_object(value: Any, fields: Mapping[str, Check]) -> bool:
    """An object that has these fields, and no others. Unmovable names the one that is wrong."""
    if type(value) is not dict or value.keys() != fields.keys():
        return False
    for name, check in fields.items():
        if not check(value[name]):
            raise Unmovable(f"{name} cannot be {str(value[name])[:100]!r}")
    return True


def encode(kind: str, state: Json, facts: Json, data: Sequence[bytes]) -> bytes:
    """A flow of this kind: its state, what its owner knows of it, and the bytes that it holds, as
    :func:`decode` returns them."""
    sizes = list(map(len, data))
    said = {"kind": kind, "state": state, "facts": facts, "data": sizes}
    line = _written(said).encode("ascii")
    return b"%s%d\n%s\n%s" % (_NAME, VERSION, line, b"".join(data))


class Kind(NamedTuple):
    """What flows of one kind have: fields of the state, facts, and how many texts of bytes."""

    state: Mapping[str, Check]
    facts: Mapping[str, Check]
    data: int


class Decoded(NamedTuple):
    """What :func:`encode` was given."""

    kind: str
    state: dict[str, Any]
    facts: dict[str, Any]
    data: list[bytes]


def decode(data: bytes, kinds: Mapping[str, Kind]) -> Decoded:
    """Unmovable for anything that :func:`encode` has not made in this version, of one of these
    kinds."""
    first, _, rest = data.partition(b"\n")
    line, _, held = rest.partition(b"\n")
    if not first.startswith(_NAME):
        raise Unmovable("that is no flow")
    version = first[len(_NAME) :]
    if version != b"%d" % VERSION:
        shown = version[:20].decode("ascii", "backslashreplace")
        raise Unmovable(f"a flow of version {shown}, and this program knows {VERSION}")
    if len(data) > MOST:
        raise Unmovable(f"a flow of {len(data)} bytes, and {MOST} are the most")
    try:
        said = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Unmovable("the text of a flow is no JSON") from error
    if type(said) is not dict or said.keys() != {"kind", "state", "facts", "data"}:
        raise Unmovable("a flow has a kind, a state, facts and data")
    name = said["kind"]
    kind = kinds.get(name) if type(name) is str else None
    if kind is None:
        raise Unmovable(f"a flow of the kind {str(name)[:40]!r}")
    if not check_object(said["state"], kind.state):
        raise Unmovable("a state without some of its fields, or with others")
    if not check_object(said["facts"], kind.facts):
        raise Unmovable(f"a {name} without some of its facts, or with others")
    return Decoded(name, said["state"], said["facts"], _parts(held, said["data"], kind.data))


def _parts(held: bytes, sizes: Any, count: int) -> list[bytes]:
    if type(sizes) is not list or len(sizes) != count or not all(map(whole(31), sizes)):
        raise Unmovable(f"the data of a flow are not {count} texts")
    if sum(sizes) != len(held):
        raise Unmovable(f"{len(held)} bytes of data, and {sum(sizes)} should be")
    parts = []
    for size in sizes:
        parts.append(held[:size])
        held = held[size:]
    return parts


# ---- tunnels -----------------------------------------------------------------------------------

_WAY: Mapping[str, Check] = {
    "copied": whole(63),
    "spliced": whole(63),
    "piped": whole(31),
    "over": truth,
    "splices": truth,
    "copies": truth,
    "narrow": truth,
    "active": whole(53),
    "mark": whole(53),
    "for_source": whole(32),
    "for_target": whole(32),
    "silent": whole(32),
}

TUNNEL: Mapping[str, Check] = {
    "up": obj(_WAY),
    "down": obj(_WAY),
    "dead": lambda value: type(value) is int and -1 <= value <= 1,
    "reason": lambda value: type(value) is str and value in REASONS,
    "errno": whole(15),
    "spoke": lambda value: type(value) is int and 0 <= value <= 1,
    "young": truth,
    "unacknowledged": whole(31),
    "acknowledged": whole(53),
    "found": lambda value: type(value) is str and value in FOUND,
    "check": maybe(obj({"name": text, "refused": whole(len(FOUND)), "since": whole(53)})),
}
"""The fields of a :class:`TunnelState`; ``held`` of both ways, and ``data`` of its check, are its
data."""

TUNNEL_DATA = 3


def of_tunnel(state: TunnelState) -> tuple[dict[str, Any], list[bytes]]:
    """A tunnel's state as :func:`encode` takes it, and its data."""
    tunnel = state._asdict()
    data = []
    for name in ("up", "down"):
        way = tunnel[name]._asdict()
        data.append(way.pop("held"))
        tunnel[name] = way
    check = state.check
    if check is not None:
        tunnel["check"] = {"name": check.name, "refused": check.refused, "since": check.since}
    data.append(check.data if check is not None else b"")
    return tunnel, data


def tunnel_of(state: dict[str, Any], data: Sequence[bytes]) -> TunnelState:
    """The other way round."""
    up, down, first = data
    check = None if state["check"] is None else CheckState(**state["check"], data=first)
    if check is None and first:
        raise Unmovable("bytes that are looked at, and nothing to be found in them")
    ways = {"up": WayState(**state["up"], held=up), "down": WayState(**state["down"], held=down)}
    return TunnelState(**{**state, **ways, "check": check})
