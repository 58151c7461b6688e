"""Questions and their answers: at once where nothing has to be waited for, and else later."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from spliceproxy.config import Config, PolicyConfig
from spliceproxy.errors import Denied, Failure
from spliceproxy.forward.asking import Answer, Asking, Later, Question
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import checked
from spliceproxy.policy.verdict import Verdict

HEAD = parse_request(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
CLIENT = "127.0.0.1"
ORIGIN = "192.0.2.1"


class _Names:
    """``late.example`` is known when ``answer`` is set: all who ask wait for the same future,
    as of one look-up. Other names are known, and those of .invalid fail."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()

    def cached(self, host: str) -> tuple[str, ...] | None:
        if host.endswith(".invalid"):
            raise Failure("dns_error", "no such name")
        return None if host == "late.example" else (ORIGIN,)

    async def resolve(self, host: str) -> tuple[str, ...]:
        return await self.answer

    def late(self, host: str) -> None:
        return None


class _Learned:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, bool]] = []

    def see(self, host: str, port: int, allowed: bool) -> None:
        self.seen.append((host, port, allowed))


class Rig:
    def __init__(self, function: Callable[[Request], Any] | None = None) -> None:
        config = Config(listen=(), policy=PolicyConfig(guard="off", hook_timeout=5.0))
        functions = checked(function, None, ("policy", "on_close")) if function else None
        self.names = _Names()
        self.policy = Policy(config, self.names, functions)
        self.learned = _Learned()
        self.asking = Asking(self.policy, self.learned, None, self.names, None, 5.0)  # type: ignore[arg-type]

    def question(self, host: str, client: str = CLIENT) -> Question:
        standing = self.policy.standing(client, None)
        return Question(standing, HEAD, host, 80, Record(client, 0.0))

    def ask(self, *hosts: str) -> list[Answer | Later]:
        return [self.asking.begin(*self.question(host)[:6]) for host in hosts]

    async def ask_without_a_task(self, *hosts: str) -> list[Answer | Later]:
        """As the relay does, between two tasks."""
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[list[Answer | Later]] = loop.create_future()

        def ask() -> None:
            assert asyncio.current_task() is None
            asked.set_result(self.ask(*hosts))

        loop.call_soon(ask)
        return await asked


def plain(request: Request) -> Allow | Deny:
    return Deny("not ours") if request.host == "no.example" else Allow()


async def at_once(request: Request) -> Allow | Deny:
    return plain(request)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


