"""Coroutines of others: begun at once, and in a task of their own where they wait."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from spliceproxy.errors import Failure
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.hook import Answer, Hook

ASK = Request(client="10.0.0.7", host="a.test")
NEVER = 3600.0
SEEN: ContextVar[int] = ContextVar("SEEN", default=0)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_coroutine_is_forgotten(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def outside(call: Callable[[], Any]) -> Any:
    """What it returns where no task is running, as in a step of the relay."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def turn() -> None:
        assert asyncio.current_task() is None
        try:
            done.set_result(call())
        except (Failure, RuntimeError) as error:
            done.set_exception(error)
        assert asyncio.current_task() is None

    loop.call_soon(turn)
    return await done


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - of what goes on there is nothing to wait for
        await asyncio.sleep(0.001)


async def ready(hook: Hook) -> None:
    """The hook has a task to begin in."""
    await (await outside(lambda: hook.begin(ASK)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def end(hook: Hook) -> None:
    await hook.finish()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_what_ends_at_once_costs_no_task(run: Any) -> None:
    tasks: list[int] = []

    async def authorize(request: Request) -> Allow | Deny:
        tasks.append(id(asyncio.current_task()))  # it keeps none
        return Deny("no") if request.port == 1 else Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await ready(hook)
        before = asyncio.all_tasks()
        tasks.clear()
        for _ in range(3):
            assert await outside(lambda: hook.begin(ASK)) == (Allow(), 0.0)
        assert await outside(lambda: hook.begin(ASK._replace(port=1))) == (Deny("no"), 0.0)
        assert asyncio.all_tasks() == before
        assert len(set(tasks)) == 1
        assert tasks[0] in map(id, before - {asyncio.current_task()})
        # Within a task it is that one's.
        assert await hook.ask(ASK) == (Allow(), 0.0)
        assert tasks[-1] == id(asyncio.current_task())
        await end(hook)

    run(main())


def cancel_later(task: asyncio.Task[Any], kept: list[Any]) -> None:
    kept.append(task.cancel)


def keep_weakly(task: asyncio.Task[Any], kept: list[Any]) -> None:
    known = weakref.ref(task)

    def cancel() -> None:
        task = known()
        if task is not None:
            task.cancel()

    kept.append(cancel)


def be_told(task: asyncio.Task[Any], kept: list[Any]) -> None:
    task.add_done_callback(kept.append)


def give_a_name(task: asyncio.Task[Any], kept: list[Any]) -> None:
    task.set_name("of the first")


@pytest.mark.parametrize("how", [cancel_later, keep_weakly, be_told, give_a_name])
def test_a_task_that_was_kept_is_nobody_elses(
    run: Any, how: Callable[[asyncio.Task[Any], list[Any]], None]
) -> None:
    """A call may keep its task, and cancel it when it has long ended: no other call hears of
    that."""
    kept: list[Any] = []
    tasks: list[tuple[int, str]] = []

    async def authorize(request: Request) -> Allow:
        task = asyncio.current_task()
        assert task is not None
        tasks.append((id(task), task.get_name()))
        if request.port == 1:
            how(task, kept)
        else:
            await asyncio.sleep(0)
            for cancel in kept:
                if callable(cancel):
                    cancel()
            await asyncio.sleep(0)
        return Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await ready(hook)
        tasks.clear()
        assert await outside(lambda: hook.begin(ASK._replace(port=1))) == (Allow(), 0.0)
        if how is be_told:  # as any task, it ends with its coroutine
            await asyncio.wait_for(until(lambda: bool(kept)), 20)
            assert kept[0].done()
            assert not kept[0].cancelled()
        found = await outside(lambda: hook.begin(ASK))
        assert await asyncio.wait_for(found, 20) == (Allow(), 0.0)
        assert tasks[0] != tasks[1]
        assert tasks[1][1] != "of the first"
        await end(hook)
        assert hook.failures == 0

    run(main())


def test_what_waits_goes_on_in_the_task_that_it_has_seen(run: Any) -> None:
    async def authorize(request: Request) -> Allow:
        began_in = asyncio.current_task()
        SEEN.set(request.port)
        await asyncio.sleep(0)
        await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0))
        assert asyncio.current_task() is began_in
        assert SEEN.get() == request.port
        if sys.version_info >= (3, 11):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(NEVER)
        return Allow(tags={"port": str(request.port)})

    async def main() -> None:
        hook = Hook(Functions(authorize), 20.0)
        await ready(hook)

        def ask() -> list[Any]:
            return [hook.begin(ASK._replace(port=port)) for port in (1, 2, 3)]

        answers = await asyncio.gather(*await outside(ask))
        assert [answer.decision.tags for answer in answers] == [{"port": n} for n in "123"]
        await end(hook)

    run(main())


