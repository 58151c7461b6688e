"""The parts of one worker, ended in order."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from spliceproxy.config import Config
from spliceproxy.observe.counts import Counts
from spliceproxy.policy.engine import Policy
from spliceproxy.processes.instance import Instance
from spliceproxy.relay.choice import choose
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.upstream.resolver import Resolver


class _Broken(Policy):
    """Its end fails."""

    async def finish(self) -> None:
        await super().finish()
        raise RuntimeError("the policy cannot end")


class _Resolver(Resolver):
    ended = False

    async def close(self) -> None:
        await super().close()
        self.ended = True


@pytest.mark.parametrize("engine", ["auto", "copy"])
def test_what_fails_at_the_end_leaves_nothing_open(engine: str, tmp_path: Path) -> None:
    """The records that are left are written, and the threads of the resolver end."""
    path = tmp_path / "access.log"

    async def serve_one() -> None:
        config = Config(listen=(), engine=engine, access_log=str(path))
        relay, _ = choose(config.engine, RelayOptions())
        resolver = _Resolver(config.timeouts.lookup)
        counts = Counts.private()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        instance = Instance(config, [listener], relay, resolver, _Broken(config, resolver), counts)
        instance.start()
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        await reader.read()
        writer.close()
        with pytest.raises(RuntimeError, match="the policy cannot end"):
            await instance.stop()
        assert resolver.ended

    asyncio.run(asyncio.wait_for(serve_one(), 20))
    assert "NONE/400" in path.read_text()


class _Giving:
    """A client waits for another worker to take it."""

    def __init__(self) -> None:
        self.has_clients = True
        self.taken = asyncio.Event()

    async def emptied(self) -> None:
        await self.taken.wait()

    def client(self, handoff: Handoff) -> None:
        raise AssertionError

    def end(self, why: str) -> None:
        raise AssertionError(why)


def test_the_end_waits_for_a_client_on_its_way_to_another_worker() -> None:
    async def drain() -> None:
        config = Config(listen=(), engine="copy", access_log="off")
        relay, _ = choose(config.engine, RelayOptions())
        resolver = Resolver(config.timeouts.lookup)
        policy = Policy(config, resolver)
        instance = Instance(config, [], relay, resolver, policy, Counts.private())
        instance.start()
        giving = instance.services.giver = _Giving()
        end = asyncio.create_task(instance.stop())
        await asyncio.wait({end}, timeout=0.1)
        assert not end.done()
        giving.has_clients = False
        giving.taken.set()
        await end

    asyncio.run(asyncio.wait_for(drain(), 20))
