"""Plain exchanges of the compiled relay, held against the http1 package.

What the relay takes as plain, http1 must take too, and the relay must pass on the very
bytes that http1's rewriting gives, and agree on which connections go on. What it does not
take comes back with every byte. There is no event loop and, but for CONNECT, no network:
the peers are socket pairs, and :meth:`Plain.step` is called by hand.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from oracle import Difference

from spliceproxy.config import Timeouts
from spliceproxy.forward.exchange import IDEMPOTENT
from spliceproxy.forward.lane import Lane, origin_key
from spliceproxy.http1.authentication import request_binds, response_binds
from spliceproxy.http1.chain import has_passed
from spliceproxy.http1.chunked import LAST_CHUNK, ChunkedDecoder, chunk
from spliceproxy.http1.dates import fixdate
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import (
    RequestHead,
    ResponseHead,
    find_head_end,
    parse_request,
    parse_response,
)
from spliceproxy.http1.rewrite import client_response, interim_response, origin_request
from spliceproxy.observe.formats import format_of
from spliceproxy.observe.record import Record
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay import columns
from spliceproxy.relay.handoff import BODY, LINGER, REQUEST, RESPONSE, Chunks, Handoff
from spliceproxy.relay.interface import SPLICE_MIN, RelayOptions
from spliceproxy.relay.lane import NATIVE
from spliceproxy.relay.questions import Question

CLIENT = Standing(True, True, True, 0)
NAME = b"sp"
HOST = "127.0.0.1"
"""Where the listener of the test is."""
BACKEND = ("backend", 8080)
"""Where requests in origin form go."""

OK = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok"
OK_GOT = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nVia: 1.1 sp\r\n\r\nok"
OK_LAST = (
    b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nConnection: close\r\nVia: 1.1 sp\r\n\r\nok"
)

WORKER = 3
"""The number of the worker that has the lane."""

PATIENCE = 20.0
ROOM = 1 << 16
"""Bytes that a peer takes at once."""

Key = tuple[str, int]


class _Lane(Lane):
    """Whatever the origin's address is, the listener of the test is dialled. A machine that
    is held up forgets no route."""

    VALID = 3600.0

    __slots__ = ("dialled",)

    def _where(self, verdict: Verdict) -> tuple[tuple[str, ...], int]:
        return self.dialled  # type: ignore[no-any-return]


class Plain:
    """A native relay with a lane, whose owner this is."""

    def __init__(
        self,
        via: bytes = NAME,
        *,
        log: bool = False,
        query: bool = True,
        form: str = NATIVE,
        live: float = 0.0,
        watched: bool = False,
        summed: bool = False,
        asks: str = "",
        timeouts: Timeouts | None = None,
    ) -> None:
        from spliceproxy.relay._native import NativeRelay

        self.via = via
        self.row = columns.private()
        self.relay = NativeRelay(RelayOptions(row=self.row))
        self.handoffs: list[Handoff] = []
        self.missed: list[int] = []
        self.hurried: list[bool] = []
        self.records: list[Record] = []
        self._listener = socket.create_server((HOST, 0))
        config: Any = SimpleNamespace(
            timeouts=timeouts or Timeouts(),
            forwarded_for="transparent",
            log_live=live,
            via=via.decode(),
        )
        policy: Any = SimpleNamespace(identifies=False, takes_passwords=False, looks_inside=False)
        records: Any = SimpleNamespace(
            tally=object() if summed else None,
            hurry=lambda: self.hurried.append(True),
            lines=format_of(form, query=query).lane if log else None,
            note=format_of(form).note if log else None,
            log=object() if log else None,
            recorded=watched or (log and not format_of(form).lane),
            fields=False,
            worker=WORKER,
            ended=self.records.extend,
            follow=lambda made: None,
            expect=int,
            miss=self.missed.append,
        )
        lane = _Lane.of(
            self.relay,
            SimpleNamespace(wake=lambda: None, loop=None),  # type: ignore[arg-type]
            config,
            policy,
            records,
            SimpleNamespace(may_be=lambda port: False),  # type: ignore[arg-type]
            asks,
        )
        assert lane is not None
        self.lane = lane
        lane.report_to(self)
        lane.answer_by(self)
        self.questions: list[Question] = []
        self.gone: list[int] = []
        self.refusals: list[Any] = []
        host, port = self._listener.getsockname()
        self.lane.dialled = (host,), port

    def given_back(self, handoff: Handoff) -> None:
        self.handoffs.append(handoff)

    def asked(self, questions: list[Question]) -> None:
        self.questions += questions

    def left(self, ident: int) -> None:
        self.gone.append(ident)

    def refused(self, end: Any) -> None:
        self.refusals.append(end)

    def not_accepted(self, error: int) -> None:
        raise AssertionError(error)

    def lost(self, count: int) -> None:
        raise AssertionError(f"no memory for {count} clients")

    def close(self) -> None:
        self.relay.close()
        self._listener.close()

    def step(self) -> None:
        """Serves what is there: peers are local, so nothing is on its way."""
        while True:
            for token, end in self.relay.step():
                token(end)  # type: ignore[operator]
            if not select.select([self.relay.fileno()], [], [], 0)[0]:
                return

    def accept(self) -> socket.socket:
        """The other end of what the relay has dialled, and has made a tunnel of or sent a request
        on."""
        peer, _ = self._listener.accept()
        peer.settimeout(PATIENCE)
        limit = time.monotonic() + PATIENCE
        while not self.relay.tunnels and time.monotonic() < limit:
            if select.select([peer, self.relay.fileno()], [], [], 1)[0] == [peer]:
                break
            self.step()
        return peer

    @property
    def dialling(self) -> bool:
        return bool(select.select([self._listener], [], [], 0)[0])


class Conversation:
    """One client of ``plain``. ``keys``: each has an idle connection, by its other end."""

    def __init__(self, plain: Plain, stack: contextlib.ExitStack) -> None:
        self.plain = plain
        self._stack = stack
        self.keys: dict[Key, socket.socket] = {}
        self.used: Key | None = None  # whose connection the client has used last
        self.lingers = False  # it came back to be closed
        self.client, inner = self._pair()
        plain.lane._native.forget()
        plain.lane.close()
        plain.lane._native.hand_over(inner.detach(), "", b"", 0)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        outer, inner = socket.socketpair()
        outer.setblocking(False)
        inner.setblocking(False)
        self._stack.callback(outer.close)
        return outer, inner

    def allow(self, head: bytes) -> None:
        """Requests like this one are allowed, as a Connection would."""
        try:
            request = parse_request(head)
            if request.form == "asterisk" or (
                request.form == "absolute" and request.scheme != "http"
            ):
                return
        except HeadError:
            return
        key = BACKEND if request.form == "origin" else (request.host, request.port)
        verdict = Verdict(*key, (HOST,), "", 3600.0)
        allowed = self.plain.lane.allow(CLIENT, request, verdict, Record("", 0.0))
        if allowed and key not in self.keys:
            outer, inner = self._pair()
            self.plain.lane._native.put(origin_key(verdict.key), inner.detach(), HOST)
            self.keys[key] = outer

    def send(self, peer: socket.socket, data: bytes) -> bool:
        """False where the relay's end is closed already."""
        try:
            sent = peer.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        assert sent == len(data)
        self.plain.step()
        return True

    def exchange(self, key: Key, peer: socket.socket) -> None:
        """The other end of the one connection to ``key`` is ``peer`` from now on."""
        self.keys[key].close()
        self.keys[key] = peer
        self._stack.callback(peer.close)
        self.plain.step()
        self.used = key

    def given_back(self) -> Handoff | None:
        """What has come back; its descriptors are closed with the conversation."""
        if not self.plain.handoffs:
            return None
        (handoff,) = self.plain.handoffs
        self.plain.handoffs.clear()
        self.lingers = handoff.cause == LINGER
        for fd in (handoff.client, handoff.origin):
            if fd >= 0:
                self._stack.callback(socket.socket(fileno=fd).close)
        return handoff

    def asked(self) -> tuple[Key, bytes] | None:
        """What an origin has been sent."""
        for key, peer in self.keys.items():
            data = received(peer)
            if data:
                return key, data
        return None


