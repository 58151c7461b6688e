"""The hook: how it is found, called, limited and remembered, and what happens when it fails."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.errors import Failure
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.functions import Functions, HookError, load
from spliceproxy.policy.hook import Hook
from spliceproxy.policy.steps import Cancelled, Late, in_time

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ASK = Request(client="10.0.0.7", host="a.test", addresses=("192.0.2.1",))
NEVER = 3600.0


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


def hook(authorize: Any, timeout: float = NEVER, cache: float = 0.0) -> Hook:
    return Hook(Functions(authorize), timeout, cache)


def test_values() -> None:
    allow = Allow("::ffff:192.0.2.1", ("0:0::1", "::FFFF:10.0.0.1"))
    assert (allow.source_address, allow.addresses) == ("192.0.2.1", ("::1", "10.0.0.1"))
    for status in (200, 399, 407, 600):
        with pytest.raises(ValueError, match="allowed: a whole number from 400 to 599"):
            Deny("no", status=status)
    for wrong in (403.5, "403", None, object()):
        with pytest.raises(
            TypeError, match=r"^Deny: status .*; allowed: a whole number from 400 to 599, not 407"
        ):
            Deny("no", status=wrong)  # type: ignore[arg-type]
    gone = Deny("no", status=HTTPStatus.GONE)
    assert (gone.status, f"{gone.status}", type(gone.status)) == (410, "410", int)
    for wrong in (object(), b"no", None, ("a", "b")):
        with pytest.raises(TypeError, match=r"^Deny: reason .*; allowed: a text"):
            Deny(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^Deny: rule .*; allowed: a text"):
            Deny("no", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Allow: tags"):
        Allow(tags=["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Allow: addresses '192.0.2.1'; allowed: a tuple"):
        Allow(addresses="192.0.2.1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Allow: 7; allowed: an IP address as text"):
        Allow(addresses=(7,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="addresses are empty; leave them out, or answer Deny"):
        Allow(addresses=())
    with pytest.raises(TypeError, match="Allow: None; allowed: an IP address as text"):
        Allow(None)  # type: ignore[arg-type]
    for zoned in (("fe80::1%eth0",), ()):
        with pytest.raises(ValueError, match="'fe80::1%eth0'; allowed: an IP address without a"):
            Allow("" if zoned else "fe80::1%eth0", zoned or None)
    with pytest.raises(ValueError, match="does not appear to be"):
        Allow(addresses=("example.com",))
    with pytest.raises(ValueError, match="does not appear to be"):
        Allow("eth0")
    ask = Request(fields=[(b"User-Agent", b"x"), (b"user-agent", b"y")])
    assert (ask.field("user-agent"), ask.field("accept")) == ("x", "")


def test_both_kinds_of_functions(run: Run) -> None:
    async def slow(request: Request) -> Allow:
        await asyncio.sleep(0.001)
        return Allow(tags={"a": request.host})

    async def main() -> None:
        answer = await hook(lambda _: Deny("no", "r", 451)).ask(ASK)
        assert answer == (Deny("no", "r", 451), 0.0)
        assert (await hook(slow).ask(ASK)).decision == Allow(tags={"a": "a.test"})

    run(main())


@pytest.mark.parametrize("answer", [None, True, "allow", Allow])
def test_another_answer_is_a_failure(run: Run, answer: Any) -> None:
    asked = hook(lambda _: answer)
    with pytest.raises(Failure, match="failed") as caught:
        run(asked.ask(ASK))
    assert (caught.value.error, caught.value.status) == ("proxy_internal_error", 500)
    assert asked.failures == 1


def test_exceptions_are_counted_and_logged_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def fails(request: Request) -> Allow:
        raise KeyError(request.host)

    async def main() -> None:
        asked = hook(fails)
        for n in range(5):
            with pytest.raises(Failure) as caught:
                await asked.ask(ASK._replace(host=f"{n}.test"))
            assert caught.value.detail == "the policy function failed"  # and says no more
        assert asked.failures == 5
        await asked.finish()

    run(main())
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert "failures 5" in caplog.text


def test_the_deadline(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    cancelled = []

    async def stuck(request: Request) -> Allow:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(1)
            if request.port == 1:
                return Allow()  # too late
            raise
        return Allow()

    async def main() -> None:
        asked = hook(stuck, 0.01)
        for port in (443, 1):
            with pytest.raises(Failure, match="too long"):
                await asked.ask(ASK._replace(port=port))
        await asyncio.sleep(0)  # this task is not cancelled any more
        assert asked.failures == 2

    run(main())
    assert cancelled == [1, 1]
    assert caplog.text.count("took more than") == 1


async def of_somebody(kind: str) -> None:
    """Waits for what somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    if kind == "future":
        future.cancel()
        await future
    elif kind == "soon":
        asyncio.get_running_loop().call_soon(future.cancel)
        await future
    elif kind == "task":
        task = asyncio.ensure_future(asyncio.sleep(NEVER))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
    elif kind == "gather":
        task = asyncio.ensure_future(asyncio.sleep(NEVER))
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.gather(task, asyncio.sleep(0))
    else:
        raise asyncio.CancelledError