def test_what_one_call_sets_the_next_does_not_see(run: Any) -> None:
    async def authorize(request: Request) -> Allow:
        seen = SEEN.get()
        SEEN.set(seen + 1)
        return Allow(tags={"seen": str(seen)})

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await ready(hook)
        before = SEEN.get()
        for _ in range(2):
            answer = await outside(lambda: hook.begin(ASK))
            assert answer.decision.tags == {"seen": str(before)}
        await end(hook)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_limit_of_its_own_that_is_over_at_once(run: Any, turns: int) -> None:
    """It cancels the task before that has heard of the coroutine."""

    async def authorize(request: Request) -> Allow | Deny:
        try:
            async with asyncio.timeout(0):
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.sleep(NEVER)
        except TimeoutError:
            await asyncio.sleep(0)
            return Deny("slow")
        return Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await ready(hook)
        answer = await outside(lambda: hook.begin(ASK))
        assert await asyncio.wait_for(answer, 20) == (Deny("slow"), 0.0)
        await end(hook)

    run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_a_function_that_cancels_its_task(run: Any, waits: bool) -> None:
    """The next one has another task."""

    async def authorize(request: Request) -> Allow:
        if request.port == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if waits:
                await asyncio.sleep(NEVER)
        return Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await ready(hook)
        found = await outside(lambda: hook.begin(ASK._replace(port=1)))
        if waits:
            with pytest.raises(Failure, match="failed"):
                await asyncio.wait_for(found, 20)
            assert hook.failures == 1
        else:
            assert found == (Allow(), 0.0)
        for _ in range(3):
            found = await outside(lambda: hook.begin(ASK))
            assert found == (Allow(), 0.0) or (await found) == (Allow(), 0.0)
        await end(hook)

    run(main())


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_who_asks_leaves(run: Any, how: str) -> None:
    """The function hears of it, and nobody waits for it."""
    ended: list[str] = []

    async def authorize(request: Request) -> Allow:
        try:
            await asyncio.sleep(NEVER)
        finally:
            ended.append("cancelled" if sys.exc_info()[0] is not None else "ended")
        return Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        waiting = await outside(lambda: hook.begin(ASK))
        waiting.send(None)
        waiting.close()  # the first has no task yet
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.clear()
        waiting = await outside(lambda: hook.begin(ASK))
        if how == "cancelled":
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            waiting.send(None)
            waiting.close()
        await until(lambda: bool(ended))
        assert ended == ["cancelled"]
        await end(hook)
        assert hook.failures == 0

    run(main())


def test_the_time_is_limited_in_that_task_too(run: Any) -> None:
    async def stuck(request: Request) -> Allow:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(NEVER)

    async def main() -> None:
        hook = Hook(Functions(stuck), 0.02)
        first = await outside(lambda: hook.begin(ASK))
        first.send(None)
        first.close()
        await asyncio.sleep(0)
        first, second = [await outside(lambda: hook.begin(ASK)) for _ in range(2)]
        for waiting in (second, first):
            with pytest.raises(Failure, match="too long"):
                await asyncio.wait_for(waiting, 20)
        assert hook.failures == 2
        await asyncio.wait_for(hook.finish(), 20)

    run(main())


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("waits", [False, True])
def test_faults(run: Any, error: BaseException, waits: bool, monkeypatch: Any) -> None:
    """Each is one failure, whichever task it is in, and the event loop goes on."""
    # As in the proxy's processes, which handle SIGINT themselves.
    monkeypatch.setattr("spliceproxy.policy.hook.signal.default_int_handler", None)

    async def fails(_: Any) -> Allow:
        if waits:
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        hook = Hook(Functions(fails, fails), NEVER)
        for calls in range(1, 4):
            with pytest.raises(Failure, match="failed"):
                await (await outside(lambda: hook.begin(ASK)))
            assert hook.failures == calls
        for calls in range(4, 7):
            await outside(lambda: hook.closed("record"))
            await until(lambda calls=calls: hook.failures == calls)
        await end(hook)
        assert hook.failures == 6

    run(main())


