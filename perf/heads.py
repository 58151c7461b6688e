"""Finding and parsing a head: ours against httptools (llhttp, C) and h11 (pure Python).

    python perf/heads.py -o out.json

The values are time for one head that arrives whole, taken as the proxy takes it: found in a
buffer and parsed into a method, a target and (name, value) pairs. ``drip``: a head of which
each call brings one byte. A refusal counts as an answer: of the hostile heads some readers
refuse more than others. Names: reader, kind, head. httptools and h11 are left out where they
are not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from rig.samples import (
    HOSTILE_REQUESTS,
    LARGE_REQUEST,
    LARGE_RESPONSE,
    TYPICAL_REQUEST,
    TYPICAL_RESPONSE,
)
from rig.suite import runner

from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import find_head_end, parse_request, parse_response

Reader = Callable[[bytes], object]


def our_request(head: bytes) -> object:
    """As ``front/heads.py`` does it."""
    buffer = bytearray(head)
    try:
        end = find_head_end(buffer)
        return parse_request(bytes(buffer[:end])) if end >= 0 else None
    except HeadError as error:
        return error


def our_response(head: bytes) -> object:
    """As ``forward/responses.py`` does it."""
    buffer = bytearray(head)
    end = find_head_end(buffer, response=True)
    return parse_response(bytes(buffer[:end]))


def our_drip(head: bytes) -> object:
    """A byte at a time."""
    buffer = bytearray()
    end = -1
    for i in range(len(head)):
        buffer += head[i : i + 1]
        end = find_head_end(buffer, i)
    return parse_request(bytes(buffer[:end]))


class _Collector:
    """httptools' callbacks, with the least that makes a head of them."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def httptools_readers() -> tuple[Reader, Reader, Reader]:
    """Request, response, drip."""
    import httptools

    def read(make: Callable[[Any], Any], head: bytes) -> object:
        found = _Collector()
        parser = make(found)
        try:
            parser.feed_data(head)
        except httptools.HttpParserError as error:
            return error
        return found

    def drip(head: bytes) -> object:
        found = _Collector()
        parser = httptools.HttpRequestParser(found)
        for i in range(len(head)):
            parser.feed_data(head[i : i + 1])
        return found

    request = partial(read, httptools.HttpRequestParser)
    return request, partial(read, httptools.HttpResponseParser), drip


def h11_readers() -> tuple[Reader, Reader, Reader]:
    """Request, response, drip."""
    import h11

    sent = h11.Request(method="GET", target="/", headers=[("Host", "www.example.com")])

    def request(head: bytes) -> object:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
        connection.receive_data(head)
        try:
            return connection.next_event()
        except h11.RemoteProtocolError as error:
            return error

    def response(head: bytes) -> object:
        connection = h11.Connection(h11.CLIENT)
        connection.send(sent)
        connection.receive_data(head)
        return connection.next_event()

    def drip(head: bytes) -> object:
        connection = h11.Connection(h11.SERVER)
        event: object = None
        for i in range(len(head)):
            connection.receive_data(head[i : i + 1])
            event = connection.next_event()
        return event

    return request, response, drip


def main() -> None:
    bench = runner()
    readers: dict[str, tuple[Reader, Reader, Reader]] = {}
    readers["spliceproxy"] = (our_request, our_response, our_drip)
    for name, make in (("httptools", httptools_readers), ("h11", h11_readers)):
        if importlib.util.find_spec(name):
            readers[name] = make()
    for name, (request, response, drip) in readers.items():
        bench.bench_func(f"heads-{name}-request-typical", request, TYPICAL_REQUEST)
        bench.bench_func(f"heads-{name}-request-large", request, LARGE_REQUEST)
        bench.bench_func(f"heads-{name}-request-drip", drip, TYPICAL_REQUEST)
        bench.bench_func(f"heads-{name}-response-typical", response, TYPICAL_RESPONSE)
        bench.bench_func(f"heads-{name}-response-large", response, LARGE_RESPONSE)
        for kind, head in HOSTILE_REQUESTS.items():
            bench.bench_func(f"heads-{name}-hostile-{kind}", request, head)


if __name__ == "__main__":
    main()
