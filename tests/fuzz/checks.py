"""What must hold for any bytes that a peer sends: the checks of the fuzz target.

Each raises :class:`oracle.Difference` (or whatever the code under test raises by
mistake) for a finding.
"""

from __future__ import annotations

import itertools
import random
import zlib

from oracle import NEXT_REQUEST, NEXT_RESPONSE, Difference, Message, Reader, compare

from spliceproxy.http1.chain import FORWARDED_MODES, forwarded_lines, trace_body
from spliceproxy.http1.chunked import MAX_CHUNK_LINE, chunk, last_chunk
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.http1.rewrite import client_response, interim_response, origin_request
from spliceproxy.site.pages import error_page

CHUNKED_REQUEST = b"POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_RESPONSE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"
WORK_PER_BYTE = 16  # bytes looked at for each byte of a head, however they arrive
WORK_PER_CHUNK_BYTE = 2 * MAX_CHUNK_LINE  # an unfinished chunk line is matched again


class Counting(bytearray):
    """A buffer that counts the bytes searched or copied."""

    work = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        found = super().find(sub, start, end)
        stop = found + len(sub) if found >= 0 else min(len(self), len(self) if end is None else end)
        self.work += max(stop - start, 0)
        return found

    def __getitem__(self, key: object) -> object:  # type: ignore[override]
        got = super().__getitem__(key)  # type: ignore[call-overload]
        self.work += len(got) if isinstance(got, bytearray) else 1
        return got


def check(data: bytes) -> None:
    """All checks, for ``data`` as what it looks like: responses, requests, or the chunked
    body of each."""
    if data[:4].upper() == b"HTTP":
        check_stream(data + NEXT_RESPONSE, response=True)
        check_stream(data + NEXT_RESPONSE, response=True, method="HEAD")
        return
    check_stream(data + NEXT_REQUEST, response=False)
    if data[:1].isalnum() and data[:1] not in b"GHOPT":
        check_stream(CHUNKED_REQUEST + data + NEXT_REQUEST, response=False)
        check_stream(CHUNKED_RESPONSE + data + NEXT_RESPONSE, response=True)


def check_stream(data: bytes, *, response: bool, method: str = "GET") -> None:
    """All checks of one direction."""
    whole = compare(data, response, method)
    check_splits(data, whole)
    for index in range(len(whole.messages)):
        check_sent_on(whole, index)
    if whole.refused is not None:
        check_page(whole.refused)


def check_splits(data: bytes, whole: Reader) -> None:
    """The same result however the bytes arrive, for a work that grows with their number."""
    rng = random.Random(zlib.crc32(data))
    buffer = Counting()
    same(
        whole,
        Reader(whole.response, whole.method, buffer=buffer),
        [data[i : i + 1] for i in range(len(data))],
    )
    chunked = any(kind == Body.CHUNKED for kind, _ in whole.bodies)
    most = (len(data) + 64) * (WORK_PER_CHUNK_BYTE if chunked else WORK_PER_BYTE)
    if buffer.work > most:
        raise Difference(f"{buffer.work} bytes looked at for {len(data)}")
    for spliced in (False, True):
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 5)))
        parts = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
        same(whole, Reader(whole.response, whole.method, spliced=spliced), parts)


def same(whole: Reader, other: Reader, parts: list[bytes]) -> None:
    for part in parts:
        other.feed(part)
    if (whole.refused is None) != (other.refused is None) or whole.ended != other.ended:
        raise Difference(f"split: {whole.refused!r} and {other.refused!r}")
    if whole.refused is None:
        if (whole.messages, whole.bodies) != (other.messages, other.bodies):
            raise Difference(f"split: {whole.messages} and {other.messages}")
        return
    # How much of a message is read before its fault is seen depends on the arrival; so
    # does which of two faults is seen first.
    whole_done = [m for m in whole.messages if m.done]
    if whole_done != [m for m in other.messages if m.done]:
        raise Difference(f"split, refused: {whole.messages} and {other.messages}")


def check_sent_on(reader: Reader, index: int) -> None:
    """What goes to the next hop is read there as it was meant, by us and by llhttp."""
    head = reader.heads[index]
    if isinstance(head, RequestHead):
        _check_request_sent_on(reader, index, head)
    else:
        _check_response_sent_on(reader, index, head)


