"""The name inside TLS, through whole proxies: what rules, a function and a locked file ask of it,
whichever way in a tunnel has come, and what is told of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ProxyProcess, read_exactly, read_head, wait_for
from hellos import ECH, MADE, VERSIONS, hello, records, server_name

from spliceproxy import Config, PolicyConfig, Request, RuleConfig, explain
from spliceproxy.policy import Allow
from spliceproxy.policy.tls_names import TlsNames
from spliceproxy.settings.loading import SettingsError, load

NewProxy = Callable[..., ProxyProcess]

RULES = """
tls-name = "check"

[[rule]]
id = "open"
action = "allow"
hosts = ["open.localhost"]
tls-name = "off"

[[rule]]
id = "strict"
action = "allow"
hosts = ["strict.localhost", "127.0.0.3"]
tls-name = "require"

[[rule]]
id = "more"
action = "allow"
hosts = ["more.localhost"]
tls-name = "check"
tls-refuse = ["ech", "no-name", "not-tls"]

[[rule]]
id = "named"
action = "allow"
hosts = ["127.0.0.1", "/127[.]0[.]0[.]4/"]
"""

NONE = records(hello([VERSIONS]))
SSH = MADE["ssh"].said


def named(name: str) -> bytes:
    return records(hello([VERSIONS, server_name(name.encode())]))


def ech(name: str) -> bytes:
    return records(hello([server_name(name.encode()), VERSIONS, ECH]))


class Echo:
    """An origin that sends back what it gets, and knows all of it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.got: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self.got.append(data)
                one.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    one = Echo()
    yield one
    one.close()


def passes(client: socket.socket, said: bytes) -> bool:
    """Whether what a client says reaches the origin, and comes back; else it is reset."""
    with client:
        try:
            client.sendall(said[:300])
            client.sendall(said[300:])
            return read_exactly(client, len(said)) == said
        except ConnectionError:
            return False


@pytest.fixture(scope="module", params=["native", "splice", "copy"])
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "proxy.toml").write_text(RULES)
    one = ProxyProcess(
        *(folder / "run", "--config", str(folder / "proxy.toml"), "--engine", request.param),
        *("--guard", "off", "--log-format", "json"),
    )
    yield one
    one.kill()
    assert "Traceback" not in one.stderr(), one.stderr()


