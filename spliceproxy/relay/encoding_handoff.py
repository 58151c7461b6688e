"""A client that the lane would give back, as what moves to another process (see encoding.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spliceproxy.relay.encoding import Check, maybe, obj, seconds, some, text, truth, whole
from spliceproxy.relay.handoff import BODY, RESPONSE, Begun, Chunks, Handoff
from spliceproxy.relay.moving import Unmovable, check_kinds

_CHUNKS: Mapping[str, Check] = {
    "rest": lambda value: type(value) is int and -2 <= value < 1 << 62,
    "open": truth,
    "taken": whole(63),
}

_BEGUN: Mapping[str, Check] = {
    "status": whole(10),
    "content_type": text,
    "closes": truth,
    "keeps": truth,
    "sent": whole(63),
    "spliced": whole(63),
    "left": lambda value: value == -1 or whole(63)(value),
    "chunks": maybe(obj(_CHUNKS)),
}

HANDOFF: Mapping[str, Check] = {
    "cause": lambda value: value in (RESPONSE, BODY),
    "address": text,
    "via": text,
    "requests": whole(32),
    "peer": text,
    "reused": truth,
    "started": seconds,
    "left": whole(63),
    "sent": whole(63),
    "number": whole(63),
    "stages": some(4, whole(32)),
    "spliced": whole(63),
    "waits": some(4, whole(32)),
    "chunks": maybe(obj(_CHUNKS)),
    "begun": maybe(obj(_BEGUN)),
    "moved": whole(63),
    "summed": maybe(some(2, whole(63))),
    "route": text,
    "connect_by": text,
    "accounted": whole(63),
}
"""Its fields, but for the descriptors and what was decided."""

DATA = 5
"""Texts of bytes: ``buffer``, ``answer``, and what is owed of the request, of the response with a
length, and of one in chunks."""

_AS_THEY_ARE = HANDOFF.keys() - {"chunks", "begun"}


def of_handoff(handoff: Handoff) -> tuple[dict[str, Any], list[bytes]]:
    """State and data."""
    state: dict[str, Any] = {name: getattr(handoff, name) for name in _AS_THEY_ARE}
    begun = handoff.begun
    chunks = begun.chunks if begun is not None else None
    state["chunks"] = _of_chunks(handoff.chunks)
    state["begun"] = None
    if begun is not None:
        state["begun"] = {**begun._asdict(), "chunks": _of_chunks(chunks)}
        del state["begun"]["owed"]
    owed = [one.owed if one is not None else b"" for one in (handoff.chunks, begun, chunks)]
    return state, [handoff.buffer, handoff.answer, *owed]


def _of_chunks(chunks: Chunks | None) -> dict[str, Any] | None:
    if chunks is None:
        return None
    return {"rest": chunks.rest, "open": chunks.open, "taken": chunks.taken}


def handoff_of(state: Mapping[str, Any], data: Sequence[bytes], fds: Sequence[int]) -> Handoff:
    """The other way round; the descriptors are the hand-off's. Unmovable where one thing cannot
    be with another."""
    check_kinds(fds)
    if (state["cause"] == BODY) != (state["begun"] is not None):
        raise Unmovable("a response has begun, or has not")
    if b"\r\n\r\n" not in data[0]:
        raise Unmovable("a request without its head")
    values = dict(state)
    values["chunks"] = _chunks_of(state["chunks"], data[2])
    if state["begun"] is not None:
        begun = dict(state["begun"])
        begun["chunks"] = _chunks_of(begun["chunks"], data[4])
        values["begun"] = Begun(owed=data[3], **begun)
    for name in ("stages", "waits", "summed"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    client, origin = fds
    return Handoff(client=client, origin=origin, buffer=data[0], answer=data[1], **values)


def _chunks_of(chunks: Mapping[str, Any] | None, owed: bytes) -> Chunks | None:
    if chunks is None:
        if owed:
            raise Unmovable("bytes are owed of a body that is not in chunks")
        return None
    return Chunks(owed=owed, **chunks)
