"""When a parent is put aside, and when it is there again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from spliceproxy.errors import Failure
from spliceproxy.upstream import health
from spliceproxy.upstream.health import FAILURES, Health

FAULT = Failure("connection_refused", "nobody is there")


def run(use: Callable[[Health, list[str], list[Failure | None]], Awaitable[None]]) -> None:
    """With the health of a parent, what it has counted, and what the next trials come to."""

    async def main() -> None:
        counted: list[str] = []
        trials: list[Failure | None] = []

        async def try_it() -> None:
            fault = trials.pop(0) if trials else FAULT
            if fault is not None:
                raise fault

        made = Health(asyncio.get_running_loop(), "a", try_it, counted.append)
        try:
            await use(made, counted, trials)
        finally:
            made.finish()
        assert len(asyncio.all_tasks()) == 1 + (made._task is not None and not made._task.done())

    asyncio.run(main())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST", 0.0)
    monkeypatch.setattr(health, "LONGEST", 0.0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)


def test_failures_in_a_row() -> None:
    async def use(made: Health, counted: list[str], trials: list[Failure | None]) -> None:
        for _ in range(FAILURES - 1):
            made.failed(FAULT)
        made.worked()
        for _ in range(FAILURES - 1):
            made.failed(FAULT)
        assert not made.down
        made.failed(FAULT)
        assert made.down
        assert counted == ["failed"] * (2 * FAILURES - 1) + ["down"]

    run(use)


def test_it_is_looked_at_until_it_is_there() -> None:
    async def use(made: Health, counted: list[str], trials: list[Failure | None]) -> None:
        trials += [FAULT, FAULT, None]
        for _ in range(FAILURES):
            made.failed(FAULT)
        await until(lambda: not made.down)
        assert trials == []
        assert counted[-2:] == ["down", "up"]
        made.failed(FAULT)  # that it answers says little
        assert made.down

    run(use)


def test_only_a_request_that_comes_through_proves_it(caplog: pytest.LogCaptureFixture) -> None:
    """A parent that does not take the credentials can be connected to."""
    caplog.set_level("INFO")

    async def use(made: Health, counted: list[str], trials: list[Failure | None]) -> None:
        trials += [None, None]
        for _ in range(FAILURES):
            made.failed(FAULT)
        await until(lambda: not made.down)
        made.failed(FAULT)
        await until(lambda: not made.down)
        assert "there again" not in caplog.text
        assert caplog.text.count("the parent a can be connected to: requests try it") == 2
        made.worked()
        made.worked()
        assert caplog.text.count("the parent a is there again") == 1
        assert counted[-6:] == ["failed", "down", "up", "failed", "down", "up"]

    run(use)


def test_nobody_looks_when_it_is_over() -> None:
    async def use(made: Health, counted: list[str], trials: list[Failure | None]) -> None:
        made.finish()
        for _ in range(FAILURES):  # of those who were at it
            made.failed(FAULT)
        assert not made.down
        assert made._task is None

    run(use)
