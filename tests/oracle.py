"""Two readers of one stream of messages: this project's parser, driven as a connection
drives it, and llhttp (the parser of Node.js, by httptools) in its strict mode.

:func:`compare` holds them against each other. One way only: what is accepted here llhttp
must read in the same way, or refuse for a reason in :data:`EXPLAINED`. What is refused
here llhttp may take. A response that is read leniently here is held against llhttp with all
its leniencies, which may still refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httptools

from spliceproxy.http1.chunked import ChunkedDecoder
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import (
    RequestHead,
    ResponseHead,
    find_head_end,
    parse_request,
    parse_response,
    skip_empty_lines,
)
from spliceproxy.http1.lenient import skip_lines
from spliceproxy.http1.target import escaped

NEXT_REQUEST = b"GET http://next/ HTTP/1.1\r\nHost: next\r\n\r\n"
NEXT_RESPONSE = b"HTTP/1.1 200 next\r\nContent-Length: 0\r\n\r\n"
"""Put behind what is compared: both readers must agree on where they begin."""


LENIENCIES = dict.fromkeys(
    (
        "lenient_headers",
        "lenient_chunked_length",
        "lenient_keep_alive",
        "lenient_transfer_encoding",
        "lenient_version",
        "lenient_data_after_close",
        "lenient_optional_cr_before_lf",
        "lenient_spaces_after_chunk_size",
    ),
    True,
)


class Difference(AssertionError):
    """The two readers do not agree."""


@dataclass
class Message:
    """What a reader makes of one message, as far as it has come."""

    start: tuple[bytes, ...] = ()  # method, target; or status
    minor: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    done: bool = False
    chunks: bytes = field(default=b"", compare=False)  # a chunked body, as it came


class Reader:
    """This project's reader. ``heads`` and ``bodies`` (kind, length) belong to ``messages``;
    the last message may be incomplete. With ``spliced``, the payload that a chunk has
    beyond the buffer goes past the decoder, as it does through the relay.

    ``method`` is that of the requests which the responses answer.
    """

    def __init__(
        self,
        response: bool,
        method: str = "GET",
        *,
        spliced: bool = False,
        buffer: bytearray | None = None,
    ) -> None:
        self.buffer = bytearray() if buffer is None else buffer
        self.messages: list[Message] = []
        self.heads: list[RequestHead | ResponseHead] = []
        self.bodies: list[tuple[Body, int]] = []
        self.refused: HeadError | None = None
        self.ended = False  # nothing behind the last message is a message
        self.lenient = -1  # index of the first message that was not as it should be
        self.response = response
        self.method = method
        self._spliced = spliced
        self._searched = 0
        self._skipped = False
        self._left = 0
        self._decoder: ChunkedDecoder | None = None

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        if self.refused is not None or self.ended:
            return
        decoder = self._decoder
        if self._spliced and decoder is not None and decoder.remaining:
            part = data[: decoder.remaining]
            self.messages[-1].body += part
            decoder.skip(len(part))
            data = data[len(part) :]
        self.buffer += data
        try:
            while not self.ended and self._step():
                pass
        except HeadError as error:
            self.refused = error

    def _step(self) -> bool:
        if not self.messages or self.messages[-1].done:
            return self._take_head()
        message = self.messages[-1]
        kind, _ = self.bodies[-1]
        if kind == Body.CHUNKED:
            assert self._decoder is not None
            before = bytes(self.buffer)
            message.body += self._decoder.decode(self.buffer)
            message.chunks += before[: len(before) - len(self.buffer)]
            message.trailers = self._decoder.trailers
            self._note(self._decoder.sound)
            if self._decoder.done:
                self._finish()
        else:
            size = min(self._left, len(self.buffer)) if kind == Body.LENGTH else len(self.buffer)
            message.body += self.buffer[:size]
            del self.buffer[:size]
            self._left -= size
            if kind != Body.CLOSE and not self._left:
                self._finish()
        return message.done

    def _take_head(self) -> bool:
        if not self._searched:
            if not self.response:
                skip_empty_lines(self.buffer)
            elif skip_lines(self.buffer):
                self._skipped = True
        if len(self.buffer) == self._searched or self.buffer == b"\r":
            return False  # half an empty line begins nothing
        end = find_head_end(self.buffer, self._searched, response=self.response)
        self._searched = len(self.buffer)
        if end < 0:
            return False
        self._searched = 0
        raw = bytes(self.buffer[:end])
        head: RequestHead | ResponseHead
        if self.response:
            head = parse_response(raw)
            body = head.body(self.method)
            start: tuple[bytes, ...] = (b"%d" % head.status,)
        else:
            head = parse_request(raw)
            body = head.body()
            start = (head.method.encode(), head.target.encode())
        del self.buffer[:end]
        self.messages.append(Message(start, head.minor, head.fields))
        self.heads.append(head)
        self.bodies.append(body)
        if isinstance(head, ResponseHead):
            self._note(head.sound and not self._skipped)
        self._left = body[1]
        self._decoder = ChunkedDecoder(502 if self.response else 400)
        if body[0] == Body.NONE:
            self._finish()
        return True

    def _note(self, sound: bool) -> None:
        if not sound and self.lenient < 0:
            self.lenient = len(self.messages) - 1

    def _finish(self) -> None:
        self.messages[-1].done = True
        head = self.heads[-1]
        if isinstance(head, RequestHead):
            self.ended = head.method == "CONNECT" or not head.persistent
        elif head.status >= 200 or head.status == 101:  # else interim, and a response follows
            self.ended = head.status == 101 or self.lenient >= 0 or not head.persistent


class Llhttp:
    """llhttp's reader of the whole of ``data``; the callbacks are httptools'. Goes on
    behind an Upgrade, which a proxy may find refused."""

    def __init__(self, data: bytes, response: bool, *, lenient: bool = False) -> None:
        self.messages: list[Message] = []
        self.refused: httptools.HttpParserError | None = None
        self.response = response
        self._target = b""
        self._headed = False
        while data:
            cls = httptools.HttpResponseParser if response else httptools.HttpRequestParser
            self._parser: Any = cls(self)
            if lenient:
                self._parser.set_dangerous_leniencies(**LENIENCIES)
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                offset = upgrade.args[0]
                if not offset:
                    return
                data = data[offset:]
            except httptools.HttpParserError as error:
                self.refused = error
                return

    def on_message_begin(self) -> None:
        self.messages.append(Message())
        self._target = b""
        self._headed = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self.messages[-1]
        # Whitespace behind a value is left to the user of llhttp (RFC 9112 section 5.1).
        found = message.trailers if self._headed else message.fields
        found.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        message = self.messages[-1]
        self._headed = True
        if self.response:
            message.start = (b"%d" % self._parser.get_status_code(),)
        else:
            target = escaped(self._target.decode("ascii", "surrogateescape"))
            message.start = (self._parser.get_method(), target.encode())
        version = self._parser.get_http_version()
        message.minor = int(version[2:]) if version.startswith("1.") else -1

    def on_body(self, body: bytes) -> None:
        self.messages[-1].body += body

    def on_message_complete(self) -> None:
        self.messages[-1].done = True


def read(
    data: bytes, response: bool, method: str = "GET", parts: Iterable[bytes] | None = None
) -> Reader:
    """This project's reading of ``data``, or of ``parts``."""
    reader = Reader(response, method)
    for part in [data] if parts is None else parts:
        reader.feed(part)
    return reader


