"""An event loop whose time passes only where everything waits: tests of long waits are short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """Seconds, for the loop and for what is tested with it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """As asyncio.run()."""
        loop = _PassingTime(self)
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()


class _PassingTime(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._busy = 0  # threads
        super().__init__()
        selector: Any = self._selector  # type: ignore[attr-defined]
        really = selector.select

        def select(timeout: float | None = None) -> Any:
            if self._busy or timeout is None:
                return really(timeout)
            found = really(0)
            if not found:
                clock.now += max(0.0, timeout)
            return found

        selector.select = select

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._busy += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self._busy -= 1
