"""Somebody else's coroutine, run in our task step by step and under a limit.

``await`` is not enough, for two reasons. A coroutine that swallows its cancellation, or that
awaits a task which does, would have no limit. And a coroutine that awaits something cancelled
would look as if our task were cancelled. So each step is made here. Between two steps we wait
for a future of our own, and the limit can end that wait whatever the coroutine waits for.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

Pending = asyncio.Future[Any] | None
"""What a coroutine waits for; None: for the next turn of the event loop."""


SOON = 1.0
"""Seconds that a coroutine has to end once its caller is cancelled."""


class Late(Exception):
    """The time is over."""


class Cancelled(Exception):
    """The coroutine has ended with a CancelledError, or a GeneratorExit, that was not the
    caller's."""


Held = Callable[[float], None]
"""Is told for how many seconds a step held the event loop."""

Leave = Callable[[Coroutine[Any, Any, None]], None]
"""Gets a coroutine that nobody waits for any more, to be run in a task of its own."""


async def in_time(awaitable: Awaitable[T], seconds: float, held: Held, leave: Leave) -> T:
    """What the awaitable answers within so many seconds; Late, Cancelled. It runs in the
    caller's task, so an answer without a wait costs no task.

    When the time is over, the coroutine is cancelled. If it goes on even so, ``leave`` gets a
    coroutine that runs the rest: for as many seconds again, and then it closes it
    (coroutine.close()). The same happens if the caller is cancelled and the coroutine does not
    end within SOON.
    """
    coroutine = as_coroutine(awaitable)
    if asyncio.current_task() is None:
        await _task(coroutine)
    over, found = first_step(coroutine, held)
    if over:
        return found  # type: ignore[no-any-return]
    return await rest_in_time(_Steps(coroutine, held), found, seconds, leave)  # type: ignore[no-any-return]


