"""What many ask for at the same time is made once."""

from __future__ import annotations

import asyncio
import itertools
import time

from spliceproxy.admin.shared import Shared

SECONDS = 0.05


def test_it_is_made_for_all_and_is_never_older_than_the_question() -> None:
    made: list[float] = []

    async def make() -> int:
        made.append(time.monotonic())
        return len(made)

    async def main() -> None:
        shared = Shared(make, SECONDS)
        assert set(await asyncio.gather(*(shared.get() for _ in range(1000)))) == {1}
        for number in range(2, 5):
            asked = time.monotonic()
            assert await shared.get() == number
            assert made[-1] >= asked
        pauses = [after - before for before, after in itertools.pairwise(made)]
        assert min(pauses) >= SECONDS

    asyncio.run(main())


def test_who_leaves_ends_it_for_nobody_and_a_fault_is_of_one_time() -> None:
    may = asyncio.Event()
    fails = True

    async def make() -> str:
        await may.wait()
        if fails:
            raise OSError("not now")
        return "made"

    async def main() -> None:
        nonlocal fails
        shared = Shared(make, 0.0)
        leaves, stays = (asyncio.ensure_future(shared.get()) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        may.set()
        assert isinstance((await asyncio.gather(stays, return_exceptions=True))[0], OSError)
        fails = False
        assert await shared.get() == "made"

    asyncio.run(main())
