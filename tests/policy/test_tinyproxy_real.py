"""The real tinyproxy never refuses what the settings made of its file allow.

It is started with random files and asked; of the settings the policy itself is asked. Runs
for 15 seconds, or for so many as SPLICEPROXY_TINYPROXY_SECONDS says.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from harness import need
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from spliceproxy.config import Config
from spliceproxy.policy.explain import walk
from spliceproxy.policy.request import Request
from spliceproxy.settings import tinyproxy
from spliceproxy.settings.loading import load_config

SECONDS = float(os.environ.get("SPLICEPROXY_TINYPROXY_SECONDS", "15"))
REFUSED = {0, 400, 401, 403, 407, 501}
USER, WRONG = "ada:secret", "ada:wrong"


# What is asked


@dataclass(frozen=True)
class Probe:
    client: str
    method: str
    host: str
    port: int
    user: str

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        coded = base64.b64encode(self.user.encode())
        return ((b"Proxy-Authorization", b"Basic " + coded),) if self.user else ()


CLIENTS = ("127.0.0.1", "127.0.0.2", "127.0.0.6", "127.1.0.1", "::1")
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.11", "::1", "localhost", "a.invalid", "b-a.invalid")
ORIGIN = 0
PORTS = (1, 9, 11, ORIGIN)  # nobody listens on the first ones
PROBES = st.builds(
    Probe,
    st.sampled_from(CLIENTS),
    st.sampled_from(["GET", "CONNECT"]),
    st.sampled_from(HOSTS),
    st.sampled_from(PORTS),
    st.sampled_from([USER, USER, WRONG, "bob:hidden", ""]),
)


class OneAddress:
    """Names without the DNS."""

    def cached(self, host: str) -> tuple[str, ...]:
        return ("127.0.0.1",)

    async def resolve(self, host: str) -> tuple[str, ...]:
        return ("127.0.0.1",)


async def allowed(config: Config, probes: list[Probe]) -> list[bool]:
    """What the settings say, but for the guard, which tinyproxy has not."""
    config = replace(config, policy=replace(config.policy, guard="off"))
    found = []
    for one in probes:
        request = Request(
            client=one.client,
            method=one.method,
            scheme="" if one.method == "CONNECT" else "http",
            host=one.host,
            port=one.port,
            path="/",
            fields=one.fields,
        )
        found.append((await walk(config, request, OneAddress())).allowed)
    return found


def ask(port: int, probe: Probe) -> int:
    """tinyproxy's status; 0 if there is none. Those behind a 500 it could not connect."""
    v6 = ":" in probe.client
    authority = f"[{probe.host}]" if ":" in probe.host else probe.host
    authority += f":{probe.port}"
    target = authority if probe.method == "CONNECT" else f"http://{authority}/"
    fields = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in probe.fields)
    head = f"{probe.method} {target} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n"
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET) as client:
        client.settimeout(20)
        with suppress(OSError):
            client.bind((probe.client, 0))
            client.connect(("::1" if v6 else "127.0.0.1", port))
            client.sendall(head.encode())
            return int((client.recv(64) + b"none 0 ").split()[1])
    return 0


# The programs


