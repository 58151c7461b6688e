"""What the log says of a request that waits: each stage has its time, and whoever leaves meanwhile
is told of with all that is known by then. The lane and Python say the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loop_rig import Client, LoopProxy, Zone, running, until
from relay.relay_rig import native_relay

from spliceproxy.config import AuthConfig, Config, PolicyConfig, Timeouts
from spliceproxy.forward import lane_options
from spliceproxy.observe.format_names import NAMES
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.functions import Functions
from spliceproxy.processes.worker import new_loop

ENGINES = ("native", "copy")

PAUSE = 0.06
"""Seconds that each stage takes here, where it takes any."""

STEP = 0.005
"""Seconds by which a timer may be early: one step of a coarse clock."""

BASIC = f"Proxy-Authorization: Basic {b64encode(b'ann:secret').decode()}"
ANSWER = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok"
FORMATS = (*NAMES, "%un %{team}note %{termination}json %Ss %rm %ru")


class World:
    """A proxy, and one origin that a test plays. The name o.test is looked up, and ``allow`` is the
    function's answer."""

    def __init__(self, config: Config, origin: socket.socket) -> None:
        self.config = config
        self.listener = origin
        self.port = origin.getsockname()[1]
        self.zone = Zone({"o.test": ("127.0.0.1",)}, late=["o.test"])
        self.allow: Allow | Deny = Allow(tags={"team": "web"})
        self.deciding = asyncio.Event()
        self.decided = asyncio.Event()
        self.calls = 0
        self.proxy: LoopProxy

    async def authorize(self, request: Request) -> Allow | Deny:
        self.calls += 1
        self.deciding.set()
        await self.decided.wait()
        return self.allow

    async def ask(self, path: str = "/", *fields: str, host: str = "") -> Client:
        client = await self.proxy.connect()
        where = host or f"o.test:{self.port}"
        lines = [f"GET http://{where}{path} HTTP/1.1", f"Host: {where}", BASIC, *fields, "", ""]
        await client.send("\r\n".join(lines).encode())
        return client

    async def decide(self) -> None:
        """The function takes a while."""
        await asyncio.wait_for(self.deciding.wait(), 20)
        await asyncio.sleep(PAUSE + STEP)
        self.decided.set()

    async def name(self) -> None:
        """The look-up takes a while."""
        await until(lambda: self.zone.looking, "look-up")
        await asyncio.sleep(PAUSE + STEP)
        self.zone.answer()

    async def accept(self) -> socket.socket:
        """A connection to the origin."""
        loop = asyncio.get_running_loop()
        return (await asyncio.wait_for(loop.sock_accept(self.listener), 20))[0]

    async def asked(self) -> socket.socket:
        """The same, when the request has come."""
        sock = await self.accept()
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1000), 20)
        return sock

    async def at_rest(self) -> None:
        await until(lambda: not self.proxy.connections, "the end of all connections")

    def lines(self) -> list[str]:
        return Path(self.config.access_log).read_text().splitlines()


@asynccontextmanager
async def world(config: Config, engine: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        made = World(config, listener)
        functions = Functions(made.authorize, None)
        made.proxy = await stack.enter_async_context(
            running(config, made.zone, functions, engine=engine)
        )
        yield made


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def play(scenario: Scenario, config: Config, engine: str) -> list[str]:
    """The lines of the log."""
    if engine == "native":
        native_relay()
    loop = new_loop()[0]

    async def main() -> list[str]:
        async with world(config, engine) as made:
            await scenario(made)
            await made.at_rest()
        return made.lines()

    try:
        return loop.run_until_complete(asyncio.wait_for(main(), 60))
    finally:
        loop.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        listen=(),
        access_log=str(tmp_path / "access"),
        log_format="json",
        auth=AuthConfig(user=("ann", "secret")),
        policy=PolicyConfig(hook_timeout=60.0),
        timeouts=Timeouts(drain=0.1),
    )


# ---- who leaves --------------------------------------------------------------------------


def leave(client: Client, how: str) -> None:
    if how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def untimed(line: str) -> str:
    """A line without what differs from run to run."""
    if line.startswith("{"):
        found = json.loads(line)
        for name in [name for name in found if name.endswith("_us")] + ["time", "id"]:
            del found[name]
        return json.dumps(found)
    line = re.sub(r"^\d+\.\d{3} +\d+ ", "", line)
    return re.sub(r"\[.*?\]", "", line)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("how", ["leaves", "reset"])
def test_a_client_that_leaves_is_told_of_with_all_that_is_known(
    config: Config, form: str, how: str
) -> None:
    """While the function is asked that is the user, while the name is looked up the tags, too."""
    form_config = replace(config, log_format=form, log_query=True)

    async def scenario(world: World) -> None:
        client = await world.ask("/function")
        await asyncio.wait_for(world.deciding.wait(), 20)
        leave(client, how)
        await world.at_rest()
        world.decided.set()
        client = await world.ask("/name")
        await until(lambda: world.zone.looking, "look-up")
        leave(client, how)

    found = {}
    for engine in ENGINES:
        Path(config.access_log).unlink(missing_ok=True)
        lines = [untimed(line) for line in play(scenario, form_config, engine)]
        port = r":\d+/"
        found[engine] = [re.sub(port, ":PORT/", line) for line in lines]
        first, second = found[engine]
        assert "ann" in first
        assert "ann" in second
        if "note" in form or form == "json":
            assert "web" not in first
            assert "web" in second
    assert found["native"] == found["copy"]


# ---- how long it took --------------------------------------------------------------------


