"""The life of one client connection: heads in, answers out, until it closes or is handed
to the relay as a tunnel."""

from __future__ import annotations

import asyncio
import logging
import time

from spliceproxy import files
from spliceproxy.body import SourceFailed
from spliceproxy.errors import ClientGone, Denied, Failure
from spliceproxy.forward import Begun, Exchange
from spliceproxy.http1.chain import (
    forwarded_lines,
    forwards_left,
    has_passed,
    one_less_forward,
)
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body, request_body
from spliceproxy.http1.head import (
    MAX_EMPTY,
    RequestHead,
    find_head_end,
    parse_request,
    skip_empty_lines,
)
from spliceproxy.http1.pages import (
    ESTABLISHED,
    HOW_TO_CONFIGURE,
    Denial,
    error_page,
    options_answer,
    trace_answer,
)
from spliceproxy.http1.rewrite import persistent, upgrade
from spliceproxy.observe.record import Record
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.policy.engine import STRANGER, Verdict
from spliceproxy.relay.interface import (
    ABORTED,
    IDLE,
    LINGER,
    REFUSED,
    REQUEST,
    RESPONSE,
    RETRY,
    SOURCE_ERROR,
    UNANSWERED,
    Handoff,
)
from spliceproxy.services import Services
from spliceproxy.stream import Stream
from spliceproxy.tunnel import hand_over

log = logging.getLogger("spliceproxy")

PAGE_SECONDS = 10.0
"""How long a client may take to receive one of our short answers."""

FRESH_SECONDS = 1.0
"""When draining begins, how long a new connection still has for its first request."""