def lines_of(proxy: ProxyProcess, echo: Echo, count: int) -> list[dict[str, Any]]:
    """So many lines about tunnels to this origin."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = map(json.loads, proxy.access())
        found[:] = [line for line in found if str(line["target"]).endswith(f":{echo.port}")]
        return len(found) >= count

    wait_for(look, f"{count} lines")
    return found


CASES = [
    ("a.localhost", named("a.localhost"), "match"),
    ("a.localhost", named("A.LOCALHOST."), "match"),
    ("a.localhost", named("b.localhost"), "mismatch"),
    ("a.localhost", ech("a.localhost"), "ech"),
    ("a.localhost", ech("b.localhost"), "mismatch"),
    ("a.localhost", NONE, "no-name"),
    ("a.localhost", SSH, "not-tls"),
    ("A.Localhost.", named("a.localhost"), "match"),
    ("open.localhost", named("b.localhost"), None),
    ("strict.localhost", named("strict.localhost"), "match"),
    ("strict.localhost", named("a.localhost"), "mismatch"),
    ("strict.localhost", NONE, "no-name"),
    ("strict.localhost", SSH, "not-tls"),
    ("strict.localhost", ech("strict.localhost"), "ech"),
    ("more.localhost", named("more.localhost"), "match"),
    ("more.localhost", ech("more.localhost"), "ech"),
    ("more.localhost", NONE, "no-name"),
    ("more.localhost", SSH, "not-tls"),
    ("127.0.0.1", named("b.localhost"), "address"),
]


def test_what_rules_ask(proxy: ProxyProcess, echo: Echo) -> None:
    """Each twice: the second time the lane knows where to."""
    wanted = []
    for host, said, found in CASES:
        asked = host.lower().partition(".")[0]
        refused = found not in (None, "match", "address") and (
            found == "mismatch" or asked in ("strict", "more")
        )
        for _ in range(2):
            assert passes(proxy.tunnel(host, echo.port), said) is not refused, (host, found)
            wanted.append((found, "tls-name" if refused else None))
    lines = lines_of(proxy, echo, len(wanted))
    assert sorted((str(line["tls_name"]), str(line["rule"])) for line in lines) == sorted(
        (str(found), str(rule)) for found, rule in wanted
    )
    for line in lines:
        if line["rule"]:
            assert (line["status"], line["termination"], line["in_spliced"]) == (200, "PD", 0)
            assert line["error"] == "http_request_denied"
            assert line["reason"]
            assert line["peer"] == "127.0.0.1"
        else:
            assert line["reason"] is None


def test_an_address_that_nobody_has_named(proxy: ProxyProcess, echo: Echo) -> None:
    """A pattern does not name it, and where the name is required it has none."""
    for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4", "[::1]") * 2:
        with proxy.connect() as client:
            client.sendall(f"CONNECT {host}:{echo.port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = read_head(client)
        assert answer.startswith(b"HTTP/1.1 403 Forbidden by rule tls-name\r\n")
    for line in lines_of(proxy, echo, 8):
        assert (line["tls_name"], line["rule"]) == ("address", "tls-name")


def test_early_data(proxy: ProxyProcess, echo: Echo) -> None:
    """What comes behind the head of CONNECT is what the client says first."""
    for said, wanted in ((named("a.localhost"), True), (named("b.localhost"), False)):
        for at in (len(said), 100):
            with proxy.connect() as client:
                head = f"CONNECT a.localhost:{echo.port} HTTP/1.1\r\nHost: a.localhost\r\n\r\n"
                client.sendall(head.encode() + said[:at])
                with contextlib.suppress(ConnectionError):
                    assert read_head(client).startswith(b"HTTP/1.1 200 ")
                    client.sendall(said[at:] + b"x")
                got = b""
                with contextlib.suppress(ConnectionError):
                    while len(got) < len(said) + 1 and (more := client.recv(1 << 16)):
                        got += more
                assert got == (said + b"x" if wanted else b"")


def socks5(proxy: ProxyProcess, host: str, port: int) -> socket.socket:
    client = proxy.connect()
    name = host.encode()
    client.sendall(b"\x05\x01\x00\x05\x01\x00\x03" + bytes((len(name),)) + name)
    client.sendall(struct.pack("!H", port))
    assert read_exactly(client, 12)[3] == 0
    return client


def test_socks(proxy: ProxyProcess, echo: Echo) -> None:
    assert passes(socks5(proxy, "a.localhost", echo.port), named("a.localhost"))
    assert not passes(socks5(proxy, "a.localhost", echo.port), named("b.localhost"))
    lines = lines_of(proxy, echo, 2)
    assert [line["socks"] for line in lines] == [5, 5]
    assert {line["tls_name"] for line in lines} == {"match", "mismatch"}


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_forward_and_a_parent(
    new_proxy: NewProxy, tmp_path: Path, echo: Echo, engine: str
) -> None:
    parent = new_proxy("--guard", "off", "--via", "parent")
    listening = f"unix:{tmp_path}/forward=a.localhost:{echo.port}"
    proxy = new_proxy(
        *("--tls-name", "check", "--engine", engine, "--forward", listening),
        *("--proxy", parent.url),
    )
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(f"{tmp_path}/forward")
            assert passes(client, named("a.localhost"))
        assert passes(proxy.tunnel("a.localhost", echo.port), named("a.localhost"))
        assert not passes(proxy.tunnel("a.localhost", echo.port), named("b.localhost"))
    lines = proxy.wait_access(6)
    assert all(" route=proxy by=name" in line for line in lines)
    refused = [line for line in lines if " tls=mismatch " in line]
    assert len(refused) == 2
    for line in refused:
        assert " tls=mismatch sni=b.localhost " in line
        assert " TCP_DENIED/200 " in line
        assert " rule=tls-name " in line


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_locked(new_proxy: NewProxy, tmp_path: Path, echo: Echo, engine: str) -> None:
    """It is checked by default there, and addresses of the file are named."""
    rule = '[[rule]]\nid = "a"\naction = "allow"\nhosts = [{}]\nports = [{}]\n'
    hosts = '"a.localhost", "127.0.0.1"'
    (tmp_path / "lock").write_text(rule.format(hosts, echo.port))
    proxy = new_proxy("--locked", str(tmp_path / "lock"), "--engine", engine)
    assert passes(proxy.tunnel("a.localhost", echo.port), named("a.localhost"))
    assert passes(proxy.tunnel("a.localhost", echo.port), SSH)
    assert not passes(proxy.tunnel("a.localhost", echo.port), named("b.localhost"))
    assert passes(proxy.tunnel("127.0.0.1", echo.port), named("b.localhost"))


HOOK = """
from spliceproxy.policy import Allow

