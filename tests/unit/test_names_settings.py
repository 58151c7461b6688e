"""How the settings change what is asked: versions of IP, hosts files, and old answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_resolver import AAAA, SERVFAIL, A, Server, serve

from spliceproxy.config import NamesConfig
from spliceproxy.errors import Failure
from spliceproxy.relay import columns
from spliceproxy.upstream import answers
from spliceproxy.upstream import resolver as module
from spliceproxy.upstream.resolver import Resolver

ZONE = {A: ["192.0.2.1", "192.0.2.2"], AAAA: ["2001:db8::1", "2001:db8::2"]}
BOTH = ("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")
OTHER = ("192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2")


class World:
    """A server, a resolver that asks it, and the seconds that have passed for it."""

    def __init__(self, server: Server, resolver: Resolver, row: memoryview) -> None:
        self.server = server
        self.resolver = resolver
        self.row = row
        self.passed = 0.0
        clock = resolver.clock
        resolver.clock = lambda: clock() + self.passed

    async def fails(self, host: str) -> Failure:
        with pytest.raises(Failure) as caught:
            await self.resolver.resolve(host)
        return caught.value


def in_world(
    body: Callable[[World], Awaitable[None]],
    *,
    version: str = "prefer6",
    stale: float = 0.0,
    hosts: str = os.devnull,
    timeout: float = 10.0,
) -> None:
    async def main() -> None:
        server = await serve()
        server.zone["a.test"] = ZONE
        row = columns.private()
        resolver = Resolver(
            timeout,
            nameservers=[server.address],
            hosts_file=hosts,
            ip_version=version,
            stale=stale,
            row=row,
        )
        try:
            await body(World(server, resolver, row))
        finally:
            await resolver.close()
            server.transport.close()

    asyncio.run(main())


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a server before an old answer is used."""
    monkeypatch.setattr(module, "STALE_PATIENCE", 0.05)


# Versions of IP


@pytest.mark.parametrize(
    ("version", "addresses", "asked"),
    [
        ("4", ("192.0.2.1", "192.0.2.2"), {A}),
        ("6", ("2001:db8::1", "2001:db8::2"), {AAAA}),
        ("prefer4", OTHER, {A, AAAA}),
        ("prefer6", BOTH, {A, AAAA}),
    ],
)
def test_a_name(version: str, addresses: tuple[str, ...], asked: set[int]) -> None:
    """Only what is used is asked for."""

    async def body(world: World) -> None:
        assert await world.resolver.resolve("a.test") == addresses
        assert {kind for _, kind in world.server.asked} == asked
        assert world.resolver.cached("A.test") == addresses
        assert len(world.server.asked) == len(asked)

    in_world(body, version=version)


@pytest.mark.parametrize(
    ("version", "host", "addresses"),
    [
        ("4", "localhost", ("127.0.0.1",)),
        ("6", "a.localhost", ("::1",)),
        ("prefer4", "localhost", ("127.0.0.1", "::1")),
        ("4", "192.0.2.9", ("192.0.2.9",)),
        ("6", "2001:db8::9", ("2001:db8::9",)),
        ("prefer6", "192.0.2.9", ("192.0.2.9",)),
    ],
)
def test_what_needs_no_query(version: str, host: str, addresses: tuple[str, ...]) -> None:
    async def body(world: World) -> None:
        assert world.resolver.cached(host) == addresses
        assert await world.resolver.resolve(host) == addresses

    in_world(body, version=version)


@pytest.mark.parametrize(
    ("version", "host", "why"),
    [
        ("4", "2001:db8::9", "only IPv4 is used"),
        ("6", "192.0.2.9", "only IPv6 is used"),
        ("6", "::ffff:192.0.2.9", "only IPv6 is used"),
    ],
)
def test_an_address_of_the_other_version(version: str, host: str, why: str) -> None:
    async def body(world: World) -> None:
        assert world.resolver.cached(host) is None
        failure = await world.fails(host)
        assert (failure.error, failure.why) == ("dns_error", why)
        assert world.server.asked == []

    in_world(body, version=version)


def test_a_name_without_an_address_of_that_version() -> None:
    async def body(world: World) -> None:
        world.server.zone["b.test"] = {A: ["192.0.2.3"]}
        failure = await world.fails("b.test")
        assert (failure.error, failure.why) == ("dns_error", "name has no address")
        assert world.server.asked == [("b.test", AAAA)]

    in_world(body, version="6")


HOSTS = "192.0.2.7 h.test\n2001:db8::7 h.test\n2001:db8::8 six.test\n"


@pytest.mark.parametrize(
    ("version", "addresses"),
    [
        ("any", ("2001:db8::7", "192.0.2.7")),
        ("4", ("192.0.2.7",)),
        ("6", ("2001:db8::7",)),
        ("prefer4", ("192.0.2.7", "2001:db8::7")),
    ],
)
def test_a_hosts_file(version: str, addresses: tuple[str, ...], tmp_path: Path) -> None:
    """Where it has none of that version, name servers are asked, as getaddrinfo(3) does."""
    path = tmp_path / "hosts"
    path.write_text(HOSTS)

    async def body(world: World) -> None:
        assert world.resolver.cached("h.test") == addresses
        world.server.zone["six.test"] = {A: ["192.0.2.8"]}
        found = await world.resolver.resolve("six.test")
        assert found == (("192.0.2.8",) if version == "4" else ("2001:db8::8",))

    in_world(body, version=version, hosts=str(path))


# Old answers


def counted(world: World) -> int:
    return int(world.row[columns.NAMES_STALE])


