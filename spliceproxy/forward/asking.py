"""What every way in asks: may this request go there, and if so, a connection to it.

Questions are plain values. Most have their answer at once, from a call of the policy,
without a coroutine. Where the policy waits (for a name, a password's hash, a
function of --policy) the answer is a :class:`Later`, which goes on from there.

Who asks watches the client, and cancels what it waits for when the client leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from spliceproxy.errors import Denied, Failure
from spliceproxy.forward.dialing import dial_late
from spliceproxy.forward.lane import Lane
from spliceproxy.forward.resumed import Resumed
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.refusals import STRANGER
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Verdict
from spliceproxy.upstream.origins import Origins

if TYPE_CHECKING:
    from spliceproxy.policy.learn import Learned
    from spliceproxy.upstream.parents import Parents


class Question(NamedTuple):
    """May a client's request go to this host and port? ``record`` is the request's, and learns
    what becomes known. ``own``: the operator has named the host as the default backend.
    ``address``: the host leads there and nowhere else, "" where names lead as ever."""

    client: Standing
    head: Head
    host: str
    port: int
    record: Record
    own: bool = False
    address: str = ""


Answer = Verdict | Exception
"""Where the request may go. Or why it goes nowhere: Denied (Unauthenticated is one), or another
Failure; any other exception is a fault of our own."""


class Names(Protocol):
    """What is asked about a name (``upstream.resolver.Resolver``)."""

    async def resolve(self, host: str) -> tuple[str, ...]: ...
    def late(self, host: str) -> asyncio.Future[None] | None: ...


class Later:
    """An answer that has to be waited for: to be awaited once, or closed. It is awaited in the
    task that has asked; if the asking was done outside of any task, in whichever."""

    __slots__ = ("_asking", "_awaited", "_decision", "_question")

    def __init__(
        self,
        asking: Asking,
        question: Question,
        decision: Coroutine[Any, Any, Verdict],
        awaited: asyncio.Future[Any] | None,
    ) -> None:
        """``decision`` has stopped at ``awaited``; None: until the next turn of the loop."""
        self._asking = asking
        self._question = question
        self._decision: Coroutine[Any, Any, Verdict] | None = decision
        self._awaited = awaited

    def __await__(self) -> Generator[Any, None, Answer]:
        decision, self._decision = self._decision, None
        if decision is None:
            raise RuntimeError("this answer has been awaited, or closed")
        awaited, self._awaited = self._awaited, None
        try:
            while True:
                try:
                    if awaited is None:
                        yield
                    else:
                        # What a task does with the mark of "await": others may have the same
                        # future. The decision takes its result by itself.
                        awaited._asyncio_future_blocking = False
                        yield from awaited
                except BaseException as error:  # noqa: BLE001 - it is the decision's
                    awaited = decision.throw(error)
                else:
                    awaited = decision.send(None)
        except StopIteration as end:
            return self._asking.allowed(self._question, end.value)
        except Exception as error:  # noqa: BLE001 - it is the answer
            return self._asking.refused(self._question, error)

    def close(self) -> None:
        """Nobody waits for it. Idempotent."""
        decision, self._decision = self._decision, None
        if decision is not None:
            decision.close()


class Asking:
    """Asks for all connections of one worker, by the configuration of one ``generation``.
    ``seconds`` is the limit for a connection to an origin, look-up included. ``learned`` and
    ``lane`` are None where there is none, and so are ``parents`` without routes by way of any."""

    __slots__ = (
        "_lane",
        "_learned",
        "_names",
        "_origins",
        "_policy",
        "_seconds",
        "generation",
        "parents",
    )

    def __init__(
        self,
        policy: Policy,
        learned: Learned | None,
        lane: Lane | None,
        names: Names,
        origins: Origins,
        seconds: float,
        generation: int = 1,
        parents: Parents | None = None,
    ) -> None:
        self.generation = generation
        self.parents = parents
        self._policy = policy
        self._learned = learned
        self._lane = lane
        self._names = names
        self._origins = origins
        self._seconds = seconds

    # ---- where a request may go --------------------------------------------------------

    async def answer(self, question: Question) -> Verdict:
        """The answer to one question, waited for; what is no verdict is raised."""
        client, head, host, port, record, own, address = question
        record.generation = self.generation
        if record.trace is not None:
            record.trace.asks()
        asked = client, head, host, port, record
        try:
            # As begin() and Later do by hand, who have no task of their own for it.
            if address:
                verdict = await self._policy.toward(*asked, address)
            else:
                verdict = await self._policy.decide(*asked, own=own)
        except Exception as error:
            self.refused(question, error)
            raise
        self.allowed(question, verdict)
        return verdict

    def begin(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        record: Record,
        own: bool = False,
    ) -> Answer | Later:
        """The answer to one question, or what has to be awaited or closed. Most need no value of
        their own for the question, so its parts come one by one."""
        trace = record.trace
        if trace is not None:
            trace.asks()
        try:
            decision = self._policy.decision(client, head, host, port, record, own)
            if type(decision) is Verdict and self._learned is None and trace is None:
                return decision  # for allowed() has nobody to tell
            question = Question(client, head, host, port, record, own)
            if isinstance(decision, Verdict):
                return self.allowed(question, decision)
            awaited = decision.send(None)
        except StopIteration as end:
            return self.allowed(question, end.value)
        except Exception as error:  # noqa: BLE001 - it is the answer
            return self.refused(Question(client, head, host, port, record, own), error)
        if awaited is not None:
            awaited._asyncio_future_blocking = False  # as in Later
        return Later(self, question, decision, awaited)

    def allowed(self, question: Question, verdict: Verdict) -> Answer:
        """The policy has said yes."""
        if question.record.trace is not None:
            parents = () if verdict.way is None else verdict.way.parents
            question.record.trace.allowed(verdict.addresses, parents)
        if self._learned is not None:
            self._learned.see(question.host, question.port, True)
        return verdict

    def refused(self, question: Question, error: Exception) -> Exception:
        """The policy has said no, or could not say. What a client that may not use the proxy
        asks for is not learned."""
        if isinstance(error, Failure):
            # A value, which is kept for a while. Its traceback would keep the frames of whoever
            # asks, and these the value: a cycle for each request that is refused.
            error.with_traceback(None)
            error.__cause__ = error.__context__ = None
        if question.record.trace is not None:
            question.record.trace.refused(error)
        if self._learned is not None and isinstance(error, Denied) and error.rule != STRANGER:
            self._learned.see(question.host, question.port, False)
        return error

    @property
    def takes_passwords(self) -> bool:
        """Whether there are users with passwords."""
        return self._policy.takes_passwords

    async def identify(self, client: Standing, head: Head, record: Record) -> None:
        """Whether a client may be who it says, before it says where it wants to go. Raises as
        :meth:`answer` does."""
        record.generation = self.generation
        trace = record.trace
        if trace is not None:
            trace.asks()
        try:
            await self._policy.identify(client, head)
        except Exception as error:
            if trace is not None:
                trace.refused(error)
            raise

    async def admit(self, client: Standing, head: Head, record: Record) -> None:
        """Whether a request that the proxy itself answers may be answered. Raises as
        :meth:`answer` does."""
        record.generation = self.generation
        trace = record.trace
        if trace is None:
            await self._policy.admit(client, head, record)
            return
        trace.asks()
        try:
            await self._policy.admit(client, head, record)
        except Exception as error:
            trace.refused(error)
            raise
        trace.allowed(())

    def repeat(self, question: Question, head: RequestHead, verdict: Verdict) -> bool:
        """Lets the lane give this answer by itself for as long as it holds; whether it can.
        ``head`` is the question's, as HTTP/1.1 has it. An answer of another configuration is never
        given again."""
        lane = self._lane
        if question.record.generation != self.generation or question.address or lane is None:
            return False
        by = None
        if verdict.way is not None:
            if self.parents is None or head.method != "CONNECT":
                return False
            by = self.parents.in_lane(verdict, once=False)
            if by is None:
                return False
        return lane.allow(question.client, head, verdict, question.record, by)

    async def leads(self, host: str, address: str, record: Record) -> bool:
        """Whether a name leads to this address."""
        since = time.monotonic()
        try:
            found = await self._names.resolve(host)
            late = self._names.late(host)
            if address not in found and late is not None:
                await asyncio.wait({late})
                found = await self._names.resolve(host)
            return address in found
        except Failure:
            return False
        finally:
            record.looked_up += time.monotonic() - since

    # ---- a connection to it ------------------------------------------------------------

    async def dial(
        self, question: Question, verdict: Verdict, resumed: Resumed | None = None
    ) -> tuple[Stream, Verdict]:
        """A new connection, and the verdict that allows it: where the other family of the name's
        addresses comes meanwhile, the policy is asked again, with all that is known then.
        ``resumed`` is what the lane has done of a CONNECT. Raises as :meth:`Origins.dial` and
        :meth:`answer` do."""
        record = question.record
        if verdict.way is not None and self.parents is not None:
            straight = partial(self._straight, question, verdict.source_address)
            begun = resumed if resumed is not None and resumed.hop else None
            if begun is not None and begun.generation != self.generation:
                begun = None  # the parent of this name may be another by now
            return await self.parents.dial(question.head, verdict, record, straight, begun)
        # What is known without waiting has come from a look-up that was over.
        looked_up = record.looked_up and not question.address
        late = self._names.late(verdict.host) if looked_up else None
        if late is None:
            return await self._origins.dial(verdict, record), verdict
        again = partial(self.answer, question)
        return await dial_late(self._origins, verdict, record, late, self._seconds, again)

    async def _straight(self, question: Question, source: str) -> tuple[Stream, Verdict]:
        """A connection where no parent can be reached, and the request may go without one, from the
        same address."""
        client, head, host, port, record, _, address = question
        verdict = await self._policy.straight(client, head, host, port, record, address)
        verdict = verdict._replace(source_address=source)
        return await self._origins.dial(verdict, record), verdict