@pytest.mark.parametrize("kind", ["future", "soon", "task", "gather", "raise"])
@pytest.mark.parametrize("before", [0, 2])
def test_what_others_have_cancelled_is_a_failure(run: Run, kind: str, before: int) -> None:
    """Not the end of the client's connection."""

    async def authorize(request: Request) -> Allow:
        for _ in range(before):
            await asyncio.sleep(0)
        await of_somebody(kind)
        return Allow()

    async def main() -> None:
        asked = hook(authorize)
        with pytest.raises(Failure, match="failed"):
            await asked.ask(ASK)
        await asyncio.sleep(0)  # nor is this task cancelled
        assert asked.failures == 1

    run(main())


def raise_it(error: BaseException) -> Callable[[Request], Allow]:
    def authorize(request: Request) -> Allow:
        raise error

    return authorize


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
def test_what_ends_programs_ends_one_request(
    run: Run, error: BaseException, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """Raised at once, after waiting, after the time, and in on_close."""
    # As in the proxy's processes, which handle SIGINT themselves.
    monkeypatch.setattr("spliceproxy.policy.hook.signal.default_int_handler", None)

    async def waits(request: Request) -> Allow:
        await asyncio.sleep(0.001)
        raise error

    async def late(request: Request) -> Allow:
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(0)
            raise error

    async def main() -> None:
        for authorize, seconds in ((raise_it(error), NEVER), (waits, NEVER), (late, 0.01)):
            asked = hook(authorize, seconds)
            with pytest.raises(Failure):
                await asked.ask(ASK)
            await asyncio.sleep(0.01)
            await asked.finish()
        for on_close in (raise_it(error), waits, late):
            asked = Hook(Functions(None, on_close), 0.01)
            asked.closed(ASK)
            await asyncio.sleep(0.01)
            await asked.finish()
            assert asked.failures

    run(main())
    assert "Task exception was never retrieved" not in caplog.text


def test_a_real_interrupt_ends_the_program(run: Run) -> None:
    """Where Python's own handler makes the exception, it has come from the keyboard."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
    try:
        asked = hook(raise_it(KeyboardInterrupt()))
        task = asked.ask(ASK)
        with pytest.raises(KeyboardInterrupt):
            task.send(None)
    finally:
        signal.signal(signal.SIGINT, before)


async def swallow() -> None:
    """Goes on whatever comes."""
    while True:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            continue


async def spin() -> None:
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


async def by_a_task() -> None:
    await asyncio.ensure_future(swallow())


async def by_gather() -> None:
    await asyncio.gather(swallow(), swallow())


async def by_wait_for() -> None:
    await asyncio.wait_for(swallow(), NEVER)


async def by_shield() -> None:
    while True:
        try:
            await asyncio.shield(asyncio.get_running_loop().create_future())
        except asyncio.CancelledError:
            continue


@pytest.mark.parametrize("stubborn", [swallow, spin, by_a_task, by_gather, by_wait_for, by_shield])
def test_nobody_has_more_than_the_time(
    run: Run, stubborn: Callable[[], Coroutine[Any, Any, None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither authorize nor on_close, whatever they do with their cancellation."""
    ended = []

    async def authorize(request: Request) -> Allow:
        try:
            await stubborn()
        finally:
            ended.append(1)
        return Allow()

    async def main() -> None:
        asked = hook(authorize, 0.05)
        for _ in range(2):
            with pytest.raises(Failure, match="too long"):
                await asyncio.wait_for(asked.ask(ASK), 20)
        await asyncio.wait(asked._resting)  # each of them is ended after as long again
        assert len(ended) == 2
        assert asked.failures == 2
        closing = Hook(Functions(None, authorize), 0.05)
        closing.closed(ASK)
        await asyncio.wait_for(closing.finish(), 20)
        assert len(ended) == 3
        assert closing.failures == 1
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # of its own, not ours
            task.get_coro().close()  # type: ignore[union-attr]

    run(main())
    assert caplog.text.count("took more than") == 2


def test_what_cleans_up_when_the_time_is_over_may_wait(run: Run) -> None:
    """The client has its answer meanwhile."""
    steps: list[str] = []

    async def authorize(request: Request) -> Allow:
        try:
            await asyncio.sleep(NEVER)
        finally:
            steps.append("begins")
            await asyncio.sleep(0.02)
            steps.append("ends")
        return Allow()

    async def main() -> None:
        asked = hook(authorize, 0.2)
        with pytest.raises(Failure, match="too long"):
            await asked.ask(ASK)
        assert steps == ["begins"]
        await asyncio.wait(asked._resting)
        assert steps == ["begins", "ends"]
        assert asked.failures == 1

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
def test_limits_of_its_own(run: Run) -> None:
    """They cancel the task that it runs in, and take that back."""

    async def authorize(request: Request) -> Allow | Deny:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(NEVER)
        except TimeoutError:
            await asyncio.sleep(0)
            return Deny("slow")
        return Allow()

    async def then_cancelled(request: Request) -> Allow:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(NEVER)
        await of_somebody("task")
        return Allow()

    async def main() -> None:
        assert (await hook(authorize).ask(ASK)).decision == Deny("slow")
        with pytest.raises(Failure):
            await hook(then_cancelled).ask(ASK)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="known since Python 3.11")
