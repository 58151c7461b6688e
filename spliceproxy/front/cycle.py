"""One request of a client's connection: its head, where it goes, its answer, how it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from spliceproxy.errors import ClientGone, Failure, Killed, PeerGone, internal
from spliceproxy.forward import own_faults
from spliceproxy.forward.asking import Question
from spliceproxy.forward.body import SourceFailed
from spliceproxy.forward.exchange import Exchange, Part
from spliceproxy.forward.resumed import Page
from spliceproxy.forward.tunnel import hand_over
from spliceproxy.front import faults
from spliceproxy.http1.chain import forwards_left, has_passed, one_less_forward
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead
from spliceproxy.http1.rewrite import ESTABLISHED
from spliceproxy.net import tcp
from spliceproxy.observe.record import Record, microseconds
from spliceproxy.observe.termination import CONNECT, DATA, DRAINED, QUESTION
from spliceproxy.policy.decision import YES
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.interface import ABORTED
from spliceproxy.site.pages import HOW_TO_CONFIGURE

if TYPE_CHECKING:
    from spliceproxy.forward.limiting import Limiting
    from spliceproxy.front.http1 import Connection
    from spliceproxy.site.files import Site


class Cycle:
    """A request and its answer, from the first byte of the head. ``received`` is what the
    connection had consumed before that, in bytes.

    Afterwards ``close`` says how the connection is to be closed behind the answer (None: it goes
    on, or is closed at once), ``cut_by_reset`` whether only a reset can show the client that the
    answer is not whole, ``plain`` whether further requests like this one need not be looked at.
    """

    speaks_http = True

    __slots__ = (
        "_asking",
        "_connection",
        "_established",
        "_exchange",
        "_head",
        "_page",
        "_received",
        "_record",
        "_sent",
        "_services",
        "_spliced",
        "_stream",
        "_unwatch",
        "close",
        "cut_by_reset",
        "plain",
    )

    def __init__(self, connection: Connection, received: int) -> None:
        self._connection = connection
        self._services = connection.services
        self._stream = connection.stream
        self._received = received
        self._sent = connection.stream.sent
        self._head: RequestHead | None = None
        self._exchange: Exchange | None = None
        self._asking = connection.services.asking
        self._unwatch: Callable[[], None] | None = None  # as of Pacing.request
        self._page: Page | None = None  # the rest of an answer that the relay has begun
        self._established = ESTABLISHED  # what a client is told when its tunnel is there
        self.close: Callable[[], Awaitable[None]] | None = None
        self.cut_by_reset = False
        self.plain = False
        self._record = self._services.records.new(
            connection.address, time.monotonic(), connection.trace
        )
        self._record.mark, self._record.via = connection.via[:1], connection.via[1:]
        self._spliced = connection.stream.spliced_in, connection.stream.spliced_out

    async def run(self) -> bool:
        """Answers the request, and logs it; returns whether another may follow."""
        try:
            return await self._answer()
        except asyncio.CancelledError:
            self._record.reason, self._record.by = ABORTED, DRAINED
            raise
        finally:
            # It is over when the answer is with the kernel: what the client takes to read it,
            # and to close, is no time of the request's.
            exchange, self._exchange = self._exchange, None  # it refers back to this object
            self.cut_by_reset = exchange is not None and exchange.cut_by_reset
            self._connection.end_resumed()
            self._log()
            self._count_no_more()

    async def _answer(self) -> bool:
        """The same, with every fault of it answered."""
        stream = self._stream
        try:
            head = await self._read_head()
            self._record.bytes_in = stream.received - len(stream.buffer) - self._received
            keep = await self._dispatch(head)
            if not keep and not stream.detached:
                self.close = partial(stream.finish, more=self._body_is_coming(head))
            return keep
        except asyncio.CancelledError as fault:
            error = self._why_cancelled(fault)
        except Exception as fault:  # noqa: BLE001 - it is answered, and told if it is our own
            error = fault
        try:
            return await self._fail(error)
        finally:
            # Its traceback has this frame, which has all the rest, and those of whoever has raised
            # a fault that was known before: these have the fault itself.
            error.__traceback__ = None
            del error

    @property
    def so_far(self) -> tuple[Record, int, int]:
        """What is known of the request until it is over, and the bytes that it has received and
        sent. A body that the relay moves counts when all of it has been moved."""
        stream = self._stream
        received = stream.received - len(stream.buffer) - self._received
        return self._record, received, stream.sent - self._sent

    @property
    def part(self) -> Part | None:
        """What another process needs to go on with a request that has been sent; None where it
        could not."""
        exchange, head = self._exchange, self._head
        going = exchange.going if exchange is not None else None
        if going is None or head is None:
            return None
        return Part(going, head, self._record, self._received, self._sent, self._spliced)

    def _log(self) -> None:
        """Writes the record of a request; a tunnel's is written when it ends."""
        stream, record = self._stream, self._record
        if stream.detached:
            return
        # Behind a head that could not be read nothing is a request of its own.
        waits = len(stream.buffer) if self._head is not None else 0
        record.bytes_in = stream.received - waits - self._received
        record.bytes_out = stream.sent - self._sent
        record.spliced_in = stream.spliced_in - self._spliced[0]
        record.spliced_out = stream.spliced_out - self._spliced[1]
        self._services.counts.request(record, stream)
        self._services.records.write(record)

    async def _read_head(self) -> RequestHead:
        """The rest of the head. Raises as :meth:`HeadReader.rest`."""
        return await self._connection.heads.rest()

    # ---- where it goes -----------------------------------------------------------------

    async def _dispatch(self, head: RequestHead) -> bool:
        self._head = head
        self._connection.answering()
        self._note(head)
        self._go_on_refusing()
        if self._connection.beyond and not await self._connection.admitted():
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
        site = self._services.site
        if site is not None:
            return await self._serve_file(head, site)
        backend = self._services.config.default_backend
        if backend is None and head.form == "asterisk":
            return await self._answer_here(head)
        if backend is None:
            raise Failure("http_request_error", HOW_TO_CONFIGURE, why="this is a proxy")
        return await self._forward(head, *backend, own=True)

    def _note(self, head: RequestHead) -> None:
        """What the record says of the head, and of what the relay has done."""
        record, resumed = self._record, self._connection.resumed
        # As in the lane, the time of a request begins when its whole head is there.
        begun, record.started = record.started, time.monotonic()
        record.head = microseconds(record.started - begun)
        record.stage = QUESTION
        if resumed is not None:
            resumed.note(record)
            self._stream.sent += resumed.answered  # from here on a fault cuts the answer
            self._stream.relayed_out += resumed.answered
            self._stream.spliced_out += resumed.begun.spliced if resumed.begun else 0
        record.method = head.method
        record.target = head.target
        record.minor = head.minor
        if self._services.records.fields:
            record.fields = head.fields
        self._show_head(head)

    def _show_head(self, head: RequestHead) -> None:
        if self._record.trace is not None:
            self._record.trace.head(head.method, head.target, head.minor)

    def _go_on_refusing(self) -> None:
        """Where the relay has begun to refuse the request, raises why."""
        resumed = self._connection.resumed
        decided = resumed.decided if resumed is not None else None
        if resumed is None or decided is None or decided.page is None:
            return
        self._page = decided.page._replace(data=decided.page.data[resumed.passed :])
        self._stream.sent += resumed.passed
        self._stream.message_start += resumed.passed
        decided.note(self._record)

    async def _connect(self, head: RequestHead) -> None:
        services = self._services
        head.body()  # CONNECT with a body is an error
        self._check_loop(head)
        question = self._question(head)
        verdict = await self._decide(question)
        services.asking.repeat(question, head, verdict)
        record = self._record
        record.stage, since = CONNECT, time.monotonic()
        origin, verdict = await self._asking.dial(question, verdict, self._connection.resumed)
        record.dial += microseconds(time.monotonic() - since)
        record.status, record.stage, record.rates = 200, DATA, verdict.said.rates
        try:
            hand_over(
                services, self._stream, origin, self._established, self._record, verdict.check
            )
        finally:
            origin.close()

    def _question(self, head: RequestHead) -> Question:
        """For a CONNECT."""
        return Question(self._connection.standing, head, head.host, head.port, self._record)

    async def _forward(self, head: RequestHead, host: str, port: int, *, own: bool = False) -> bool:
        connection = self._connection
        self._check_loop(head)
        left = forwards_left(head)
        if left == 0:
            return await self._answer_here(head)
        question = Question(connection.standing, head, host, port, self._record, own)
        verdict = await self._decide(question)
        if left:
            head = one_less_forward(head, left)
        self.plain = self._services.asking.repeat(question, head, verdict)
        resumed = connection.resumed
        self._exchange = Exchange(
            self._services,
            self._stream,
            head,
            question,
            verdict,
            connection.abort,
            connection.bound,
            self._asking,
            resumed if resumed is not None and resumed.sent else None,
        )
        connection.resumed = None  # its connection is the exchange's from here on
        return await self._exchange.run()

    async def _decide(self, question: Question) -> Verdict:
        """Asks the policy, unless the lane has; a client that leaves meanwhile is noticed."""
        self._asking = self._services.asking  # what is asked later about it is asked there, too
        self._watch()
        resumed = self._connection.resumed
        decided = resumed.decided if resumed is not None else None
        if decided is not None and decided.holds(self._asking.generation):
            verdict = decided.note(question.record)
        else:
            record, since = question.record, time.monotonic()
            try:
                verdict = await self._asking.answer(question)
            finally:
                record.question = microseconds(time.monotonic() - since - record.looked_up)
        self._record.decision = self._services.counts.allowed[self._record.allowed_by]
        if verdict.said is not YES:
            self._record.rates = verdict.said.rates
        limiting = self._services.limiting
        if limiting is not None and limiting.lending is not None:
            count = partial(self._count, limiting, question, verdict)
            verdict = await limiting.lending.settle(count)
        elif limiting is not None:
            verdict = self._count(limiting, question, verdict)
        if self._record.rates[1] and self._unwatch is None:
            tcp.pace(self._stream.sock, self._record.rates[1])
        return verdict

    def _count(self, limiting: Limiting, question: Question, verdict: Verdict) -> Verdict:
        """Counts the request for limits, unless the lane or another process has. Denied."""
        connection, record = self._connection, self._record
        if connection.holding is None:
            connection.holding = limiting.holding({})
        resumed = connection.resumed
        counted = resumed is not None and (resumed.metered or resumed.sent)
        count = limiting.go_on if counted else limiting.count
        address = verdict.addresses[0] if verdict.addresses else ""
        method = question.head.method
        count(record, method, address, connection.holding, verdict.said.limits)
        record.holding = connection.holding
        connection.holding.counted = resumed.accounted if resumed is not None else 0
        if limiting.pacing is not None:
            known = self._stream, connection.holding, record.rates
            self._unwatch = limiting.pacing.request(*known)
        return verdict._replace(repeat_for=min(verdict.repeat_for, limiting.limits.repeat_for))

    def _count_no_more(self) -> None:
        """The request is over, or a tunnel by now, which holds what it counts for."""
        connection, record = self._connection, self._record
        if record.rates[1] and self._stream.fd >= 0:
            tcp.pace(self._stream.sock, 0)
        holding = connection.holding
        if holding is None:
            return
        if self._unwatch is not None:  # whatever limits are in force by now
            self._unwatch()
        if record.holding is None:
            holding.request_over()
        elif self._stream.detached:
            connection.holding = None
        else:
            record.holding = None
            holding.account(record.bytes_in + record.bytes_out)
            holding.request_over()

    def _watch(self) -> None:
        """From here on a client that leaves is noticed."""
        self._stream.watch(self._connection.client_gone)

    def _check_loop(self, head: RequestHead) -> None:
        via = self._services.rewriting.via
        if via and has_passed(head, via):
            raise Failure(
                "proxy_loop_detected",
                "the Via field says that the request has passed this proxy before",
            )

    async def _answer_here(self, head: RequestHead) -> bool:
        """TRACE or OPTIONS that goes no further."""
        await self._services.asking.admit(self._connection.standing, head, self._record)
        return await self._connection.answers.here(head, self._record)

    async def _serve_file(self, head: RequestHead, site: Site) -> bool:
        await self._services.asking.admit(self._connection.standing, head, self._record)
        return await self._connection.answers.file(head, self._record, site)

    def _body_is_coming(self, head: RequestHead) -> bool:
        """Whether not all of the request's body has been read."""
        if self._exchange is not None:
            return not self._exchange.uploaded
        return head.body()[0] != Body.NONE

    # ---- when it goes wrong ------------------------------------------------------------

    def _why_cancelled(self, fault: asyncio.CancelledError) -> Exception:
        """What is to be answered. Without a cause either the worker ends, and ``fault`` goes on,
        or a function of --policy has cancelled the task that it was called in."""
        if self._connection.cause is not None:
            return self._connection.cause
        if self._services.draining:
            raise fault
        return RuntimeError("the policy function has cancelled the request")

    async def _fail(self, error: Exception) -> bool:
        """Answers a fault, or cuts the answer short that has begun; returns whether the
        connection goes on. Only the client's own socket can say that the client has left."""
        record, stream = self._record, self._stream
        keep = self._connection.cause is None
        if isinstance(error, PeerGone) and error.stream is stream:
            error = ClientGone()
        elif not isinstance(error, (Failure, HeadError, ClientGone, SourceFailed)):
            own_faults.tell(self._services.faults, self._connection.address, error)
            error, keep = internal(error), False
        if stream.sent != stream.message_start:
            self._cut(error)
            return False
        if isinstance(error, (Failure, HeadError)):
            answers, page = self._connection.answers, self._page_of(error)
            keep = await answers.error(error, self._head, record, keep=keep, page=page)
            if not keep:
                self.close = stream.close_gently
            return keep
        assert isinstance(error, (ClientGone, SourceFailed))
        faults.note_gone(record, error)
        return False

    def _page_of(self, error: Failure | HeadError) -> Page | None:
        """The answer to a fault, where it is not the page that says what was wrong."""
        return self._page

    def _cut(self, error: Exception) -> None:
        """An answer has begun and will not be whole: the client must see that."""
        exchange = self._exchange
        faults.note_cut(self._record, error)
        gone = isinstance(error, ClientGone) and not isinstance(error, Killed)
        if exchange is not None and exchange.cut_by_reset and not gone:
            self.close = self._stream.reset_after_sent
