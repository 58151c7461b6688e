"""Destinations that a client writes as addresses, where only names are wanted: whichever way in it
takes."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, read_exactly, read_head

from spliceproxy import Config, PolicyConfig, Request, RuleConfig, explain, load_config
from spliceproxy.config import Address
from spliceproxy.errors import Denied
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy
from spliceproxy.settings.loading import SettingsError

NewProxy = Callable[..., ProxyProcess]

LOCK = """
[[rule]]
id = "apps"
action = "allow"
hosts = ["localhost", "192.0.2.7", "2001:db8::7", "/198[.].*/", "/.*[.]test/"]
ports = [443]

[[rule]]
id = "no"
action = "deny"
hosts = ["203.0.113.7"]
ports = [443]
"""


class Names:
    """A resolver that knows one address."""

    def cached(self, host: str) -> tuple[str, ...]:
        return ("192.0.2.1",)

    async def resolve(self, host: str) -> tuple[str, ...]:
        raise AssertionError


def refusal(policy: Policy, host: str, *, own: bool = False) -> str:
    """The rule that refuses a CONNECT to port 443 of a host, "" if none does."""
    head = parse_request(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    client = policy.standing("127.0.0.1", None)
    try:
        asyncio.run(policy.decide(client, head, head.host, 443, Record("127.0.0.1"), own=own))
    except Denied as denied:
        return denied.rule
    return ""


def policy_of(**settings: object) -> Policy:
    return Policy(Config(listen=(), policy=PolicyConfig(**settings)), Names())  # type: ignore[arg-type]


def test_addresses_in_every_spelling() -> None:
    policy = policy_of(targets="names", rules=(RuleConfig("all", "allow"),))
    for host in ("192.0.2.7", "[::1]", "[::ffff:192.0.2.7]", "[2001:db8::7]", "127.0.0.1"):
        assert refusal(policy, host) == "targets"
        assert refusal(policy, host, own=True) == ""  # whoever runs the proxy has named it
    for host in ("0x7f.1", "2130706433", "127.1", "192.0.2.07", "7"):
        assert refusal(policy, host) == "targets"
    for host in ("a.test", "192.0.2.7.test", "localhost", "a-1", "7.a"):
        assert refusal(policy, host) == ""
    assert refusal(policy_of(), "192.0.2.7") == ""


def test_a_locked_file_names_addresses(tmp_path: Path) -> None:
    """A pattern that an address happens to match does not name it."""
    (tmp_path / "lock").write_text(LOCK)
    policy = policy_of(locked=tmp_path / "lock")
    assert refusal(policy, "192.0.2.7") == refusal(policy, "[2001:db8:0::7]") == ""
    assert refusal(policy, "198.51.100.7") == "targets"
    assert refusal(policy, "203.0.113.7") == "locked"
    assert refusal(policy, "a.test") == ""
    both = policy_of(locked=tmp_path / "lock", targets="any", tls_name="off")
    assert refusal(both, "198.51.100.7") == ""
    assert refusal(policy_of(locked=tmp_path / "lock", targets="names"), "192.0.2.7") == ""


def test_explain(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    config = Config(listen=(), policy=PolicyConfig(locked=tmp_path / "lock"))
    told = explain(config, Request(client="10.0.0.7", host="198.51.100.7"))
    assert (told.allowed, told.rule, told.status) == (False, "targets", 403)
    assert [(step.name, step.passed, step.decides) for step in told.steps[-2:]] == [
        ("locked", True, False),
        ("targets", False, True),
    ]
    asked = Request(client="10.0.0.7", host="a.test", addresses=("192.0.2.1",))
    assert [step.name for step in explain(config, asked).steps].count("targets") == 1
    assert explain(config, asked).allowed


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('targets = "names"\nforward = ["127.0.0.1:1=192.0.2.7:5432"]\n')
    with pytest.raises(SettingsError, match=r"leads to an address, which .*targets names refuses"):
        load_config(file)
    file.write_text('targets = "names"\nforward = ["127.0.0.1:1=db.test:5432"]\n')
    assert load_config(file).forwards == (Address("127.0.0.1", 1, target=("db.test", 5432)),)


@pytest.fixture(params=["native", "copy"])
def proxy(request: pytest.FixtureRequest, new_proxy: NewProxy) -> ProxyProcess:
    return new_proxy(
        *("--targets", "names", "--guard", "off", "--engine", request.param),
        *("--log-format", "json"),
    )


@pytest.fixture
def port() -> Iterator[int]:
    """Of an origin that accepts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def socks5(proxy: ProxyProcess, kind: int, host: bytes, port: int) -> int:
    """The reply to a request of SOCKS5 with an address of this kind."""
    with proxy.connect() as client:
        client.sendall(b"\x05\x01\x00" + b"\x05\x01\x00" + bytes((kind,)) + host)
        client.sendall(struct.pack("!H", port))
        assert read_exactly(client, 2) == b"\x05\x00"
        return read_exactly(client, 10)[1]


def test_every_way_in(proxy: ProxyProcess, port: int) -> None:
    for request in (f"CONNECT 127.0.0.1:{port}", f"GET http://127.0.0.1:{port}/"):
        for _ in range(2):
            with proxy.connect() as client:
                head = f"{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
                client.sendall(head.encode())
                assert read_head(client).startswith(b"HTTP/1.1 403 Forbidden by rule targets\r\n")
    loopback = socket.inet_aton("127.0.0.1")
    assert socks5(proxy, 1, loopback, port) == 2
    assert socks5(proxy, 4, b"\0" * 10 + b"\xff\xff" + loopback, port) == 2
    assert socks5(proxy, 3, b"\x09127.0.0.1", port) == 2
    with proxy.connect() as client:
        client.sendall(b"\x04\x01" + struct.pack("!H", port) + loopback + b"\0")
        assert read_exactly(client, 2) == b"\x00\x5b"
    lines = [json.loads(line) for line in proxy.wait_access(8)]
    assert [line["rule"] for line in lines] == ["targets"] * 8
    proxy.tunnel("localhost", port).close()
    assert socks5(proxy, 3, b"\x09localhost", port) == 0
