"""The resolver: literals, /etc/hosts, and the DNS against real and misbehaving servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pycares
import pytest
from harness import free_port

from spliceproxy.errors import Failure
from spliceproxy.upstream import answers, ares, channels, preference, search
from spliceproxy.upstream import resolver as module
from spliceproxy.upstream.addresses import interleave, literal
from spliceproxy.upstream.hosts import CHECK, parse
from spliceproxy.upstream.resolver import LOOPBACK, Resolver
from spliceproxy.upstream.search import Search

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a coroutine on a new loop of each kind."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


class Server(asyncio.DatagramProtocol):
    """A name server whose answers the test decides.

    ``zone`` maps name and type to addresses; a name without the type has no data, an
    unknown name does not exist. ``rcode`` and ``silent`` overrule it. ``slow`` maps name and
    type to seconds for which the answer is held, None: for ever; ``rcodes`` to a code.
    """

    def __init__(self) -> None:
        self.zone: dict[str, dict[int, list[str]]] = {}
        self.ttl = 60
        self.rcode = NOERROR
        self.silent = False
        self.asked: list[tuple[str, int]] = []
        self.heard = asyncio.Event()
        self.held: list[tuple[bytes, Any]] = []
        self.slow: dict[tuple[str, int], float | None] = {}
        self.rcodes: dict[tuple[str, int], int] = {}
        self.truncate = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.address = "{}:{}".format(*transport.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, peer: Any) -> None:
        asked, message = self.answer(data)
        delay = self.slow.get(asked, 0.0)
        if self.truncate:  # nothing but the question, and TC
            message = message[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + message[12:][: len(asked[0]) + 6]
        if self.silent:
            self.held.append((message, peer))
        elif delay is not None and not delay:
            self.transport.sendto(message, peer)
        elif delay is not None:
            asyncio.get_running_loop().call_later(delay, self.transport.sendto, message, peer)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries over TCP (RFC 1035 section 4.2.2)."""
        try:
            while True:
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                _, message = self.answer(await reader.readexactly(size))
                writer.write(struct.pack(">H", len(message)) + message)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def answer(self, data: bytes) -> tuple[tuple[str, int], bytes]:
        """The question, and the message that answers it."""
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += data[at] + 1
        name, (qtype,) = ".".join(labels).lower(), struct.unpack_from(">H", data, at + 1)
        self.asked.append((name, qtype))
        self.heard.set()
        records = self.zone.get(name)
        rcode = self.rcode or (NXDOMAIN if records is None else NOERROR)
        rcode = self.rcodes.get((name, qtype), rcode)
        family = socket.AF_INET if qtype == A else socket.AF_INET6
        answer = b""
        found = [] if rcode or records is None else records.get(qtype, [])
        for address in found:
            packed = socket.inet_pton(family, address)
            answer += b"\xc0\x0c" + struct.pack(">HHIH", qtype, 1, self.ttl, len(packed)) + packed
        flags = struct.pack(">HHHHH", 0x8180 | rcode, 1, len(found), 0, 0)
        return (name, qtype), data[:2] + flags + data[12 : at + 5] + answer

    def release(self) -> None:
        self.silent = False
        for message, peer in self.held:
            self.transport.sendto(message, peer)
        self.held.clear()


async def serve() -> Server:
    loop = asyncio.get_running_loop()
    _, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    return server


async def all_answered(resolver: Resolver) -> None:
    """c-ares is done with everything, be anybody waiting or not."""
    before = time.monotonic()
    while resolver._lookups:
        assert time.monotonic() < before + 10.0
        await asyncio.sleep(0.01)


class World:
    """A server, a resolver that asks it, and the resolver's clock."""

    def __init__(self, server: Server, resolver: Resolver) -> None:
        self.server = server
        self.resolver = resolver
        self.passed = 0.0
        resolver.clock = lambda: time.monotonic() + self.passed

    async def fails(self, host: str) -> Failure:
        with pytest.raises(Failure) as caught:
            await self.resolver.resolve(host)
        return caught.value


def in_world(
    run: Run[Any],
    body: Callable[[World], Awaitable[None]],
    timeout: float = 10.0,
    hosts: str = os.devnull,
) -> None:
    async def main() -> None:
        server = await serve()
        resolver = Resolver(timeout, nameservers=[server.address], hosts_file=hosts)
        try:
            await body(World(server, resolver))
        finally:
            await resolver.close()
            server.transport.close()

    run(main())


# Addresses as text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::1", "::1"),
        ("2001:DB8:0:0::0001", "2001:db8::1"),
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("::7f00:1", "::127.0.0.1"),
    ],
)
def test_literals(text: str, address: str) -> None:
    assert literal(text) == address


NO_ADDRESSES = ["127.1", "0x7f.1", "2130706433", "127.0.0.01", "0177.0.0.1", "127.0.0.1.", "0x7f"]
NO_NAMES = [
    "",
    ".",
    "a..b",
    ".a",
    "a b",
    "a\0",
    "*.test",
    "a\\.b",
    "a%2e",
    "x" * 64,
    "1::g",
    "fe80::1%lo",
]
NO_NAMES += [".".join(["x" * 63] * 4), "a\n", "[::1]", "b\u00fccher.test"]