@pytest.fixture(autouse=True)
def no_coroutine_is_forgotten(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(
    ("function", "turn"),
    [
        (None, "in a task"),
        (plain, "in a task"),
        (at_once, "in a task"),
        (None, "without"),
        (plain, "without"),
        (at_once, "without"),
    ],
)
def test_what_does_not_wait_costs_no_task_and_no_future(
    function: Callable[[Request], Any] | None, turn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        rig = Rig(function)
        loop = asyncio.get_running_loop()
        if function is at_once:  # the first finds no task to begin in
            (first,) = await rig.ask_without_a_task("a.example")
            if isinstance(first, Later):
                await first
            rig.learned.seen.clear()
        made: list[object] = []
        asked: list[Answer | Later] = []

        def ask() -> None:
            with monkeypatch.context() as patch:
                for name in ("create_future", "create_task", "call_soon", "call_later", "call_at"):
                    patch.setattr(loop, name, lambda *_, name=name, **__: made.append(name))
                asked.extend(rig.ask("a.example", "b.example"))

        if turn == "in a task":
            ask()
        else:
            loop.call_soon(ask)
            await asyncio.sleep(0)
        assert asked == [
            Verdict(host, 80, (ORIGIN,), "", asked[0].repeat_for)
            for host in (  # type: ignore[union-attr]
                "a.example",
                "b.example",
            )
        ]
        assert made == []
        assert rig.learned.seen == [("a.example", 80, True), ("b.example", 80, True)]

    run(test())


def test_one_that_is_refused_costs_no_other() -> None:
    async def test() -> None:
        rig = Rig(plain)
        stranger = rig.question("a.example", "198.51.100.1")
        hosts = "a.example", "no.example", "b.invalid"
        questions = [*map(rig.question, hosts), stranger]
        allowed, denied, failed, refused = [rig.asking.begin(*one[:6]) for one in questions]
        assert isinstance(allowed, Verdict)
        assert isinstance(denied, Denied)
        assert isinstance(failed, Failure)
        assert failed.error == "dns_error"
        assert isinstance(refused, Denied)
        # What a client that may not use the proxy asks for is not learned.
        assert rig.learned.seen == [("a.example", 80, True), ("no.example", 80, False)]

    run(test())


def test_a_fault_of_our_own_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        rig = Rig()

        def cached(host: str) -> tuple[str, ...]:
            if host == "b.example":
                raise RuntimeError("ours")
            return (ORIGIN,)

        monkeypatch.setattr(rig.names, "cached", cached)
        first, second, third = rig.ask("a.example", "b.example", "c.example")
        assert isinstance(first, Verdict)
        assert isinstance(second, RuntimeError)
        assert isinstance(third, Verdict)
        with pytest.raises(RuntimeError, match="ours"):
            await rig.asking.answer(rig.question("b.example"))

    run(test())


def test_several_wait_for_one_look_up() -> None:
    """The future that they share may be marked by the first task that takes it."""

    async def test() -> None:
        rig = Rig()
        answers = await rig.ask_without_a_task("late.example", "a.example", "late.example")
        assert [isinstance(answer, Later) for answer in answers] == [True, False, True]
        waiting = [asyncio.ensure_future(one) for one in answers if isinstance(one, Later)]
        await asyncio.sleep(0)
        rig.names.answer.set_result(("192.0.2.7",))
        for verdict in await asyncio.gather(*waiting):
            assert isinstance(verdict, Verdict)
            assert verdict.addresses == ("192.0.2.7",)
        assert [seen[0] for seen in rig.learned.seen] == ["a.example"] + ["late.example"] * 2

    run(test())


def test_a_failure_that_was_waited_for_is_an_answer() -> None:
    async def test() -> None:
        rig = Rig()
        (later,) = rig.ask("late.example")
        assert isinstance(later, Later)
        rig.names.answer.set_exception(Failure("dns_timeout", "no answer"))
        answer = await later
        assert isinstance(answer, Failure)
        assert answer.error == "dns_timeout"

    run(test())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
@pytest.mark.parametrize("waits", [False, True])
def test_a_function_always_runs_in_a_task(waits: bool) -> None:
    async def test() -> None:
        tasks: list[object] = []

        async def function(request: Request) -> Allow:
            async with asyncio.timeout(10):  # type: ignore[attr-defined]
                tasks.append(asyncio.current_task())
                if waits:
                    await asyncio.sleep(0.001)
                tasks.append(asyncio.current_task())
            return Allow()

        rig = Rig(function)
        (later,) = await rig.ask_without_a_task("a.example")
        assert isinstance(later, Later)
        assert tasks == []
        task = asyncio.ensure_future(later)
        assert isinstance(await task, Verdict)
        assert tasks == [task, task]

    run(test())


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_cancels_what_it_waits_for(begun: bool) -> None:
    async def test() -> None:
        ends: list[str] = []
        waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def function(request: Request) -> Allow:
            waits.set_result(None)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            return Allow()

        rig = Rig(function)
        (later,) = await rig.ask_without_a_task("a.example")
        assert isinstance(later, Later)
        task = asyncio.ensure_future(later)
        if begun:
            await waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        later.close()
        assert ends == (["cancelled"] if begun else [])
        assert rig.learned.seen == []
        assert rig.policy._hook.failures == 0

    run(test())


@pytest.mark.parametrize("without_a_task", [False, True])
def test_one_that_nobody_waits_for_is_closed(without_a_task: bool) -> None:
    async def test() -> None:
        steps: list[str] = []

        async def function(request: Request) -> Allow:
            steps.append("begun")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                steps.append("closed")
            return Allow()

        rig = Rig(function)
        ask = rig.ask_without_a_task("a.example") if without_a_task else None
        (later,) = rig.ask("a.example") if ask is None else await ask
        assert isinstance(later, Later)
        later.close()
        later.close()
        assert steps == ([] if without_a_task else ["begun", "closed"])
        with pytest.raises(RuntimeError, match="awaited, or closed"):
            await later

    run(test())


def test_an_answer_is_awaited_once() -> None:
    async def test() -> None:
        rig = Rig()
        (later,) = rig.ask("late.example")
        assert isinstance(later, Later)
        task = asyncio.ensure_future(later)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="awaited, or closed"):
            await later
        rig.names.answer.set_result((ORIGIN,))
        assert isinstance(await task, Verdict)

    run(test())


def test_what_ends_the_asking_leaves_no_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does, in a program that does not handle it."""

    async def test() -> None:
        rig = Rig()
        cached = rig.names.cached

        def interrupted(host: str) -> tuple[str, ...] | None:
            if host == "b.example":
                raise KeyboardInterrupt
            return cached(host)

        monkeypatch.setattr(rig.names, "cached", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rig.ask("late.example", "b.example")
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Later)]

    run(test())


def test_refusals_leave_no_garbage() -> None:
    """A traceback that refers to itself would keep a request until the next collection."""

    async def test() -> None:
        rig = Rig(plain)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                answers = rig.ask("no.example", "b.invalid")
                assert all(isinstance(answer, Failure) for answer in answers)
                for host in ("no.example", "b.invalid"):
                    try:
                        await rig.asking.answer(rig.question(host))
                    except Failure:
                        pass
            del answers
            gc.set_debug(gc.DEBUG_SAVEALL)
            assert gc.collect() == 0, [(type(o), str(o)[:200]) for o in gc.garbage][:40]
        finally:
            gc.enable()

    run(test())