def _check_request_sent_on(reader: Reader, index: int, head: RequestHead) -> None:
    if head.method == "CONNECT" or head.scheme not in ("", "http"):
        return
    kind, length = reader.bodies[index]
    message = reader.messages[index]
    body = _framed(kind, message)
    mode = FORWARDED_MODES[len(head.fields) % len(FORWARDED_MODES)]
    out = origin_request(head, kind, b"sp", forwarded_lines(head, mode, "::1"))
    wire = out + body
    again = compare(wire + NEXT_REQUEST if message.done else wire, False)
    got = _only(again, message.done, wire)
    sent = again.heads[0]
    assert isinstance(sent, RequestHead)
    if sent.raw_path != head.raw_path:
        raise Difference(f"sent on with another path: {wire!r}")
    meant = (head.method, head.path, kind, length, bytes(message.body), message.minor or 1)
    seen = (sent.method, sent.target, *again.bodies[0], bytes(got.body), got.minor)
    if seen != meant or any(t not in message.trailers for t in got.trailers):
        raise Difference(f"sent on {wire!r}: meant {meant}, read {seen}")
    if (sent.host, sent.port) != (head.host, head.port) and head.host:
        raise Difference(f"sent on to another host: {wire!r}")
    for name in (b"proxy-authorization", b"proxy-connection", b"keep-alive"):
        if sent.values(name):
            raise Difference(f"sent on {name!r}: {wire!r}")
    if head.method == "TRACE" and not trace_body(head).endswith(b"\r\n\r\n"):
        raise Difference("a bad answer to TRACE")


def _check_response_sent_on(reader: Reader, index: int, head: ResponseHead) -> None:
    kind, length = reader.bodies[index]
    message = reader.messages[index]
    if head.status < 200 and head.status != 101:
        wire = interim_response(head, b"sp")
        got = _only(compare(wire + NEXT_RESPONSE, True), True, wire)
        if got.start != message.start or got.body:
            raise Difference(f"sent on {wire!r}: read {got}")
        return
    for minor in (1, 0):
        as_sent = Body.CLOSE if kind == Body.CHUNKED and not minor else kind
        close = as_sent == Body.CLOSE or len(head.fields) % 2 == 1
        out = client_response(head, as_sent, minor=minor, close=close, via=b"sp", date=DATE)
        body = _framed(as_sent, message)
        wire = out + body
        goes_on = message.done and not close and head.status != 101
        again = compare(wire + NEXT_RESPONSE if goes_on else wire, True, reader.method)
        got = _only(again, message.done and as_sent != Body.CLOSE, wire)
        meant = (message.start, as_sent, length, bytes(message.body), 1)
        seen = (got.start, *again.bodies[0], bytes(got.body), got.minor)
        if seen != meant or any(t not in message.trailers for t in got.trailers):
            raise Difference(f"sent on {wire!r}: meant {meant}, read {seen}")
        if goes_on and len(again.messages) != 2:
            raise Difference(f"sent on {wire!r}: the next response is not found")


def _only(reader: Reader, done: bool, wire: bytes) -> Message:
    """The first message of what we sent ourselves."""
    if reader.refused is not None:
        raise Difference(f"we refuse what we send on: {reader.refused}: {wire!r}")
    if reader.lenient >= 0:
        raise Difference(f"what we send on needs lenience: {wire!r}")
    if not reader.messages or reader.messages[0].done != done:
        raise Difference(f"what we send on has another end: {wire!r}")
    return reader.messages[0]


def _framed(kind: Body, message: Message) -> bytes:
    """The body as it is framed for the next hop."""
    body = bytes(message.body)
    if kind != Body.CHUNKED:
        return body
    half = len(body) // 2
    out = chunk(body[:half]) + chunk(body[half:])
    return out + last_chunk(message.trailers) if message.done else out


def check_page(refused: HeadError) -> None:
    """The answer to a refused message is one response for both readers."""
    page = error_page(refused.status, refused.error, refused.detail, close=False, date=DATE)
    again = compare(page + NEXT_RESPONSE, True)
    if [message.done for message in again.messages] != [True, True]:
        raise Difference(f"a bad error page: {page!r}")