@pytest.mark.parametrize("within", [False, True])
def test_on_close_runs_apart(run: Any, within: bool) -> None:
    """In no task of the connection's, and in none at all where it ends at once."""
    seen: list[tuple[object, int]] = []

    async def on_close(record: object) -> None:
        seen.append((record, id(asyncio.current_task())))  # it keeps none
        if record == "waits":
            await asyncio.sleep(0)
            seen.append(("waited", id(asyncio.current_task())))

    async def main() -> None:
        hook = Hook(Functions(None, on_close), NEVER)

        async def close(record: str) -> None:
            if within:
                hook.closed(record)
            else:
                await outside(lambda: hook.closed(record))

        await close("first")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = asyncio.all_tasks()
        await close("at once")
        assert [record for record, _ in seen] == ["first", "at once"]
        assert asyncio.all_tasks() == before
        await close("waits")
        await until(lambda: len(seen) == 4)
        assert seen[2][1] == seen[3][1]
        assert id(asyncio.current_task()) not in [task for _, task in seen]
        await end(hook)
        assert hook.failures == 0

    run(main())


def test_an_answer_that_is_a_coroutine_is_none() -> None:
    """A function that forgets an await."""
    made: list[Coroutine[Any, Any, Allow]] = []

    async def authorize(request: Request) -> Any:
        made.append(asyncio.sleep(0, Allow()))
        return made[-1]

    async def main() -> None:
        hook = Hook(Functions(authorize), NEVER)
        await (await outside(lambda: hook.begin(ASK)))

    with pytest.raises(Failure, match="failed"):
        asyncio.run(main())
    made[0].close()


def test_an_answer_that_was_waited_for_is_kept() -> None:
    async def main() -> None:
        async def authorize(request: Request) -> Allow:
            await asyncio.sleep(0)
            return Allow()

        hook = Hook(Functions(authorize), NEVER, 5.0)
        found = hook.begin(ASK)
        assert not isinstance(found, Answer)
        assert await found == (Allow(), 5.0)
        again = hook.begin(ASK)
        assert isinstance(again, Answer)  # without a wait from here on
        await end(hook)

    asyncio.run(main())


def test_a_plain_function_has_a_context_of_its_own(run: Any) -> None:
    """Outside of a task all clients share the one that the relay is read in."""
    seen: list[int] = []

    def authorize(request: Request) -> Allow:
        seen.append(SEEN.get())
        SEEN.set(1)
        return Allow()

    def on_close(record: object) -> None:
        seen.append(SEEN.get())
        SEEN.set(2)

    async def main() -> None:
        hook = Hook(Functions(authorize, on_close), NEVER)

        def calls() -> None:
            for _ in range(2):
                hook.begin(ASK)
                hook.closed(None)

        await outside(calls)
        await end(hook)

    run(main())
    assert seen == [0] * 4


def test_a_limit_of_anyio_is_known_by_its_words(run: Any) -> None:
    """As are those of httpx: a cancellation says whose it is."""
    anyio = pytest.importorskip("anyio")

    async def authorize(request: Request) -> Allow | Deny:
        try:
            with anyio.fail_after(0.01):
                await anyio.sleep(NEVER)
        except TimeoutError:
            return Deny("late")
        return Allow()

    async def main() -> None:
        hook = Hook(Functions(authorize, None), NEVER)
        await ready(hook)
        answers = [await hook.ask(ASK), await (await outside(lambda: hook.begin(ASK)))]
        assert [answer.decision for answer in answers] == [Deny("late")] * 2
        await end(hook)

    run(main())