def test_servers_are_silent(brief: None, caplog: pytest.LogCaptureFixture) -> None:
    async def body(world: World) -> None:
        assert await world.resolver.resolve("a.test") == BOTH
        world.server.silent = True
        world.passed = 100.0  # the time of the answer is over
        assert world.resolver.cached("a.test") is None
        first = asyncio.ensure_future(world.resolver.resolve("a.test"))
        assert await world.resolver.resolve("a.test") == await first == BOTH
        assert counted(world) == 1  # for both
        world.server.release()
        late = world.resolver.late("a.test")
        if late is not None:
            await late
        assert world.resolver.cached("a.test") == BOTH
        assert world.resolver._cache["a.test"].old_since == 0.0  # the answer has come

    in_world(body, stale=3600.0)
    assert "no answer for a.test; the one whose time is over for " in caplog.text


def test_servers_fail() -> None:
    """After a failure nobody asks again for a while; then somebody does."""

    async def body(world: World) -> None:
        assert await world.resolver.resolve("a.test") == BOTH
        world.server.rcode = SERVFAIL
        world.passed = 100.0
        assert await world.resolver.resolve("a.test") == BOTH
        asked = len(world.server.asked)
        assert world.resolver.cached("a.test") == BOTH
        world.passed += answers.STALE_TTL - 1
        assert await world.resolver.resolve("a.test") == BOTH
        assert len(world.server.asked) == asked
        world.passed += 2
        world.server.rcode = 0
        world.server.zone["a.test"] = {A: ["192.0.2.9"]}
        assert await world.resolver.resolve("a.test") == ("192.0.2.9",)
        assert counted(world) == 1

    in_world(body, stale=3600.0)


def test_an_old_answer_is_used_for_so_long_and_no_longer() -> None:
    async def body(world: World) -> None:
        await world.resolver.resolve("a.test")
        world.server.rcode = SERVFAIL
        world.passed = 60.0 + 10.0
        while world.passed < 60.0 + 295.0:
            assert await world.resolver.resolve("a.test") == BOTH
            world.passed += 31.0
        world.passed = 60.0 + 301.0
        assert (await world.fails("a.test")).why == "DNS server has failed"

    in_world(body, stale=300.0)


@pytest.mark.parametrize("stale", [0.0, 3600.0])
def test_what_is_known_to_be_gone_is_gone(stale: float) -> None:
    """A name that does not exist any more, or has no address, is no silence."""

    async def body(world: World) -> None:
        world.server.zone["b.test"] = ZONE
        await world.resolver.resolve("a.test")
        await world.resolver.resolve("b.test")
        world.passed = 100.0
        del world.server.zone["a.test"]
        world.server.zone["b.test"] = {}
        assert (await world.fails("a.test")).why == "name not found"
        assert (await world.fails("b.test")).why == "name has no address"
        assert counted(world) == 0

    in_world(body, stale=stale)


def test_without_the_setting_nothing_old_is_used() -> None:
    async def body(world: World) -> None:
        await world.resolver.resolve("a.test")
        world.server.rcode = SERVFAIL
        world.passed = 100.0
        assert (await world.fails("a.test")).why == "DNS server has failed"

    in_world(body)


def test_one_family_is_silent(brief: None) -> None:
    """What the other has said is newer than what is old."""

    async def body(world: World) -> None:
        await world.resolver.resolve("a.test")
        world.passed = 100.0
        world.server.zone["a.test"] = {A: ["192.0.2.9"]}
        world.server.rcodes["a.test", AAAA] = SERVFAIL
        assert await world.resolver.resolve("a.test") == ("192.0.2.9",)
        assert counted(world) == 0

    in_world(body, stale=3600.0)


# Other settings


def test_other_servers_are_asked_from_then_on() -> None:
    async def body(world: World) -> None:
        other = await serve()
        other.zone["a.test"] = {A: ["192.0.2.9"], AAAA: ["2001:db8::9"]}
        await world.resolver.resolve("a.test")
        world.resolver.change(10.0, NamesConfig((other.address,), "none", "prefer6"))
        assert await world.resolver.resolve("a.test") == ("2001:db8::9", "192.0.2.9")
        names = NamesConfig((other.address,), "none", "4")
        world.resolver.change(10.0, names)
        assert await world.resolver.resolve("a.test") == ("192.0.2.9",)
        world.resolver.change(5.0, names)  # what is known stays
        assert world.resolver.cached("a.test") == ("192.0.2.9",)
        other.transport.close()

    in_world(body)


def test_an_answer_of_the_servers_before_is_not_kept() -> None:
    async def body(world: World) -> None:
        world.server.silent = True
        waiting = asyncio.ensure_future(world.resolver.resolve("a.test"))
        await world.server.heard.wait()
        other = await serve()
        other.zone["a.test"] = {A: ["192.0.2.9"]}
        world.resolver.change(10.0, NamesConfig((other.address,), "none", "prefer6"))
        world.server.release()
        await waiting
        assert world.resolver.cached("a.test") is None
        assert await world.resolver.resolve("a.test") == ("192.0.2.9",)
        other.transport.close()

    in_world(body)


def test_another_hosts_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("192.0.2.7 a.test\n")

    async def body(world: World) -> None:
        servers = (world.server.address,)
        world.resolver.change(10.0, NamesConfig(servers, str(path), "prefer6"))
        assert world.resolver.cached("a.test") == ("192.0.2.7",)
        world.resolver.change(10.0, NamesConfig(servers, "none", "prefer6"))
        assert await world.resolver.resolve("a.test") == BOTH

    in_world(body)
