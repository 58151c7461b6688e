"""From a verdict to a connection where a name's second family of addresses is late.

What is known is dialled, and not held up. If the rest of the look-up comes before there is a
connection, the policy judges all that is known then, and what is new is tried first: an IPv6
that leads nowhere must not hide an IPv4 whose answer came a moment later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from spliceproxy.errors import ErrorType, Failure
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Verdict
from spliceproxy.upstream.origins import Origins

_FINAL: tuple[ErrorType, ...] = ("connection_limit_reached", "proxy_loop_detected")
"""Failures that other addresses would not change."""


async def dial_late(
    origins: Origins,
    verdict: Verdict,
    record: Record,
    late: asyncio.Future[None],
    seconds: float,
    again: Callable[[], Awaitable[Verdict]],
) -> tuple[Stream, Verdict]:
    """A connection within so many seconds, and the verdict that allows it. ``late`` is the rest
    of the look-up, ``again`` asks the policy about the same request once more. Raises as
    :meth:`Origins.dial`, and what ``again`` raises."""
    if not record.dialling_since:  # one limit for all that follows
        record.dialling_since = time.monotonic() - record.looked_up
    deadline = record.dialling_since + seconds
    attempt = asyncio.ensure_future(origins.dial(verdict, record))
    try:
        if await _needs_more(attempt, late, deadline):
            more = await again()
            new = tuple(one for one in more.addresses if one not in verdict.addresses)
            if new and not _is_settled(attempt):
                _drop(attempt)
                rest = tuple(one for one in more.addresses if one not in new)
                return await origins.dial(more._replace(addresses=new + rest), record), more
        return await attempt, verdict
    except BaseException:
        _drop(attempt)
        raise


async def _needs_more(
    attempt: asyncio.Future[Stream], late: asyncio.Future[None], deadline: float
) -> bool:
    """Waits for a connection or the end of the look-up; whether that came first."""
    both: set[asyncio.Future[Any]] = {attempt, late}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not _is_settled(attempt):  # what is known may all have failed
        await asyncio.wait({late}, timeout=max(deadline - time.monotonic(), 0.0))
    return late.done() and not _is_settled(attempt)


def _is_settled(attempt: asyncio.Future[Stream]) -> bool:
    """Whether it has a connection, or a failure that other addresses would not change."""
    if not attempt.done():
        return False
    error = attempt.exception()
    return not isinstance(error, Failure) or error.error in _FINAL


def _drop(attempt: asyncio.Future[Stream]) -> None:
    """Ends an attempt that nobody wants any more, be it a connection already."""
    attempt.add_done_callback(_close)
    attempt.cancel()


def _close(attempt: asyncio.Future[Stream]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