def received(peer: socket.socket) -> bytes | None:
    """All that is there; None at the end."""
    try:
        return peer.recv(ROOM) or None
    except BlockingIOError:
        return b""
    except ConnectionResetError:
        return None


@contextlib.contextmanager
def conversation(plain: Plain) -> Iterator[Conversation]:
    with contextlib.ExitStack() as stack:
        one = Conversation(plain, stack)
        try:
            yield one
        finally:
            one.client.close()
            plain.step()
            one.given_back()
    assert not plain.relay.clients, "a client is left"


def _differ(what: str, **about: object) -> None:
    raise Difference(f"{what}: {about}")


# ---- requests ----------------------------------------------------------------------------


def allowed_for(data: bytes) -> list[bytes]:
    """Requests that may have been allowed just before these bytes came: all that has their
    targets and Host fields, in other combinations too."""
    heads = []
    for part in data.split(b"\r\n\r\n")[:8]:
        lines = part.split(b"\r\n")
        words = lines[0].split(b" ")
        hosts = [line[5:].strip(b" \t") for line in lines if line[:5].lower() == b"host:"]
        if len(words) < 2:
            continue
        for host in {*hosts[:2], b"other"}:
            for method in {b"GET", b"HEAD", b"CONNECT", words[0]}:
                heads.append(b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, words[1], host))
            for method in {b"GET", b"HEAD", words[0]} - {b"CONNECT"}:
                heads.append(b"%b / HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, host))
    return heads


def check_requests(plain: Plain, data: bytes, cuts: Sequence[int] = ()) -> int:
    """Sends ``data`` in parts; returns how many requests the relay has served."""
    with conversation(plain) as one:
        for head in allowed_for(data):
            one.allow(head)
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        parts = [part for part in parts if part]
        sent = served = done = 0
        for part in parts:
            one.send(one.client, part)
            sent += len(part)
            while True:
                handoff = one.given_back()
                if handoff is not None:
                    _check_request_back(one, handoff, data[done:sent], served)
                    return served
                if one.plain.dialling:
                    size = _check_dialled(one, data[done:sent])
                    served += 1
                    done += size
                    if one.client.fileno() < 0:
                        return served
                    continue
                size = _check_served(one, data[done:sent])
                if not size:
                    if done < sent:
                        _differ("neither served nor given back", data=data[done:sent])
                    break
                done += size
                served += 1
                if one.client.fileno() < 0:
                    return served
        return served


def _check_request_back(one: Conversation, handoff: Handoff, rest: bytes, served: int) -> None:
    if handoff.cause == RESPONSE:
        asked = one.asked()
        if asked is not None:
            got = asked[1]
        else:
            with one.plain.accept() as peer:  # it was dialled in the same step
                peer.setblocking(False)
                got = received(peer) or b""
        head, size = _meant(rest, one.plain.via)
        _check_chunks_back(handoff, head, rest, size, got, one.plain.via)
        return
    if (handoff.cause, handoff.origin) != (REQUEST, -1) or handoff.requests != served:
        _differ("another hand-off", handoff=handoff, served=served)
    if handoff.buffer != rest:
        _differ("not the bytes that were sent", buffer=handoff.buffer, sent=rest)


def _meant(data: bytes, via: bytes) -> tuple[RequestHead, int]:
    """The request at the front of what the relay has taken, as http1 reads it."""
    try:
        end = find_head_end(bytearray(data))
        head = parse_request(data[: max(end, 0)])
        head.body()
    except HeadError as error:
        raise Difference(f"the relay takes what http1 refuses: {error}: {data!r}") from None
    if via and has_passed(head, via):
        _differ("a loop", data=data)
    if head.method != "CONNECT" and request_binds(head):
        _differ("credentials that bind the origin's connection", data=data)
    return head, end


def _check_served(one: Conversation, data: bytes) -> int:
    """The size of what was served on an idle connection, 0 if nothing was."""
    asked = one.asked()
    if asked is None:
        return 0
    key, got = asked
    head, size = _meant(data, one.plain.via)
    if not _may_repeat(head) and one.used != key:
        _differ("on a connection that is not the client's own", data=data)
    meant = BACKEND if head.form == "origin" else (head.host, head.port)
    if key != meant:
        _differ("another origin", key=key, meant=meant)
    one.used = key
    return _check_request(one, one.keys[key], head, data, size, got)


def _check_request(
    one: Conversation, origin: socket.socket, head: RequestHead, data: bytes, size: int, got: bytes
) -> int:
    """``data``, whose head has ``size`` bytes, is what ``origin`` has ``got``, of the body what
    there is of it. Answers it, and returns how much that was."""
    kind, length = head.body()
    if kind == Body.CHUNKED:
        return _check_chunked_request(one, origin, head, data, size, got)
    body = data[size : size + length]
    want = origin_request(head, kind, one.plain.via) + body
    if got != want:
        _differ("another request", got=got, want=want)
    size += len(body)
    early = len(body) < length  # the answer overtakes the rest
    _check_reply(one, origin, head, data[size:], last=early or not head.persistent)
    return size


def _check_chunked_request(
    one: Conversation, origin: socket.socket, head: RequestHead, data: bytes, size: int, got: bytes
) -> int:
    handoff = one.given_back()
    if handoff is not None:
        _check_chunks_back(handoff, head, data, size, got, one.plain.via)
        one.client.close()
        return len(data)
    want = origin_request(head, Body.CHUNKED, one.plain.via)
    body = Unchunked(400, data[size:])
    if got != want + framed(body.payload, body.done):
        _differ("another request", got=got, want=want, body=data[size:])
    if not is_plain_body(data[size:]):
        _differ("not for the relay alone", data=data)
    size += body.used
    if not body.done:
        size = len(data)
    _check_reply(one, origin, head, data[size:], last=not (body.done and head.persistent))
    return size


def _check_chunks_back(
    handoff: Handoff, head: RequestHead, data: bytes, size: int, got: bytes, via: bytes
) -> None:
    """The origin has been sent the request as far as its body is plain."""
    want = origin_request(head, Body.CHUNKED, via)
    if handoff.cause != RESPONSE or handoff.chunks is None or handoff.buffer[:size] != data[:size]:
        _differ("another hand-off", handoff=handoff)
        return
    if got[: len(want)] != want:
        _differ("another request", got=got, want=want)
    check_rest(400, data[size:], got[len(want) :], handoff.chunks, handoff.buffer[size:])


def _may_repeat(head: RequestHead) -> bool:
    """RFC 9110 section 9.2.2."""
    return head.method in IDEMPOTENT and head.body()[0] == Body.NONE


def _check_reply(
    one: Conversation, origin: socket.socket, head: RequestHead, rest: bytes, *, last: bool
) -> None:
    """Answers a request, behind which the client has sent ``rest``."""
    one.send(origin, OK if head.method != "HEAD" else OK[:-2])
    answer = OK_LAST if last else OK_GOT
    if not one.plain.via:
        answer = answer.replace(b"Via: 1.1 sp\r\n", b"")
    answer = answer if head.method != "HEAD" else answer[:-2]
    reply = received(one.client)
    if reply != answer:
        _differ("another answer", reply=reply, want=answer)
    if last:
        _check_last(one, rest)


def _check_last(one: Conversation, rest: bytes) -> None:
    """The client's connection ends behind its answer, with care if more has come."""
    handoff = one.given_back()
    if handoff is None and (rest or received(one.client) is not None):
        _differ("the client's connection goes on", rest=rest)
    if handoff is not None and (handoff.cause, handoff.buffer) != (LINGER, rest):
        _differ("another end", handoff=handoff, rest=rest)
    one.client.close()


def _check_dialled(one: Conversation, data: bytes) -> int:
    """A tunnel, or a request that may not be repeated, of whose body a part may be there; the size
    of what was consumed of ``data``."""
    head, size = _meant(data, one.plain.via)
    peer = one.plain.accept()
    if head.method == "CONNECT":
        with peer:
            _check_tunnel(one, peer, data[size:])
        return len(data)
    if _may_repeat(head):
        _differ("a dialled connection", data=data)
    key = BACKEND if head.form == "origin" else (head.host, head.port)
    one.exchange(key, peer)
    peer.setblocking(False)
    return _check_request(one, peer, head, data, size, received(peer) or b"")


def _check_tunnel(one: Conversation, peer: socket.socket, early: bytes) -> None:
    if early and peer.recv(len(early), socket.MSG_WAITALL) != early:
        _differ("other bytes", early=early)
    if received(one.client) != b"HTTP/1.1 200 Connection established\r\n\r\n":
        _differ("no tunnel", early=early)
    one.client.close()
    one.plain.step()
    assert peer.recv(1) == b""
    while one.plain.relay.tunnels:
        select.select([one.plain.relay.fileno()], [], [], 1)
        one.plain.step()


# ---- responses ---------------------------------------------------------------------------


def check_response(
    plain: Plain, data: bytes, method: bytes = b"GET", *, last: bool = False, cut: int = 0
) -> bool:
    """The answer ``data`` to a plain request, maybe cut in two; ``last``: the client's
    connection is to end behind it. Whether the relay has passed it on."""
    option = b"Connection: close\r\n" if last else b""
    ask = b"%b http://o/ HTTP/1.1\r\nHost: o\r\n%b\r\n" % (method, option)
    with conversation(plain) as one:
        one.allow(ask)
        one.send(one.client, ask)
        asked = one.asked()
        if asked is None:
            raise Difference("the request is not plain")
        origin = one.keys[asked[0]]
        if not data:
            return False
        first = data[:cut] or data
        one.send(origin, first)
        handoff = one.given_back()
        if handoff is not None and not (last and handoff.cause == LINGER):
            _check_response_back(one, handoff, ask, first, b"", last)
            return False
        got = received(one.client) or b""
        if first != data:
            one.send(origin, data[cut:])
            handoff = one.given_back()
            if handoff is not None and handoff.cause != LINGER:
                _check_response_back(one, handoff, ask, data, got, last)
                return False
            got += received(one.client) or b""
        data, got = _check_interims(one, data, got)
        if data:
            _check_answer(one, origin, data, got, method.decode(), last)
        return True


def _check_interims(one: Conversation, data: bytes, got: bytes) -> tuple[bytes, bytes]:
    """The interim responses at the front of an answer have been passed on; what follows them, and
    what the client has got of that."""
    while data.startswith(b"HTTP/1.1 1"):
        head, size = _meant_response(data)
        if head.status == 101:
            _differ("not for the relay alone", data=data)
        want = interim_response(head, one.plain.via)
        if got[: len(want)] != want:
            _differ("another interim response", got=got, want=want)
        data, got = data[size:], got[len(want) :]
    return data, got


def _check_response_back(
    one: Conversation, handoff: Handoff, ask: bytes, answer: bytes, got: bytes, last: bool
) -> None:
    """``got`` is what the client has taken already."""
    if handoff.cause == BODY:
        _check_body_back(one, handoff, ask, answer, got, last)
        return
    if handoff.cause != RESPONSE or handoff.origin < 0 or not handoff.reused:
        _differ("another hand-off", handoff=handoff)
    passed_on = len(answer) - len(handoff.answer)
    got += received(one.client) or b""
    _, rest = _check_interims(one, answer[:passed_on], got)
    if handoff.buffer != ask or not answer.endswith(handoff.answer):
        _differ("not the bytes that were sent", handoff=handoff, answer=answer)
    if rest or handoff.sent != len(got):
        _differ("not what the client was sent", handoff=handoff, got=got)


def _check_body_back(
    one: Conversation, handoff: Handoff, ask: bytes, answer: bytes, got: bytes, last: bool
) -> None:
    """The client has been sent a response as far as its body is plain."""
    begun = handoff.begun
    got += received(one.client) or b""
    if begun is None or begun.chunks is None or begun.sent != len(got) or handoff.buffer != ask:
        _differ("another hand-off", handoff=handoff, got=got)
        return
    data, got = _check_interims(one, answer, got)
    head, size = _meant_response(data)
    if (begun.status, begun.closes, begun.keeps) != (head.status, last, head.persistent):
        _differ("another hand-off", handoff=handoff, data=data)
    want = _client_head(one, head, Body.CHUNKED, last, got)
    check_rest(502, data[size:], got[len(want) :], begun.chunks, handoff.answer)


def _client_head(
    one: Conversation, head: ResponseHead, kind: Body, last: bool, got: bytes
) -> bytes:
    """What ``got`` has to begin with. A date that is the relay's is of now."""
    date = b"none"
    if not head.values(b"date"):
        date = _date_of(got)
    via = one.plain.via
    want = client_response(head, kind, minor=1, close=last, via=via, date=date)
    if got[: len(want)] != want:
        _differ("another response", got=got, want=want)
    return want


def _date_of(got: bytes) -> bytes:
    dates = [line[6:] for line in got.split(b"\r\n") if line.startswith(b"Date: ")]
    now = time.time()
    if not dates or dates[-1] not in [fixdate(now - i).encode() for i in range(3)]:
        _differ("no date of now", got=got)
    return dates[-1]


def _check_answer(
    one: Conversation, origin: socket.socket, data: bytes, got: bytes, method: str, last: bool
) -> None:
    head, size = _meant_response(data)
    try:
        kind, length = head.body(method)
    except HeadError as error:
        raise Difference(f"the relay takes what http1 refuses: {error}: {data!r}") from None
    if kind == Body.CLOSE or head.status < 200 or response_binds(head):
        _differ("not for the relay alone", data=data)
    want = _client_head(one, head, kind, last, got)
    if kind == Body.CHUNKED:
        length = _check_chunks(data[size:], got[len(want) :])
    elif got != want + data[size : size + length]:
        _differ("another response", got=got, want=want, data=data)
    kept = one.plain.lane._native.idle
    # A socket pair's bytes are acknowledged when they are read: it lingers, or has not.
    lingers = one.lingers or any(h.cause == LINGER for h in one.plain.handoffs)
    end = lingers or received(one.client) is None
    if len(data) - size < length:
        if kept or end or not one.plain.relay.clients:
            _differ("an end before the end", data=data)
        origin.close()
        one.plain.step()
        if received(one.client) is not None or one.given_back() is not None:
            _differ("a cut answer looks whole", data=data)
        return
    if kept != (head.persistent and len(data) - size == length):
        _differ("the origin's connection", kept=kept, data=data)
    if end != last:
        _differ("the client's connection", end=end, last=last, data=data)


# ---- chunks ------------------------------------------------------------------------------


class Unchunked:
    """What http1 makes of a chunked body, or of a part of it that begins at ``rest``."""

    def __init__(self, status: int, body: bytes, rest: int = -1) -> None:
        buffer = bytearray(body)
        decoder = ChunkedDecoder(status, rest)
        self.error = ""
        try:
            self.payload = decoder.decode(buffer)
        except HeadError as error:
            self.payload, self.error = decoder.good, str(error)
        self.done, self.trailers = decoder.done, decoder.trailers
        self.used = len(body) - len(buffer)

    def end(self) -> object:
        """What it ends with."""
        return self.done, self.trailers, self.error


def framed(payload: bytes, done: bool) -> bytes:
    """As it goes on: in one chunk."""
    return chunk(payload) + (LAST_CHUNK if done else b"")


def _read_framed(got: bytes) -> tuple[bytes, bool]:
    """The payload of what was framed by the relay, and whether it is whole: no part of a small
    chunk, and nothing that could be written otherwise."""
    payload, written, at = b"", b"", 0
    while at < len(got):
        size = int(got[at : got.index(b"\r\n", at)], 16)
        at = got.index(b"\r\n", at) + 2
        piece = got[at : at + size]
        payload += piece
        if size >= SPLICE_MIN and at + size > len(got):
            return payload, False  # the rest of it goes on as it is
        written += framed(piece, not size)
        at += size + 2
    if written != got:
        _differ("another frame", got=got, want=written)
    return payload, got.endswith(LAST_CHUNK)


def _check_chunks(body: bytes, got: bytes) -> int:
    """``got`` was made from a chunked body; the size of that, or more if it is not whole."""
    whole = Unchunked(502, body)
    if not is_plain_body(body):
        _differ("not for the relay alone", body=body)
    if _read_framed(got) != (whole.payload, whole.done):
        _differ("another body", got=got, body=body)
    return whole.used if whole.done else len(body) + 1


def is_plain_body(body: bytes) -> bool:
    """Whether a chunked body, as far as it is there, is what the relay may read: sizes of up to 16
    digits, without anything beside them, and no trailers."""
    while body:
        line, end, behind = body.partition(b"\r\n")
        if not end:
            digits = line.removesuffix(b"\r")
            return bool(re.fullmatch(rb"[0-9A-Fa-f]{1,16}", digits)) and int(digits, 16) < 1 << 63
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line) or int(line, 16) >= 1 << 63:
            return False
        size = int(line, 16)
        behind_it = behind[size : size + 2]
        if behind_it != b"\r\n"[: len(behind_it)]:
            return False
        if not size or len(behind) < size + 2:
            return True
        body = behind[size + 2 :]
    return True


def check_rest(status: int, body: bytes, got: bytes, chunks: Chunks, rest: bytes) -> None:
    """A body that was given back in the middle: ``got`` and ``chunks.owed`` have been made from its
    beginning, and ``rest`` is what comes next of it."""
    if is_plain_body(body):
        _differ("a plain body is given back", body=body)
    payload, done = _read_framed(got + chunks.owed)
    whole, end = Unchunked(status, body), Unchunked(status, rest, chunks.rest)
    if done or chunks.open or payload + end.payload != whole.payload or end.end() != whole.end():
        _differ("another body", got=got, rest=rest, chunks=chunks, body=body)
    if chunks.taken != len(body) - len(rest):
        _differ("another place", chunks=chunks, rest=rest, body=body)


def _meant_response(data: bytes) -> tuple[ResponseHead, int]:
    try:
        end = find_head_end(bytearray(data), response=True)
        head = parse_response(data[: max(end, 0)])
    except HeadError as error:
        raise Difference(f"the relay takes what http1 refuses: {error}: {data!r}") from None
    if not head.sound:
        _differ("not for the relay alone", data=data)
    return head, end