def authorize(request):
    mode = request.host.partition(".")[0]
    return Allow(tls_name=mode if mode in ("check", "require", "off") else "")
"""


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_function(new_proxy: NewProxy, tmp_path: Path, echo: Echo, engine: str) -> None:
    (tmp_path / "hook.py").write_text(HOOK)
    proxy = new_proxy("--policy", str(tmp_path / "hook.py"), "--engine", engine)
    other = named("other.localhost")
    for host, said, wanted in (
        ("check.localhost", other, False),
        ("check.localhost", SSH, True),
        ("require.localhost", SSH, False),
        ("require.localhost", named("require.localhost"), True),
        ("off.localhost", other, True),
        ("else.localhost", other, True),
    ):
        for _ in range(2):
            assert passes(proxy.tunnel(host, echo.port), said) is wanted, host
    records_ = [line for line in proxy.wait_access(12) if " rule=tls-name " in line]
    assert len(records_) == 4


def test_what_a_function_may_say() -> None:
    assert Allow(tls_name="check").tls_name == "check"
    assert Allow().tls_name == ""
    with pytest.raises(ValueError, match="tls_name 'on'; allowed: check, require, off"):
        Allow(tls_name="on")


def test_report_only(new_proxy: NewProxy, echo: Echo, tmp_path: Path) -> None:
    """It is told, and nothing is refused."""
    (tmp_path / "proxy.toml").write_text('report-only = true\ntls-name = "require"\n')
    proxy = new_proxy("--config", str(tmp_path / "proxy.toml"), "--guard", "off")
    for host, said in (("a.localhost", named("b.localhost")), ("127.0.0.1", SSH)):
        assert passes(proxy.tunnel(host, echo.port), said)
    assert {line.rpartition(" tls=")[2] for line in proxy.wait_access(2)} == {
        "mismatch",
        "address",
    }


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_check_that_is_open_goes_on(
    new_proxy: NewProxy, tmp_path: Path, echo: Echo, engine: str
) -> None:
    """Through a reload that asks nothing of it, and through an upgrade: what was asked when the
    tunnel was allowed is asked of it."""
    config = tmp_path / "proxy.toml"
    config.write_text('tls-name = "check"\ntimeout-tls-name = 60\n')
    proxy = new_proxy("--config", str(config), "--engine", engine, "--guard", "off")
    clients = [proxy.tunnel("a.localhost", echo.port) for _ in range(4)]
    said = [named("a.localhost"), named("b.localhost")] * 2
    for client, data in zip(clients, said, strict=True):
        client.sendall(data[:50])
    config.write_text('tls-name = "off"\ntimeout-tls-name = 60\n')
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "generation 2" in proxy.stderr(), "the reload")
    assert not select.select(clients, [], [], 0.1)[0]
    for client, data, wanted in zip(clients[:2], said, (True, False), strict=False):
        assert _goes_on(client, data) is wanted
    before = set(proxy.workers())
    os.kill(proxy.process.pid, signal.SIGUSR2)
    wait_for(lambda: "upgrade" in proxy.stderr() and not before & set(proxy.workers()), "it")
    for client, data, wanted in zip(clients[2:], said, (True, False), strict=False):
        assert _goes_on(client, data) is wanted
    assert b"b.localhost" not in b"".join(echo.got)


def _goes_on(client: socket.socket, said: bytes) -> bool:
    with client:
        try:
            client.sendall(said[50:])
            return read_exactly(client, len(said)) == said
        except ConnectionError:
            return False


# ---- what is said of it ------------------------------------------------------------------------


def told(host: str, *rules: RuleConfig, **policy: Any) -> tuple[bool, str]:
    """Whether a tunnel is allowed, and what the step says."""
    config = Config(listen=(), policy=PolicyConfig(rules, **policy))
    asked = Request(client="127.0.0.1", host=host, addresses=("192.0.2.1",))
    explanation = explain(config, asked)
    texts = [step.text for step in explanation.steps if step.name == "tls-name"]
    return explanation.allowed, "; ".join(texts)


def test_explain() -> None:
    rule = RuleConfig("r", "allow", hosts=("a.test", "192.0.2.7"), tls_name="check")
    assert told("a.test") == (True, "")
    allowed, text = told("a.test", rule)
    assert allowed
    assert text == (
        "check: the name inside TLS is to be a.test; the tunnel is reset at mismatch, malformed, "
        "late"
    )
    assert told("192.0.2.7", rule)[0]
    assert "nothing is asked" in told("192.0.2.7", rule)[1]
    allowed, text = told("192.0.2.8", tls_name="check")
    assert not allowed
    assert text.startswith("check: an address, which has no name")
    assert told("a.test", tls_name="require")[1] == (
        "require: the tunnel is reset unless the name inside TLS is a.test"
    )
    assert told("192.0.2.8", tls_name="require", report_only=True)[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('tls-name = "yes"', "tls-name: invalid value 'yes'; allowed: check, require, off"),
        ('tls-refuse = ["ech"]', "it adds to tls-name = check, and tls-name is off"),
        ('tls-name = "require"\ntls-refuse = ["ech"]', "tls-name is require"),
        ('tls-name = "check"\ntls-refuse = ["match"]', "allowed: ech, no-name, not-tls, address"),
        (
            '[[rule]]\nid = "r"\naction = "deny"\ntls-name = "check"',
            "rule 1 'r': tls-name: only a rule that allows can have tls-name",
        ),
        (
            '[[rule]]\nid = "r"\naction = "allow"\nreport-only = true\ntls-name = "check"',
            "only a rule that allows can have tls-name",
        ),
        (
            '[[rule]]\nid = "r"\naction = "allow"\ntls-refuse = ["ech"]',
            "rule 1 'r': tls-refuse: it adds to tls-name = \"check\", which this rule does not",
        ),
        (
            '[[rule]]\nid = "tls-name"\naction = "allow"',
            "the proxy itself uses this id",
        ),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({}, str(path), {})
    assert problem in str(caught.value)


def test_which_setting_holds() -> None:
    """A function's word before a rule's, and a rule's before that of the settings."""
    rules = (
        RuleConfig("own", "allow", tls_name="require"),
        RuleConfig("none", "allow", hosts=("192.0.2.7",)),
    )
    policy = PolicyConfig(rules, tls_name="check", tls_refuse=("ech",))
    names = TlsNames(policy, None)
    assert names.asked("own", "").mode == "require"
    assert names.asked("own", "off").mode == "off"
    assert names.asked("none", "").mode == names.asked("default", "").mode == "check"
    assert names.asked("", "").mode == names.asked("own", "check").mode == "check"
    for asked, refused in (
        (names.asked("none", ""), True),
        (names.asked("none", "check"), True),
        (names.asked("none", "off"), False),
    ):
        check = names.check(asked, "a.test")
        assert (check is not None and check.refuses("ech")) is refused
    assert not names.refuses(names.asked("none", ""), "192.0.2.7", 443)
    assert names.refuses(names.asked("none", "require"), "192.0.2.7", 443)
    assert names.refuses(names.asked("", ""), "192.0.2.7", 443)