@pytest.mark.parametrize("text", [*NO_ADDRESSES, *NO_NAMES, "example", "1.2.3.4.5", "1.2.3.256"])
def test_no_literals(text: str) -> None:
    assert literal(text) is None


def test_interleave() -> None:
    assert interleave(["::1", "::2", "::3", "1.1.1.1", "::1"]) == ("::1", "1.1.1.1", "::2", "::3")
    assert interleave(["1.1.1.1", "1.1.1.2", "::1"]) == ("1.1.1.1", "::1", "1.1.1.2")
    assert interleave([]) == ()


# What needs no query


def test_literals_and_localhost_are_known_at_once(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        cached = world.resolver.cached
        assert cached("192.0.2.7") == ("192.0.2.7",)
        assert cached("::FFFF:192.0.2.7") == ("192.0.2.7",)
        for host in ("localhost", "LocalHost.", "a.localhost", "a.b.localhost."):
            assert cached(host) == LOOPBACK
            assert await world.resolver.resolve(host) == LOOPBACK
        assert cached("notlocalhost") is None
        assert cached("localhost.test") is None
        assert world.server.asked == []

    in_world(run, body)


@pytest.mark.parametrize("host", [*NO_ADDRESSES, *NO_NAMES, "a.1", "a.0xff.", "1.2.3.256"])
def test_bad_names_are_refused_without_asking(run: Run[Any], host: str) -> None:
    async def body(world: World) -> None:
        world.server.zone[host] = {A: ["127.0.0.1"]}
        assert (await world.fails(host)).error == "dns_error"
        assert world.server.asked == []

    in_world(run, body)


def test_unusual_names_are_names(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        for host in ("my_service", "-a.test", "r3---sn.test", "xn--bcher-kva.test", "1a", "3.a"):
            world.server.zone[host] = {A: ["127.0.0.1"]}
            assert await world.resolver.resolve(host) == ("127.0.0.1",)

    in_world(run, body)


# /etc/hosts


def test_hosts_file_syntax() -> None:
    names = parse(
        "127.0.0.1 localhost\n"
        "10.0.0.1\tOne one.test. # two\n"
        "#10.0.0.9 one\n"
        "fd00::1 one\n"
        "10.0.0.2 one 1.2.3.4\n"
        "10.0.0.1 one\n"
        "nonsense bad\n10.0.0.3\n\n"
        "::ffff:10.0.0.4 mapped\r\n"
        "fe80::1%lo0 scoped\n"
        "10.0.0.5 b\ufffdd a.localhost good\n"
    )
    assert names == {
        "one": ("fd00::1", "10.0.0.1", "10.0.0.2"),
        "one.test": ("10.0.0.1",),
        "mapped": ("10.0.0.4",),
        "b\ufffdd": ("10.0.0.5",),
        "good": ("10.0.0.5",),
    }


def test_hosts_file_is_followed(run: Run[Any], tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("10.0.0.1 a.test\n")

    async def body(world: World) -> None:
        world.server.zone["a.test"] = {A: ["10.0.0.7"]}
        resolver = world.resolver
        assert resolver.cached("A.test.") == ("10.0.0.1",)
        assert await resolver.resolve("a.test") == ("10.0.0.1",)
        assert world.server.asked == []

        file.unlink()  # now the DNS knows it
        world.passed += CHECK
        assert resolver.cached("a.test") is None
        assert await resolver.resolve("a.test") == ("10.0.0.7",)

        file.write_bytes(b"\xff\xfe junk\n10.0.0.21 a.test\n10.0.0.22 a.test b.test\n")
        world.passed += CHECK  # wins over the cache
        assert resolver.cached("a.test") == ("10.0.0.21", "10.0.0.22")

        new = tmp_path / "new"
        new.write_text("10.0.0.3 a.test\n")
        new.replace(file)
        world.passed += CHECK
        assert resolver.cached("a.test") == ("10.0.0.3",)
        assert resolver.cached("b.test") is None

    in_world(run, body, hosts=str(file))


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """None can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_alone(request: pytest.FixtureRequest) -> bool:
    """Whether this test has a process of its own; if not, it is run in one. Servers of other
    tests have threads in this process, which must not be without descriptors."""
    name = request.node.name
    if os.environ.get("ALONE") == name:
        return True
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid],
        cwd=request.config.rootpath,
        env={**env, "ALONE": name},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return False


def test_hosts_file_without_descriptors(
    run: Run[Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its names were not there then, and a name server was asked for them."""
    if not is_alone(request):
        return
    file = tmp_path / "hosts"
    file.write_text("10.0.0.1 a.test\n")

    async def body(world: World) -> None:
        with no_descriptors():
            assert world.resolver.cached("a.test") == ("10.0.0.1",)
        file.write_text("10.0.0.22 a.test\n")
        world.passed += CHECK
        with no_descriptors():
            assert world.resolver.cached("a.test") == ("10.0.0.1",)
        world.passed += CHECK
        assert world.resolver.cached("a.test") == ("10.0.0.22",)

    in_world(run, body, hosts=str(file))


def test_no_channel_is_made_without_descriptors(
    run: Run[Any], request: pytest.FixtureRequest
) -> None:
    """One that was made then asked 127.0.0.1, for half a minute."""
    if not is_alone(request):
        return

    async def body() -> None:
        now = 0.0
        made = channels.Channels(4.0, None, lambda: now)
        usual = made.usual()
        with no_descriptors():
            assert made.patient() is usual
            now += channels.CHANNEL_AGE
            assert not made.is_old()
            assert made.usual() is usual
        patient = made.patient()
        assert patient is not usual
        made.heard(patient)
        now += channels.PATIENT_AGE
        with no_descriptors():
            assert made.patient() is patient
        assert made.is_old()
        new = made.usual()
        assert new is not usual
        for channel in (usual, patient, new):
            await channel.close()

    run(body())


def test_a_change_of_resolv_conf_is_followed(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second, by a new channel; c-ares reads the file only then."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    monkeypatch.setattr(channels, "RESOLV_CONF", str(file))

    async def body() -> None:
        now = 0.0
        made = channels.Channels(4.0, None, lambda: now)
        assert made.is_old()
        usual = made.usual()
        now += channels.CHECK
        assert not made.is_old()
        file.write_text("nameserver 127.0.0.53\n")
        assert made.usual() is usual
        now += channels.CHECK
        assert made.is_old()
        assert made.is_old()
        assert made.usual() is not usual
        assert not made.is_old()
        await made.usual().close()
        await usual.close()

    run(body())


def test_a_slow_name_is_asked_of_the_servers_of_the_moment(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those from before a change of resolv.conf may never answer: then the channel is not
    replaced for that."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    monkeypatch.setattr(channels, "RESOLV_CONF", str(file))

    async def body() -> None:
        made = channels.Channels(4.0, None, lambda: 0.0)
        before = made.patient()
        assert made.patient() is before
        file.write_text("nameserver 127.0.0.53\n")
        after = made.patient()
        assert after is not before
        assert made.patient() is after
        await before.close()
        await after.close()

    run(body())


def test_unreadable_hosts_file_is_reported_once(
    run: Run[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(world: World) -> None:
        for _ in range(3):
            assert world.resolver.cached("a.test") is None
            world.passed += CHECK
        assert len(caplog.records) == 1
        assert str(tmp_path) in caplog.text

    in_world(run, body, hosts=str(tmp_path))  # a directory


# Answers


def test_addresses_in_turns(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        # All reachable on the loopback interface, so RFC 6724 puts IPv6 first.
        world.server.zone["a.test"] = {A: ["127.0.0.1", "127.0.0.2"], AAAA: ["::1"]}
        found = await world.resolver.resolve("A.Test")
        assert sorted(found) == ["127.0.0.1", "127.0.0.2", "::1"]
        assert found[0 if _has_ipv6() else 1] == "::1"
        assert world.resolver.cached("a.test") == found
        assert sorted(world.server.asked) == [("a.test", A), ("a.test", AAAA)]

    in_world(run, body)


def test_mapped_addresses_become_ipv4(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        world.server.zone["a.test"] = {AAAA: ["::ffff:10.0.0.1"]}
        assert await world.resolver.resolve("a.test") == ("10.0.0.1",)

    in_world(run, body)


def test_many_addresses_are_cut(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        # 25 fit into a message without EDNS.
        world.server.zone["a.test"] = {A: [f"127.0.1.{n}" for n in range(25)]}
        assert len(await world.resolver.resolve("a.test")) == answers.MAX_ADDRESSES

    in_world(run, body)


@pytest.mark.parametrize(
    ("ttl", "kept"), [(0, answers.MIN_TTL), (60, 60.0), (86400, answers.MAX_TTL)]
)
def test_answers_are_kept_for_their_ttl(run: Run[Any], ttl: int, kept: float) -> None:
    async def body(world: World) -> None:
        world.server.ttl = ttl
        world.server.zone["a.test"] = {A: ["10.0.0.1"]}
        await world.resolver.resolve("a.test")
        asked = len(world.server.asked)
        world.passed += kept - 1.5
        assert world.resolver.cached("a.test") == ("10.0.0.1",)
        assert await world.resolver.resolve("a.test") == ("10.0.0.1",)
        assert len(world.server.asked) == asked

        world.server.zone["a.test"] = {A: ["10.0.0.2"]}
        # The age of a channel is what c-ares' own cache may add.
        world.passed += max(1.5, channels.CHANNEL_AGE)
        assert world.resolver.cached("a.test") is None
        assert await world.resolver.resolve("a.test") == ("10.0.0.2",)

    in_world(run, body)


def test_the_cache_is_bounded(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ENTRIES", 3)

    async def body(world: World) -> None:
        names = ["a", "b", "c", "d"]
        world.server.zone = {name: {A: ["10.0.0.1"]} for name in names}
        for name in names[:3]:
            await world.resolver.resolve(name)
        await world.resolver.resolve("a")  # used: now the youngest
        await world.resolver.resolve("d")
        assert list(world.resolver._cache) == ["c", "a", "d"]

    in_world(run, body)


def test_names_whose_time_is_over_go(run: Run[Any]) -> None:
    """Two with each that is stored: nobody waits while all of them are swept."""

    async def body(world: World) -> None:
        world.server.zone = {f"n{n}": {A: ["10.0.0.1"]} for n in range(8)}
        for n in range(5):
            await world.resolver.resolve(f"n{n}")
        world.passed += 100.0
        await world.resolver.resolve("n1")  # again
        assert list(world.resolver._cache) == ["n2", "n3", "n4", "n1"]
        await world.resolver.resolve("n5")
        assert list(world.resolver._cache) == ["n4", "n1", "n5"]

    in_world(run, body)


def test_an_answer_that_is_over_at_once(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MIN_TTL", 0.0)

    async def body(world: World) -> None:
        world.server.ttl = 0
        world.server.zone["a.test"] = {A: ["10.0.0.1"]}
        for _ in range(3):
            assert await world.resolver.resolve("a.test") == ("10.0.0.1",)

    in_world(run, body)


def test_the_errors_of_c_ares() -> None:
    for name in ("ENODATA", "ESERVFAIL", "ENOTFOUND", "EREFUSED", "ECONNREFUSED", "ETIMEOUT"):
        assert getattr(ares, name) == getattr(pycares.errno, f"ARES_{name}")
    assert ares._SOCKET_BAD == pycares.ARES_SOCKET_BAD


@pytest.mark.parametrize(
    ("rcode", "why"),
    [
        (NOERROR, "name has no address"),
        (SERVFAIL, "DNS server has failed"),
        (NXDOMAIN, "name not found"),
        (REFUSED, "DNS server refuses"),
    ],
)
def test_failures_are_dns_errors_and_kept_for_a_moment(run: Run[Any], rcode: int, why: str) -> None:
    async def body(world: World) -> None:
        world.server.rcode = rcode
        world.server.zone["a.test"] = {}
        failure = await world.fails("a.test")
        assert failure.error == "dns_error"
        assert failure.status == 502
        assert failure.detail.startswith("a.test: ")
        assert failure.why == why
        asked = len(world.server.asked)
        world.passed += answers.NEGATIVE_TTL - 0.5
        assert world.resolver.cached("a.test") is None
        assert (await world.fails("a.test")).detail == failure.detail
        assert len(world.server.asked) == asked

        world.server.rcode = NOERROR
        world.server.zone["a.test"] = {A: ["10.0.0.1"]}
        world.passed += max(answers.NEGATIVE_TTL, channels.CHANNEL_AGE)
        assert await world.resolver.resolve("a.test") == ("10.0.0.1",)

    in_world(run, body)


# Slow and silent servers


def test_look_ups_at_a_time_are_bounded(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those count that nobody waits for any more. What is known or asked for already is served."""
    monkeypatch.setattr(module, "MAX_QUERIES", 8)

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.zone["known.test"] = {A: ["192.0.2.1"]}
        assert await resolver.resolve("known.test") == ("192.0.2.1",)
        for number in range(8):
            server.slow[f"n{number}.test", A] = server.slow[f"n{number}.test", AAAA] = None
            task = asyncio.ensure_future(resolver.resolve(f"n{number}.test"))
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(Failure, match=r"one\.more\.test: too many names") as caught:
            await resolver.resolve("one.more.test")
        assert (caught.value.error, caught.value.status) == ("connection_limit_reached", 503)
        assert await resolver.resolve("known.test") == ("192.0.2.1",)
        with pytest.raises(Failure) as caught:
            await resolver.resolve("n0.test")
        assert caught.value.error == "dns_timeout"
        server.zone["one.more.test"] = {A: ["192.0.2.2"]}
        assert await resolver.resolve("one.more.test") == ("192.0.2.2",)

    in_world(run, body, timeout=1.0)


def test_silence_is_a_dns_timeout_and_a_late_answer_is_kept(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        world.server.silent = True
        world.server.zone["a.test"] = {A: ["10.0.0.1"]}
        started = time.monotonic()
        failure = await world.fails("a.test")
        assert failure.error == "dns_timeout"
        assert failure.status == 504
        assert 0.19 <= time.monotonic() - started < 5.0  # timers may be a tick early
        assert world.resolver._lookups
        world.server.release()
        await all_answered(world.resolver)
        assert world.resolver.cached("a.test") == ("10.0.0.1",)
        # Also where an older answer is over.
        world.passed += answers.MAX_TTL
        world.server.silent = True
        world.server.zone["a.test"] = {A: ["10.0.0.2"]}
        assert (await world.fails("a.test")).error == "dns_timeout"
        world.server.release()
        await all_answered(world.resolver)
        assert world.resolver.cached("a.test") == ("10.0.0.2",)

    in_world(run, body, timeout=0.2)


def test_c_ares_giving_up_is_a_dns_timeout(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "QUERY_TRIES", 1)
    monkeypatch.setattr(channels, "QUERY_TIMEOUT", 0.1)

    async def body(world: World) -> None:
        world.server.silent = True
        assert (await world.fails("a.test")).error == "dns_timeout"
        assert not world.resolver._cache  # the next one may be luckier

    in_world(run, body, timeout=3600.0)


def test_a_second_server_has_its_chance(run: Run[Any]) -> None:
    async def main() -> None:
        dead, good = await serve(), await serve()
        dead.silent = True
        good.zone["a.test"] = {A: ["10.0.0.1"]}
        resolver = Resolver(5.0, nameservers=[dead.address, good.address], hosts_file=os.devnull)
        assert await resolver.resolve("a.test") == ("10.0.0.1",)
        assert dead.asked
        await resolver.close()
        dead.transport.close()
        good.transport.close()

    run(main())


def test_no_server_fails_at_once(run: Run[Any]) -> None:
    async def main() -> None:
        server = await serve()
        server.transport.close()
        await asyncio.sleep(0)  # the port is closed in the next round of the loop
        resolver = Resolver(60.0, nameservers=[server.address], hosts_file=os.devnull)
        started = time.monotonic()
        with pytest.raises(Failure) as caught:
            await resolver.resolve("a.test")
        assert caught.value.error == "dns_error"
        assert time.monotonic() - started < 10.0
        await resolver.close()

    run(main())


def test_bad_name_servers_are_named(run: Run[Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"nonsense\.test"):
            Resolver(5.0, nameservers=["nonsense.test"])

    run(main())


# Faults of our own


def test_a_fault_while_names_are_slow_ends_no_limit(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def patient(self: channels.Channels) -> ares.Channel:
        raise MemoryError

    monkeypatch.setattr(channels.Channels, "patient", patient)
    # c-ares has no limit of its own meanwhile.
    monkeypatch.setattr(channels, "QUERY_SHARE", 0.001)
    monkeypatch.setattr(channels, "QUERY_TIMEOUT", 3600.0)

    async def body(world: World) -> None:
        world.server.silent = True
        asked = asyncio.gather(*map(world.fails, ("a.test", "b.test", "c.test")))
        failures = await asyncio.wait_for(asked, 20)
        assert [failure.error for failure in failures] == ["dns_timeout"] * 3

    in_world(run, body, timeout=1.0)
    (said,) = caplog.records
    assert said.exc_info


def test_a_fault_at_the_end_of_one_look_up_is_not_that_of_another(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.answer_of

    def answer_of(name: str, *parts: Any) -> answers.Answer:
        if name == "a.test":
            raise MemoryError
        return real(name, *parts)

    monkeypatch.setattr(module, "answer_of", answer_of)

    async def body(world: World) -> None:
        world.server.silent = True
        asked = asyncio.gather(*map(world.fails, ("a.test", "b.test")))
        failures = await asyncio.wait_for(asked, 20)
        errors = [failure.error for failure in failures]
        assert errors == ["proxy_internal_error", "dns_timeout"]
        assert await asyncio.wait_for(world.fails("a.test"), 20)  # it is asked for again

    in_world(run, body, timeout=0.5)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Failure("connection_limit_reached", "none left"), "connection_limit_reached"),
        (MemoryError(), "proxy_internal_error"),
    ],
)
def test_a_next_name_that_cannot_be_asked_for(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, fault: Exception, error: str
) -> None:
    """c-ares calls us there, and an exception would be lost in it."""
    searching(monkeypatch, "prod.test")
    real = channels.Channels.usual
    calls: list[int] = []

    def usual(self: channels.Channels) -> ares.Channel:
        calls.append(1)
        if len(calls) > 1:
            raise fault
        return real(self)

    monkeypatch.setattr(channels.Channels, "usual", usual)

    async def body(world: World) -> None:
        failure = await asyncio.wait_for(world.fails("a.test"), 20)
        assert failure.error == error
        assert len(calls) == 2

    in_world(run, body, timeout=60.0)


# One family without the other


@pytest.mark.parametrize(
    ("swallowed", "found"), [(AAAA, "127.0.0.1"), (A, "::1")], ids=["no AAAA", "no A"]
)
def test_a_family_that_does_not_come_is_not_waited_for(
    run: Run[Any], swallowed: int, found: str
) -> None:
    """RFC 8305 section 3: what is there is dialled."""

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        for n in range(3):  # for each new name, not only for the first
            name = f"n{n}.test"
            server.zone[name] = {A: ["127.0.0.1"], AAAA: ["::1"]}
            server.slow[name, swallowed] = None
            started = time.monotonic()
            assert await resolver.resolve(name) == (found,)
            assert time.monotonic() - started < 0.6  # a fifth of the limit is 0.8 s
            assert resolver.cached(name) is None  # it may yet be more
            assert await resolver.resolve(name) == (found,)  # at once
            late = resolver.late(name)
            assert late is not None
            assert not late.done()
        await asyncio.wait([late], timeout=20.0)  # the limit
        assert late.done()
        assert resolver.late(name) is None
        assert resolver.cached(name) == (found,)
        world.passed += answers.HALF_TTL
        assert resolver.cached(name) is None

    in_world(run, body, timeout=4.0)


@pytest.mark.parametrize("slow", [A, AAAA], ids=["A", "AAAA"])
def test_a_late_family_is_told_and_kept(run: Run[Any], slow: int) -> None:
    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.zone["a.test"] = {A: ["127.0.0.1"], AAAA: ["::1"]}
        server.slow["a.test", slow] = 0.5
        assert len(await resolver.resolve("a.test")) == 1
        late = resolver.late("A.test")
        assert late is not None
        await late
        assert sorted(resolver.cached("a.test") or ()) == ["127.0.0.1", "::1"]
        assert not resolver._queries

    in_world(run, body)


def test_the_second_family_is_waited_for_a_moment(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLUTION_DELAY", 60.0)

    async def body(world: World) -> None:
        for slow in (A, AAAA):
            name = f"n{slow}.test"
            world.server.zone[name] = {A: ["127.0.0.1"], AAAA: ["::1"]}
            world.server.slow[name, slow] = 0.2
            assert sorted(await world.resolver.resolve(name)) == ["127.0.0.1", "::1"]
            assert world.resolver.late(name) is None

    in_world(run, body)


@pytest.mark.parametrize("rcode", [SERVFAIL, NXDOMAIN, REFUSED])
def test_one_family_fails(run: Run[Any], rcode: int) -> None:
    """RFC 4074 section 4: servers that know nothing of AAAA answer with any of these."""

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.zone["a.test"] = {A: ["127.0.0.1"]}
        server.rcodes["a.test", AAAA] = rcode
        assert await resolver.resolve("a.test") == ("127.0.0.1",)
        server.zone["b.test"] = {AAAA: ["::1"]}
        server.rcodes["b.test", A] = rcode
        assert await resolver.resolve("b.test") == ("::1",)

    in_world(run, body)


@pytest.mark.parametrize("other", [NOERROR, NXDOMAIN])
def test_a_fault_says_more_than_nothing(run: Run[Any], other: int) -> None:
    async def body(world: World) -> None:
        world.server.zone["a.test"] = {}
        for family in (A, AAAA):
            world.server.rcodes = {("a.test", A): other, ("a.test", AAAA): other}
            world.server.rcodes["a.test", family] = SERVFAIL
            failure = await world.fails("a.test")
            assert "failure" in failure.detail
            world.passed += channels.CHANNEL_AGE

    in_world(run, body)


def test_a_slow_name_after_fast_ones(run: Run[Any]) -> None:
    """c-ares takes the usual speed of a server for the speed of each name."""

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        for n in range(30):
            server.zone[f"n{n}.test"] = {A: ["127.0.0.1"], AAAA: ["::1"]}
            await resolver.resolve(f"n{n}.test")
        for n in range(2):  # of which each may make it take the others for as fast
            names = [f"slow{n}-{m}.test" for m in range(3)]
            for name in names:
                server.zone[name] = {A: ["127.0.0.9"]}
                server.slow[name, A] = server.slow[name, AAAA] = 2.5
            found = await asyncio.gather(*map(resolver.resolve, names))
            assert found == [("127.0.0.9",)] * 3
        assert len(server.asked) < 200  # slow is not deaf

    in_world(run, body, timeout=4.0)


def test_truncated_answers_are_asked_for_over_tcp(run: Run[Any]) -> None:
    async def main() -> None:
        tcp = None
        while tcp is None:
            server = await serve()
            host, _, port = server.address.rpartition(":")
            try:
                tcp = await asyncio.start_server(server.stream, host, int(port))
            except OSError:  # somebody has this port
                server.transport.close()
        server.truncate = True
        server.zone["a.test"] = {A: [f"127.0.1.{n}" for n in range(40)], AAAA: ["::1"]}
        resolver = Resolver(10.0, nameservers=[server.address], hosts_file=os.devnull)
        found = await resolver.resolve("a.test")
        assert len(found) == answers.MAX_ADDRESSES
        assert "::1" in found
        await resolver.close()
        tcp.close()
        server.transport.close()

    run(main())


# The search list


def searching(monkeypatch: pytest.MonkeyPatch, *domains: str, ndots: int = 1) -> None:
    monkeypatch.setattr(search, "read", lambda: Search(domains, ndots))


def test_addresses_of_two_names_are_not_joined(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The A of a name is late, and a search domain has an AAAA for everything."""
    searching(monkeypatch, "wild.test")

    async def body(world: World) -> None:
        server = world.server
        server.zone["a.test"] = {A: ["127.0.0.1"]}
        server.zone["a.test.wild.test"] = {A: ["127.0.0.66"], AAAA: ["::66"]}
        server.slow["a.test", A] = 0.5
        assert await world.resolver.resolve("a.test") == ("127.0.0.1",)
        assert {name for name, _ in server.asked} == {"a.test"}

    in_world(run, body)


@pytest.mark.parametrize(
    ("codes", "goes_on"),
    [
        ((NXDOMAIN, NXDOMAIN), True),
        ((NOERROR, NOERROR), True),  # no data
        ((NXDOMAIN, SERVFAIL), True),
        ((NOERROR, SERVFAIL), False),
        ((SERVFAIL, SERVFAIL), False),
    ],
)
def test_when_the_next_name_may_be_meant(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int], goes_on: bool
) -> None:
    searching(monkeypatch, "prod.test")

    async def body(world: World) -> None:
        server = world.server
        server.zone = {"a.b": {}, "a.b.prod.test": {A: ["127.0.0.1"]}}
        server.rcodes = {("a.b", A): codes[0], ("a.b", AAAA): codes[1]}
        if goes_on:
            assert await world.resolver.resolve("a.b") == ("127.0.0.1",)
        else:
            assert (await world.fails("a.b")).error == "dns_error"

    in_world(run, body)


def test_candidates() -> None:
    names = Search(("prod.test", "test"), 2).candidates
    assert names("a") == ("a.prod.test.", "a.test.", "a.")
    assert names("a.b") == ("a.b.prod.test.", "a.b.test.", "a.b.")
    assert names("a.b.c") == ("a.b.c.", "a.b.c.prod.test.", "a.b.c.test.")
    assert names("a.") == ("a.",)
    assert Search((), 1).candidates("a") == ("a.",)
    assert Search(("x" * 60,), 0).candidates(".".join(["a" * 60] * 4)) == (
        ".".join(["a" * 60] * 4) + ".",
    )


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("", {}, Search(("home.test",), 1)),
        ("search A.test. b.test\n", {}, Search(("a.test", "b.test"), 1)),
        ("domain a.test\nsearch b.test\n", {}, Search(("b.test",), 1)),
        ("search b.test\ndomain a.test c.test\n", {}, Search(("a.test",), 1)),
        ("search .\n", {}, Search((), 1)),
        ("#search a.test\n;domain b.test\n", {}, Search(("home.test",), 1)),
        ("options rotate ndots:5 timeout:1\nsearch\n", {}, Search((), 5)),
        ("options ndots:99\n", {"LOCALDOMAIN": "c.test d.test"}, Search(("c.test", "d.test"), 15)),
        ("options ndots:x\n", {"RES_OPTIONS": "ndots:0"}, Search(("home.test",), 0)),
    ],
)
def test_resolv_conf(text: str, environment: dict[str, str], expected: Search) -> None:
    assert search.parse(text.splitlines(), environment, "me.home.test") == expected


# The order of the families


@pytest.mark.parametrize(
    ("six", "six_from", "four", "four_from", "ipv4_first"),
    [
        ("2a00::1", "2a00::2", "192.0.2.1", "10.0.0.1", False),
        ("2a00::1", None, "192.0.2.1", "10.0.0.1", True),  # no IPv6 here
        ("2a00::1", "2a00::2", "192.0.2.1", None, False),
        ("2a00::1", None, "192.0.2.1", None, False),
        ("2a00::1", "fd00::2", "192.0.2.1", "10.0.0.1", True),  # a private source: no way out
        ("fd00::1", "fd00::2", "192.0.2.1", "10.0.0.1", True),
        ("2002:c000:201::1", "2002:c000:202::1", "192.0.2.1", "192.0.2.2", True),  # 6to4
        ("::1", "::1", "127.0.0.1", "127.0.0.1", False),
        ("2a00::1", "fe80::2%eth0", "192.0.2.1", "10.0.0.1", True),
    ],
)
def test_preference(
    monkeypatch: pytest.MonkeyPatch,
    six: str,
    six_from: str | None,
    four: str,
    four_from: str | None,
    ipv4_first: bool,
) -> None:
    """RFC 6724 section 10.2 has some of these."""
    monkeypatch.setattr(preference, "source_of", {six: six_from, four: four_from}.__getitem__)
    assert preference.prefers_ipv4(six, four) is ipv4_first


# Several who ask


def test_askers_share_a_query_and_may_leave(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)  # it asks twice

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.silent = True
        server.zone["a.test"] = {A: ["10.0.0.1"]}
        tasks = [asyncio.create_task(resolver.resolve("a.test")) for _ in range(5)]
        await server.heard.wait()
        tasks[0].cancel()  # who began the query
        tasks[3].cancel()
        await asyncio.wait([tasks[0], tasks[3]])
        server.release()
        for task in (tasks[1], tasks[2], tasks[4]):
            assert await task == ("10.0.0.1",)
        assert sorted(set(server.asked)) == sorted(server.asked)
        assert not resolver._queries

    in_world(run, body)


def test_an_abandoned_query_fills_the_cache(run: Run[Any]) -> None:
    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.silent = True
        server.zone["a.test"] = {A: ["10.0.0.1"]}
        task = asyncio.create_task(resolver.resolve("a.test"))
        await server.heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert resolver._lookups
        server.release()
        await all_answered(resolver)
        assert resolver.cached("a.test") == ("10.0.0.1",)

    in_world(run, body)


def test_a_query_survives_a_new_channel(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "CHANNEL_LOOKUPS", 1)

    async def body(world: World) -> None:
        server, resolver = world.server, world.resolver
        server.zone = {name: {A: ["10.0.0.1"]} for name in ("a", "b", "c")}
        server.silent = True
        tasks = [asyncio.create_task(resolver.resolve(name)) for name in server.zone]
        await server.heard.wait()
        assert len({lookup.channel for lookup in resolver._lookups}) == 3
        while len(set(server.asked)) < 6:
            server.heard.clear()
            await server.heard.wait()
        server.release()
        for task in tasks:
            assert await task == ("10.0.0.1",)
        assert not resolver._lookups

    in_world(run, body)


# The end


def test_close_ends_waiting_and_leaves_nothing(run: Run[Any], caplog: Any) -> None:
    before = _descriptors()

    async def main() -> None:
        server = await serve()
        server.silent = True
        resolver = Resolver(60.0, nameservers=[server.address], hosts_file=os.devnull)
        tasks = [asyncio.create_task(resolver.resolve(name)) for name in ("a", "b", "b")]
        await server.heard.wait()
        await resolver.close()
        for task in tasks:
            with pytest.raises(Failure, match="stopping"):
                await task
        with pytest.raises(Failure, match="stopping"):
            await resolver.resolve("c.test")
        assert not resolver._lookups
        server.transport.close()

    runs = 8
    for _ in range(runs):
        run(main())
    assert not caplog.records
    # c-ares closes its descriptors on a thread of its own; uvloop keeps a pair for good.
    _until(lambda: _descriptors() < before + runs)


def test_retired_channels_are_closed(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "CHANNEL_LOOKUPS", 1)

    async def body(world: World) -> None:
        world.server.zone = {f"n{n}": {A: ["10.0.0.1"]} for n in range(40)}
        before = _descriptors()
        for name in world.server.zone:
            await world.resolver.resolve(name)
        _until(lambda: _descriptors() < before + len(world.server.zone))

    in_world(run, body)


def test_without_inotify(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where c-ares cannot watch resolv.conf, aiodns drives it from the event loop."""
    channel = pycares.Channel

    def no_thread(**options: Any) -> pycares.Channel:
        if "sock_state_cb" not in options:
            raise pycares.AresError("no inotify instance left")
        return channel(**options)

    monkeypatch.setattr(pycares, "Channel", no_thread)

    async def body(world: World) -> None:
        world.server.zone["a.test"] = {A: ["10.0.0.1"]}
        assert await world.resolver.resolve("a.test") == ("10.0.0.1",)
        assert (await world.fails("b.test")).error == "dns_error"

    in_world(run, body)


# The system's configuration, in a namespace of its own

_CHILD = """
import asyncio, os, sys
from spliceproxy.errors import Failure
from spliceproxy.upstream.resolver import Resolver

async def main():
    resolver = Resolver(10.0, hosts_file=os.devnull)
    for host in sys.argv[1:]:
        try:
            print(*await resolver.resolve(host))
        except Failure as failure:
            print(failure.error)
    await resolver.close()

asyncio.run(main())
"""


def _child(flags: str, resolv_conf: Path, *hosts: str) -> subprocess.Popen[str]:
    """Resolves hosts with another resolv.conf; skips where that is not allowed."""
    unshare, target = shutil.which("unshare"), Path("/etc/resolv.conf")
    if (
        unshare is None
        or not target.exists()
        or subprocess.run([unshare, flags, "true"]).returncode
    ):
        pytest.skip("needs unshare(1) with user namespaces, and a resolv.conf")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return subprocess.Popen(
        [unshare, flags, "sh", "-c", script, resolv_conf, sys.executable, "-c", _CHILD, *hosts],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def test_search_domains_are_obeyed(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"

    async def main() -> list[str]:
        server = await serve()
        server.zone = {
            "redis.prod.test": {A: ["10.0.0.1"]},
            "redis.sub.prod.test": {A: ["10.0.0.2"]},
        }
        file.write_text(f"nameserver {server.address}\nsearch prod.test\noptions ndots:5\n")
        child = _child("-rm", file, "redis", "redis.", "redis.sub", "redis.prod.test")
        loop = asyncio.get_running_loop()
        output, _ = await loop.run_in_executor(None, child.communicate)
        server.transport.close()
        return output.split()

    assert asyncio.run(main()) == ["10.0.0.1", "dns_error", "10.0.0.2", "10.0.0.1"]


def test_without_network_and_name_server(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    for text in ("", "nameserver 192.0.2.1\n"):
        file.write_text(text)
        started = time.monotonic()
        output, _ = _child("-rmn", file, "a.test", "localhost").communicate(timeout=60)
        assert output.split() == ["dns_error", *LOOPBACK]
        assert time.monotonic() - started < 9.0  # less than the limit of the look-up


# A real server


@pytest.fixture
def dnsmasq() -> Iterator[str]:
    """The address of a dnsmasq that knows a few names below .test."""
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs dnsmasq")
    port = free_port()
    process = subprocess.Popen(
        [
            program,
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            f"--port={port}",
            "--pid-file=",
            "--local=/test/",
            "--host-record=two.test,127.0.0.1,::1,120",
            "--host-record=four.test,127.0.0.2,77",
            "--host-record=six.test,::1,66",
            "--cname=alias.test,four.test,33",
            "--txt-record=text.test,hello",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    while line and "started" not in line:
        line = process.stderr.readline()
    assert line, "dnsmasq did not start"
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.communicate()


def test_dnsmasq(run: Run[Any], dnsmasq: str) -> None:
    async def main() -> None:
        resolver = Resolver(10.0, nameservers=[dnsmasq], hosts_file=os.devnull)
        now = 1000.0
        resolver.clock = lambda: now
        ask = resolver.resolve
        assert sorted(await ask("two.test")) == ["127.0.0.1", "::1"]
        assert await ask("four.test") == ("127.0.0.2",)
        assert await ask("six.test.") == ("::1",)
        assert await ask("alias.test") == ("127.0.0.2",)
        for host in ("none.test", "text.test"):
            with pytest.raises(Failure) as caught:
                await ask(host)
            assert caught.value.error == "dns_error"
        expires = {name: answer.expires - now for name, answer in resolver._cache.items()}
        assert expires == {
            "two.test": 120.0,
            "four.test": 77.0,
            "six.test.": 66.0,
            "alias.test": 33.0,
            "none.test": answers.NEGATIVE_TTL,
            "text.test": answers.NEGATIVE_TTL,
        }
        await resolver.close()

    run(main())


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
