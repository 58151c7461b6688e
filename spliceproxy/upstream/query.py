"""One look-up of a name, and what of it was given to c-ares."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from spliceproxy.upstream.answers import Answer, Part, part_of
from spliceproxy.upstream.ares import Channel
from spliceproxy.upstream.versions import FAMILIES

if TYPE_CHECKING:
    from pycares import AddrInfoResult


class Query:
    """One look-up. ``answer`` is there as soon as there is something to go on with, ``over`` when
    there is nothing more to wait for. ``old`` may stand in for it. ``parts`` belong to the
    candidate that is asked for. ``waiting`` are those who want the answer; ``whole``, if anybody
    wants it, is done with the look-up."""

    __slots__ = (
        "answer",
        "asked",
        "candidate",
        "candidates",
        "expires",
        "generation",
        "name",
        "old",
        "over",
        "parts",
        "timer",
        "waiting",
        "whole",
    )

    def __init__(
        self,
        name: str,
        candidates: Iterator[str],
        expires: float,
        old: Answer | None,
        generation: int,
    ) -> None:
        self.name = name
        self.old = old
        self.generation = generation  # of the settings: what is kept is of the last
        self.candidate = ""
        self.candidates = candidates
        self.expires = expires  # by the loop's clock
        self.asked = {family: 0 for family in FAMILIES}  # that c-ares has not done with
        self.parts: dict[socket.AddressFamily, Part] = {}
        self.answer: Answer | None = None
        self.over = False
        self.waiting: list[asyncio.Future[Answer]] = []
        self.whole: asyncio.Future[None] | None = None
        # Until the second family is late, or, before the first, until an old answer is used.
        self.timer: asyncio.TimerHandle | None = None

    def tell(self, answer: Answer) -> None:
        """Those who wait go on with this."""
        self.answer = answer
        for waiter in self.waiting:
            if not waiter.done():  # by the end of its task
                waiter.set_result(answer)
        self.waiting.clear()


class Lookup:
    """One family of one candidate, on one channel."""

    __slots__ = ("candidate", "channel", "failed", "family", "query", "told")

    def __init__(
        self,
        query: Query,
        family: socket.AddressFamily,
        channel: Channel,
        told: Callable[[Lookup, Part], None],
        failed: Callable[[Query, Exception], None],
    ) -> None:
        self.told = told
        self.failed = failed
        self.query = query
        self.candidate = query.candidate
        self.family = family
        self.channel = channel

    def answered(self, result: AddrInfoResult | None, error: int | None) -> None:
        """c-ares calls this, and hears of no fault."""
        try:
            self.told(self, part_of(result, error))
        except Exception as fault:  # noqa: BLE001 - it is told
            self.failed(self.query, fault)
