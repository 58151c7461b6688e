"""What many may ask for at the same time, and what is then made once for all of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """``make`` begins ``seconds`` after it has begun before, at the earliest; all who ask until it
    is over get the same. So it costs no more however many ask, and what they get is never older
    than that."""

    def __init__(self, make: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._begun = -math.inf  # time.monotonic()
        self._coming: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """Of the next one, or of that which is being made."""
        if self._coming is None or self._coming.done():
            self._coming = asyncio.ensure_future(self._next())
        return await asyncio.shield(self._coming)

    async def _next(self) -> T:
        left = self._begun + self._seconds - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)
        self._begun = time.monotonic()
        return await self._make()
