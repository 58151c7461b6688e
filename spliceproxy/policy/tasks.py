"""In which task somebody else's coroutine runs.

Who awaits may need a task: asyncio.timeout() does, and so does every library that builds on it.
Decisions are asked for in tasks, and between two of them. Most coroutines end without having
waited, and a task for each would cost more than they do. So one task is kept ready. A coroutine is
begun as if that task were running. If it waits, that task runs the rest, and another one is made
ready. The standard library has the means for it ("Extending", asyncio-extending).

A coroutine may keep its task, and cancel it later. So a task that is kept runs no other coroutine:
it ends, as any task does whose coroutine has ended.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any
from weakref import getweakrefcount

from spliceproxy.policy.steps import (
    Cancelled,
    Held,
    Leave,
    Pending,
    _Steps,
    as_coroutine,
    first_step,
    in_time,
    rest_in_time,
)

Outcome = tuple[Any, BaseException | None]
"""What a coroutine answers, or what it raises."""


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> Outcome:
    """SystemExit at the end of a task would end the event loop, too."""
    try:
        return await coroutine, None
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it is the outcome
        return None, error


class _Spare:
    """A task that waits for a coroutine whose rest it is to run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._given: asyncio.Future[None] = loop.create_future()
        self._rest: tuple[_Steps, Pending, float, Leave] | None = None
        self._waits = False
        self._unkept: tuple[object, ...] | None = None
        self.task: asyncio.Task[Outcome] = loop.create_task(self._run())

    @property
    def ready(self) -> bool:
        """Not before its first turn: a task that is cancelled before has run nothing."""
        return self._waits and not self._given.done()

    @property
    def is_over(self) -> bool:
        """Whether it will not be ready any more."""
        return self._given.done()

    def begin(
        self, coroutine: Coroutine[Any, Any, Any], held: Held, context: Context | None = None
    ) -> tuple[bool, Any]:
        """As :func:`first_step`; with what it waits for as the rest's first argument. Where it
        has ended, and somebody has kept the task, the task ends, too."""
        # What it sets is not seen by the coroutine that comes next.
        if context is None:
            context = copy_context()
        if self._unkept is None:
            self._unkept = self._holders()
        over = True
        running = asyncio.current_task(self.loop)
        if running is not None:
            _leave_task(self.loop, running)
        _enter_task(self.loop, self.task)
        try:
            over, found = first_step(coroutine, held, context)
        finally:
            _leave_task(self.loop, self.task)
            if running is not None:
                _enter_task(self.loop, running)
            if over and self._holders() != self._unkept and not self._given.done():
                self._given.set_result(None)
        if over:
            return True, found
        return False, (_Steps(coroutine, held, self.task, context), found)

    def _holders(self) -> tuple[object, ...]:
        """Another value than before where somebody has kept the task, or changed it."""
        task = self.task
        return sys.getrefcount(task), getweakrefcount(task), task._callbacks, task.get_name()

    def go_on(self, steps: _Steps, awaited: Pending, seconds: float, leave: Leave) -> None:
        """The task runs the rest."""
        self._rest = steps, awaited, seconds, leave
        if not self._given.done():  # the coroutine may have cancelled its task
            self._given.set_result(None)

    async def _run(self) -> Outcome:
        self._waits = True
        cancelled = None
        try:
            await self._given
        except asyncio.CancelledError as error:
            cancelled = error
        if self._rest is None:
            if cancelled is not None:
                raise cancelled
            return None, None
        return await _outcome(rest_in_time(*self._rest, cancelled))


class Tasks:
    """Of one hook. ``seconds`` is the limit of each call; ``leave`` as for :func:`in_time`."""

    def __init__(self, seconds: float, leave: Leave) -> None:
        self._seconds = seconds
        self._leave = leave
        self._spare: _Spare | None = None
        self._running: set[asyncio.Task[Outcome]] = set()

    def begin(
        self, awaitable: Awaitable[Any], held: Held, context: Context | None = None
    ) -> tuple[bool, Any]:
        """True and what it answers; False and, where it waits, a coroutine for the rest, which
        answers or raises as :func:`in_time` does. That is to be awaited, or closed. Cancelled;
        what it raises at once."""
        coroutine = as_coroutine(awaitable)
        if asyncio.current_task() is not None:
            over, found = first_step(coroutine, held, context)
            if over:
                return True, found
            steps = _Steps(coroutine, held, context=context)
            return False, rest_in_time(steps, found, self._seconds, self._leave)
        spare = self._ready()
        if spare is None:
            return False, in_time(coroutine, self._seconds, held, self._leave)
        over, found = spare.begin(coroutine, held, context)
        if over:
            return True, found
        return False, self._follow(self._go_on(spare, *found))

    def run(
        self, awaitable: Awaitable[Any], held: Held, context: Context | None = None
    ) -> asyncio.Task[Outcome] | None:
        """Runs it apart from the task of the moment. None if it has ended, else the task that it
        goes on in. What it raises at once."""
        spare = self._ready()
        if spare is None:
            whole = in_time(awaitable, self._seconds, held, self._leave)
            return asyncio.ensure_future(_outcome(whole))
        over, found = spare.begin(as_coroutine(awaitable), held, context)
        return None if over else self._go_on(spare, *found)

    def close(self) -> set[asyncio.Task[Outcome]]:
        """The tasks that are left, which the caller cancels."""
        spare, self._spare = self._spare, None
        return self._running | ({spare.task} if spare is not None else set())

    def _ready(self) -> _Spare | None:
        """None if there is no task yet; the next caller may find one."""
        loop = asyncio.get_running_loop()
        spare = self._spare
        if spare is not None and spare.ready:
            return spare
        if spare is None or spare.loop is not loop or spare.is_over:
            self._spare = _Spare(loop)
        return None

    def _go_on(self, spare: _Spare, steps: _Steps, awaited: Pending) -> asyncio.Task[Outcome]:
        spare.go_on(steps, awaited, self._seconds, self._leave)
        self._spare = _Spare(spare.loop)
        task = spare.task
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _follow(self, task: asyncio.Task[Outcome]) -> Any:
        """What a task answers. Who is cancelled here does not wait for its end."""
        if not task.done():
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            task.add_done_callback(partial(_wake, over))
            try:
                await over
            except BaseException:  # of our caller
                task.cancel()
                raise
        if task.cancelled():
            raise Cancelled("it has cancelled its own task")
        answer, error = task.result()
        if error is not None:
            raise error
        return answer


def _wake(over: asyncio.Future[None], _: object) -> None:
    if not over.done():
        over.set_result(None)