def _unknown_method(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return isinstance(error, httptools.HttpParserInvalidMethodError)


def _raw_path(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return "char" in str(error) and not wire.isascii()


def _higher_minor(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return "version" in str(error) and len(read[-1].start) == 1


def _odd_scheme(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return "url schema" in str(error)


def _tab_behind_coding(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return "Transfer-Encoding" in str(error) and b"\t\r\n" in wire


def _equal_lengths(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    lengths = [value for name, value in read[-1].fields if name.lower() == b"content-length"]
    return "Content-Length" in str(error) and len(lengths) > 1 and len(set(lengths)) == 1


def _chunk_extension(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    return b";" in wire and any(word in str(error) for word in ("chunk", "LF"))


def _connection_in_trailers(
    error: httptools.HttpParserError, read: list[Message], wire: bytes
) -> bool:
    names = {name.lower() for message in read[:-1] for name, _ in message.trailers}
    closes = "Data after `Connection: close`" in str(error)
    return closes and bool(names & {b"connection", b"proxy-connection"})


def _proxy_connection(error: httptools.HttpParserError, read: list[Message], wire: bytes) -> bool:
    names = {name.lower() for message in read[:-1] for name, _ in message.fields}
    closes = "Data after `Connection: close`" in str(error)
    return closes and b"proxy-connection" in names


EXPLAINED: list[tuple[str, Callable[[httptools.HttpParserError, list[Message], bytes], bool]]] = [
    ("RFC 9110 9.1: any token is a method; llhttp has a fixed list", _unknown_method),
    ("RFC 3986 3.1: digits, +, - and . in a scheme; only http is forwarded", _odd_scheme),
    ("RFC 9110 2.5: a higher minor version is read as the highest known", _higher_minor),
    ("RFC 3986 2.1: programs send paths in UTF-8; they go on as they are", _raw_path),
    ("RFC 9110 5.6.3: a tab is OWS too; we send our own Transfer-Encoding", _tab_behind_coding),
    ("RFC 9112 6.3 rule 5: equal copies of Content-Length; we send one", _equal_lengths),
    ("RFC 9112 7.1.1: chunk extensions are dropped and not looked into", _chunk_extension),
    ("RFC 9112 C.2.2: Connection wins over Proxy-Connection; we drop that", _proxy_connection),
    ("RFC 9110 6.5.1: no Connection in trailers, where we drop it", _connection_in_trailers),
]
"""Why llhttp may refuse what is accepted here: (reason, test of its error, of the
messages as read here up to the one in question, and of the whole stream)."""


def compare(data: bytes, response: bool, method: str = "GET") -> Reader:
    """Difference where llhttp does not read ``data`` as we do; returns our reading."""
    ours = read(data, response, method)
    theirs = Llhttp(data, response)
    for index, message in enumerate(ours.messages):
        if _has_other_body(ours, index):
            return ours
        if 0 <= ours.lenient <= index:
            _compare_lenient(data, ours, index)
            return ours
        got = theirs.messages[index] if index < len(theirs.messages) else Message()
        refused = theirs.refused if index >= len(theirs.messages) - 1 else None
        if refused is not None and not got.done:
            if any(test(refused, ours.messages[: index + 1], data) for _, test in EXPLAINED):
                return ours
            if message.done or not got.start:
                raise Difference(f"llhttp refuses a message: {refused}: {message}")
        broken = refused is not None or (ours.refused and not message.done)
        if not (_same_as_far(got, message) if broken else got == message):
            raise Difference(f"llhttp: {got}\n  ours: {message}")
    if not (ours.refused or ours.ended) and len(_done(theirs)) > len(_done(ours)):
        raise Difference(f"llhttp finds {len(_done(theirs))} messages, we {len(_done(ours))}")
    return ours


def _compare_lenient(data: bytes, ours: Reader, index: int) -> None:
    """Difference where a lenient llhttp takes another body from a message that is not as it
    should be."""
    message, theirs = ours.messages[index], Llhttp(data, True, lenient=True)
    got = theirs.messages[index] if index < len(theirs.messages) else Message()
    if ours.bodies[index][0] in (Body.NONE, Body.CLOSE) or not (got.done and message.done):
        return
    if (got.start, got.body) != (message.start, message.body):
        raise Difference(f"lenient llhttp: {got}\n  ours: {message}")


def _same_as_far(got: Message, message: Message) -> bool:
    """The same, but for where the reading of a faulty body stopped."""
    a, b = bytes(got.body), bytes(message.body)
    heads = (got.start, got.minor, got.fields) == (message.start, message.minor, message.fields)
    return heads and (a.startswith(b) or b.startswith(a))


def _done(reader: Reader | Llhttp) -> list[Message]:
    return [message for message in reader.messages if message.done]


def _has_other_body(ours: Reader, index: int) -> bool:
    """Whether httptools cannot see this body: it takes what follows an Upgrade, or an
    answer to HEAD, its own way, since it is not told what became of the request."""
    head, (kind, _) = ours.heads[index], ours.bodies[index]
    if isinstance(head, RequestHead):
        return kind != Body.NONE and head.upgrade is not None
    return ours.method != "GET"
