"""The store of limits that several machines share: Redis, and the scripts that run in it.

What is kept there, all of it behind PREFIX:

    born                     when this store was empty, in ms
    machines                 until when each machine is believed to live, in ms of the store's clock
    c:LIMIT:NAME             connections that each machine was lent; r: of the rate of requests and
                             t: of new tunnels, its part
    d:DAY:LIMIT:NAME         bytes that each machine has moved in that day, and h: in that hour

A machine says what it has and what it wants, never what has changed. So whatever it says may be
lost or said twice, and a store that has forgotten all is told it again. What it has counts in any
case; more is lent only while there is more than all living machines have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from spliceproxy.config import PolicyConfig

PREFIX = "spliceproxy:1:"

TIMEOUT = 1.0
"""Seconds until a store that does not answer is away."""

TTL = 10.0
"""Seconds after which a machine that says nothing is dead, and what it was lent is free."""

YOUNG = 1.5
"""Seconds for which a store that was empty lends nothing to whoever knew more machines than have
come to it yet: they may have something, and tell it first."""

KEPT = 3600
"""Seconds for which a key is kept that nobody speaks of. Those that are in use are spoken of more
often."""

AT_ONCE = 64
"""Keys of one call of a script: others wait for it."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

BEAT = (
    _NOW
    + """
local machines, born, me = KEYS[1], KEYS[2], ARGV[1]
redis.call('SET', born, now, 'NX')
local until_ = redis.call('ZSCORE', machines, me)
redis.call('ZADD', machines, now + ARGV[2], me)
redis.call('ZREMRANGEBYSCORE', machines, '-inf', '(' .. now)
return {
    redis.call('GET', born), until_ and tonumber(until_) >= now and 1 or 0,
    redis.call('ZCARD', machines),
}
"""
)
"""This machine lives. Returns when the store was born, whether it knew this machine, and how many
there are."""

LEND = (
    _NOW
    + """
local me, alive, machines = ARGV[1], {}, redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
for _, one in ipairs(machines) do alive[one] = true end
local young = #machines < tonumber(ARGV[4])
    and now - tonumber(redis.call('GET', KEYS[2]) or now) < tonumber(ARGV[2])
local found = {}
for i = 3, #KEYS do
    local key, at, others, owners = KEYS[i], 5 + 3 * (i - 3), 0, {}
    local top = 0
    local whole, has, wants = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local fields = redis.call('HGETALL', key)
    for j = 1, #fields, 2 do
        if fields[j] == 'top' then
            top = tonumber(fields[j + 1])
        elseif not alive[fields[j]] then
            redis.call('HDEL', key, fields[j])
        elseif fields[j] ~= me then
            others = others + tonumber(fields[j + 1])
            owners[#owners + 1] = fields[j]
        end
    end
    local gets = has
    if not young then gets = math.max(has, math.min(wants, whole - others)) end
    if gets > 0 then
        redis.call('HSET', key, me, gets)
        redis.call('EXPIRE', key, ARGV[3])
    else
        redis.call('HDEL', key, me)
    end
    if gets < wants then
        for _, one in ipairs(owners) do
            redis.call('PUBLISH', '"""
    + PREFIX
    + """recall:' .. one, key)
        end
    end
    if others + has == 0 then top = 0 end
    found[#found + 1] = gets
    found[#found + 1] = others
    found[#found + 1] = math.max(0, math.min(gets - has, others + gets - top))
    if others + gets > top then redis.call('HSET', key, 'top', others + gets) end
end
return found
"""
)
"""Of each key: how much there is of it, what this machine has and what it wants. Returns of each
what it gets, what the others have, and how much of what is new to it nobody has had before."""

SPEND = """
local found = {}
for i, key in ipairs(KEYS) do
    local sum = 0
    if tonumber(ARGV[2 * i]) > 0 then
        redis.call('HSET', key, ARGV[1], ARGV[2 * i])
        redis.call('EXPIRE', key, ARGV[2 * i + 1])
    end
    for _, one in ipairs(redis.call('HVALS', key)) do sum = sum + tonumber(one) end
    found[i] = string.format('%.0f', sum)
end
return found
"""
"""Of each key: the bytes that this machine has moved, and for how many seconds they matter. Returns
those of all."""


class Asked(NamedTuple):
    """For LEND."""

    key: str
    whole: int
    has: int
    wants: int


class Spent(NamedTuple):
    """For SPEND."""

    key: str
    bytes: int
    seconds: int