def as_coroutine(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    # Of a coroutine of Python's own that is clear without a look at its bases.
    if type(awaitable) is types.CoroutineType or isinstance(awaitable, Coroutine):
        return awaitable
    return _coroutine(awaitable)


def first_step(
    coroutine: Coroutine[Any, Any, Any], held: Held, context: Context | None = None
) -> tuple[bool, Any]:
    """Begins a coroutine, which needs nothing else if it does not wait. True and what it answers,
    or False and what it waits for. Cancelled; what it raises."""
    before = time.perf_counter()
    try:
        if context is None:
            return False, coroutine.send(None)
        return False, context.run(coroutine.send, None)
    except StopIteration as stop:
        return True, stop.value
    except (asyncio.CancelledError, GeneratorExit) as error:  # nobody but itself has raised it
        raise Cancelled("it has awaited something that was cancelled") from error
    finally:
        held(time.perf_counter() - before)


async def rest_in_time(
    steps: _Steps,
    awaited: Pending,
    seconds: float,
    leave: Leave,
    cancelled: asyncio.CancelledError | None = None,
) -> Any:
    """As :func:`in_time`, for a coroutine that waits already. ``cancelled``: so was the task, and
    the coroutine is yet to hear of it."""
    timer = steps.loop.call_later(seconds, steps.expire)
    try:
        try:
            answer = await steps.until_end(awaited, cancelled)
        finally:
            timer.cancel()
            steps.end()
    except (asyncio.CancelledError, GeneratorExit) as error:
        if steps.caller_ends(error):
            raise
        raise Cancelled("it has awaited something that was cancelled") from error
    except _Over as over:
        rest = steps.stop(over.awaited, seconds)
        if rest is not None:
            leave(rest)
        if steps.swallowed:
            raise asyncio.CancelledError from None
        raise Late from None
    if steps.swallowed:
        raise asyncio.CancelledError
    return answer


async def _task(coroutine: Coroutine[Any, Any, Any]) -> None:
    """What is awaited may need a task (asyncio.timeout() does). Who has asked us without one goes
    on with us within one, and this is the place where it can."""
    try:
        await asyncio.sleep(0)
    except BaseException:
        coroutine.close()  # it has not begun, and will not
        raise


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


class _Over(Exception):
    def __init__(self, awaited: Pending) -> None:
        super().__init__()
        self.awaited = awaited


class _Steps:
    """The steps behind the first. ``task`` is the one that they are made in, None for that of the
    moment; ``context`` is that of the coroutine, None for the task's."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        held: Held,
        task: asyncio.Task[Any] | None = None,
        context: Context | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._held = held
        self._task = task or asyncio.current_task()
        self._context = context
        self._waiter: asyncio.Future[None] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._expired = False
        self._resting = False  # nobody waits for it any more
        self._thrown = False  # a CancelledError has come from our task
        self._left = False  # nobody waits for us any more, either

    def caller_ends(self, error: BaseException) -> bool:
        """Whether a CancelledError at its end can be our task's; a GeneratorExit is the caller's
        if it has come from there, and the coroutine is closed."""
        if isinstance(error, GeneratorExit):
            self._coroutine.close()
            return self._left
        return self._thrown and self._cancelling() != 0

    @property
    def swallowed(self) -> bool:
        """Whether our task is cancelled for certain. asyncio.timeout() within the coroutine
        cancels it, too, and takes that back."""
        return self._thrown and self._cancelling() > 0

    def _cancelling(self) -> int:
        """How many cancellations of the task have not been taken back; -1: not known."""
        count = getattr(self._task, "cancelling", None)  # Python 3.11
        return -1 if count is None else int(count())

    def expire(self) -> None:
        """The time is over."""
        self._expired = True
        self._wake()

    def end(self) -> None:
        """Nothing of it goes on in this task."""
        if self._soon is not None:
            self._soon.cancel()

    def _interrupt(self) -> None:
        """A CancelledError has come from our task, or from the one that runs the rest."""
        if self._resting:
            self._expired = True
            return
        self._thrown = True
        if self._soon is None:
            self._soon = self.loop.call_later(SOON, self._insist)

    def _insist(self) -> None:
        self._soon = None
        if self.swallowed:
            self.expire()

    def step(self, error: BaseException | None) -> Pending:
        """Lets the coroutine run until it waits. StopIteration at its end."""
        call: Callable[[Any], Any] = self._coroutine.send
        if error is not None:
            call = self._coroutine.throw
        before = time.perf_counter()
        try:
            if self._context is None:
                return call(error)  # type: ignore[no-any-return]
            return self._context.run(call, error)  # type: ignore[no-any-return]
        finally:
            self._held(time.perf_counter() - before)

    @types.coroutine
    def until_end(
        self, awaited: Pending, cancelled: asyncio.CancelledError | None = None
    ) -> Generator[Any, None, Any]:
        """Steps from where it waits for ``awaited``; _Over. ``cancelled`` as in
        :func:`rest_in_time`."""
        while True:
            error = yield from self._wait(awaited, cancelled)
            cancelled = None
            if self._expired:
                raise _Over(awaited)
            try:
                awaited = self.step(error)
            except StopIteration as stop:
                return stop.value

    def _wait(
        self, awaited: Pending, cancelled: asyncio.CancelledError | None
    ) -> Generator[Any, None, BaseException | None]:
        """Waits as a task does; returns what is to be thrown into the coroutine."""
        if cancelled is not None:
            self._interrupt()
            if not asyncio.isfuture(awaited) or not awaited.cancel(*cancelled.args[:1]):
                return cancelled
        if awaited is None:
            return (yield from self._turn())
        if not asyncio.isfuture(awaited):
            return RuntimeError(f"a coroutine for asyncio cannot wait for {awaited!r}")
        awaited._asyncio_future_blocking = False  # what a task does with the mark of "await"
        while not awaited.done() and not self._expired:
            self._waiter = self.loop.create_future()
            awaited.add_done_callback(self._wake)
            try:
                yield from self._waiter
            except asyncio.CancelledError as error:
                self._interrupt()
                # With its words, by which anyio (and so httpx) knows its own cancellation.
                if not awaited.cancel(*error.args[:1]):
                    return error
            except GeneratorExit:
                self._left = True
                raise
            finally:
                awaited.remove_done_callback(self._wake)
        return None

    def _turn(self) -> Generator[Any, None, asyncio.CancelledError | None]:
        """Waits for the next turn of the event loop."""
        try:
            yield
        except asyncio.CancelledError as error:
            self._interrupt()
            return error
        except GeneratorExit:
            self._left = True
            raise
        return None

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- when the time is over ---------------------------------------------------------

    def stop(self, awaited: Pending, seconds: float) -> Coroutine[Any, Any, None] | None:
        """Cancels it; returns what finishes it, None if it has ended. What it raises is
        raised, but for a CancelledError."""
        error: BaseException | None = None
        if awaited is None or awaited.done() or not awaited.cancel():
            error = asyncio.CancelledError()
        elif not awaited.done():  # a task that has something to do before
            return self._rest(awaited, seconds)
        try:
            awaited = self.step(error)
        except (StopIteration, asyncio.CancelledError):
            return None
        return self._rest(awaited, seconds)

    async def _rest(self, awaited: Pending, seconds: float) -> None:
        self._expired, self._resting = False, True
        timer = self.loop.call_later(seconds, self.expire)
        try:
            await self.until_end(awaited)
        except (_Over, asyncio.CancelledError):
            self._coroutine.close()  # RuntimeError if it goes on even so
        finally:
            timer.cancel()
