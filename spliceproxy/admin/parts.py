"""An answer to an operator in parts, so that none is larger than a message
(``channel.MAX_MESSAGE``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from spliceproxy.admin.channel import Message

PART = 32 << 10
"""Bytes of JSON beyond which nothing more goes into a part."""


def in_parts(name: str, rows: Iterable[Any], *, end: bool = False) -> Iterator[Message]:
    """The rows as ``{name: rows}``; nothing where there are none. A row that is larger than PART
    is a part by itself. ``end``: the last of these parts is the last one of the answer."""
    import json  # late: most proxies have nobody who asks

    part: list[Any] = []
    size = 0
    for row in rows:
        n = len(json.dumps(row))
        if part and size + n > PART:
            yield {name: part}
            part, size = [], 0
        part.append(row)
        size += n
    if part:
        yield {name: part, "end": True} if end else {name: part}
