"""What becomes of a squid.conf decides as squid does, or closes and says so: the real squid and the
policy are asked the same."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import squid_files
from harness import need, read_head, serving
from squid_files import ALL, GRID, NAMES, USERS, WAYS, WRONG, C, File, G
from squid_rig import NOWHERE, Probe, Squid, running

from spliceproxy.config import Config
from spliceproxy.errors import Failure
from spliceproxy.policy.explain import walk
from spliceproxy.policy.names import is_number
from spliceproxy.policy.networks import is_quad
from spliceproxy.policy.request import Request
from spliceproxy.settings import squid
from spliceproxy.settings.loading import load_config
from spliceproxy.upstream.addresses import literal


class Zone:
    """The names that squid has in its file of hosts."""

    def cached(self, host: str) -> tuple[str, ...] | None:
        address = literal(host) or NAMES.get(host.lower().rstrip("."))
        return (address,) if address else None

    async def resolve(self, host: str) -> tuple[str, ...]:
        raise Failure("dns_error", host)


async def verdicts(config: Config, probes: Sequence[Probe]) -> list[str]:
    """What the settings say, but for the guard, which squid has not."""
    config = replace(config, policy=replace(config.policy, guard="off"))
    found = []
    for one in probes:
        request = Request(
            client=one.client,
            method=one.method,
            scheme="" if one.method == "CONNECT" else "http",
            host=one.host,
            port=one.port,
            path=one.path,
            fields=one.fields,
        )
        said = await walk(config, request, Zone())
        gone = said.allowed or said.error == "dns_error"
        found.append("allow" if gone else "auth" if said.status == 407 else "deny")
    return found


def agrees(real: Squid, probe: Probe, ours: str, *, closed: bool, by_address: bool = False) -> bool:
    """Nothing may pass that squid refuses, and nothing may be refused that it allows, unless a
    message says so. ``by_address``: rules ask for addresses."""
    if ours != "allow" and closed:
        return True
    said = real.ask(probe).verdict
    if said == "allow" and ours != "allow":
        # The messages say of each file: odd spellings and wrong passwords are refused.
        return is_odd(probe.host) or probe.user in WRONG
    if ours == "allow" or probe.user or ours == said:
        return (ours == "allow") == (said == "allow")
    # Where a password would not help, that is said at once.
    users = [real.ask(probe._replace(user=one)).verdict for one in USERS]
    if ours == "auth" and by_address and not literal(probe.host):
        return True  # for nobody no name is looked up
    return (ours == "auth") == ("allow" in users)


def is_odd(host: str) -> bool:
    return is_number(host) and not is_quad(host)


def written(folder: Path, file: File) -> Path:
    for name, text in file.files:
        (folder / name).write_text(text, newline="")
    source = folder / "squid.conf"
    port = "" if "http_port" in file.text else "http_port 3128\n"
    source.write_text(port + file.text.replace("{folder}", str(folder)), newline="")
    return source


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where squid may read, which gives up root's rights."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("file", ALL, ids=lambda one: one.name)
def test_it_decides_as_squid_does(
    folder: Path, file: File, caplog: pytest.LogCaptureFixture
) -> None:
    need("squid")
    caplog.set_level("CRITICAL", "spliceproxy")  # wrong passwords
    source = written(folder, file)
    probes = (*GRID, *file.probes)
    assert len(probes) >= 30
    with running(folder, source.read_text(), NAMES) as real:
        if isinstance(real, str):
            assert not file.starts, real
            if file.closed:
                assert squid.convert(str(source)).missing
            else:
                with pytest.raises(squid.Refused):
                    squid.convert(str(source))
            return
        assert file.starts
        converted = squid.convert(str(source))
        assert bool(converted.missing) is file.closed, converted.missing
        (folder / "proxy.toml").write_text(converted.toml)
        ours = asyncio.run(verdicts(load_config(str(folder / "proxy.toml")), probes))
        wrong = [
            (probe, one, real.ask(probe))
            for probe, one in zip(probes, ours, strict=True)
            if not agrees(
                real, probe, one, closed=file.closed, by_address="networks" in converted.toml
            )
        ]
        assert not wrong, converted.toml


def peer(name: str) -> Callable[[socket.socket], None]:
    """A parent that says which one it is."""

    def answer(connection: socket.socket) -> None:
        with connection:
            tunnel = read_head(connection).startswith(b"CONNECT")
            head = "HTTP/1.1 200 OK\r\n" + ("" if tunnel else f"X-Way: way:{name}\r\n")
            connection.sendall(f"{head}\r\n{f'way:{name}' if tunnel else ''}".encode())

    return answer


WHERE = [C(host, 443) for host in ("good.test", "a.good.test", "bad.test", "x.test")] + [
    G(host, port) for host in ("good.test", "bad.test", "x.test") for port in (80, 8080)
]


async def ways(config: Config) -> list[str]:
    """The first of the ways, as the probes of WHERE go."""
    config = replace(config, policy=replace(config.policy, guard="off"))
    found = []
    for one in WHERE:
        scheme = "" if one.method == "CONNECT" else "http"
        request = Request(one.client, "", frozenset(), one.method, scheme, one.host, one.port, "/")
        said = await walk(config, request, Zone())
        if not said.allowed:
            found.append("nowhere" if said.rule == "route" else "deny")
        else:
            way = (*said.parents, "direct")[0]
            found.append("allow" if way == "direct" else f"way:{way}")
    return found


@pytest.mark.parametrize("file", WAYS, ids=lambda one: one.name)
def test_it_goes_the_way_that_squid_goes(folder: Path, file: File) -> None:
    need("squid")
    with serving(peer("a")) as (_, a), serving(peer("b")) as (_, b):
        text = file.text.replace("{a}", str(a)).replace("{b}", str(b)) + "http_access allow all\n"
        source = written(folder, file._replace(text=text))
        converted = squid.convert(str(source))
        assert bool(converted.missing) is file.closed, converted.missing
        (folder / "proxy.toml").write_text(converted.toml)
        ours = asyncio.run(ways(load_config(str(folder / "proxy.toml"))))
        with running(folder, source.read_text(), NAMES) as real:
            assert isinstance(real, Squid), real
            told = [real.ask(probe) for probe in WHERE]
    theirs = ["nowhere" if one.error in NOWHERE else one.verdict for one in told]
    for probe, one, other in zip(WHERE, ours, theirs, strict=True):
        refused = one == "nowhere" and file.closed
        assert one == other or refused, (probe, one, other, converted.toml)


def test_there_are_enough_of_them() -> None:
    assert len({file.name for file in ALL}) == len(ALL) >= 40
    assert sum(file.closed for file in squid_files.ALL) >= 10