async def name_and_answer(world: World) -> None:
    client = await world.ask()
    await world.decide()
    await world.name()
    with await world.asked() as origin:
        await asyncio.sleep(PAUSE + STEP)
        origin.sendall(ANSWER)
        assert (await client.answer()).status == 200
    client.close()


async def answer_of_http_1_0(world: World) -> None:
    """The lane gives it back with its origin."""
    client = await world.ask()
    await world.decide()
    await world.name()
    with await world.asked() as origin:
        await asyncio.sleep(PAUSE + STEP)
        origin.sendall(ANSWER.replace(b"1.1", b"1.0"))
        assert (await client.answer()).status == 200
    client.close()


async def refused_by_the_function(world: World) -> None:
    world.allow = Deny("no", "r")
    client = await world.ask()
    await world.decide()
    assert (await client.answer()).status == 403
    client.close()


async def name_not_found(world: World) -> None:
    world.zone.hosts.clear()
    client = await world.ask()
    await world.decide()
    await world.name()
    assert (await client.answer()).status == 502
    client.close()


async def nobody_answers(world: World) -> None:
    client = await world.ask()
    await world.decide()
    await world.name()
    with await world.asked():
        assert (await client.answer()).status == 504
    client.close()


async def nobody_listens(world: World) -> None:
    """All attempts to connect together have their limit."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(silent(world.listener))
        client = await world.ask()
        await world.decide()
        await world.name()
        assert (await client.answer()).status == 504
        client.close()


async def leaves_the_question(world: World) -> None:
    client = await world.ask()
    await asyncio.wait_for(world.deciding.wait(), 20)
    await asyncio.sleep(PAUSE + STEP)
    client.close()


async def leaves_the_name(world: World) -> None:
    """What did not end is a part of the question in the lane, and a look-up in Python."""
    world.decided.set()
    client = await world.ask()
    await until(lambda: world.zone.looking, "look-up")
    await asyncio.sleep(PAUSE + STEP)
    client.close()


async def leaves_the_dial(world: World) -> None:
    with silent(world.listener):
        client = await world.ask()
        await world.decide()
        await world.name()
        await asyncio.sleep(PAUSE + STEP)
        client.close()
        await world.at_rest()


@contextlib.contextmanager
def silent(listener: socket.socket) -> Any:
    """It takes no more connections: a SYN is dropped where the backlog is full."""
    listener.listen(0)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield


DIAL = 3 * PAUSE + 2 * STEP

SCENARIOS: dict[str, tuple[Scenario, set[str]]] = {
    "ok": (name_and_answer, {"question", "dns", "first_byte"}),
    "given back with its origin": (answer_of_http_1_0, {"question", "dns", "first_byte"}),
    "refused": (refused_by_the_function, {"question"}),
    "no name": (name_not_found, {"question", "dns"}),
    "no answer": (nobody_answers, {"question", "dns"}),
    "no connection": (nobody_listens, {"question", "dns", "dial"}),
    "leaves the question": (leaves_the_question, {"question"}),
    "leaves the name": (leaves_the_name, set()),
    "leaves the dial": (leaves_the_dial, {"question", "dns", "dial"}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_stage_has_its_time(config: Config, name: str, engine: str) -> None:
    """Together they are no longer than all of it, which ends with the answer."""
    scenario, stages = SCENARIOS[name]
    idle = PAUSE if scenario is nobody_answers else 3600.0
    dial = DIAL if scenario is nobody_listens else 9.0
    timeouts = Timeouts(drain=0.1, idle=idle, dial=dial)
    began = time.monotonic()
    (line,) = play(scenario, replace(config, timeouts=timeouts), engine)
    most = time.monotonic() - began
    found = json.loads(line)
    times = {
        stage: found[f"{stage}_us"] / 1e6
        for stage in ("question", "dns", "dial", "first_byte", "total")
    }
    total = times.pop("total")
    for stage in stages:
        assert times[stage] >= PAUSE, (stage, found)
    if scenario is leaves_the_name:
        assert times["question"] + times["dns"] >= PAUSE, found
    elif "dns" not in stages:
        assert times["dns"] == 0.0, found
    if "first_byte" not in stages:
        assert times["first_byte"] == 0.0, found
    assert sum(times.values()) <= total + 1e-5, found  # each is rounded
    assert total <= most, found
    if scenario is nobody_answers:
        assert total >= 3 * PAUSE


# ---- the limit of a question -------------------------------------------------------------


def test_a_question_that_is_open_for_too_long_is_asked_once(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is told so, and may ask again. Only the lane has this limit, beyond all others."""
    limits = 2 * config.policy.hook_timeout + config.timeouts.lookup
    monkeypatch.setattr(lane_options, "ASK", PAUSE - limits)

    async def scenario(world: World) -> None:
        client = await world.ask("/late")
        answer = await client.answer()
        assert (answer.status, answer.fault[0]) == (500, "proxy_internal_error")
        assert not answer.last
        assert world.calls == 1
        world.decided.set()
        world.zone.late_names = frozenset()
        where = f"o.test:{world.port}"
        await client.send(
            f"GET http://{where}/next HTTP/1.1\r\nHost: {where}\r\n{BASIC}\r\n\r\n".encode()
        )
        with await world.asked() as origin:
            origin.sendall(ANSWER)
            assert (await client.answer()).status == 200
        assert world.calls == 2
        client.close()

    late, after = map(json.loads, play(scenario, config, "native"))
    assert (late["status"], late["user"], late["error"]) == (500, "ann", "proxy_internal_error")
    assert late["reason"] == "no decision was made in time"
    assert late["question_us"] >= (PAUSE - STEP) * 1e6
    assert late["termination"] == "PQ"
    assert (after["status"], after["user"]) == (200, "ann")
