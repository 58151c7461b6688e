"""The user's policy functions: called under a deadline, closed when they fail.

``authorize(request) -> Allow | Deny`` and ``on_close(record)`` may each be a coroutine
function or a plain one. They run on the event loop of a worker. A plain function that blocks
holds up every connection, and so does a coroutine between two awaits. No deadline can end
that, so a message says how long it took.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Collection, Coroutine
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any, NamedTuple

from spliceproxy.config import DIRECT
from spliceproxy.errors import Failure
from spliceproxy.messages import log
from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.functions import Functions, wants_addresses
from spliceproxy.policy.request import Request
from spliceproxy.policy.steps import SOON, Late
from spliceproxy.policy.tasks import Outcome, Tasks
from spliceproxy.relay import columns
from spliceproxy.seldom import Seldom

CACHED = 4096
"""Answers kept, where they may be used again."""

LOGGED = 32
"""Different faults that are logged with their traceback; the others are only counted."""

CLOSING = 1024
"""Calls of an asynchronous ``on_close`` that may run at once. Further ones are dropped, and
counted."""

HELD = 0.2
"""Seconds for which a function may hold the event loop before a message says so: clients would
notice them."""

END = 2.0
"""Seconds that a worker waits for calls of ``on_close`` when it ends. The access log is closed
afterwards."""

LAST = SOON + 0.5
"""Seconds that it then waits for the calls that it has cancelled. Before Python 3.11 a call that
swallows its cancellation goes on until its own time is over."""

_DECISIONS = (Allow, Deny)

_Key = tuple[str, str, str, str, int, tuple[str, ...] | None]


def _failure(what: str) -> Failure:
    return Failure("proxy_internal_error", what, why=what)


class Answer(NamedTuple):
    """An answer of the function and the seconds for which it may be used again."""

    decision: Allow | Deny
    repeat_for: float


_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__


class Hook:
    """Calls the functions. ``timeout`` in seconds; ``cache``: seconds that an answer is used
    again for the same client, user, method, host, port and addresses, 0 for never. ``limits`` are
    the ids of those that an answer may name, and ``parents`` the names likewise."""

    def __init__(
        self,
        functions: Functions,
        timeout: float,
        cache: float = 0.0,
        row: memoryview | None = None,
        limits: Collection[str] = (),
        parents: Collection[str] = (),
    ) -> None:
        self._limits = limits
        self._parents = parents
        self._functions = functions
        self._timeout = timeout
        self._authorize: Any = functions.authorize
        self._ttl = cache
        self.caches = cache > 0.0
        self._answers: dict[_Key, tuple[Allow | Deny, float]] = {}
        self._closing: set[asyncio.Task[Outcome]] = set()
        self._resting: set[asyncio.Future[None]] = set()  # calls that go on after their time
        self._tasks = Tasks(timeout, self._leave)
        self._logged: set[tuple[str, str]] = set()
        self._holding = Seldom(log)
        self.wants_addresses = wants_addresses(functions.authorize)
        self._row = columns.private() if row is None else row

    @property
    def failures(self) -> int:
        """Calls that raised, were late, or answered something else."""
        return self._row[columns.FUNCTION_FAILURES]

    @property
    def dropped(self) -> int:
        """Calls of ``on_close`` that were not made."""
        return self._row[columns.CLOSINGS_DROPPED]

    @property
    def decides(self) -> bool:
        """Whether there is an ``authorize``."""
        return self._functions.authorize is not None

    @property
    def watches(self) -> bool:
        """Whether there is an ``on_close``."""
        return self._functions.on_close is not None

    async def ask(self, request: Request) -> Answer:
        """As :meth:`begin`, and waited for."""
        found = self.begin(request)
        return found if isinstance(found, Answer) else await found

    def begin(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """What the function says; where it waits, a coroutine that goes on from there. Failure
        where it fails: nothing is allowed then."""
        if self.caches:
            return self._begin_cached(request)
        decision = self.call(request)
        if isinstance(decision, _DECISIONS):
            return _new(Answer, (decision, 0.0))
        return self._when_decided(decision)

    def _begin_cached(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        key = (
            request.client,
            request.user,
            request.method,
            request.host,
            request.port,
            request.addresses,
        )
        now = time.monotonic()
        known = self._answers.get(key)
        if known is not None and known[1] > now:
            return Answer(known[0], known[1] - now)
        decision = self.call(request)
        if isinstance(decision, _DECISIONS):
            return self._keep_answer(key, decision)
        return self._when_decided(decision, key)

    async def _when_decided(
        self, decision: Awaitable[Allow | Deny], key: _Key | None = None
    ) -> Answer:
        decided = await decision
        return Answer(decided, 0.0) if key is None else self._keep_answer(key, decided)

    def _keep_answer(self, key: _Key, decision: Allow | Deny) -> Answer:
        self._answers.pop(key, None)  # one that is stored again goes to the end
        if len(self._answers) >= CACHED:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = decision, time.monotonic() + self._ttl
        return Answer(decision, self._ttl)

    def call(self, request: Request) -> Allow | Deny | Coroutine[Any, Any, Allow | Deny]:
        """As :meth:`begin`, and no answer is kept. There is a function."""
        authorize = self._authorize
        before = time.perf_counter()
        try:
            context = copy_context()  # what one call sets is not for others
            try:
                answer: object = context.run(authorize, request)
            except (asyncio.CancelledError, GeneratorExit) as error:
                # Nobody but the function can have raised it.
                raise RuntimeError(f"authorize raised {type(error).__name__}") from error
            finally:
                seconds = time.perf_counter() - before
                if seconds > HELD:
                    self._held("authorize", seconds)
            if isinstance(answer, _DECISIONS):
                return answer
            if type(answer) is CoroutineType or isinstance(answer, Awaitable):
                over, answer = self._tasks.begin(answer, self._held_by_authorize, context)
                if not over:
                    return self._when_answered(answer)
            return _checked(answer)
        except BaseException as error:  # SystemExit, too: one request is not the worker
            raise self._fault(error) from error

    async def _when_answered(self, answer: Any) -> Allow | Deny:
        try:
            return _checked(await answer)
        except (asyncio.CancelledError, GeneratorExit):  # the client has gone
            raise
        except Late as late:
            raise self._fault(late) from None
        except BaseException as error:
            raise self._fault(error) from error

    def _fault(self, error: BaseException) -> BaseException:
        """What is to be raised for what the function has raised."""
        if _is_from_the_keyboard(error):
            return error
        if isinstance(error, Late):
            self._failed("authorize", None)
            return _failure("the policy function took too long")
        self._failed("authorize", error)
        return _failure("the policy function failed")

    def check(self, said: Allow) -> None:
        """What ``authorize`` has named must be there; else it has failed."""
        for one in said.limits:
            if one not in self._limits:
                there = ", ".join(self._limits) or "none: the settings have no [[limit]]"
                raise self._fault(ValueError(f"Allow: no limit {one!r}; allowed: {there}"))
        if said.parent not in ("", DIRECT, *self._parents):
            there = ", ".join([*self._parents, DIRECT])
            raise self._fault(ValueError(f"Allow: no parent {said.parent!r}; allowed: {there}"))

    def closed(self, record: Any) -> None:
        """Tells ``on_close`` that a request or tunnel is over."""
        on_close = self._functions.on_close
        if on_close is None:
            return
        before = time.perf_counter()
        context = copy_context()
        try:
            result = context.run(on_close, record)
        except BaseException as error:
            if _is_from_the_keyboard(error):
                raise
            self._failed("on_close", error)
            return
        finally:
            seconds = time.perf_counter() - before
            if seconds > HELD:
                self._held("on_close", seconds)
        if result is not None and isinstance(result, Awaitable):
            self._go_on(result, context)

    def _go_on(self, result: Awaitable[Any], context: Context) -> None:
        """A call of ``on_close`` may wait."""
        if len(self._closing) >= CLOSING:
            self._row[columns.CLOSINGS_DROPPED] += 1
            if isinstance(result, Coroutine):
                result.close()
            return
        try:
            task = self._tasks.run(result, self._held_by_on_close, context)
        except BaseException as error:
            if _is_from_the_keyboard(error):
                raise
            self._failed("on_close", error)
            return
        if task is not None:
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[Outcome]) -> None:
        """A call of ``on_close`` that has waited is over."""
        self._closing.discard(task)
        error = None if task.cancelled() else task.result()[1]
        if error is None:
            return
        if _is_from_the_keyboard(error):
            raise error
        self._failed("on_close", None if isinstance(error, Late) else error)

    def _leave(self, rest: Coroutine[Any, Any, None]) -> None:
        """Lets a call that is over for us come to its end."""
        _keep(self._rest(rest), self._resting)

    async def _rest(self, rest: Coroutine[Any, Any, None]) -> None:
        try:
            await rest
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or _is_from_the_keyboard(error):
                raise
            self._failed("call after its time", error)

    def _held_by_authorize(self, seconds: float) -> None:
        if seconds > HELD:
            self._held("authorize", seconds)

    def _held_by_on_close(self, seconds: float) -> None:
        if seconds > HELD:
            self._held("on_close", seconds)

    def _held(self, function: str, seconds: float) -> None:
        """Tells that nothing else could run."""
        self._holding.say(
            function,
            logging.WARNING,
            "the policy function %s held the event loop for %.1f s, and no connection of this "
            "worker was served meanwhile; a function that waits must be asynchronous",
            function,
            seconds,
        )

    def _failed(self, function: str, error: BaseException | None) -> None:
        """Counts a fault; logs the first of its kind. None: it was late."""
        self._row[columns.FUNCTION_FAILURES] += 1
        place = ""
        trace = error.__traceback__ if error is not None else None
        while trace is not None:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        kind = (f"{function} {type(error).__name__}", place)
        if kind in self._logged or len(self._logged) >= LOGGED:
            return
        self._logged.add(kind)
        if error is None:
            log.error("the policy function %s took more than %g s", function, self._timeout)
        else:
            log.error("the policy function %s failed", function, exc_info=error)

    async def finish(self, *, tell: bool = True) -> None:
        """Gives the calls of ``on_close`` END seconds, ends all that goes on, and says how many
        calls have failed."""
        if self._closing:
            _, left = await asyncio.wait(self._closing, timeout=END)
            self._row[columns.CLOSINGS_DROPPED] += len(left)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=LAST)
        resting = self._resting | self._tasks.close()
        for rest in resting:
            rest.cancel()
        if resting:
            await asyncio.wait(resting, timeout=LAST)
        if tell and (self.failures or self.dropped):
            log.warning(
                "the policy functions: failures %d, calls of on_close left out %d",
                self.failures,
                self.dropped,
            )


def _keep(coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Future[None]]) -> None:
    """Starts it, and keeps its task while it runs."""
    task = asyncio.ensure_future(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _checked(answer: object) -> Allow | Deny:
    if not isinstance(answer, (Allow, Deny)):
        raise TypeError(f"authorize answered {answer!r}; allowed: Allow(...), Deny(...)")
    return answer


def _is_from_the_keyboard(error: BaseException) -> bool:
    """Whether it is a Ctrl-C that Python raised as an exception wherever it was. That happens in
    a program that does not handle SIGINT itself, never in the proxy's own processes."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
