"""One request forwarded to its origin, and the response forwarded to the client.

The request's body and the response travel at the same time where the body does not fit
the first segment: an origin may answer early, and 100 (Continue) comes before the body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from spliceproxy.errors import ClientGone, Failure, PeerGone
from spliceproxy.forward.asking import Asking, Question
from spliceproxy.forward.body import SourceFailed, TargetFailed
from spliceproxy.forward.origin_faults import tell
from spliceproxy.forward.responses import DeadReuse, ResponseReader, expect_answer
from spliceproxy.forward.resumed import Resumed
from spliceproxy.forward.services import Services
from spliceproxy.forward.tunnel import hand_over
from spliceproxy.forward.upload import Upload
from spliceproxy.forward.waited import Waited
from spliceproxy.http1.authentication import request_binds, response_binds
from spliceproxy.http1.chunked import ChunkedDecoder
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.http1.rewrite import may_switch
from spliceproxy.net import tcp
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record, microseconds
from spliceproxy.observe.stalled import SECOND
from spliceproxy.observe.termination import ANSWER, CONNECT, DATA
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.columns import FIRST_BYTE_SECONDS, observe
from spliceproxy.relay.handoff import Begun, Chunks
from spliceproxy.relay.interface import CLIENT_RESET, IDLE, SOURCE_ERROR, TARGET_IDLE
from spliceproxy.upstream.bound import BoundOrigin

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2. Such a request without a body may be sent again."""


class Sending(NamedTuple):
    """A response of which the client has been sent a part, framed as it came; ``closes`` and
    ``keeps`` are as of :class:`relay.handoff.Begun`."""

    kind: Body
    closes: bool
    keeps: bool


class Going(NamedTuple):
    """An exchange whose request its origin has been sent, or is being sent (``uploads``): another
    process can go on with it. ``sending``: its response has begun."""

    origin: Stream
    verdict: Verdict
    waited: Waited
    reused: bool  # the origin's connection had served before
    uploads: bool
    sending: Sending | None


class Part(NamedTuple):
    """One of them, and its request. Before that its connection had consumed ``received`` bytes, and
    ``sent`` so many; ``spliced`` are of these."""

    going: Going
    head: RequestHead
    record: Record
    received: int
    sent: int
    spliced: tuple[int, int]