def test_a_client_that_has_gone_is_not_served(run: Run) -> None:
    """Though the function swallows the cancellation that tells it."""

    async def main() -> None:
        started = asyncio.Event()

        async def swallows(request: Request) -> Allow:
            with suppress(asyncio.CancelledError):
                started.set()
                await asyncio.sleep(NEVER)
            await asyncio.sleep(0)
            return Allow()

        task = asyncio.ensure_future(hook(swallows).ask(ASK))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="known since Python 3.11")
@pytest.mark.parametrize("stubborn", [swallow, spin, by_a_task, by_gather, by_wait_for, by_shield])
def test_a_client_that_has_gone_is_not_waited_for(
    run: Run, stubborn: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the end of the proxy wait for what does not end."""
    monkeypatch.setattr("spliceproxy.policy.steps.SOON", 0.05)

    async def main() -> None:
        started = asyncio.Event()

        async def authorize(request: Request) -> Allow:
            started.set()
            await stubborn()
            return Allow()

        asked = hook(authorize)
        task = asyncio.ensure_future(asked.ask(ASK))
        await started.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        await asyncio.wait_for(asked.finish(), 20)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert all("stubborn" not in str(other) and "_rest" not in str(other) for other in others)
        for other in others:  # of its own, not ours
            other.get_coro().close()  # type: ignore[union-attr]

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
def test_a_limit_of_its_own_does_not_hurry_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliceproxy.policy.steps.SOON", 0.02)

    async def authorize(request: Request) -> Allow:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(NEVER)
        await asyncio.sleep(0.1)
        return Allow()

    assert run(hook(authorize).ask(ASK)).decision == Allow()


def test_the_end_does_not_wait_for_on_close_for_long(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lines of the access log are to be written after it."""
    monkeypatch.setattr("spliceproxy.policy.hook.END", 0.05)
    seen = []

    async def on_close(record: Any) -> None:
        await asyncio.sleep(0 if record == "quick" else NEVER)
        seen.append(record)

    async def main() -> None:
        asked = Hook(Functions(None, on_close), NEVER)
        for record in ("slow", "quick", "slow"):
            asked.closed(record)
        await asyncio.wait_for(asked.finish(), 20)
        assert not asked._closing

    run(main())
    assert seen == ["quick"]
    assert "calls of on_close left out 2" in caplog.text


def test_the_end_does_not_wait_for_what_swallows_its_cancellation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor before Python 3.11, which does not know whether a task is cancelled."""
    monkeypatch.setattr("spliceproxy.policy.hook.END", 0.05)
    monkeypatch.setattr("spliceproxy.policy.hook.LAST", 0.05)
    monkeypatch.setattr("spliceproxy.policy.steps._Steps._cancelling", lambda _: -1)
    ends = False

    async def on_close(record: Any) -> None:
        while not ends:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)

    async def main() -> None:
        nonlocal ends
        asked = Hook(Functions(None, on_close), NEVER)
        asked.closed("one")
        await asyncio.sleep(0)
        await asyncio.wait_for(asked.finish(), 20)
        assert asked._closing
        ends = True
        await asyncio.wait(asked._closing)

    run(main())


def test_what_asyncio_cannot_wait_for(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        def __await__(self) -> Any:
            yield "a trap of another library"

    async def authorize(request: Request) -> Allow:
        await Other()
        return Allow()

    with pytest.raises(Failure, match="failed"):
        run(hook(authorize).ask(ASK))
    assert "cannot wait for 'a trap" in caplog.text


def test_futures_and_tasks_are_answers_too(run: Run) -> None:
    def future(request: Request) -> Any:
        found = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(found.set_result, Deny("no"))
        return found

    async def later(request: Request) -> Allow:
        await asyncio.sleep(0)
        return Allow()

    async def main() -> None:
        assert (await hook(future).ask(ASK)).decision == Deny("no")
        assert (await hook(lambda r: asyncio.ensure_future(later(r))).ask(ASK)).decision == Allow()

    run(main())


STEPS = ["turn", "sleep", "future", "task", "fails", "caught", "cancelled", "executor"]


async def play(steps: list[str]) -> str:
    loop = asyncio.get_running_loop()
    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "sleep":
            await asyncio.sleep(0.001)
        elif step == "future":
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
        elif step == "task":
            await asyncio.ensure_future(play(["turn"]))
        elif step == "fails":
            raise LookupError(str(len(steps)))
        elif step == "caught":
            with suppress(LookupError):
                await asyncio.ensure_future(play(["turn", "fails"]))
        elif step == "cancelled":
            await of_somebody("task")
        else:
            await loop.run_in_executor(None, int)
    return "".join(step[0] for step in steps)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(STEPS), max_size=6), st.booleans(), st.integers(1, 8))
def test_step_by_step_is_as_awaited(steps: list[str], gone: bool, turns: int) -> None:
    """The same answer or exception; and a client that goes is seen wherever it is at."""

    async def outcome(made: Coroutine[Any, Any, str]) -> object:
        try:
            return await made
        except (LookupError, asyncio.CancelledError, Cancelled, Late) as error:
            return type(error), str(error)

    async def main() -> None:
        plain = await outcome(asyncio.wait_for(play(steps), NEVER))
        left: list[object] = []
        ours = in_time(play(steps), NEVER, lambda _: None, left.append)
        if not gone:
            if isinstance(plain, tuple) and plain[0] is asyncio.CancelledError:
                plain = Cancelled, "it has awaited something that was cancelled"
            assert await outcome(ours) == plain
            return
        task = asyncio.ensure_future(ours)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        await asyncio.wait({task})
        assert (
            was_done or task.cancelled() or isinstance(task.exception(), (LookupError, Cancelled))
        )

    asyncio.run(main())


def test_who_holds_the_loop_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain call, each step of a coroutine, and on_close; once a minute for each."""
    monkeypatch.setattr("spliceproxy.policy.hook.HELD", 0.1)

    def plain(request: Request) -> Allow:
        time.sleep(0.12)
        return Allow()

    async def in_a_step(request: Request) -> Allow:
        await asyncio.sleep(0.12)  # this is not the loop's time
        time.sleep(0.12)  # noqa: ASYNC251 - this is
        return Allow()

    async def waits(request: Request) -> Allow:
        await asyncio.sleep(0.12)
        return Allow()

    async def main() -> None:
        for authorize, told in ((plain, True), (in_a_step, True), (waits, False)):
            caplog.clear()
            monkeypatch.setattr("spliceproxy.seldom.SILENCE", NEVER)
            asked = Hook(Functions(authorize, plain), NEVER)
            for _ in range(3):
                await asked.ask(ASK)
            assert caplog.text.count("authorize held the event loop for 0.") == told
            monkeypatch.setattr("spliceproxy.seldom.SILENCE", 0.0)
            await asked.ask(ASK)
            assert caplog.text.count("(and 2 more since the last message)") == told
            asked.closed(ASK)
            assert caplog.text.count("on_close held the event loop") == 1

    run(main())


def test_a_cancelled_caller_is_cancelled(run: Run) -> None:
    """The deadline does not take the cancellation of a client that left for its own."""
    waiting = asyncio.Event

    async def main() -> None:
        started = waiting()

        async def stuck(request: Request) -> Allow:
            started.set()
            await asyncio.get_running_loop().create_future()
            return Allow()

        asked = hook(stuck)
        task = asyncio.ensure_future(asked.ask(ASK))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asked.failures == 0

    run(main())


def test_it_runs_in_the_callers_task(run: Run) -> None:
    """So that an answer which does not wait costs no task."""
    tasks = []

    async def quick(request: Request) -> Allow:
        tasks.append(asyncio.current_task())
        return Allow()

    async def main() -> None:
        await hook(quick).ask(ASK)
        assert tasks == [asyncio.current_task()]

    run(main())


def test_the_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("spliceproxy.policy.hook.time.monotonic", lambda: now)
    monkeypatch.setattr("spliceproxy.policy.hook.CACHED", 3)
    asked: list[Request] = []

    def authorize(request: Request) -> Allow | Deny:
        asked.append(request)
        return Deny("no") if request.port == 25 else Allow()

    async def main() -> None:
        nonlocal now
        cached = hook(authorize, cache=10.0)
        assert await cached.ask(ASK) == (Allow(), 10.0)
        now += 4
        assert await cached.ask(ASK._replace(path="/other", fields=[(b"A", b"b")])) == (
            Allow(),
            6.0,
        )
        assert len(asked) == 1
        for other in (
            {"client": "10.0.0.8"},
            {"user": "ann"},
            {"method": "GET"},
            {"host": "b.test"},
            {"port": 25},
            {"addresses": ("192.0.2.2",)},
        ):
            await cached.ask(ASK)
            asked.clear()
            first = await cached.ask(ASK._replace(**other))  # type: ignore[arg-type]
            assert (await cached.ask(ASK._replace(**other))).decision == first.decision  # type: ignore[arg-type]
            assert len(asked) == 1, other
        assert len(cached._answers) == 3
        asked.clear()
        now += 10
        await cached.ask(ASK._replace(addresses=("192.0.2.2",)))
        assert len(asked) == 1

    run(main())


def test_a_failure_is_not_remembered(run: Run) -> None:
    answers = iter([None, Allow()])

    async def main() -> None:
        asked = hook(lambda _: next(answers), cache=NEVER)
        with pytest.raises(Failure):
            await asked.ask(ASK)
        assert (await asked.ask(ASK)).decision == Allow()

    run(main())


def test_on_close(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def later(record: Any) -> None:
        await asyncio.sleep(0.001)
        seen.append(record)

    def fails(record: Any) -> None:
        raise KeyError(record)

    async def main() -> None:
        for function in (seen.append, later, fails):
            asked = Hook(Functions(None, function), NEVER)
            assert not asked.decides
            asked.closed("record")
            await asked.finish()
            assert asked.failures == (function is fails)

    run(main())
    assert seen == ["record", "record"]
    assert "on_close failed" in caplog.text


def test_on_close_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliceproxy.policy.hook.CLOSING", 3)

    async def main() -> None:
        going = asyncio.Event()

        async def slow(record: Any) -> None:
            await going.wait()

        asked = Hook(Functions(None, slow), NEVER)
        for _ in range(5):
            asked.closed("record")
        assert asked.dropped == 2
        going.set()
        await asked.finish()

    run(main())


# ---- loading -------------------------------------------------------------------------------

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from spliceproxy.policy import Allow, Deny, Request

@dataclass
class Own:  # needs its module in sys.modules
    field: int = 0

def authorize(request: Request) -> Allow | Deny: return Allow()
def other(request): return Deny("no")
def on_close(record): pass
number = 7
"""


@pytest.mark.parametrize(
    ("suffix", "function"), [("", "authorize"), (":authorize", "authorize"), (":other", "other")]
)
def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, function: str) -> None:
    path = tmp_path / "some_policy.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (str(path), "some_policy"):
        functions = load(name + suffix)
        assert functions.authorize is not None
        assert functions.authorize.__name__ == function
        assert functions.on_close is not None


@pytest.mark.parametrize(
    ("source", "suffix", "text"),
    [
        ("", "", "has no function authorize"),
        (SOURCE, ":nothing", "has no function nothing"),
        (SOURCE, ":number", "7 is not a function"),
        ("def on_close(record): pass", ":authorize", "has no function authorize"),
        ("1 /", "", "SyntaxError"),
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "import helper_beside",
            "",
            "beside'; what lies beside this file is found where PYTHONPATH",
        ),
        ("open('none.txt')", "", r"bad_policy\.py:1: FileNotFoundError: .* 'none.txt'"),
    ],
)
def test_load_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, suffix: str, text: str
) -> None:
    path = tmp_path / "bad_policy.py"
    path.write_text(source)
    (tmp_path / "helper_beside.py").touch()
    with pytest.raises(HookError, match=text):
        load(f"{path}{suffix}")
    with pytest.raises(HookError, match="cannot read"):
        load(str(tmp_path / "none.py"))
    with pytest.raises(HookError, match="cannot import no_such_module"):
        load("no_such_module")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def authorize(): pass", r"authorize: it is called with one argument, but takes \(\);"),
        ("def authorize(a, b): pass", r"takes \(a, b\); allowed: a function such as def autho"),
        ("def authorize(*, request): pass", r"takes \(\*, request\)"),
        ("def authorize(r): yield", "it contains yield"),
        ("async def authorize(r): yield", "it contains yield"),
        ("authorize = 'a.test'", "authorize = 'a.test' is not a function"),
        ("def authorise(r): pass", r"has no function authorize; did you mean authorise\?"),
        ("def on_close(): pass", r"on_close: .*takes \(\); allowed: .* def on_close\(record\)"),
        ("on_close = 7", "on_close = 7 is not a function"),
        ("def authorize(r): pass\nauthorize.wants_addresses = 1.5", "wants_addresses = 1.5; all"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("class A:\n def __call__(self): pass\nauthorize = A()", r"takes \(\)"),
    ],
)
def test_functions_that_cannot_be_called(tmp_path: Path, source: str, text: str) -> None:
    """They are found out before the first request."""
    path = tmp_path / "bad_policy.py"
    path.write_text(source)
    with pytest.raises(HookError, match=text):
        load(str(path))


CALLABLE = """
import functools
class A:
    def __call__(self, request): ...
    def method(self, request): ...
    async def later(self, request): ...
    @classmethod
    def of_class(cls, request): ...
    @staticmethod
    def static(request): ...
def two(first, request): ...
def more(request, other=1, *rest, **named): ...
instance = A()
method, later, of_class, static = instance.method, instance.later, A.of_class, A.static
part = functools.partial(two, 1)
built_in = dict
short = lambda r: None
"""


@pytest.mark.parametrize(
    "name",
    ["instance", "method", "later", "of_class", "static", "part", "more", "built_in", "short"],
)
def test_all_that_can_be_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / "policy.py"
    path.write_text(CALLABLE)
    assert load(f"{path}:{name}").authorize is not None


def test_who_wants_addresses() -> None:
    def plain(request: Request) -> Allow:
        return Allow()

    async def asynchronous(request: Request) -> Allow:
        return Allow()

    @functools.wraps(plain)
    def wrapped(request: Request) -> Allow:
        return plain(request)

    class Of:
        wants_addresses = True

        def __call__(self, request: Request) -> Allow:
            return Allow()

        def method(self, request: Request) -> Allow:
            return Allow()

    functions: list[Any] = [plain, asynchronous, wrapped, functools.partial(plain), Of().method]
    for function in functions:
        assert not hook(function).wants_addresses
    for function in (plain, asynchronous, Of.method):
        function.wants_addresses = True  # type: ignore[attr-defined]
    functions[2] = functools.wraps(plain)(lambda r: plain(r))
    nested = functools.partial(functools.partial(plain))
    for function in (*functions, nested, Of()):
        assert hook(function).wants_addresses
    part = functools.partial(plain)
    part.wants_addresses = False  # type: ignore[attr-defined]
    assert not hook(part).wants_addresses


def test_only_on_close(tmp_path: Path) -> None:
    path = tmp_path / "watcher.py"
    path.write_text("def on_close(record): pass")
    assert load(str(path)).authorize is None


# ---- the page ------------------------------------------------------------------------------


def test_what_the_page_shows_is_right() -> None:
    path = Path(__file__).parents[2] / "docs" / "policy-function.md"
    if not path.exists():
        pytest.skip("not in a source tree")
    texts = re.findall(r"(?:^(?:    .*)?\n)+", path.read_text(), re.M)
    blocks = [textwrap.dedent(text) for text in texts if "def authorize" in text]
    names: dict[str, Any] = {}

    def ask(host: str, *addresses: str, user: str = "") -> str:
        request = Request(host=host, addresses=addresses or None, user=user)
        answer = asyncio.run(hook(names["authorize"]).ask(request)).decision
        return answer.reason if isinstance(answer, Deny) else ""

    first, second = blocks
    exec(first, names)
    assert (ask("a.example.com", user="ci"), ask("a.test")) == ("", "")
    assert ask("a.test", user="ci") == "CI goes to example.com only."
    assert not hook(names["authorize"]).wants_addresses
    exec(second, names)
    assert hook(names["authorize"]).wants_addresses
    assert (ask("a.example.com"), ask("a.test")) == ("", "Only example.com.")
    assert ask("a.example.com", "198.51.100.1") == ""
    assert ask("a.example.com", "198.51.100.1", "192.0.2.1") == "Not into that network."
