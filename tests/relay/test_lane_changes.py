"""Another configuration amid all that a lane does: the whole proxy on one event loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loop_rig import Client, LoopProxy, Origins, Zone, running, until

from spliceproxy.config import Config, PolicyConfig, RuleConfig, Timeouts
from spliceproxy.policy.decision import Allow
from spliceproxy.policy.functions import Functions

HOST = "127.0.0.1"
ENGINES = pytest.mark.parametrize("engine", ["native", "copy"])
BASE = Config(listen=(), access_log="off", policy=PolicyConfig(guard="off"))
DENIED = replace(
    BASE, policy=replace(BASE.policy, rules=(RuleConfig("no", "deny", hosts=("a.example",)),))
)


def switch(proxy: LoopProxy, config: Config, generation: int) -> None:
    """In one step, as a worker does it."""
    coming = proxy.instance.prepare(config, generation)
    proxy.instance.switch(coming, list(proxy.instance.server._sockets))


async def ask(client: Client, port: int, host: str = "a.example") -> None:
    await client.send(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())


async def status(client: Client, port: int, host: str = "a.example") -> int:
    await ask(client, port, host)
    return (await client.answer()).status


def run(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


@ENGINES
def test_what_is_asked_from_then_on(engine: str) -> None:
    async def work() -> None:
        origins = await Origins.on([HOST])
        (port,) = origins.ports
        async with running(BASE, Zone({"a.example": (HOST,)}), engine=engine) as proxy:
            clients = [await proxy.connect() for _ in range(4)]
            assert [await status(one, port) for one in clients] == [200] * 4
            switch(proxy, DENIED, 2)
            assert [await status(one, port) for one in clients] == [403] * 4
            switch(proxy, BASE, 3)
            assert [await status(one, port) for one in clients] == [200] * 4
            for one in clients:
                one.close()
        origins.close()

    run(work)


@ENGINES
def test_a_question_that_is_open(engine: str) -> None:
    """It was asked before, and is answered as it was. Nobody else gets that answer."""

    async def work() -> None:
        origins = await Origins.on([HOST])
        (port,) = origins.ports
        zone = Zone({"a.example": (HOST,)}, late=["a.example"])
        async with running(BASE, zone, engine=engine) as proxy:
            waiting, later = await proxy.connect(), await proxy.connect()
            await ask(waiting, port)
            await until(lambda: zone.looking, "look-up")
            switch(proxy, DENIED, 2)
            zone.late_names = frozenset()
            zone.answer()
            assert (await waiting.answer()).status == 200
            assert await status(waiting, port) == 403
            assert await status(later, port) == 403
            waiting.close()
            later.close()
        origins.close()

    run(work)


@ENGINES
def test_a_function_that_waits(engine: str) -> None:
    """The old one goes on, and its answer is used once."""
    gate = asyncio.Event()
    asked: list[str] = []

    async def authorize(request: Any) -> Allow:
        asked.append(request.host)
        await gate.wait()
        return Allow()

    async def work() -> None:
        origins = await Origins.on([HOST])
        (port,) = origins.ports
        functions = Functions(authorize)
        zone = Zone({"a.example": (HOST,)})
        cached = replace(BASE, policy=replace(BASE.policy, hook_cache=60.0))
        async with running(cached, zone, functions, engine=engine) as proxy:
            client = await proxy.connect()
            await ask(client, port)
            await until(lambda: asked, "call")
            switch(proxy, DENIED, 2)
            gate.set()
            assert (await client.answer()).status == 200
            assert await status(client, port) == 403
            client.close()
        origins.close()

    run(work)


FORMS = ["native", "json", "squid", "common", "%ts %rm %{generation}json"]


@ENGINES
@pytest.mark.parametrize("before", FORMS)
@pytest.mark.parametrize("after", FORMS)
def test_no_line_is_lost(tmp_path: Path, engine: str, before: str, after: str) -> None:
    """Of requests that the change finds in every state, and of tunnels."""

    async def work() -> None:
        origins = await Origins.on([HOST])
        (port,) = origins.ports
        zone = Zone({"a.example": (HOST,), "b.example": (HOST,)}, late=["b.example"])
        path = tmp_path / "log"
        config = replace(BASE, access_log=str(path), log_format=before)
        async with running(config, zone, engine=engine) as proxy:
            tunnel, waiting, idle = [await proxy.connect() for _ in range(3)]
            await tunnel.send(
                f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode()
            )
            assert (await tunnel.answer("CONNECT")).status == 200
            assert await status(idle, port) == 200
            await ask(waiting, port, "b.example")
            await until(lambda: zone.looking, "look-up")
            switch(proxy, replace(config, log_format=after), 2)
            zone.answer()
            assert (await waiting.answer()).status == 200
            assert await status(idle, port) == 200
            tunnel.sock.shutdown(socket.SHUT_WR)
            await tunnel.rest()
            for one in (tunnel, waiting, idle):
                one.close()
        lines = path.read_text().splitlines()
        assert len(lines) == 4, lines
        if before == after == "json":
            found = sorted(json.loads(line)["generation"] for line in lines)
            assert found == [1, 1, 1, 2]
        origins.close()

    run(work)


@ENGINES
def test_settings_of_each_kind(engine: str, tmp_path: Path) -> None:
    """Back and forth between two that have nothing in common."""
    (tmp_path / "file").write_text("a file")
    other = replace(
        BASE,
        via="other",
        forwarded_for="on",
        serve=tmp_path,
        max_connections=500,
        timeouts=Timeouts(head=20.0, dial=5.0, dns=3.0, idle=50.0, half_close=20.0),
        access_log=str(tmp_path / "log"),
        log_format="json",
        log_live=30.0,
        log_query=False,
    )

    async def work() -> None:
        origins = await Origins.on([HOST])
        (port,) = origins.ports
        async with running(BASE, Zone({"a.example": (HOST,)}), engine=engine) as proxy:
            client = await proxy.connect()
            for generation in range(2, 12):
                config = other if generation % 2 == 0 else BASE
                assert await status(client, port) == 200
                switch(proxy, config, generation)
                assert await status(client, port) == 200
                await client.send(b"GET /file HTTP/1.1\r\nHost: here\r\n\r\n")
                answer = await client.answer()
                assert answer.status == (200 if config is other else 400)
                if answer.last:
                    client.close()
                    client = await proxy.connect()
            client.close()
        origins.close()

    run(work)
