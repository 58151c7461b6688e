"""The life of one client connection: heads in, answers out, until it closes or is handed
to the relay as a tunnel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from spliceproxy.errors import ClientGone, Denied, Failure, PeerGone, internal
from spliceproxy.forward.body import SourceFailed
from spliceproxy.forward.dialing import dial
from spliceproxy.forward.exchange import Begun, Exchange
from spliceproxy.forward.services import Services
from spliceproxy.forward.tunnel import hand_over
from spliceproxy.front import faults
from spliceproxy.front.answers import Answers
from spliceproxy.front.heads import HeadReader
from spliceproxy.http1.chain import (
    forwarded_lines,
    forwards_left,
    has_passed,
    one_less_forward,
)
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body, request_body
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.refusals import STRANGER
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.interface import ABORTED
from spliceproxy.relay.lane import LINGER, REQUEST, RESPONSE, RETRY, UNANSWERED, Handoff
from spliceproxy.site.pages import ESTABLISHED, HOW_TO_CONFIGURE
from spliceproxy.upstream.bound import BoundOrigin

Admit = Callable[[Stream], Awaitable[bool]]
"""Whether the client with this stream may stay."""

FRESH_SECONDS = 1.0
"""When draining begins, how long a new connection still has for its first request."""


class Connection:
    """One client. ``admit``, where the limit on connections is reached: waits a moment for a
    place, and says whether there is one. Without one the first request is answered with 503."""

    __slots__ = (
        "_address",
        "_admit",
        "_answers",
        "_begun",
        "_bound",
        "_cause",
        "_closing",
        "_dialling",
        "_exchange",
        "_head",
        "_heads",
        "_lingers",
        "_plain",
        "_record",
        "_requests",
        "_services",
        "_standing",
        "_started",
        "_stream",
        "_task",
    )

    def __init__(
        self, services: Services, stream: Stream, address: str, admit: Admit | None = None
    ) -> None:
        self._services = services
        self._stream = stream
        self._address = address
        self._standing = services.policy.standing(address, stream.sock)
        self._admit = admit
        self._answers = Answers(services, stream, last=admit is not None)
        between = services.config.timeouts.head
        self._heads = HeadReader(stream, between)
        self._bound = BoundOrigin(services.loop, between, self._bound_ended)
        self._requests = 0
        self._cause: Exception | None = None
        # How the connection is closed behind an answer; None: at once.
        self._closing: Callable[[], Awaitable[None]] | None = None
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
    def of_handoff(
        cls, services: Services, handoff: Handoff, admit: Admit | None = None
    ) -> Connection:
        """A connection that the relay gives back, with what it has received. Where this
        raises, the descriptors that are still the hand-off's are for the caller to close."""
        lane = services.lane
        assert lane is not None
        stream = lane.stream(handoff.take_client(), handoff.address, handoff.buffer)
        origin: Stream | None = None
        try:
            if handoff.origin >= 0:
                origin = lane.stream(handoff.take_origin(), handoff.peer, handoff.answer)
            return cls(services, stream, handoff.address, admit)._goes_on(handoff, origin)
        except BaseException:
            stream.close()
            if origin is not None:
                origin.close()
            raise

    def _goes_on(self, handoff: Handoff, origin: Stream | None) -> Connection:
        self._requests = handoff.requests
        self._lingers = handoff.cause == LINGER
        self._started = handoff.started
        self._dialling = handoff.cause == REQUEST and handoff.started > 0.0
        if handoff.cause in (RETRY, RESPONSE, UNANSWERED):
            late = handoff.cause == UNANSWERED
            self._begun = Begun(origin, handoff.peer, handoff.reused, late)
        return self

    @property
    def stream(self) -> Stream:
        """The client's."""
        return self._stream

    def discard(self) -> None:
        """Closes a connection that cannot be served."""
        self._stream.close()
        self._end_begun()

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
        except Exception as error:  # noqa: BLE001 - it is told
            self._tell(error)
            await faults.last_words(self._stream, asked=not self._heads.idle)
        finally:
            self._bound.close()
            if self._exchange is not None and self._exchange.cut_by_reset:
                self._stream.reset()
            else:
                self._stream.close()
            self._let_go()

    def _let_go(self) -> None:
        """Nothing keeps a buffer: an exchange and a fault refer back to this connection, and
        such a cycle would last until the garbage is collected."""
        self._stream.buffer.clear()
        self._exchange = self._cause = self._closing = self._task = None

    def _give_back(self) -> bool:
        """Whether the relay goes on with this client. It knows no connection to an origin
        that belongs to one."""
        lane = self._services.lane
        if lane is None or self._services.draining or self._bound:
            return False
        return lane.give(self._stream, self._address, self._requests)

    def abort(self, cause: Exception) -> None:
        """Makes what the connection does now fail with ``cause``."""
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel()

    def drain(self) -> None:
        """The worker stops: a connection between requests ends, a new one gets a moment."""
        if self._heads.idle and self._requests and self._stream.is_quiet():
            self.abort(ClientGone())
        elif self._heads.idle:
            self._stream.read_limit.set("connection_read_timeout", "draining", FRESH_SECONDS)

    def _bound_ended(self) -> None:
        """The origin knows the client no more. One between two requests learns that before it
        sends the next, with a body maybe, as somebody it is not."""
        if self._heads.idle and self._stream.is_quiet():
            self.abort(ClientGone())

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
            keep = await self._answer_one(received)
        except asyncio.CancelledError:
            self._record.reason = ABORTED
            raise
        finally:
            # It is over when the answer is with the kernel: what the client takes to read it,
            # and to close, is no time of the request's.
            self._end_begun()
            self._log(received, sent)
        if self._closing is not None:
            await self._closing()
        return keep

    def _end_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None and begun.origin is not None:
            begun.origin.close()  # if nobody has taken it over

    async def _answer_one(self, received: int) -> bool:
        """The same, with every fault of it answered."""
        stream = self._stream
        try:
            head = await self._heads.next(first=not self._requests)
            if head is None:
                return False
            self._record.bytes_in = stream.received - len(stream.buffer) - received
            keep = await self._dispatch(head)
            if not keep and not stream.detached:
                self._closing = partial(stream.finish, more=self._body_is_coming(head))
            return keep
        except asyncio.CancelledError as fault:
            error = self._why_cancelled(fault)
        except Exception as fault:  # noqa: BLE001 - it is answered, and told if it is our own
            error = fault
        try:
            return await self._fail(error)
        finally:
            del error  # its traceback has this frame, which has all the rest

    def _why_cancelled(self, fault: asyncio.CancelledError) -> Exception:
        """What is to be answered. Without a cause either the worker ends, and ``fault`` goes on,
        or a function of --policy has cancelled the task that it was called in."""
        if self._cause is not None:
            return self._cause
        if self._heads.idle or self._services.draining:
            raise fault
        return RuntimeError("the policy hook has cancelled the request")

    def _log(self, received: int, sent: int) -> None:
        """Writes the record of a request; a tunnel's is written when it ends."""
        stream, record = self._stream, self._record
        if self._heads.idle or stream.detached:
            return
        # Behind a head that could not be read nothing is a request of its own.
        waits = len(stream.buffer) if self._head is not None else 0
        record.bytes_in = stream.received - waits - received
        record.bytes_out = stream.sent - sent
        self._services.records.write(record)

    async def _dispatch(self, head: RequestHead) -> bool:
        self._head = head
        record = self._record
        record.method = head.method
        record.target = head.target
        if self._admit is not None and not await self._admitted():
            raise Failure(
                "connection_limit_reached", "this proxy has reached its limit on connections"
            )
        if head.method == "CONNECT":
            await self._connect(head)
            return False
        if head.form == "absolute":
            if head.scheme != "http":
                advice = ": use CONNECT for it" if head.scheme == "https" else ""
                why = "use CONNECT for https" if advice else "only http can be forwarded"
                raise Failure(
                    "http_request_error", f"cannot forward {head.scheme}{advice}", why=why
                )
            return await self._forward(head, head.host, head.port)
        if self._services.site is not None:
            return await self._serve_file(head)
        backend = self._services.config.default_backend
        if backend is None and head.form == "asterisk":
            return await self._answer_here(head)
        if backend is None:
            raise Failure("http_request_error", HOW_TO_CONFIGURE, why="this is a proxy")
        return await self._forward(head, *backend, own=True)

    async def _admitted(self) -> bool:
        """Whether a client that came beyond the limit has a place by now."""
        assert self._admit is not None
        if not await self._admit(self._stream):
            return False
        self._admit = None
        self._answers = Answers(self._services, self._stream, last=False)
        return True

    async def _connect(self, head: RequestHead) -> None:
        services = self._services
        request_body(head)  # CONNECT with a body is an error
        self._check_loop(head)
        verdict = await self._decide(head, head.host, head.port)
        self._may_repeat(head, verdict)
        again = partial(self._decide, head, head.host, head.port)
        origin, _ = await dial(services, verdict, self._record, again)
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
            verdict = await policy.decide(self._standing, head, host, port, self._record, own=own)
        except Denied as denied:
            if learned is not None and denied.rule != STRANGER:
                learned.see(host, port, False)
            raise
        if learned is not None:
            learned.see(host, port, True)
        return verdict

    def _may_repeat(self, head: RequestHead, verdict: Verdict) -> bool:
        """Lets the relay serve further requests like this one by itself, if it can."""
        lane = self._services.lane
        return lane is not None and lane.allow(self._standing, head, verdict, self._record)

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
            partial(self._decide, head, host, port, own=own),
            self._bound,
            self._begun,
        )
        self._begun = None  # its connection is the exchange's from here on
        return await self._exchange.run()

    def _check_loop(self, head: RequestHead) -> None:
        via = self._services.via
        if via and has_passed(head, via):
            raise Failure(
                "proxy_loop_detected",
                "the Via field says that the request has passed this proxy before",
            )

    async def _answer_here(self, head: RequestHead) -> bool:
        """TRACE or OPTIONS that goes no further."""
        await self._services.policy.admit(self._standing, head, self._record)
        return await self._answers.here(head, self._record)

    async def _serve_file(self, head: RequestHead) -> bool:
        await self._services.policy.admit(self._standing, head, self._record)
        return await self._answers.file(head, self._record)

    def _body_is_coming(self, head: RequestHead) -> bool:
        """Whether not all of the request's body has been read."""
        if self._exchange is not None:
            return not self._exchange.uploaded
        return request_body(head)[0] != Body.NONE

    # ---- when it goes wrong ------------------------------------------------------------

    async def _fail(self, error: Exception) -> bool:
        """Answers a fault, or cuts the answer short that has begun; returns whether the
        connection goes on. Only the client's own socket can say that the client has left."""
        record = self._record
        keep = self._cause is None
        if isinstance(error, PeerGone) and error.stream is self._stream:
            error = ClientGone()
        elif not isinstance(error, (Failure, HeadError, ClientGone, SourceFailed)):
            self._tell(error)
            error, keep = internal(error), False
        if self._stream.sent != self._stream.message_start:
            self._cut(error)
            return False
        if isinstance(error, (Failure, HeadError)):
            keep = await self._answers.error(error, self._head, record, keep=keep)
            if not keep:
                self._closing = self._stream.close_gently
            return keep
        assert isinstance(error, (ClientGone, SourceFailed))
        record.reason = error.reason
        return False

    def _cut(self, error: Exception) -> None:
        """An answer has begun and will not be whole: the client must see that."""
        exchange = self._exchange
        faults.note_cut(self._record, error)
        if exchange is not None and exchange.cut_by_reset and not isinstance(error, ClientGone):
            self._closing = self._stream.reset_after_sent

    def _tell(self, error: Exception) -> None:
        faults.tell(self._services.faults, self._address, error)
