"""Questions that are open: what is asked before a request is let through may take its time, or
never end. The client's bytes wait meanwhile, and when it is over nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

import pytest
from harness import memory
from loop_rig import Answer, Client, LoopProxy, Origins, Zone, own_objects, running, until
from relay.relay_rig import native_relay
from sanitizer import SANITIZED

# What a proxy loads when it serves is there before the first count.
import spliceproxy.forward.moving
import spliceproxy.processes.giving
import spliceproxy.processes.reconfigured
import spliceproxy.processes.taking  # noqa: F401
from spliceproxy.config import Config, PolicyConfig, Timeouts
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.functions import Functions
from spliceproxy.processes.worker import new_loop

ENGINES = ("native", "copy")

MANY = {"native": 1000, "copy": 200}
"""Questions that are open at the same time; without the lane each is a task, as it has always been
since there are functions."""

GROWTH = 2 << 20
"""Bytes by which a second wave of questions may make the process grow: the allocator's."""


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Enough for both ends of all connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Authorize:
    """A function of --policy that waits until it is told what to answer. ``open``: the calls that
    wait, by path; ``ends`` counts how they ended."""

    def __init__(self) -> None:
        self.open: dict[str, list[asyncio.Future[Allow | Deny]]] = {}
        self.asked: list[str] = []  # paths, "" for CONNECT
        self.ends: Counter[str] = Counter()

    async def __call__(self, request: Request) -> Allow | Deny:
        answer: asyncio.Future[Allow | Deny] = asyncio.get_running_loop().create_future()
        self.asked.append(request.path)
        self.open.setdefault(request.path, []).append(answer)
        try:
            decision = await answer
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
            raise
        else:
            self.ends["answered"] += 1
            return decision
        finally:
            waiting = self.open[request.path]
            waiting.remove(answer)
            if not waiting:
                del self.open[request.path]

    @property
    def count(self) -> int:
        return sum(map(len, self.open.values()))

    def answer(self, decision: Allow | Deny, path: str | None = None) -> None:
        """Those that are asked for this path, by default all."""
        for one in [path] if path is not None else list(self.open):
            for answer in self.open[one]:
                answer.set_result(decision)

    def cancel(self) -> None:
        """What it waits for is cancelled, by somebody else's fault."""
        for waiting in self.open.values():
            for answer in waiting:
                answer.cancel()


class World:
    """A proxy that asks, and an origin."""

    def __init__(
        self, proxy: LoopProxy, authorize: Authorize, zone: Zone, origins: Origins
    ) -> None:
        self.proxy = proxy
        self.authorize = authorize
        self.zone = zone
        self.origins = origins
        self.host = f"o.test:{origins.ports[0]}"

    def get(self, path: str = "/", method: str = "GET") -> bytes:
        head = f"{method} http://{self.host}{path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n"
        return head.encode()

    def connect(self) -> bytes:
        return f"CONNECT {self.host} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()

    async def ask(self, data: bytes) -> Client:
        client = await self.proxy.connect()
        await client.send(data)
        return client

    async def asked(self, count: int) -> None:
        """So many questions are open: of the function, or for the name."""
        await until(lambda: self.authorize.count + self.zone.looking == count, f"{count} questions")


Test = Callable[[World], Coroutine[Any, Any, None]]


def play(
    test: Test,
    engine: str,
    *,
    names: bool = False,
    timeout: float = 60.0,
    drain: float = 0.1,
    function: Callable[[Authorize, Request], Coroutine[Any, Any, Allow | Deny]] | None = None,
) -> World:
    """Plays a test; ``names``: it is the name that is waited for, and there is no function. One
    that is given is called with what would be called without it."""
    if engine == "native":
        native_relay()
    loop = new_loop()[0]

    async def main() -> World:
        authorize = Authorize()
        zone = Zone({"o.test": ("127.0.0.1",)}, late=["o.test"] if names else [])
        asked = authorize if function is None else partial(function, authorize)
        functions = None if names else Functions(asked, None)
        config = Config(
            listen=(),
            access_log="off",
            timeouts=Timeouts(drain=drain),
            policy=PolicyConfig(hook_timeout=timeout),
        )
        async with AsyncExitStack() as stack:
            origins = await Origins.on(["127.0.0.1"])
            stack.callback(origins.close)
            proxy = await stack.enter_async_context(running(config, zone, functions, engine=engine))
            world = World(proxy, authorize, zone, origins)
            await test(world)
        return world

    try:
        return loop.run_until_complete(asyncio.wait_for(main(), 60))
    finally:
        loop.close()


# ---- a thousand of them ------------------------------------------------------------------


class Left(NamedTuple):
    """What there is of everything that a request costs."""

    descriptors: int
    tasks: int
    relay: tuple[int, ...]
    objects: Counter[str]


async def at_rest(world: World) -> Left:
    """What is left, when nobody is connected any more and everything has come to its end."""
    proxy = world.proxy
    await until(lambda: not proxy.connections and not proxy.instance.server._tasks, "rest")
    proxy.instance.services.origins.close_idle()
    await until(lambda: not world.origins.connections, "the end of the origin's connections")
    left = _left(world)
    while True:
        for _ in range(10):
            await asyncio.sleep(0)
        earlier, left = left, _left(world)
        if left == earlier:
            return left