class Exchange:
    """One request and its response. ``verdict`` is the answer to ``question``, and
    ``head`` what is to be sent. ``abort(cause)`` is the connection's: it makes the coroutine that
    runs :meth:`run` fail with ``cause``.

    ``bound`` holds the origin's connection where it belongs to this client. ``resumed``, where the
    relay has sent the request: the exchange owns its connection.
    """

    __slots__ = (
        "_abort",
        "_answered",
        "_asking",
        "_binds",
        "_body",
        "_bound",
        "_client",
        "_head",
        "_length",
        "_origin",
        "_question",
        "_reader",
        "_record",
        "_resumed",
        "_reused",
        "_sending",
        "_services",
        "_sound",
        "_start",
        "_upload",
        "_verdict",
        "_waited",
        "_way",
        "cut_by_reset",
    )

    def __init__(
        self,
        services: Services,
        client: Stream,
        head: RequestHead,
        question: Question,
        verdict: Verdict,
        abort: Callable[[Exception], None],
        bound: BoundOrigin,
        asking: Asking,
        resumed: Resumed | None = None,
    ) -> None:
        self._services = services
        self._asking = asking  # that the question was for
        self._client = client
        self._head = head
        self._question = question
        self._record = question.record
        self._verdict = verdict
        self._way = verdict.way  # the verdict's becomes the one that is gone
        self._abort = abort
        self._resumed = resumed
        self._bound = bound
        # Nobody else may use the origin's connection from here on (RFC 4559 section 6).
        self._binds = request_binds(head)
        self._origin: Stream | None = None
        # What had come from the client before the body, and been sent before the response.
        self._start = client.received - len(client.buffer), client.sent
        self._waited = Waited(client)
        self._sound = True  # what it has sent needed no lenience
        self._upload: Upload | None = None  # there is none for a body that has all come
        self._body, self._length = head.body()
        self._answered = False  # the final response has begun
        self._reused = False
        self._reader: ResponseReader | None = None  # while the response is awaited
        self._sending: Sending | None = None  # while its body is on its way
        self.cut_by_reset = False  # only a reset shows that the response was cut short

    @property
    def uploaded(self) -> bool:
        """Whether all of the request's body has been read."""
        return self._upload is None or self._upload.over

    @property
    def going(self) -> Going | None:
        """What another process needs to go on with it; None where it could not. A connection that
        knows who is at its other end stays here, and so does a request whose answer may be one of a
        parent's for us."""
        origin, upload, sending = self._origin, self._upload, self._sending
        if origin is None:
            return None
        if sending is None:
            stays = self._binds or self._verdict.way is not None
            if stays or self._reader is None or not self._reader.sound:
                return None
            if upload is not None and upload.broken:
                return None
        elif not self.uploaded:
            return None
        uploads = not self.uploaded
        return Going(origin, self._verdict, self._waited, self._reused, uploads, sending)

    async def run(self) -> bool:
        """Forwards both ways; returns whether the client's connection goes on.

        Raises Failure or HeadError (answer it, if no response has begun), ClientGone, and
        SourceFailed where the response was cut short.
        """
        try:
            if self._resumed is not None:
                reused = self._take_resumed()
            else:
                if self._verdict.way is None:
                    reused = self._take_bound() or self._take_idle()
                else:
                    reused = await self._take_of_parent()
                if reused and self._record.trace is not None:
                    self._record.trace.reused(self._record.peer, self._verdict.port)
            if self._origin is None:
                await self._dial()
            try:
                return await self._attempt(reused=reused and self._may_repeat)
            except DeadReuse:
                self._close_origin()
            self._resumed = None
            await self._dial()
            return await self._attempt(reused=False)
        except Exception as error:
            if isinstance(error, Failure):
                error.next_hop = error.next_hop or self._record.route
            tell(self._services.answers, self._record, error, begun=self._answered)
            raise
        finally:
            try:
                if self._upload is not None:
                    await self._upload.stop()
            finally:
                self._inform()
                self._close_origin()

    # ---- the origin --------------------------------------------------------------------

    def _take_resumed(self) -> bool:
        """The connection that the relay has used, if any; returns whether it had served
        before."""
        resumed = self._resumed
        assert resumed is not None
        self._origin, self._record.peer = resumed.origin, resumed.peer
        if resumed.origin is not None:
            self._verdict = self._verdict._replace(way=None)  # whatever is in force by now
            # What has gone through the relay is this exchange's, too.
            chunks = resumed.chunks
            self._client.received += self._length - resumed.left if chunks is None else chunks.taken
            self._client.relayed_in += resumed.moved
            self._client.spliced_in += resumed.spliced
            self._client.sent += resumed.passed
            self._client.relayed_out += resumed.passed
            self._client.message_start += resumed.passed
        return resumed.origin is not None and resumed.reused

    @property
    def _may_repeat(self) -> bool:
        """Whether the request may be sent again."""
        return self._head.method in IDEMPOTENT and self._body == Body.NONE

    def _take_bound(self) -> bool:
        """The connection that belongs to this client, if it leads there; whatever the method
        is, for it carries who the client is."""
        held = self._bound.take(self._verdict.key, self._verdict.addresses)
        if held is None:
            return False
        self._origin, self._record.peer = held
        self._binds = True
        return True

    def _take_idle(self) -> bool:
        """An idle connection, if there is one and the request may be sent again; or the one that
        this client was the last to use."""
        origins, verdict = self._services.origins, self._verdict
        if self._may_repeat:
            idle = origins.take(verdict.key, verdict.addresses)
        else:
            idle = origins.take_own(verdict.key, verdict.addresses, self._bound)
        if idle is None:
            return False
        self._origin, self._record.peer = idle
        return True

    async def _take_of_parent(self) -> bool:
        """The same of both, by way of a parent."""
        parents, may = self._asking.parents, self._may_repeat
        assert parents is not None
        self._verdict = await parents.arranged(self._head, self._verdict)
        self._way = self._verdict.way
        idle = parents.take(self._verdict, self._record, self._bound, repeats=may)
        if idle is None:
            return False
        self._origin, self._verdict, own = idle
        self._binds = self._binds or own
        return True

    async def _dial(self) -> None:
        self._client.watch(self._client_gone)
        record, since = self._record, time.monotonic()
        record.stage = CONNECT
        try:
            verdict = self._verdict._replace(way=self._way)
            self._origin, self._verdict = await self._asking.dial(self._question, verdict)
        finally:
            record.dial += microseconds(time.monotonic() - since)

    def _close_origin(self) -> None:
        if self._origin is not None:
            self._origin.close()
            self._origin = None

    def _inform(self) -> None:
        """What is known of both connections, if the request takes long."""
        if self._origin is not None and time.monotonic() - self._record.started >= SECOND:
            info = tcp.info(self._client.sock), tcp.info(self._origin.sock)
            self._record.inform(*info, self._waited.waits(self._origin))

    def _client_gone(self) -> None:
        self._abort(ClientGone())

    async def _attempt(self, *, reused: bool) -> bool:
        origin = self._origin
        assert origin is not None
        self._reused = reused
        self._record.stage = ANSWER
        resumed = self._resumed if self._resumed is not None and self._resumed.origin else None
        self._waited.begin(origin, resumed)
        holding = self._record.holding
        up = (0 if holding is None else holding.up) or self._record.rates[0]
        if up:
            tcp.pace(origin.sock, up)
        reader = ResponseReader(origin, begun=resumed is not None and resumed.passed > 0)
        try:
            if resumed is None:
                await self._send_request(origin)
            elif resumed.late:
                raise self._late(resumed)
            else:
                self._go_on(origin, resumed)
                if resumed.begun is not None:
                    return await self._answer_rest(origin, resumed.begun)
            self._reader = reader
            response = await self._final_response(origin, reader)
            self._reader = None
            self._sound = reader.sound
        except DeadReuse:
            if reused:
                raise
            raise Failure(
                "connection_terminated", "the origin closed the connection without an answer"
            ) from None
        if response.status == 101:
            return self._switch(origin, response)
        return await self._answer(origin, response)

    # ---- the request -------------------------------------------------------------------

    async def _send_request(self, origin: Stream) -> None:
        rewriting = self._services.rewriting
        head = rewriting.request(self._head, self._body, self._record.client)
        if self._verdict.way is not None and self._asking.parents is not None:
            head = self._asking.parents.written(self._verdict, self._head, head)
        client = self._client
        self._write_limit(origin)
        if self._body == Body.CHUNKED or self._length > len(client.buffer):
            self._new_upload().begin(origin, head, self._length)
            return
        if self._length:
            head += client.buffer[: self._length]
            del client.buffer[: self._length]
        try:
            await origin.send(head)
        except PeerGone as error:
            raise DeadReuse from error
        client.watch(self._client_gone)

    def _write_limit(self, origin: Stream) -> None:
        origin.write_limit.set(
            "connection_write_timeout",
            "the origin does not read the request",
            self._services.config.timeouts.idle,
        )

    def _go_on(self, origin: Stream, resumed: Resumed) -> None:
        """The relay has sent the request, maybe but for a part of its body."""
        self._write_limit(origin)
        if resumed.uploads:
            self._new_upload().begin(origin, b"", resumed.left, resumed.chunks)
        else:
            self._client.watch(self._client_gone)

    def _late(self, resumed: Resumed) -> Failure:
        """Whoever had to go on when the relay's time limit was over."""
        if not resumed.uploads:
            return Failure("http_response_timeout", "the origin does not answer")
        return self._new_upload().late(resumed)

    def _new_upload(self) -> Upload:
        self._upload = Upload(self._services, self._client, self._body, self._waited, self._abort)
        return self._upload

    # ---- the response ------------------------------------------------------------------

    async def _final_response(self, origin: Stream, reader: ResponseReader) -> ResponseHead:
        """The first response that is not interim; those are passed on (RFC 9110 15.2). One
        time limit holds for all."""
        self._limit_response(origin)
        first = 0.0
        while True:
            response = await reader.next()
            first = first or reader.first or time.monotonic()  # the relay may have read it
            if not self._record.first_byte:
                self._record.first_byte = self._waited.until(reader.first)
            self._binds = self._binds or response_binds(response)
            if response.status >= 200 or response.status == 101:
                if self._verdict.way is not None and self._asking.parents is not None:
                    self._asking.parents.check(self._verdict, response)
                waited = microseconds(first - self._record.started)
                observe(self._services.counts.row, FIRST_BYTE_SECONDS, waited)
                return response
            if self._head.minor:
                await self._send_interim(response)
            await asyncio.sleep(0)  # a storm of them must not hold up others

    async def _send_interim(self, response: ResponseHead) -> None:
        self._client.write_limit.set(
            "connection_write_timeout",
            "the client takes no answer",
            self._services.config.timeouts.idle,
        )
        try:
            await self._client.send(self._services.rewriting.interim(response))
            self._client.message_start = self._client.sent
        except PeerGone as error:
            raise ClientGone from error

    def _limit_response(self, origin: Stream) -> None:
        """While the request's body is on its way that has limits of its own."""
        if self.uploaded:
            expect_answer(origin, self._services.config.timeouts.idle)
        else:
            origin.read_limit.clear()

    def _switch(self, origin: Stream, response: ResponseHead) -> bool:
        """101: from here on a tunnel (RFC 9110 section 7.8)."""
        if not may_switch(self._head, response) or not self.uploaded:
            raise Failure(
                "http_upgrade_failed", "the origin switched protocols without being asked to"
            )
        answer = self._services.rewriting.response(
            response,
            Body.NONE,
            minor=self._head.minor,
            close=False,
            date=self._services.date(),
        )
        received, sent = self._start
        self._record.status = 101
        self._record.bytes_in += self._client.received - len(self._client.buffer) - received
        self._record.bytes_out = self._client.sent - sent
        hand_over(self._services, self._client, origin, answer, self._record)
        self._origin = None
        return False

    async def _answer(self, origin: Stream, response: ResponseHead) -> bool:
        if self.uploaded:  # else the upload reads from the client, and finds out
            self._client.watch(self._client_gone)
        kind, length = response.body(self._head.method)
        out = Body.CLOSE if kind == Body.CHUNKED and not self._head.minor else kind
        stays = kind != Body.CLOSE and response.persistent and self._sound
        # A response that overtakes the request's body ends the connection: what is left
        # of the body would have to be read as something. And where the origin has been told
        # who is at its connection, the client must learn that this is over.
        close = (
            out == Body.CLOSE
            or not self.uploaded
            or self._services.draining
            or not self._head.persistent
            or (self._binds and not stays)
        )
        prefix = self._services.rewriting.response(
            response,
            out,
            minor=self._head.minor,
            close=close,
            date=self._services.date(),
        )
        self._record.status, self._record.stage = response.status, DATA
        self._record.content_type = (response.get(b"content-type") or b"").decode("latin-1")
        self._begin_answer()
        self.cut_by_reset = out == Body.CLOSE
        keeps = stays and not self._binds
        hop = self._record.hop
        if out == kind and not self._binds and (hop is None or not hop.stays):
            self._sending = Sending(kind, close, keeps and hop is None)
        try:
            await self._send_response(origin, kind, length, prefix, framed=out != Body.CLOSE)
        except TargetFailed as error:
            raise ClientGone(IDLE if error.reason == TARGET_IDLE else CLIENT_RESET) from error
        self._sending = None
        self.cut_by_reset = False  # it is whole
        self._inform()
        if stays and not (self._binds and close):
            self._keep_origin(origin)
        return not close and (self._sound or not self._binds)

    async def _answer_rest(self, origin: Stream, begun: Begun) -> bool:
        """The rest of a response that the relay has begun to send."""
        self._record.status, self._record.stage = begun.status, DATA
        self._record.content_type = begun.content_type
        self._begin_answer()
        kind = Body.LENGTH if begun.chunks is None else Body.CHUNKED
        if begun.left < 0:
            kind = Body.CLOSE
        self.cut_by_reset = kind == Body.CLOSE
        owed = begun.owed if begun.chunks is None else b""
        closes, keeps = begun.closes, begun.keeps
        self._sending = Sending(kind, closes, keeps)
        try:
            await self._send_response(
                origin, kind, begun.left, owed, framed=True, begun=begun.chunks
            )
        except TargetFailed as error:
            raise ClientGone(IDLE if error.reason == TARGET_IDLE else CLIENT_RESET) from error
        self._sending = None
        self.cut_by_reset = False
        self._inform()
        if keeps:
            self._keep_origin(origin)
        return not closes

    def _begin_answer(self) -> None:
        """The client is sent a part of the final response from here on."""
        self._answered = True
        if self._upload is not None:
            self._upload.answered = True

    def _keep_origin(self, origin: Stream) -> None:
        """The response is over: its connection may serve again, if all of it was sound."""
        if not (self._sound and self.uploaded):
            return
        holding = self._record.holding
        if self._record.rates[0] or (holding is not None and holding.watched):
            tcp.pace(origin.sock, 0)  # others will use it
        if self._binds:
            self._bound.put(self._verdict.key, origin, self._record.peer)
        elif self._verdict.way is not None and self._asking.parents is not None:
            self._asking.parents.put(self._verdict, origin, self._record.peer, self._bound)
        else:  # who has a bound connection of its own tells clients apart, too
            self._services.origins.put(self._verdict.key, origin, self._record.peer, self._bound)
        self._origin = None

    async def _send_response(
        self,
        origin: Stream,
        kind: Body,
        length: int,
        prefix: bytes,
        *,
        framed: bool,
        begun: Chunks | None = None,
    ) -> None:
        if kind == Body.CHUNKED:
            decoder = ChunkedDecoder(502) if begun is None else ChunkedDecoder(502, begun.rest)
            await self._services.mover.chunked(
                origin, self._client, decoder, prefix, framed=framed, begun=begun, to_client=True
            )
            self._sound = self._sound and decoder.sound
        elif kind == Body.CLOSE:
            await self._services.mover.until_end(origin, self._client, prefix)
            # Of two transfers on one socket only one is told of its reset: the other sees an
            # end that looks clean.
            if self._upload is not None and not self.uploaded:
                await asyncio.sleep(0)  # it has the error, if there is one
                if self._upload.broken:
                    raise SourceFailed(SOURCE_ERROR)
        else:
            await self._services.mover.length(origin, self._client, length, prefix, to_client=True)
