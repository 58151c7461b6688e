"""The hook: how it is found, called, limited and remembered, and what happens when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from spliceproxy.errors import Failure
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.hook import Functions, Hook, HookError, load

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
        with pytest.raises(ValueError, match="allowed: 400 to 599"):
            Deny("no", status=status)
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
            assert caught.value.detail == "the policy hook failed"  # and says no more
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
    ],
)
def test_load_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, suffix: str, text: str
) -> None:
    path = tmp_path / "bad_policy.py"
    path.write_text(source)
    with pytest.raises(HookError, match=text):
        load(f"{path}{suffix}")
    with pytest.raises(HookError, match="cannot read"):
        load(str(tmp_path / "none.py"))
    with pytest.raises(HookError, match="cannot import no_such_module"):
        load("no_such_module")


def test_only_on_close(tmp_path: Path) -> None:
    path = tmp_path / "watcher.py"
    path.write_text("def on_close(record): pass")
    assert load(str(path)).authorize is None