@contextmanager
def running(source: Path, port: int) -> Iterator[str]:
    """tinyproxy with a file; gives what it said if it did not start, else ""."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [need("tinyproxy"), "-d", "-c", str(source)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"},
        )
        try:
            started = False
            while not started and process.poll() is None:
                with socket.socket(socket.AF_INET6) as one:
                    started = one.connect_ex(("::1", port)) == 0
                if not started:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.005)
            errors.seek(0)
            yield "" if started else errors.read() or "it ended"
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    """Answers every request, IPv4 and IPv6, on the port that it gives."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    client.settimeout(5)
                    with client.makefile("rb") as stream:
                        while stream.readline().strip():
                            pass
                    client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def free_port() -> int:
    """A port of which both families are free."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as one:
        return int(one.getsockname()[1])


# Random files

NETWORKS = """
0.0.0.0/0 ::/0 ::1 ::1/128 ::1/64 ::/64 ::/80 ::/96 ::ffff:127.0.0.1 ::ffff:0:0/96
::ffff:127.0.0.0/104 ::ffff:127.0.0.2/127 ::ffff:7f00:1 127.1 127/8 2130706433 0x7f.1
0177.0.0.1 127.0.0.1/8 127.0.0.0/99 1:2 localhost .localdomain nobody.invalid 8000::/1
::/1 127.0.0.1/128 0/0 10/8 LocalHost 127.0.0.08 fe80::/10 127.0.0.0/18446744073709551520
1.2.3.4.5 127.0.0.256
"""
CONNECT_PORTS = """
1 9 11 0 011 013 0x9 0x1 65545 4294967305 09 00 99999 {origin} {origin}
"""
SWITCHED = """
FilterDefaultDeny FilterURLs FilterExtended FilterCaseSensitive FilterDefaultDeny BindSame
XTinyproxy DisableViaHeader Syslog ReverseOnly ReverseMagic
"""

SWITCH = st.sampled_from(["Yes", "No", "on", "OFF", "yes", "no", "Yes", "No"])
ODD = st.sampled_from(["True", "1", "yes # why", "", "yes\r", '"yes"', "Yes\t ", "nope"])
SMALL = st.integers(0, 7).map(lambda last: f"127.0.0.{last}")
NETWORK = st.one_of(
    st.builds("{}/{}".format, SMALL, st.integers(24, 34)),
    SMALL,
    st.sampled_from(NETWORKS.split()),
)
CONTROL = st.builds("{} {}".format, st.sampled_from(["Allow", "Deny", "allow"]), NETWORK)
PORT = st.sampled_from(CONNECT_PORTS.split())
SWITCHES = st.builds(
    "{} {}".format,
    st.sampled_from(SWITCHED.split()),
    st.one_of(*[SWITCH] * 15, ODD),
)
OTHERS = st.sampled_from(
    [
        *("BasicAuth ada secret", "BasicAuth bob hidden", "BasicAuth ada other", "BasicAuth ada"),
        f"BasicAuth {'a' * 200} {'b' * 100}",
        *("FilterType bre", "FilterType ere", "FilterType fnmatch", "FilterType ERE"),
        *("MaxClients 0", "MaxClients 1", "MaxClients 4294967296", "MaxClients 010"),
        *("Timeout 0", "Timeout 5", "LogLevel Error", "LogLevel loud", "User", "Prot 80"),
        *('Upstream http 127.0.0.1:9 ".invalid"', 'Upstream none "localhost"'),
        *('Upstream http 0.0.0.0:0 "127.0.0.0/30"', 'Upstream http 0.0.0.0:0 ".invalid"'),
        *("Upstream socks5 127.0.0.1:9", "Upstream http 127.0.0.1:0", "Upstream 127.0.0.1:9"),
        *('ReversePath "/x/" "http://a.invalid/"', 'ReversePath "http://b.invalid/"'),
        *('Anonymous "Host"', 'AddHeader "A" "b"', 'StatHost "a.invalid"', 'StatHost "localhost"'),
        *('ViaProxyName "a b"', 'ErrorFile 404 "/x"', 'DefaultErrorFile "/x"', "StartServers 3"),
        *("# a comment", "", "  # indented", "Bind 127.0.0.3", "Group root", "Allow", "Deny a/8"),
    ]
)
COMMON = st.one_of(CONTROL, CONTROL, SWITCHES, PORT.map("ConnectPort {}".format))
LINES = st.lists(st.one_of(COMMON, COMMON, COMMON, OTHERS), max_size=6)

PIECES = st.sampled_from(
    [
        *("127", ".", "\\.", "0", "1", "2", "a", "b", "-", "invalid", "local", "host", "::", "A"),
        *("*", "+", "?", "^", "$", "(", ")", "|", "\\(", "\\)", "\\|", "\\+", "\\?", "{2}"),
        *("[a-b]", "[^a]", "[!a]", "[0-9]", "[[:digit:]]", "[A-Z]", "[^A-Z]", "\\{1,2\\}", "\\b"),
        *("\\<", "\\>", "#", "\\#", " # x", "\xe9", "\t", "[", "]", "1$", "^127", "invalid$"),
        *("a.invalid", "localhost", "127.0.0.1", "INVALID", "*.invalid", "127.*", "a*", "+*"),
    ]
)
FILTERS = st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), max_size=3)


OLD = ("  #", "Upstream 127", "FilterType ERE", "ConnectPort 0x")
"""What other versions take."""


class Disagreement(AssertionError):
    """What the settings allow was refused."""


def check(folder: Path, lines: list[str], patterns: list[str] | None, probes: list[Probe]) -> str:
    """Asks both; gives what came of it in a word. Between the choice of a port and its use
    another program may have taken it for IPv4, and tinyproxy then goes on with IPv6 alone: so a
    refusal counts if it is the same on two other ports."""
    for _ in range(2):
        with suppress(Disagreement):
            return check_once(folder, lines, patterns, probes)
    return check_once(folder, lines, patterns, probes)


def check_once(
    folder: Path, lines: list[str], patterns: list[str] | None, probes: list[Probe]
) -> str:
    port = free_port()
    source = folder / "tinyproxy.conf"
    if patterns is not None:
        (folder / "filter").write_bytes("\n".join(patterns).encode("latin-1"))
        lines = [*lines, f'Filter "{folder}/filter"']
    source.write_text("\n".join([f"Port {port}", *lines]) + "\n", newline="\n")
    try:
        converted = tinyproxy.convert(str(source))
    except tinyproxy.Refused:
        return "refused"
    target = folder / "proxy.toml"
    target.write_text(converted.toml)
    config = load_config(str(target))
    ours = asyncio.run(allowed(config, probes))
    if not any(ours):
        return "denied"
    with running(source, port) as problem:
        if problem:
            # What older versions take is not held against the importer, nor a pattern that is
            # left out of what allows.
            lenient = any(one.startswith(OLD) for one in lines)
            assert lenient or ("Bad regex" in problem and converted.missing), problem
            return "did not start"
        # Once it has had an IPv4 client, 1.11.1 cuts the addresses of others to 64 bits.
        passed = itertools.compress(probes, ours)
        for probe in sorted(passed, key=lambda one: ":" not in one.client):
            status = ask(port, probe)
            if status in REFUSED:
                raise Disagreement(status, probe, converted)
    return "allowed"


@pytest.mark.timeout(SECONDS + 300)  # a failing example is made smaller
def test_what_is_allowed_tinyproxy_allows(
    tmp_path: Path, origin: int, caplog: pytest.LogCaptureFixture
) -> None:
    need("tinyproxy")
    caplog.set_level("CRITICAL", "spliceproxy")  # wrong passwords
    deadline = time.monotonic() + SECONDS
    came: Counter[str] = Counter()

    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(LINES, st.none() | FILTERS, st.lists(PROBES, min_size=4, max_size=10))
    def some(lines: list[str], patterns: list[str] | None, probes: list[Probe]) -> None:
        probes = [replace(one, port=one.port or origin) for one in probes]
        lines = [line.replace("{origin}", str(origin)) for line in lines]
        came[check(tmp_path, lines, patterns, probes)] += 1

    while time.monotonic() < deadline:
        seed(random.getrandbits(32))(some)()
    print(dict(came))
    assert came["allowed"] >= 5