def _left(world: World) -> Left:
    stats = world.proxy.relay.stats()
    now = stats.tunnels, stats.transfers, stats.pipes_lent, world.proxy.relay.clients
    return Left(len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), now, own_objects())


def reset(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def _all(world: World, clients: list[Client], wanted: Callable[[Answer], bool]) -> None:
    """What each of the clients is answered; every second one has asked for a tunnel."""
    for number, client in enumerate(clients):
        answer = await client.answer("CONNECT" if number % 2 else "GET")
        assert wanted(answer), answer
        client.close()


async def yes(world: World, clients: list[Client]) -> None:
    world.authorize.answer(Allow())
    await _all(world, clients, lambda answer: answer.status == 200)


async def no(world: World, clients: list[Client]) -> None:
    world.authorize.answer(Deny("no", "r"))
    await _all(world, clients, lambda answer: (answer.status, answer.fault[1]) == (403, "rule r"))


async def leaves(world: World, clients: list[Client]) -> None:
    for client in clients:
        client.close()
    await until(lambda: world.authorize.ends["cancelled"] >= len(clients), "cancelled calls")


async def breaks(world: World, clients: list[Client]) -> None:
    for client in clients:
        reset(client)
    await until(lambda: world.authorize.ends["cancelled"] >= len(clients), "cancelled calls")


async def fails(world: World, clients: list[Client]) -> None:
    world.authorize.cancel()
    await _all(world, clients, lambda answer: answer.status == 500)


async def too_late(world: World, clients: list[Client]) -> None:
    """Of the function's limit, which is short here."""
    await _all(world, clients, lambda answer: answer.status == 500)
    assert world.authorize.ends["cancelled"] >= len(clients)


async def name_found(world: World, clients: list[Client]) -> None:
    world.zone.answer()
    await _all(world, clients, lambda answer: answer.status == 200)


async def name_not_found(world: World, clients: list[Client]) -> None:
    world.zone.hosts.clear()
    world.zone.answer()
    await _all(
        world, clients, lambda answer: (answer.status, answer.fault[0]) == (502, "dns_error")
    )
    world.zone.hosts["o.test"] = ("127.0.0.1",)


async def leaves_the_name(world: World, clients: list[Client]) -> None:
    for client in clients:
        client.close()
    await world.asked(0)


End = Callable[[World, list[Client]], Coroutine[Any, Any, None]]
ENDS: dict[str, tuple[End, bool]] = {
    "yes": (yes, False),
    "no": (no, False),
    "client leaves": (leaves, False),
    "client resets": (breaks, False),
    "function fails": (fails, False),
    "function is late": (too_late, False),
    "name found": (name_found, True),
    "name not found": (name_not_found, True),
    "client leaves the name": (leaves_the_name, True),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_left_of_a_thousand_questions(name: str, engine: str) -> None:
    end, names = ENDS[name]

    async def wave(world: World, count: int) -> Left:
        world.authorize.ends.clear()
        clients = []
        for number in range(count):
            data = world.connect() if number % 2 else world.get()
            clients.append(await world.ask(data))
        if end is not too_late:
            await world.asked(count)
        await end(world, clients)
        for client in clients:
            client.close()
        del clients
        return await at_rest(world)

    async def test(world: World) -> None:
        before = await wave(world, 10)
        assert await wave(world, MANY[engine]) == before
        if end in (yes, leaves) and not SANITIZED:
            grown = memory(os.getpid(), "Rss")
            assert await wave(world, MANY[engine]) == before
            assert memory(os.getpid(), "Rss") - grown < GROWTH

    play(test, engine, names=names, timeout=0.3 if end is too_late else 60.0)


# ---- what a client may do while its question is open -------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_behind_an_open_question_wait_for_its_answer(engine: str) -> None:
    """They are asked one after another, and answered in their order."""

    async def test(world: World) -> None:
        authorize = world.authorize
        paths = ["/1", "/2", "/3", "/4"]
        client = await world.ask(b"".join(world.get(path) for path in paths))
        for number, path in enumerate(paths, 1):
            await world.asked(1)
            assert authorize.asked == paths[:number]
            assert not client.received
            decision = Deny("no", "r") if path == "/2" else Allow()
            authorize.answer(decision, path)
            answer = await client.answer()
            assert answer.status == (403 if path == "/2" else 200)
            if path != "/2":
                assert answer.fields["x-asked"] == f"GET {path}"
        client.close()

    play(test, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_comes_while_a_question_is_open_is_not_lost(engine: str) -> None:
    """One piece after another, of requests that are cut anywhere."""

    async def test(world: World) -> None:
        first, rest = world.get("/1"), world.get("/2") + world.get("/3")
        client = await world.ask(first)
        await world.asked(1)
        for at in range(0, len(rest), 7):
            await client.send(rest[at : at + 7])
            await asyncio.sleep(0)
        for path in ("/1", "/2", "/3"):
            await world.asked(1)
            world.authorize.answer(Allow(), path)
            assert (await client.answer()).fields["x-asked"] == f"GET {path}"
        client.close()

    play(test, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("late", [False, True], ids=["glued", "later"])
def test_bytes_behind_connect_wait_for_the_answer(engine: str, late: bool) -> None:
    """They reach the origin first, and only when the tunnel is there."""

    async def test(world: World) -> None:
        early = b"GET /early HTTP/1.1\r\nHost: o\r\n\r\n"
        client = await world.ask(world.connect() + (b"" if late else early))
        await world.asked(1)
        if late:
            await client.send(early)
        assert world.origins.connections == 0
        world.authorize.answer(Allow())
        assert (await client.answer("CONNECT")).status == 200
        await client.send(b"GET /next HTTP/1.1\r\nHost: o\r\n\r\n")
        for path in ("/early", "/next"):
            assert (await client.answer()).fields["x-asked"] == f"GET {path}"
        assert world.authorize.asked == [""]
        client.close()

    play(test, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_behind_a_refused_connect_are_no_request(engine: str) -> None:
    async def test(world: World) -> None:
        client = await world.ask(world.connect() + world.get("/early"))
        await world.asked(1)
        world.authorize.answer(Deny("no", "r"))
        answer = await client.answer()
        assert (answer.status, answer.last) == (403, True)
        assert await client.rest() == b""
        client.close()
        assert world.authorize.asked == [""]
        assert world.origins.requests == 0

    play(test, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_head_is_answered_without_a_body(engine: str) -> None:
    async def test(world: World) -> None:
        client = await world.ask(world.get("/1", "HEAD") + world.get("/2", "HEAD"))
        for path, decision, status in (("/1", Deny("no", "r"), 403), ("/2", Allow(), 200)):
            await world.asked(1)
            world.authorize.answer(decision, path)
            answer = await client.answer("HEAD")
            assert answer.status == status
            assert not client.received
        client.close()

    play(test, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("how", "pipelined"), [("fin", False), ("half", False), ("reset", False), ("reset", True)]
)
def test_a_client_that_leaves_cancels_its_function(engine: str, how: str, pipelined: bool) -> None:
    """One that has ended its side only has left, too, if it has asked for nothing more."""

    async def test(world: World) -> None:
        client = await world.ask(world.get() + (world.get() if pipelined else b""))
        await world.asked(1)
        if how == "half":
            client.sock.shutdown(socket.SHUT_WR)
        elif how == "reset":
            reset(client)
        else:
            client.close()
        await until(lambda: world.authorize.ends["cancelled"] == 1, "a cancelled call")
        if how == "half":
            assert await client.rest() == b""
            client.close()
        await until(lambda: not world.proxy.connections, "the end of the connection")
        assert world.origins.requests == 0

    play(test, engine)


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="whether a task is still cancelled is known since Python 3.11",
)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_for_one_who_has_left_is_for_nobody(engine: str) -> None:
    """Not for another client in its place, whose question is open, either."""
    begun, swallowed, late = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def swallow(authorize: Authorize, request: Request) -> Allow | Deny:
        if request.path != "/old":
            return await authorize(request)
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            swallowed.set()
        await late.wait()
        return Allow()

    async def test(world: World) -> None:
        for _ in range(3):
            for event in (begun, swallowed, late):
                event.clear()
            old = await world.ask(world.get("/old"))
            await asyncio.wait_for(begun.wait(), 20)
            old.close()
            await asyncio.wait_for(swallowed.wait(), 20)
            await until(lambda: not world.proxy.connections, "the end of the first")
            new = await world.ask(world.get("/new"))
            await world.asked(1)
            late.set()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not new.received
            assert world.authorize.count == 1
            assert world.origins.requests == 0
            world.authorize.answer(Deny("no", "r"))
            assert (await new.answer()).status == 403
            new.close()
            await until(lambda: not world.proxy.connections, "the end of the second")

    play(test, engine, function=swallow)


# ---- the end of the worker ---------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("in_time", [True, False], ids=["in time", "never"])
def test_a_worker_that_ends_waits_for_its_open_questions(engine: str, in_time: bool) -> None:
    """For as long as it waits for tunnels; then their functions are cancelled."""

    async def test(world: World) -> None:
        clients = [await world.ask(world.get()) for _ in range(20)]
        clients += [await world.ask(world.connect()) for _ in range(20)]
        await world.asked(40)
        ending = asyncio.ensure_future(world.proxy.instance.stop())
        await asyncio.sleep(0)
        if in_time:
            world.authorize.answer(Allow())
            for number, client in enumerate(clients):
                assert (await client.answer("GET" if number < 20 else "CONNECT")).status == 200
                client.close()
            assert world.authorize.ends == {"answered": 40}
        await ending
        assert world.authorize.ends["answered" if in_time else "cancelled"] == 40
        assert not world.proxy.connections
        for client in clients:
            client.close()

    play(test, engine, drain=30.0 if in_time else 0.1)