class Beaten(NamedTuple):
    """What the store says of the machines."""

    born: str
    known: bool
    machines: int


class Said(NamedTuple):
    """The answers, in the order of what was asked: what LEND says, and bytes."""

    beat: Beaten | None
    lent: list[tuple[int, int, int]]
    moved: list[int]


class Gone(Exception):
    """The store cannot be asked; the text says why, and shows no password."""


class Store:
    """That of a configuration, as ``machine`` asks it."""

    def __init__(self, policy: PolicyConfig, machine: str) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        user, password = policy.limits_store_auth or (None, None)
        self._machine = machine
        self._redis, self._ear = (
            Redis.from_url(
                policy.limits_store,
                username=user or None,
                password=password,
                socket_timeout=timeout,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
            for timeout in (TIMEOUT, None)
        )
        self.scripts: list[str] = []  # by which it knows them

    async def reach(self) -> None:
        """It answers. Gone."""
        with _told(self):
            self.scripts = [await self._redis.script_load(one) for one in (BEAT, LEND, SPEND)]

    async def ask(
        self, asked: Sequence[Asked], spent: Sequence[Spent], *, beat: bool, before: int
    ) -> Said:
        """One round trip. Where there is a ``beat``, nobody sees a half of it. ``before``: so many
        machines were there, as far as this one knows. Gone."""
        from redis.exceptions import NoScriptError

        if not self.scripts:
            await self.reach()
        try:
            with _told(self):
                return await self._ask(asked, spent, beat, before)
        except NoScriptError:  # it was started anew
            await self.reach()
            with _told(self):
                return await self._ask(asked, spent, beat, before)

    async def _ask(
        self, asked: Sequence[Asked], spent: Sequence[Spent], beat: bool, before: int
    ) -> Said:
        beats, lends, spends = self.scripts
        pipe = self._redis.pipeline(transaction=beat)
        common = [f"{PREFIX}machines", f"{PREFIX}born"]
        if beat:
            pipe.evalsha(beats, len(common), *common, self._machine, int(TTL * 1000))
        for lent in _parts(asked):
            keys = [*common, *(one.key for one in lent)]
            values = [value for one in lent for value in one[1:]]
            pipe.evalsha(
                lends, len(keys), *keys, self._machine, int(YOUNG * 1000), KEPT, before, *values
            )
        for moved in _parts(spent):
            keys = [one.key for one in moved]
            values = [value for one in moved for value in one[1:]]
            pipe.evalsha(spends, len(keys), *keys, self._machine, *values)
        answers = await pipe.execute(raise_on_error=False)  # whose errors show whole commands
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return _said(answers, beat, len(_parts(asked)))

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Tells of each key of which another machine lacks something, until the store is away."""
        from redis.exceptions import RedisError

        try:
            async with self._ear.pubsub() as channel:
                await channel.subscribe(f"{PREFIX}recall:{self._machine}")
                while True:
                    said = await channel.get_message(ignore_subscribe_messages=True, timeout=None)
                    if said is not None:
                        hear(str(said["data"]))
        except (RedisError, OSError, asyncio.TimeoutError, ValueError, TypeError):
            return  # whoever asks the store tells of it

    async def leave(self) -> None:
        """This machine ends: what it was lent is free. Gone."""
        with _told(self):
            await self._redis.zrem(f"{PREFIX}machines", self._machine)

    async def close(self) -> None:
        await self._ear.aclose()
        await self._redis.aclose()


@contextmanager
def _told(store: Store) -> Iterator[None]:
    """Gone for whatever a store that is away makes of a call, NoScriptError where it is another."""
    from redis.exceptions import NoScriptError, RedisError

    try:
        yield
    except NoScriptError:
        raise
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        store.scripts = []
        raise Gone(str(error) or type(error).__name__) from error
    except (ValueError, TypeError) as error:  # the client of Redis reads numbers by int(), too
        store.scripts = []
        raise Gone(f"it says what is no answer: {error}") from error


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[at : at + AT_ONCE] for at in range(0, len(items), AT_ONCE)]


def _said(answers: list[Any], beat: bool, calls: int) -> Said:
    beaten = None
    if beat:
        born, known, machines = answers.pop(0)
        beaten = Beaten(str(born), bool(known), int(machines))
    numbers = [int(number) for answer in answers[:calls] for number in answer]
    moved = [int(number) for answer in answers[calls:] for number in answer]
    lent = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    return Said(beaten, lent, moved)
