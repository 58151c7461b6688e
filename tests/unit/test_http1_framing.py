"""Framing: which body a head announces, and chunked bodies at any split."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import NEXT_REQUEST, NEXT_RESPONSE, compare

from spliceproxy.http1.chunked import (
    LAST_CHUNK,
    MAX_CHUNK_LINE,
    MAX_TRAILERS,
    ChunkedDecoder,
    chunk,
    chunk_head,
    last_chunk,
)
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import HeadError, parse_request, parse_response
from spliceproxy.http1.rewrite import REQUEST_DROPS, RESPONSE_DROPS, client_response

NONE, LENGTH, CHUNKED, CLOSE = Body.NONE, Body.LENGTH, Body.CHUNKED, Body.CLOSE
TE = b"Transfer-Encoding: chunked\r\n"


def of_request(fields: bytes, line: bytes = b"POST http://h/ HTTP/1.1") -> tuple[Body, int]:
    return parse_request(line + b"\r\nHost: h\r\n" + fields + b"\r\n").body()


def of_response(
    fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: str = "GET"
) -> tuple[Body, int]:
    return parse_response(line + b"\r\n" + fields + b"\r\n").body(method)


# --- which body ----------------------------------------------------------------------

GOOD_FIELDS = [
    (b"Content-Length: 0\r\n", LENGTH, 0),  # RFC 9110 8.6
    (b"Content-Length: 5\r\n", LENGTH, 5),
    (b"CONTENT-length: \t005 \r\n", LENGTH, 5),
    (b"Content-Length: 999999999999999999\r\n", LENGTH, 10**18 - 1),
    (b"Content-Length: 5\r\nContent-Length: 5\r\n", LENGTH, 5),  # RFC 9112 6.3 rule 5
    (TE, CHUNKED, 0),  # RFC 9112 7
    (b"transfer-ENCODING: \t Chunked \r\n", CHUNKED, 0),
    (b"X-Content-Length: 5\r\n", None, 0),
    (b"", None, 0),
]


@pytest.mark.parametrize(("fields", "kind", "length"), GOOD_FIELDS)
def test_good_framing(fields: bytes, kind: Body | None, length: int) -> None:
    assert of_request(fields) == (NONE if kind is None else kind, length)
    assert of_response(fields) == (CLOSE if kind is None else kind, length)


BAD_FIELDS = [
    # RFC 9110 8.6: Content-Length = 1*DIGIT
    (b"Content-Length:\r\n", 400),
    (b"Content-Length: +5\r\n", 400),
    (b"Content-Length: -5\r\n", 400),
    (b"Content-Length: 5 5\r\n", 400),
    (b"Content-Length: 5, 5\r\n", 400),
    (b"Content-Length: 5,\r\n", 400),
    (b"Content-Length: 0x5\r\n", 400),
    (b"Content-Length: 5.0\r\n", 400),
    (b"Content-Length: 1e1\r\n", 400),
    (b"Content-Length: 1_0\r\n", 400),
    (b"Content-Length: \xb2\r\n", 400),
    (b"Content-Length: \xd9\xa5\r\n", 400),
    (b'Content-Length: "5"\r\n', 400),
    (b"Content-Length: 1000000000000000000\r\n", 400),
    (b"Content-Length: 18446744073709551621\r\n", 400),
    (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),  # RFC 9112 6.3 rule 5
    (b"Content-Length: 5\r\nContent-Length: 05\r\n", 400),
    (b"Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
    (b"Content-Length: 5\r\ncontent-length:\r\n", 400),
    # RFC 9112 6.1, 6.3 rule 3: both
    (b"Content-Length: 5\r\n" + TE, 400),
    (TE + b"Content-Length: 5\r\n", 400),
    (TE + b"Content-Length: 0\r\n", 400),
    (TE + b"Content-Length: x\r\n", 400),
    # RFC 9112 6.3 rule 4: chunked, once and last
    (b"Transfer-Encoding:\r\n", 400),
    (b"Transfer-Encoding: identity\r\n", 400),
    (b"Transfer-Encoding: gzip\r\n", 400),
    (b"Transfer-Encoding: chunked, gzip\r\n", 400),
    (b"Transfer-Encoding: chunked, chunked\r\n", 400),
    (TE + TE, 400),
    (TE + b"Transfer-Encoding: identity\r\n", 400),
    (b"Transfer-Encoding: chunked,\r\n", 400),
    (b"Transfer-Encoding: , chunked\r\n", 400),
    (b"Transfer-Encoding: xchunked\r\n", 400),
    (b"Transfer-Encoding: chunkedx\r\n", 400),
    (b"Transfer-Encoding: x chunked\r\n", 400),
    (b"Transfer-Encoding: chunked x\r\n", 400),
    (b"Transfer-Encoding: chunked;a=b\r\n", 400),  # RFC 9112 7.1: no parameters
    (b'Transfer-Encoding: "chunked"\r\n', 400),
    (b"Transfer-Encoding: 'chunked'\r\n", 400),
    (b"Transfer-Encoding: chunked\xa0\r\n", 400),
    (b"Transfer-Encoding: g zip, chunked\r\n", 400),
    # RFC 9112 6.1: a coding that is not known here
    (b"Transfer-Encoding: gzip, chunked\r\n", 501),
    (b"Transfer-Encoding: gzip;q=1 , CHUNKED\r\n", 501),
    (b"Transfer-Encoding: gzip\r\n" + TE, 501),
]


@pytest.mark.parametrize(("fields", "status"), BAD_FIELDS)
def test_bad_framing(fields: bytes, status: int) -> None:
    with pytest.raises(HeadError) as caught:
        of_request(fields)
    assert (caught.value.status, caught.value.error) == (status, "http_request_error")
    if fields in LENIENT_FIELDS:
        return
    error = "http_response_transfer_coding" if status == 501 else "http_protocol_error"
    with pytest.raises(HeadError) as caught:
        of_response(fields)
    assert (caught.value.status, caught.value.error) == (502, error)
    head = b"HTTP/1.1 %b None\r\n" + fields + b"\r\n"
    for code, method in [(b"304", "GET"), (b"200", "HEAD")]:
        if fields.startswith(b"Transfer-"):  # RFC 9112 6.3 rule 1: no matter what
            assert parse_response(head % code).body(method) == (NONE, 0)
            continue
        with pytest.raises(HeadError):  # it would go on to the client, for information
            parse_response(head % code).body(method)


# RFC 9112 6.3 says how to read these in a response.
LENIENT_FIELDS: dict[bytes, tuple[Body, int]] = {
    b"Content-Length: 5\r\n" + TE: (CHUNKED, 0),  # rule 3
    TE + b"Content-Length: 5\r\n": (CHUNKED, 0),
    TE + b"Content-Length: 0\r\n": (CHUNKED, 0),
    TE + b"Content-Length: x\r\n": (CHUNKED, 0),
    b"Content-Length: 5, 5\r\n": (LENGTH, 5),  # rule 5
    b"Content-Length: 05 ,05\r\nContent-Length: 05\r\n": (LENGTH, 5),
    # RFC 2616 3.6: no transformation at all
    b"Transfer-Encoding: identity\r\n": (CLOSE, 0),
    b"Transfer-Encoding: Identity\r\nContent-Length: 5\r\n": (LENGTH, 5),
    b"Transfer-Encoding: identity, chunked\r\n": (CHUNKED, 0),
    b"Transfer-Encoding: identity\r\n" + TE: (CHUNKED, 0),
}


@pytest.mark.parametrize("fields", LENIENT_FIELDS)
@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 None"])
def test_responses_that_are_read_and_not_used_again(fields: bytes, line: bytes) -> None:
    head = parse_response(line + b"\r\nConnection: keep-alive\r\n" + fields + b"\r\n")
    body = head.body("GET")
    assert body == LENIENT_FIELDS[fields]
    assert not head.sound
    sent = client_response(head, body[0], minor=1, close=False, via=b"", date=b"d")
    again = parse_response(sent)
    assert again.sound
    assert again.body("GET") == body
    with pytest.raises(HeadError):
        of_request(fields)


@pytest.mark.parametrize(("fields", "kind", "length"), GOOD_FIELDS)
def test_a_connection_with_good_framing_may_be_used_again(
    fields: bytes, kind: Body | None, length: int
) -> None:
    assert parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").sound


def test_transfer_encoding_in_http_1_0() -> None:
    with pytest.raises(HeadError, match=r"HTTP/1\.0") as caught:
        of_request(TE, b"POST http://h/ HTTP/1.0")
    assert caught.value.status == 400
    # RFC 9112 6.1: read, and the connection is closed
    head = parse_response(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + TE + b"\r\n")
    assert head.body("GET") == (CHUNKED, 0)
    assert not head.sound


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"])
def test_connect_has_no_body(fields: bytes) -> None:  # RFC 9110 9.3.6
    assert of_request(fields, b"CONNECT h:1 HTTP/1.1") == (NONE, 0)


@pytest.mark.parametrize("fields", [TE, b"Content-Length: 1\r\n", b"Content-Length: x\r\n"])
def test_connect_with_a_body_is_refused(fields: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        of_request(fields, b"CONNECT h:1 HTTP/1.1")
    assert caught.value.status == 400


@pytest.mark.parametrize("status", [100, 101, 103, 199, 204])
@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        TE,
        TE + b"Content-Length: 5\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
    ],
)
def test_what_cannot_have_a_body_ends_at_the_empty_line(status: int, fields: bytes) -> None:
    """RFC 9112 6.3 rule 1, whatever the fields; some readers take what they announce, so the
    connection is not used again."""
    for version in (0, 1):
        head = parse_response(b"HTTP/1.%d %d x\r\n%b\r\n" % (version, status, fields))
        assert head.body("GET") == (NONE, 0)
        assert not head.sound


def test_an_interim_response_in_http_1_0() -> None:  # RFC 9110 15.2: there is none
    head = parse_response(b"HTTP/1.0 100 x\r\n\r\n")
    assert head.body("GET") == (NONE, 0)
    assert not head.sound


@pytest.mark.parametrize(
    ("line", "method", "sound"),
    [
        (b"HTTP/1.1 304 x", "GET", True),  # RFC 9112 6.1: it says what GET would get
        (b"HTTP/1.1 200 x", "HEAD", True),
        (b"HTTP/1.0 304 x", "GET", False),
        (b"HTTP/1.0 200 x", "HEAD", False),
    ],
)
def test_a_coding_of_what_has_no_body(line: bytes, method: str, sound: bool) -> None:
    head = parse_response(line + b"\r\n" + TE + b"\r\n")
    assert head.body(method) == (NONE, 0)
    assert head.sound == sound
    both = parse_response(line + b"\r\n" + TE + b"Content-Length: 5\r\n\r\n")
    assert both.body(method) == (NONE, 0)
    assert not both.sound
    assert b"Content-Length" not in client_response(
        both, NONE, minor=1, close=False, via=b"", date=b"d"
    )


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"])
@pytest.mark.parametrize("status", [100, 101, 103, 199])
def test_interim_responses(fields: bytes, status: int) -> None:
    assert of_response(fields, b"HTTP/1.1 %d x" % status, "GET") == (NONE, 0)


@pytest.mark.parametrize("fields", [b"", TE, b"Content-Length: 5\r\n"])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304)]
)
def test_responses_without_body(fields: bytes, method: str, status: int) -> None:
    # RFC 9112 6.3 rule 1
    assert of_response(fields, b"HTTP/1.1 %d x" % status, method) == (NONE, 0)


@pytest.mark.parametrize(
    "fields", [b"", TE, b"Content-Length: 5\r\n", TE + b"Content-Length: 5\r\n"]
)
def test_a_2xx_to_connect_is_a_tunnel(fields: bytes) -> None:  # RFC 9112 6.3 rule 2
    for status in (200, 204, 299):
        assert of_response(fields, b"HTTP/1.1 %d x" % status, "CONNECT") == (NONE, 0)


def test_another_answer_to_connect_is_a_response() -> None:
    line = b"HTTP/1.1 407 x"
    assert of_response(b"Content-Length: 5\r\n", line, "CONNECT") == (LENGTH, 5)
    assert of_response(TE, line, "CONNECT") == (CHUNKED, 0)
    assert of_response(b"", b"HTTP/1.1 300 x", "CONNECT") == (CLOSE, 0)


@pytest.mark.parametrize("status", [200, 206, 205, 303, 305, 400, 500, 999])
def test_a_response_without_length_ends_with_the_connection(status: int) -> None:
    assert of_response(b"", b"HTTP/1.0 %d x" % status) == (CLOSE, 0)  # RFC 9112 6.3 rule 8


# --- chunked -------------------------------------------------------------------------

# (on the wire, payload, trailers): RFC 9112 7.1
GOOD_CHUNKED: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = [
    (b"0\r\n\r\n", b"", []),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"1\r\na\r\n00F\r\n\r\n0\r\n\r\nabcdefgh\r\n000\r\n\r\n", b"a\r\n0\r\n\r\nabcdefgh", []),
    (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, []),
    (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a", []),
    (b"1;x\r\na\r\n1;x=y;z\r\nb\r\n0;e\r\n\r\n", b"ab", []),  # 7.1.1
    (b'1 ; x = "y;\\" \xff"\r\na\r\n0\t;\r\n\r\n', b"a", []),
    (b"1\r\na\r\n0\r\nX: y\r\nx:\tz \r\n\r\n", b"a", [(b"X", b"y"), (b"x", b"z")]),  # 7.1.2
    (b"0\r\nEmpty:\r\n\r\n", b"", [(b"Empty", b"")]),
]


def decoded(parts: list[bytes]) -> tuple[bytes, ChunkedDecoder, bytes]:
    decoder = ChunkedDecoder(502)
    buffer = bytearray()
    payload = b""
    for part in parts:
        assert not decoder.remaining or not buffer
        buffer += part
        payload += decoder.decode(buffer)
    return payload, decoder, bytes(buffer)


@pytest.mark.parametrize(("data", "payload", "trailers"), GOOD_CHUNKED)
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\n\0"])
def test_chunked_at_every_split(
    data: bytes, payload: bytes, trailers: list[tuple[bytes, bytes]], behind: bytes
) -> None:
    whole = data + behind
    for split in range(len(whole) + 1):
        got, decoder, left = decoded([whole[:split], whole[split:]])
        assert (got, decoder.trailers, left) == (payload, trailers, behind), split
        assert decoder.done
        assert not decoder.remaining
    got, decoder, left = decoded([bytes([byte]) for byte in whole])
    assert (got, decoder.trailers, left, decoder.done) == (payload, trailers, behind, True)


@pytest.mark.parametrize(("data", "payload", "trailers"), GOOD_CHUNKED)
def test_a_chunked_body_cut_short_is_not_done(
    data: bytes, payload: bytes, trailers: list[tuple[bytes, bytes]]
) -> None:
    for cut in range(1, len(data)):
        got, decoder, _ = decoded([data[:-cut]])
        assert not decoder.done
        assert payload.startswith(got)


# (on the wire, how much of it until it is refused)
BAD_CHUNKED = [
    # chunk-size = 1*HEXDIG
    (b"\r\n", 1),
    (b"g\r\n", 1),
    (b" 5\r\n", 1),
    (b"-5\r\n", 1),
    (b"+5\r\n", 1),
    (b"0x5\r\n", 2),
    (b"5h\r\n", 2),
    (b"5_0\r\n", 2),
    (b"\xb25\r\n", 1),
    (b";x\r\n", 1),
    (b"\r5\r\n", 1),
    (b"00000000000000005\r\n", 17),
    (b"8000000000000000\r\n", 18),
    (b"ffffffffffffffff\r\n", 18),
    # whitespace is for extensions only
    (b"5 5\r\n", 3),
    (b"5 x\r\n", 3),
    # line ends
    (b"5\nhello\r\n", 2),
    (b"5\rh", 3),
    (b"5\r\r\n", 3),
    (b"5;a\nhello\r\n", 4),
    (b"5;a\rhello\r\n", 5),
    (b"5;a\0\r\n", 4),
    (b"5;a\x7f\r\n", 4),
    # the payload is as long as its size says
    (b"5\r\nhelloo\r\n", 9),
    (b"5\r\nhello\n", 9),
    (b"5\r\nhello\rx", 10),
    (b"5\r\nhell\r\n0\r\n\r\n", 9),
    (b"5\r\nhello0\r\n\r\n", 9),
    # trailers are as strict as a head (RFC 9112 7.1.2)
    (b"0\r\nA: b\rc", 9),
    (b"0\r\nA: \0\r\n\r\n", 7),
    (b"0\r\n A: b\r\n\r\n", 12),
    (b"0\r\nA\r\n\r\n", 8),
    (b"0\r\n: b\r\n\r\n", 10),
    (b"0\r\n5\r\nhello\r\n0\r\n\r\n", 18),
]


# Good in a response, and refused in a request: (on the wire, how much of it until it is
# refused, payload, trailers).
LENIENT_CHUNKED: list[tuple[bytes, int, bytes, list[tuple[bytes, bytes]]]] = [
    # RFC 9112 7.1.1: whitespace behind a size is for extensions
    (b"5 \r\nhello\r\n0\r\n\r\n", 4, b"hello", []),
    (b"5\t\r\nhello\r\n0\r\n\r\n", 4, b"hello", []),
    (b"5" + b" " * 100 + b"\r\nhello\r\n000 \t \r\nA: b\r\n\r\n", 103, b"hello", [(b"A", b"b")]),
    # RFC 9110 6.5.1: what frames or routes; a reader that merged it would see another message
    (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 33, b"", []),
    (b"0\r\nA: b\r\ncontent-length: 5\r\n\r\n", 30, b"", [(b"A", b"b")]),
    (b"0\r\nHOST: h\r\n\r\n", 14, b"", []),
    # RFC 9112 7.1.2: a trailer section is read as a head is
    (b"0\r\n\n", 4, b"", []),
    (b"0\r\nA: b\n\r\n", 8, b"", [(b"A", b"b")]),
    (b"0\r\nA: b\n\n", 8, b"", [(b"A", b"b")]),
    (b"0\r\nA : b\r\n\r\n", 12, b"", [(b"A", b"b")]),
    (b"0\r\nA: b\r\n c\r\n\r\n", 15, b"", [(b"A", b"b c")]),
    (b"0\r\nA: \x01b\r\n\r\n", 7, b"", [(b"A", b"b")]),
]


@pytest.mark.parametrize(("data", "until", "payload", "trailers"), LENIENT_CHUNKED)
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\n\0"])
def test_chunked_that_is_read_and_not_used_again(
    data: bytes,
    until: int,
    payload: bytes,
    trailers: list[tuple[bytes, bytes]],
    behind: bytes,
) -> None:
    whole = data + behind
    parts = [[whole[:at], whole[at:]] for at in range(len(whole) + 1)]
    for split in [*parts, [bytes([byte]) for byte in whole]]:
        got, decoder, left = decoded(split)
        assert (got, decoder.trailers, left) == (payload, trailers, behind)
        assert (decoder.done, decoder.sound) == (True, False)
    for split in parts[:until]:
        decoder = ChunkedDecoder(400)
        buffer = bytearray(split[0])
        decoder.decode(buffer)
        buffer += data[len(split[0]) : until]
        with pytest.raises(HeadError):
            decoder.decode(buffer)


@pytest.mark.parametrize(("data", "payload", "trailers"), GOOD_CHUNKED)
def test_a_good_chunked_body_is_sound(
    data: bytes, payload: bytes, trailers: list[tuple[bytes, bytes]]
) -> None:
    assert decoded([data])[1].sound


@pytest.mark.parametrize(("data", "until"), BAD_CHUNKED)
def test_bad_chunked_is_refused_at_every_split(data: bytes, until: int) -> None:
    for status in (400, 502):
        for split in range(until):
            decoder = ChunkedDecoder(status)
            buffer = bytearray(data[:split])
            decoder.decode(buffer)  # not before it is certain
            assert not decoder.done
            buffer += data[split:until]
            with pytest.raises(HeadError) as caught:
                decoder.decode(buffer)
            assert caught.value.status == status
            assert caught.value.detail.isascii()
    with pytest.raises(HeadError):
        ChunkedDecoder(400).decode(bytearray(data))


def test_a_long_chunk_line_is_refused() -> None:
    fitting = b"1;" + b"a" * (MAX_CHUNK_LINE - 2)
    got, decoder, _ = decoded([fitting + b"\r\nx\r\n0\r\n\r\n"])
    assert (got, decoder.done) == (b"x", True)
    for parts in ([fitting + b"a\r\nx"], [fitting, b"a", b"\r"], [fitting + b"aa"]):
        with pytest.raises(HeadError, match="longer than"):
            decoded(parts)


def test_a_large_trailer_section_is_refused() -> None:
    fitting = b"A: " + b"a" * (MAX_TRAILERS - 7) + b"\r\n\r\n"
    assert len(fitting) == MAX_TRAILERS
    for step in (MAX_TRAILERS, 999):
        parts = [fitting[at : at + step] for at in range(0, len(fitting), step)]
        _, decoder, left = decoded([b"0\r\n", *parts, b"x"])
        assert decoder.done
        assert left == b"x"
    with pytest.raises(HeadError, match="larger than"):
        decoded([b"0\r\nA" + fitting])
    with pytest.raises(HeadError, match="larger than"):
        decoded([b"0\r\n", *[b"A: b\r\n"] * 4000])


def test_trailers_are_searched_once_however_they_arrive() -> None:
    class Counting(bytearray):
        work = 0

        def __getitem__(self, key: object) -> object:  # type: ignore[override]
            got = super().__getitem__(key)  # type: ignore[index]
            Counting.work += len(got) if isinstance(got, bytearray) else 1
            return got

        def find(self, sub: bytes, start: int = 0, end: int = 0) -> int:  # type: ignore[override]
            Counting.work += min(end, len(self)) - start
            return super().find(sub, start, end)

    decoder = ChunkedDecoder(400)
    buffer = Counting()
    data = b"0\r\n" + b"A: b\r\n" * 2000
    for byte in data:
        buffer.append(byte)
        assert decoder.decode(buffer) == b""
    assert len(data) < Counting.work < 12 * len(data)


def test_a_chunk_that_goes_on_is_left_to_splice() -> None:
    decoder = ChunkedDecoder(502)
    buffer = bytearray(b"3\r\nabc\r\n10\r\n0123")
    assert decoder.decode(buffer) == b"abc0123"
    assert (decoder.remaining, bytes(buffer)) == (12, b"")
    assert decoder.decode(buffer) == b""
    decoder.skip(0)
    decoder.skip(11)
    assert decoder.remaining == 1
    for wrong in (2, -1):
        with pytest.raises(ValueError, match="skip"):
            decoder.skip(wrong)
    decoder.skip(1)
    assert decoder.remaining == 0
    buffer += b"\r\n0\r\n\r\nrest"
    assert decoder.decode(buffer) == b""
    assert decoder.done
    assert buffer == b"rest"
    assert decoder.decode(buffer) == b""
    assert buffer == b"rest"


def test_a_skipped_chunk_must_end_too() -> None:
    decoder = ChunkedDecoder(502)
    decoder.decode(bytearray(b"5\r\n"))
    decoder.skip(5)
    with pytest.raises(HeadError, match="longer than its size"):
        decoder.decode(bytearray(b"0\r\n\r\n"))


def test_a_size_alone_is_left_to_splice() -> None:
    decoder = ChunkedDecoder(502)
    buffer = bytearray(b"7fffffffffffffff\r\n")
    assert decoder.decode(buffer) == b""
    assert (decoder.remaining, bytes(buffer)) == ((1 << 63) - 1, b"")


def test_chunks_are_written() -> None:
    assert chunk(b"") == b""  # not the last chunk
    assert chunk(b"hello") == b"5\r\nhello\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk_head(65536) == b"10000\r\n"
    assert last_chunk([]) == LAST_CHUNK == b"0\r\n\r\n"
    assert last_chunk([(b"X", b"y"), (b"Z", b"")]) == b"0\r\nX: y\r\nZ: \r\n\r\n"


@pytest.mark.parametrize(
    "name",
    [b"Transfer-Encoding", b"content-length", b"HOST", b"Connection", b"Set-Cookie", b"Trailer"],
)
def test_trailers_that_are_not_allowed_are_dropped(name: bytes) -> None:  # RFC 9110 6.5.1
    assert last_chunk([(name, b"x")]) == LAST_CHUNK
    assert last_chunk([(b"A", b"b"), (name, b"x")]) == b"0\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("name", sorted(REQUEST_DROPS | RESPONSE_DROPS))
def test_what_no_head_takes_along_no_trailer_does(name: bytes) -> None:
    assert last_chunk([(name, b"x")]) == LAST_CHUNK


# --- properties ----------------------------------------------------------------------


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 300), max_size=8),
    st.binary(max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_chunked_round_trip(payloads: list[bytes], cuts: list[int], behind: bytes) -> None:
    trailers = [(b"X-Sum", b"1")] if len(payloads) % 2 else []
    data = b"".join(chunk(p) for p in payloads) + last_chunk(trailers) + behind
    at = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    parts = [data[a:b] for a, b in itertools.pairwise(at)]
    got, decoder, left = decoded(parts)
    assert (got, left, decoder.done) == (b"".join(payloads), behind, True)
    assert decoder.trailers == trailers


@given(
    st.binary(min_size=1, max_size=60),
    st.integers(0, 60),
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_splicing_any_part_of_any_chunk_gives_the_same_payload(
    payload: bytes, cut: int, steps: list[int]
) -> None:
    wire = io.BytesIO(chunk(payload[:cut]) + chunk(payload[cut:]) + LAST_CHUNK)
    decoder = ChunkedDecoder(400)
    buffer = bytearray()
    got = b""
    step = itertools.cycle(steps)
    while not decoder.done:
        if decoder.remaining:
            spliced = wire.read(min(next(step), decoder.remaining))
            got += spliced
            decoder.skip(len(spliced))
        read = wire.read(next(step))
        assert read
        buffer += read
        got += decoder.decode(buffer)
    assert got == payload
    assert not buffer


POST = b"POST http://h/ HTTP/1.1\r\nHost: h\r\n"
MESSAGES = [
    POST + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Content-Length: 0\r\n\r\n",
    POST + TE + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    POST + TE + b"\r\n5;x=y\r\nhello\r\n1\r\na\r\n0\r\nA: b\r\n\r\n",
    POST + b"\r\n",
]
NOISE = [b"0", b"5", b"\r\n", b"\n", b"\r", b" ", b"\t", b",", b", ", b";", b"x", b"chunked", b"+"]
NOISE += [b"\0", b"a", b"gzip, ", TE, b"Content-Length: 5\r\n", b"0\r\n\r\n", b"0x", b"\xff"]


@given(
    st.sampled_from(MESSAGES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(NOISE)), max_size=2),
)
@example(MESSAGES[0], [])
@example(MESSAGES[3], [])
@settings(max_examples=600, deadline=None)
def test_what_is_accepted_llhttp_frames_the_same(
    message: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    """Nothing can be smuggled between the two. The first line is not changed here; the
    tests of heads do that."""
    for position, removed, inserted in changes:
        at = max(position % (len(message) + 1), len(b"POST http://h/ HTTP/1.1\r\n"))
        message = message[:at] + inserted + message[at + removed :]
    compare(message + NEXT_REQUEST, response=False)


ANSWER = b"HTTP/1.1 200 OK\r\n"
RESPONSES = [
    ANSWER + b"Content-Length: 5\r\n\r\nhello",
    ANSWER.replace(b"\r\n", b"\n") + b"A: b\nContent-Length: 5\n\nhello",
    ANSWER + TE + b"\r\n5 \r\nhello\r\n0  \r\nA: b\r\n\r\n",
    ANSWER + TE + b"Content-Length: 3\r\n\r\n5;x=y\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    ANSWER
    + b"A : b\r\nB: c\r\n d\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nA: \x01\r\n" + TE + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\n" + ANSWER + b"Content-Length: 5\r\n\r\nhello",
]
NOISE += [b"\r\n ", b"\n ", b" :", b"identity", b"\x01", b"HTTP/1.5", b"A: b\n", b"\n\n"]


@given(
    st.sampled_from(RESPONSES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(NOISE)), max_size=2),
)
@settings(max_examples=600, deadline=None)
def test_what_is_accepted_of_a_response_llhttp_frames_the_same(
    message: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for position, removed, inserted in changes:
        at = position % (len(message) + 1)
        message = message[:at] + inserted + message[at + removed :]
    compare(message + NEXT_RESPONSE, response=True)
