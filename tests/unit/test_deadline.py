"""net/deadline.py: limits that are changed in all ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spliceproxy.errors import Failure
from spliceproxy.net.deadline import Deadline

try:
    import uvloop

    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
except ImportError:
    LOOPS = [asyncio.new_event_loop]


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("first", [-1.0, 0.0, 0.0003, 5.0])
def test_another_limit_before_the_first_has_ended_anything(
    new_loop: Callable[[], asyncio.AbstractEventLoop], first: float
) -> None:
    async def check() -> None:
        deadline = Deadline(asyncio.get_running_loop())
        deadline.set("connection_timeout", "the first", first)
        deadline.set("connection_read_timeout", "the second", 0.01)
        with pytest.raises(Failure, match="the second"):
            await deadline.begin()
        deadline.set("connection_timeout", "the third", first)
        deadline.clear()
        waiting = deadline.begin()
        await asyncio.sleep(0.005)
        assert not waiting.done()
        deadline.cancel()

    loop = new_loop()
    try:
        loop.run_until_complete(check())
    finally:
        loop.close()