class Connection:
    """One client. ``refuse``: its first request is answered with 503, for the limit on
    connections is reached."""

    __slots__ = (
        "_address",
        "_begun",
        "_cause",
        "_client",
        "_dialling",
        "_exchange",
        "_head",
        "_idle",
        "_lingers",
        "_plain",
        "_record",
        "_refuse",
        "_requests",
        "_services",
        "_started",
        "_stream",
        "_task",
    )

    def __init__(
        self, services: Services, stream: Stream, address: str, *, refuse: bool = False
    ) -> None:
        self._services = services
        self._stream = stream
        self._address = address
        self._client = services.policy.client(address, stream.sock)
        self._refuse = refuse
        self._requests = 0
        self._idle = True  # between two requests
        self._cause: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._head: RequestHead | None = None
        self._record = Record(address, 0.0)
        self._exchange: Exchange | None = None
        # Of a connection that comes from the relay: when its first request was there, how
        # far that has come, and whether it was the last one.
        self._started = 0.0
        self._dialling = False  # the relay has tried in vain to connect since then
        self._begun: Begun | None = None
        self._lingers = False
        self._plain = False  # requests like the last one need not be looked at

    @classmethod
    def of_handoff(cls, services: Services, handoff: Handoff) -> Connection:
        """A connection that the relay gives back, with what it has received."""
        assert services.exchanges is not None
        streams = services.exchanges
        stream = streams.stream(handoff.client, handoff.address, handoff.buffer)
        connection = cls(services, stream, handoff.address)
        connection._requests = handoff.requests
        connection._lingers = handoff.cause == LINGER
        connection._refuse = handoff.cause == REFUSED
        connection._started = handoff.started
        connection._dialling = handoff.cause == REQUEST and handoff.started > 0.0
        if handoff.cause in (RETRY, RESPONSE, UNANSWERED):
            origin = None
            if handoff.origin >= 0:
                origin = streams.stream(handoff.origin, handoff.peer, handoff.answer)
            late = handoff.cause == UNANSWERED
            connection._begun = Begun(origin, handoff.peer, handoff.reused, late)
        return connection

    async def run(self) -> None:
        """Serves the connection to its end."""
        self._task = asyncio.current_task()
        try:
            if self._lingers:
                await self._stream.finish(more=False)
                return
            while await self._serve_one():
                self._requests += 1
                if self._services.draining and not self._stream.buffer:
                    break
                if self._plain and self._give_back():
                    break
        except asyncio.CancelledError:
            if self._cause is None:
                raise
        except ClientGone:
            pass  # between two requests: there is nothing to answer or to log
        except Exception:
            log.exception("a connection from %s failed", self._address or "a local client")
        finally:
            if self._exchange is not None and self._exchange.cut_by_reset:
                self._stream.reset()
            else:
                self._stream.close()

    def _give_back(self) -> bool:
        """Whether the relay goes on with this client."""
        exchanges = self._services.exchanges
        if exchanges is None or self._services.draining:
            return False
        return exchanges.give(self._stream, self._address, self._requests)

    def abort(self, cause: Exception) -> None:
        """Makes what the connection does now fail with ``cause``."""
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel()

    def drain(self) -> None:
        """The worker stops: a connection between requests ends, a new one gets a moment."""
        if self._idle and self._requests and self._stream.is_quiet():
            self.abort(ClientGone())
        elif self._idle:
            self._stream.read_limit.set("connection_read_timeout", "draining", FRESH_SECONDS)

    # ---- one request -------------------------------------------------------------------

    async def _serve_one(self) -> bool:
        """One request and its answer; returns whether another may follow."""
        stream = self._stream
        received, sent = stream.received - len(stream.buffer), stream.sent
        stream.message_start = sent
        self._record = Record(self._address, self._started or time.monotonic())
        if self._dialling:
            self._record.dialling_since = self._started
        self._started = 0.0
        self._dialling = False
        self._head = self._exchange = None
        self._plain = False
        try:
            return await self._answer_one(received)
        except asyncio.CancelledError:
            self._record.reason = ABORTED
            raise
        finally:
            self._end_begun()
            self._log(received, sent)

    def _end_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None and begun.origin is not None:
            begun.origin.close()  # if nobody has taken it over

    async def _answer_one(self, received: int) -> bool:
        """The same, with every fault of it answered."""
        stream = self._stream
        try:
            head = await self._read_head()
            if head is None:
                return False
            self._record.bytes_in = stream.received - len(stream.buffer) - received
            keep = await self._dispatch(head)
            if not keep and not stream.detached:
                await stream.finish(more=self._body_is_coming(head))
            return keep
        except asyncio.CancelledError:
            if self._cause is None:
                raise
            error = self._cause
        except (Failure, HeadError, ClientGone, SourceFailed) as fault:
            error = fault
        except OSError:
            error = ClientGone()
        return await self._fail(error)

    def _log(self, received: int, sent: int) -> None:
        """Writes the record of a request; a tunnel's is written when it ends."""
        stream, record = self._stream, self._record
        if self._idle or stream.detached:
            return
        record.bytes_in = stream.received - len(stream.buffer) - received
        record.bytes_out = stream.sent - sent
        self._services.write(record)

    async def _read_head(self) -> RequestHead | None:
        """The next request's head; None if the client has no more to say."""
        stream = self._stream
        buffer = stream.buffer
        searched = skipped = 0
        self._idle = True
        if self._requests and not buffer:
            await self._wait_for_next()
        self._limit_head()
        while True:
            if not searched:
                skipped += skip_empty_lines(buffer)
                if skipped > MAX_EMPTY:
                    self._idle = False
                    raise HeadError(400, "too many empty lines before a request")
            if len(buffer) > searched and buffer != b"\r":  # half an empty line begins nothing
                self._idle = False
                end = find_head_end(buffer, searched)
                if end >= 0:
                    head = bytes(buffer[:end])
                    del buffer[:end]
                    return parse_request(head)
                searched = len(buffer)
            if not await self._fill():
                if searched:
                    raise ClientGone
                return None

    async def _wait_for_next(self) -> None:
        self._limit_head()
        try:
            await self._stream.readable()
        except Failure as error:
            raise ClientGone from error

    def _limit_head(self) -> None:
        self._stream.read_limit.set(
            "connection_read_timeout",
            "no request head within the time limit",
            self._services.config.timeouts.head,
        )

    async def _fill(self) -> int:
        try:
            return await self._stream.fill()
        except Failure as error:
            if self._idle:
                raise ClientGone from error
            raise Failure(error.error, error.detail, 408) from error

    async def _dispatch(self, head: RequestHead) -> bool:
        self._head = head
        record = self._record
        record.method = head.method
        record.target = head.target
        if self._refuse:
            raise Failure("connection_limit_reached", "the proxy's limit on connections is reached")
        if head.method == "CONNECT":
            await self._connect(head)
            return False
        if head.form == "absolute":
            if head.scheme != "http":
                raise Failure(
                    "http_request_error", f"cannot forward {head.scheme}: use CONNECT for https"
                )
            return await self._forward(head, head.host, head.port)
        if self._services.site is not None:
            return await self._serve_file(head)
        backend = self._services.config.default_backend
        if backend is None and head.form == "asterisk":
            return await self._answer_here(head)
        if backend is None:
            raise Failure("http_request_error", HOW_TO_CONFIGURE)
        return await self._forward(head, *backend, own=True)

    async def _connect(self, head: RequestHead) -> None:
        services = self._services
        request_body(head)  # CONNECT with a body is an error
        self._check_loop(head)
        verdict = await self._decide(head, head.host, head.port)
        self._may_repeat(head, verdict)
        origin = await services.dial(verdict, self._record)
        self._record.status = 200
        try:
            hand_over(services, self._stream, origin, ESTABLISHED, self._record)
        finally:
            origin.close()

    def _client_gone(self) -> None:
        self.abort(ClientGone())

    async def _decide(
        self, head: RequestHead, host: str, port: int, *, own: bool = False
    ) -> Verdict:
        """Asks the policy; a client that leaves meanwhile is noticed."""
        self._stream.watch(self._client_gone)
        policy, learned = self._services.policy, self._services.learned
        try:
            verdict = await policy.decide(self._client, head, host, port, self._record, own=own)
        except Denied as denied:
            if learned is not None and denied.rule != STRANGER:
                learned.see(host, port, False)
            raise
        if learned is not None:
            learned.see(host, port, True)
        return verdict

    def _may_repeat(self, head: RequestHead, verdict: Verdict) -> bool:
        """Lets the relay serve further requests like this one by itself, if it can."""
        exchanges = self._services.exchanges
        return exchanges is not None and exchanges.allow(self._client, head, verdict, self._record)

    async def _forward(self, head: RequestHead, host: str, port: int, *, own: bool = False) -> bool:
        self._check_loop(head)
        left = forwards_left(head)
        if left == 0:
            return await self._answer_here(head)
        verdict = await self._decide(head, host, port, own=own)
        if left:
            head = one_less_forward(head, left)
        self._plain = self._may_repeat(head, verdict)
        mode = self._services.config.forwarded_for
        forwarded = forwarded_lines(head, mode, self._address)
        self._exchange = Exchange(
            self._services,
            self._stream,
            head,
            self._record,
            verdict,
            self.abort,
            forwarded,
            self._begun,
        )
        return await self._exchange.run()

    def _check_loop(self, head: RequestHead) -> None:
        via = self._services.via
        if via and has_passed(head, via):
            raise Failure("proxy_loop_detected", "Via says that this proxy has had the request")

    async def _answer_here(self, head: RequestHead) -> bool:
        """TRACE or OPTIONS that goes no further (RFC 9110 sections 9.3.7 and 9.3.8)."""
        await self._services.policy.admit(self._client, head, self._record)
        keep = self._may_continue(head)
        self._record.status = 200
        if head.method == "TRACE":
            self._record.content_type = "message/http"
            answer = trace_answer(head, close=not keep, date=self._services.date())
        else:
            answer = options_answer(head, close=not keep, date=self._services.date())
        await self._send_short(answer)
        return keep

    async def _send_short(self, answer: bytes) -> None:
        self._stream.write_limit.set(
            "connection_write_timeout", "the client takes no answer", PAGE_SECONDS
        )
        await self._stream.send(answer)

    async def _serve_file(self, head: RequestHead) -> bool:
        site = self._services.site
        assert site is not None
        await self._services.policy.admit(self._client, head, self._record)
        keep = self._may_continue(head)
        with site.find(head) as answer:
            self._record.status = answer.status
            self._stream.write_limit.set(
                "connection_write_timeout",
                "the client does not take the file",
                self._services.config.timeouts.idle,
            )
            self._record.content_type = answer.content_type
            page = answer.head(self._services.date(), head.minor, not keep) + answer.body
            await self._stream.send(page)
            if answer.fd is not None:
                idle = self._services.config.timeouts.idle
                await files.send_file(self._stream, answer.fd, answer.offset, answer.length, idle)
        return keep

    def _may_continue(self, head: RequestHead, *, challenge: bool = False) -> bool:
        """Whether the connection can go on after an answer of ours: a body, or what was
        meant for a tunnel or another protocol and comes before our answer is read, would be
        taken for the next request. Clients answer a challenge to CONNECT on the same
        connection; one that has already sent more does not wait for an answer."""
        if self._services.draining or self._refuse:
            return False
        if not persistent(head) or upgrade(head):
            return False
        if head.method == "CONNECT" and (not challenge or self._stream.buffer):
            return False
        try:
            return request_body(head) == (Body.NONE, 0)
        except HeadError:
            return False

    def _body_is_coming(self, head: RequestHead) -> bool:
        """Whether not all of the request's body has been read."""
        if self._exchange is not None:
            return not self._exchange.uploaded
        return request_body(head)[0] != Body.NONE

    # ---- when it goes wrong ------------------------------------------------------------

    async def _fail(self, error: Exception) -> bool:
        """Answers a fault, or cuts the answer short that has begun; returns whether the
        connection goes on."""
        record = self._record
        if self._stream.sent != self._stream.message_start:
            await self._cut(error)
            return False
        if isinstance(error, (ClientGone, SourceFailed)):
            record.reason = error.reason
            return False
        if isinstance(error, Failure):
            status, kind, detail = error.status, error.error, error.detail
        else:
            assert isinstance(error, HeadError)
            kind = "http_request_error" if error.status < 500 else "http_protocol_error"
            status, kind, detail = error.status, error.error or kind, error.detail
        record.status, record.error = status, kind
        if isinstance(error, Denied):
            record.rule = error.rule
        head = self._head
        keep = (
            head is not None
            and not isinstance(self._cause, Exception)
            and kind != "http_request_error"
            and self._may_continue(head, challenge=isinstance(error, Unauthenticated))
        )
        page = error_page(
            status,
            kind,
            detail,
            minor=head.minor if head is not None else 1,
            close=not keep,
            head_only=head is not None and head.method == "HEAD",
            date=self._services.date(),
            extra=error.fields if isinstance(error, Unauthenticated) else (),
            denial=_denial(head, error) if isinstance(error, Denied) else None,
        )
        return await self._send_page(page, keep)

    async def _send_page(self, page: bytes, keep: bool) -> bool:
        try:
            await self._send_short(page)
            if not keep:
                await self._stream.close_gently()
        except (OSError, Failure):
            self._record.reason = "client-reset"
            return False
        return keep

    async def _cut(self, error: Exception) -> None:
        """An answer has begun and will not be whole: the client must see that."""
        record, exchange = self._record, self._exchange
        if isinstance(error, (ClientGone, SourceFailed)):
            record.reason = error.reason
        else:
            record.reason = IDLE if isinstance(error, Failure) else SOURCE_ERROR
        if exchange is not None:
            if isinstance(error, (Failure, HeadError)):
                record.error = error.error
            if exchange.cut_by_reset and not isinstance(error, ClientGone):
                await self._stream.reset_after_sent()


def _denial(head: RequestHead | None, denied: Denied) -> Denial:
    """The page for a denial in the form that the client prefers."""
    accept = head.values(b"accept") if head is not None else []
    return Denial(denied.rule, denied.reason, denied.advice, accept)
