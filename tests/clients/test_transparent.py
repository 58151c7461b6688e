"""Clients that know of no proxy: the kernel leads their connections to it, by the rules of
docs/transparent.md, in networks of their own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from faults.three_networks import Namespace
from harness import ProxyProcess, need, read_all, read_exactly, read_head
from policy.forbidden import ADDRESSES
from test_browser import FLAGS

PAGE = Path(__file__).parents[2] / "docs" / "transparent.md"

RESET = (7, 35, 56)
"""What curl ends with, as early or late as it notices."""

ORIGIN = {4: "10.9.2.2", 6: "fd00:2::2"}
OURS = {4: "10.9.1.1", 6: "fd00:1::1"}
WAN = {4: "10.9.2.1", 6: "fd00:2::1"}
PORTS = {"redirect": 3129, "tproxy": 3130}
LEADING = {
    "redirect": ("type nat hook prerouting priority dstnat", "redirect to :3129"),
    "tproxy": (
        "type filter hook prerouting priority mangle",
        "tproxy to :3130 meta mark set 1 accept",
    ),
}
"""The chain, and what leads connections to the proxy."""

MORE = (f"{OURS[4]}:8889", f"[{OURS[6]}]:8889")
"""Addresses where the proxy listens, too."""

HOSTS = """
10.9.2.2 a.test denied.test
fd00:2::2 a.test denied.test
10.9.2.9 elsewhere.test
fd00:2::9 elsewhere.test
"""
RULES = '[[rule]]\nid = "no"\naction = "deny"\nhosts = ["denied.test"]\n'

LINK = (
    "ip link add {ours} type veth peer name eth0 netns {pid}; ip link set {ours} up; "
    "ip addr add 10.9.{n}.1/24 dev {ours}; ip addr add fd00:{n}::1/64 dev {ours} nodad"
)
FAR = (
    "ip link set eth0 up; ip addr add 10.9.{n}.2/24 dev eth0; "
    "ip addr add fd00:{n}::2/64 dev eth0 nodad; "
    "ip route add default via 10.9.{n}.1; ip -6 route add default via fd00:{n}::1"
)


def blocks(kind: str) -> dict[str, str]:
    """What the page tells to run for nft and sh, for one kind."""
    text = PAGE.read_text()
    start = text.index(f"    spliceproxy --listen {kind}+tcp://:{PORTS[kind]}\n")
    found = {}
    for block in re.findall(r"(?:^    .*\n|^\n)+", text[start:], re.M):
        lines = [line[4:] for line in block.splitlines()]
        for part in "\n".join(lines).split("\n\n"):
            head, _, rest = part.strip("\n").partition("\n")
            if head in ("# nft -f", "# sh"):
                found.setdefault(head, rest)
        if kind == "redirect" or "# sh" in found:
            break
    return found


class Led:
    """A client and an origin, with a router between them on which the proxy runs."""

    def __init__(self, stack: contextlib.ExitStack, kind: str, certificates: Certificates) -> None:
        self.kind = kind
        self.client, self.router, self.origin = (Namespace() for _ in range(3))
        for one in (self.client, self.router, self.origin):
            stack.callback(one.close)
        for number, name, other in ((1, "lan0", self.client), (2, "wan0", self.origin)):
            self.router.run(LINK.format(ours=name, pid=other.pid, n=number))
            other.run(FAR.format(n=number))
        told = blocks(kind)
        rules = told["# nft -f"]
        self.router.run(f"nft -f - <<'EOF'\n{rules}\nEOF")
        if kind == "tproxy":
            self.router.run(told["# sh"])
        self._context = certificates.server_context()
        for port, serve in ((443, self._secure), (80, _plain)):
            listener = self.origin.inside(
                lambda port=port: socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
                )
            )
            stack.callback(listener.close)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()

    def _secure(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as secured:
            _plain(secured)

    def connect(self, version: int, port: int, *, to: dict[int, str] = ORIGIN) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = self.client.inside(lambda: socket.socket(family))
        made.settimeout(20)
        try:
            made.connect((to[version], port))
        except OSError:
            made.close()
            raise
        return made

    def is_reset(self, version: int, port: int, host: str) -> None:
        """A connection to there."""

        def ask() -> None:
            with self.connect(version, port, to={version: host}) as s:
                s.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
                s.recv(1)

        with pytest.raises(ConnectionResetError):
            ask()

    @contextlib.contextmanager
    def leading(self, ports: str) -> Iterator[None]:
        """Connections to more ports are led to the proxy."""
        chain, verdict = LEADING[self.kind]
        self.router.run(
            "nft -f - <<'EOF'\ntable inet more {\nchain more {\n"
            f'{chain}; policy accept;\niifname "lan0" tcp dport {{ {ports} }} {verdict}\n'
            "}\n}\nEOF"
        )
        try:
            yield
        finally:
            self.router.run("nft delete table inet more")

    def curl(
        self, version: int, url: str, host: str = "a.test"
    ) -> subprocess.CompletedProcess[str]:
        address = ORIGIN[version] if version == 4 else f"[{ORIGIN[version]}]"
        command = [*self.client.prefix, need("curl"), "-sSk", f"-{version}", "--max-time", "20"]
        for port in (80, 443):
            command += ["--resolve", f"{host}:{port}:{address}"]
        return subprocess.run([*command, url], capture_output=True, text=True, timeout=60)


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(30)
            serve(connection)

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def _plain(connection: socket.socket) -> None:
    """Answers a request with all that it has got; says something by itself to who is silent."""
    connection.settimeout(2)
    try:
        head = read_head(connection)
    except TimeoutError:
        connection.sendall(b"220 ready\r\n")
        return
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(answer % len(head) + head)


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def led(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Led]:
    for program in ("ip", "nft", "unshare", "nsenter"):
        need(program)
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces need CAP_SYS_ADMIN")
    with contextlib.ExitStack() as stack:
        yield Led(stack, request.param, certificates)


@pytest.fixture
def proxy(led: Led, tmp_path: Path) -> Iterator[Callable[..., ProxyProcess]]:
    """Starts the proxy on the router."""
    started: list[ProxyProcess] = []

    def start(settings: str = "", workers: int = 1) -> ProxyProcess:
        (tmp_path / "hosts").write_text(HOSTS)
        (tmp_path / "p.toml").write_text(settings + RULES)
        made = ProxyProcess(
            tmp_path / "proxy",
            *("--config", str(tmp_path / "p.toml"), "--log-format", "json"),
            listen=[f"{led.kind}+tcp://:{PORTS[led.kind]}", ":8888", *MORE],
            workers=workers,
            env={
                "SPLICEPROXY_HOSTS_FILE": str(tmp_path / "hosts"),
                "SPLICEPROXY_DNS_SERVER": "::1",
            },
            prefix=led.router.prefix,
        )
        started.append(made)
        return made

    yield start
    for one in started:
        one.stop()


def lines(proxy: ProxyProcess, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in proxy.wait_access(count)]


def shown(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["target"], line["name"], line["status"]


@pytest.mark.parametrize("workers", [1, 3])
def test_names(led: Led, proxy: Callable[..., ProxyProcess], workers: int) -> None:
    running, count = proxy(workers=workers), 0
    for version in (4, 6):
        for url, port in (("https://a.test/x", 443), ("http://a.test/x", 80)):
            done = led.curl(version, url)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("GET /x HTTP/1.1\nHost: a.test\n")
            count += 1
            line = lines(running, count)[-1]
            assert shown(line) == (f"a.test:{port}", "match", 200)
            assert line["method"] == "CONNECT"
            assert line["peer"] == ORIGIN[version]
            assert line["client"] == ("10.9.1.2" if version == 4 else "fd00:1::2")


@pytest.mark.parametrize("asked", ["check", "require", "names"])
def test_the_name_inside_tls(led: Led, proxy: Callable[..., ProxyProcess], asked: str) -> None:
    """The name that was found is the one of the tunnel; without one it leads to an address."""
    settings = 'targets = "names"' if asked == "names" else f'tls-name = "{asked}"'
    running = proxy(f"{settings}\n")
    passed = [
        led.curl(4, url, host=host).returncode == 0
        for url, host in (
            ("https://a.test/", "a.test"),
            ("https://elsewhere.test/", "elsewhere.test"),
            ("http://a.test/", "a.test"),
        )
    ]
    assert passed == [True, False, asked != "require"]
    found = [(line["tls_name"], line["rule"]) for line in lines(running, 3)]
    if asked == "names":
        assert found == [(None, None), (None, "targets"), (None, None)]
    else:
        refused = "tls-name" if asked == "require" else None
        assert found == [("match", None), ("address", "tls-name"), ("not-tls", refused)]


@pytest.mark.parametrize("version", [4, 6])
def test_a_name_that_leads_elsewhere(
    led: Led, proxy: Callable[..., ProxyProcess], version: int
) -> None:
    """It is none: rules see the address."""
    running = proxy()
    host = ORIGIN[4] if version == 4 else f"[{ORIGIN[6]}]"
    for name in ("elsewhere.test", "absent.test"):
        done = led.curl(version, f"https://{name}/", host=name)
        assert done.returncode == 0, done.stderr
    for line in lines(running, 2):
        assert shown(line) == (f"{host}:443", "host-mismatch", 200)


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        ("10.9.2.2", "10.9.2.2:80", "match"),
        ("10.9.2.9", "10.9.2.2:80", "host-mismatch"),
        ("168362498", "10.9.2.2:80", "host-mismatch"),  # a number for the same address
        ("0xa.9.2.2", "10.9.2.2:80", "host-mismatch"),
        ("A.test.:8080", "a.test:80", "match"),
        ("", "10.9.2.2:80", "no-name"),
        ("a b", "10.9.2.2:80", "malformed"),
    ],
)
def test_hosts(
    led: Led, proxy: Callable[..., ProxyProcess], host: str, target: str, name: str
) -> None:
    running = proxy()
    with led.connect(4, 80) as s:
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        s.sendall(request)
        assert read_all(s).endswith(request)
    assert shown(lines(running, 1)[0]) == (target, name, 200)


@pytest.mark.parametrize("version", [4, 6])
def test_refusals(led: Led, proxy: Callable[..., ProxyProcess], version: int) -> None:
    running = proxy()
    for url in ("https://denied.test/", "http://denied.test/"):
        done = led.curl(version, url, host="denied.test")
        assert done.returncode in RESET, done
    found = lines(running, 2)
    assert [shown(line) for line in found] == [
        ("denied.test:443", "match", 403),
        ("denied.test:80", "match", 403),
    ]
    assert {line["rule"] for line in found} == {"no"}


def test_a_stranger(led: Led, proxy: Callable[..., ProxyProcess]) -> None:
    """No name is looked up for it, nor does it have to say one."""
    running = proxy('allow-clients = ["192.0.2.0/24"]\n')
    with pytest.raises(ConnectionResetError), led.connect(4, 443) as s:
        s.recv(1)
    (line,) = lines(running, 1)
    assert (line["target"], line["rule"], line["name"]) == ("10.9.2.2:443", "clients", None)


def test_a_user_of_a_network(led: Led, proxy: Callable[..., ProxyProcess]) -> None:
    networks = '[auth-networks]\n"10.9.1.0/24" = "lan"\n'
    running = proxy(f'auth = "ada:secret"\n{networks}')
    assert led.curl(4, "https://a.test/").returncode == 0
    assert led.curl(6, "https://a.test/").returncode in RESET
    allowed, refused = lines(running, 2)
    assert (allowed["user"], allowed["status"]) == ("lan", 200)
    assert (refused["user"], refused["status"]) == (None, 407)


def test_strict(led: Led, proxy: Callable[..., ProxyProcess]) -> None:
    running = proxy('redirect-verify = "strict"\n')
    done = led.curl(4, "https://elsewhere.test/", host="elsewhere.test")
    assert done.returncode in RESET, done
    assert led.curl(4, "https://a.test/").returncode == 0
    refused, allowed = lines(running, 2)
    assert (refused["status"], refused["rule"], refused["name"]) == (403, *["host-mismatch"] * 2)
    assert shown(allowed) == ("a.test:443", "match", 200)


@pytest.mark.parametrize("version", [4, 6])
def test_the_server_speaks_first(
    led: Led, proxy: Callable[..., ProxyProcess], version: int
) -> None:
    running = proxy()
    with led.connect(version, 80) as s:
        assert read_all(s) == b"220 ready\r\n"
    (line,) = lines(running, 1)
    host = ORIGIN[4] if version == 4 else f"[{ORIGIN[6]}]"
    assert shown(line) == (f"{host}:80", "late", 200)


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_to_the_proxy_itself(
    led: Led, proxy: Callable[..., ProxyProcess], version: int
) -> None:
    running = proxy()
    where = version, PORTS[led.kind]
    with pytest.raises(ConnectionResetError), led.connect(*where, to=OURS) as s:
        s.recv(1)
    (line,) = lines(running, 1)
    assert line["error"].startswith("proxy_loop_detected")
    with led.connect(version, 8888, to=OURS) as s:  # the other address is as ever
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_exactly(s, 12) == b"HTTP/1.1 400"


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_to_another_address_of_the_proxy(
    led: Led, proxy: Callable[..., ProxyProcess], version: int
) -> None:
    """What leads too much to the proxy makes no loop, by whichever address of the router."""
    running, own = proxy(), PORTS[led.kind]
    with led.leading(f"8888, 8889, {own}"):
        for port in (8888, 8889, own):
            for host in (OURS[version], WAN[version]) if port != 8889 else (OURS[version],):
                led.is_reset(version, port, host)
    # One that it has made to itself is there twice, and no more often.
    found = lines(running, 5)
    assert len(found) <= 10
    assert all(line["error"].startswith("proxy_loop_detected") for line in found)


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_for_those_who_are_led_here(
    led: Led, proxy: Callable[..., ProxyProcess], version: int
) -> None:
    """Others go another way."""
    listener = f"{led.kind}+tcp://:{PORTS[led.kind]}"
    running = proxy(f'[[route]]\nlisteners = ["{listener}"]\nto = "refuse"\n')
    led.is_reset(version, 80, ORIGIN[version])
    host = ORIGIN[4] if version == 4 else f"[{ORIGIN[6]}]"
    with led.connect(version, 8888, to=OURS) as s:
        s.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert read_exactly(s, 12) == b"HTTP/1.1 200"
        s.shutdown(socket.SHUT_WR)
        read_all(s)
    refused, allowed = lines(running, 2)
    assert (refused["status"], refused["rule"]) == (403, "route")
    assert allowed["status"] == 200


def forbidden() -> list[str]:
    """Addresses of the guard suite to which a router passes on packets."""
    local = ("127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/3", "169.254.0.0/16", "::/96", "fe80::/10")
    local += ("fec0::/10",)  # sites are links of old, and no router sends an answer back
    found = [ipaddress.ip_address(one.strip("[]")) for one in ADDRESSES]
    nets = [ipaddress.ip_network(one) for one in (*local, "ff00::/8", "::ffff:0:0/96")]
    return [str(one) for one in found if not any(one in net for net in nets)]


def test_the_guard(led: Led, proxy: Callable[..., ProxyProcess]) -> None:
    """It is asked for where the client wanted to go, whatever name is in the first bytes."""
    running = proxy(f'guard = "private"\nguard-allow = ["{ORIGIN[4]}", "{ORIGIN[6]}"]\n')
    addresses = forbidden()
    assert len(addresses) > 30
    for address in addresses:
        led.is_reset(6 if ":" in address else 4, 80, address)
    found = lines(running, len(addresses))
    assert {line["status"] for line in found} == {403}
    assert {line["rule"] for line in found} == {"guard"}
    assert {line["peer"] for line in found} == {None}
    targets = [line["target"].rpartition(":")[0].strip("[]") for line in found]
    assert targets == addresses
    for version in (4, 6):  # or this would prove nothing
        assert led.curl(version, "https://a.test/").returncode == 0


def test_by_way_of_a_parent(led: Led, proxy: Callable[..., ProxyProcess], tmp_path: Path) -> None:
    """What the client says is for its server: a parent is sent none of that before it has said
    yes, and our own credentials."""
    secret = tmp_path / "secret"
    secret.write_text("machine:ours\n")
    ours = b"Proxy-Authorization: Basic bWFjaGluZTpvdXJz\r\n"
    asked: list[bytes] = []

    def parent(connection: socket.socket) -> None:
        asked.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        _plain(connection)

    listener = led.origin.inside(lambda: socket.create_server((ORIGIN[4], 0), backlog=64))
    threading.Thread(target=_accept, args=(listener, parent), daemon=True).start()
    port = listener.getsockname()[1]
    with listener:
        running = proxy(
            f'[[route]]\nto = "up"\n[parent.up]\nurl = "http://{ORIGIN[4]}:{port}"\n'
            f'auth-file = "{secret}"\n'
        )
        for host, target in (("a.test", "a.test:80"), ("elsewhere.test", f"{ORIGIN[4]}:80")):
            theirs = f"GET / HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic x\r\n\r\n"
            with led.connect(4, 80) as s:
                s.sendall(theirs.encode())
                assert read_all(s).endswith(theirs.encode())
            head = asked.pop()
            assert head.startswith(f"CONNECT {target} HTTP/1.1\r\n".encode())
            assert head.lower().count(b"proxy-authorization:") == 1
            assert ours in head
        listener.shutdown(socket.SHUT_RDWR)
    assert {line["route"] for line in lines(running, 2)} == {"up"}


def test_without_the_right_to_listen(tmp_path: Path) -> None:
    command = [need("setpriv"), "--bounding-set", "-net_admin,-net_raw"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("capabilities can only be given up by root")
    with pytest.raises(RuntimeError, match=r"tproxy.*: TPROXY needs the capability CAP_NET_ADMIN"):
        ProxyProcess(tmp_path, listen=["tproxy+tcp://127.0.0.1:0"], prefix=command)


def test_a_hello_in_pieces(led: Led, proxy: Callable[..., ProxyProcess]) -> None:
    """Nothing of it is lost, changed or kept."""
    running = proxy()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.test")
    with led.connect(4, 443) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            for byte in outgoing.read():
                s.send(bytes((byte,)))
            incoming.write(s.recv(1 << 16))
        tls.write(b"GET /y HTTP/1.1\r\n\r\n")
        s.sendall(outgoing.read())
        incoming.write(read_all(s))
        assert tls.read(1 << 16).endswith(b"GET /y HTTP/1.1\r\n\r\n")
    assert shown(lines(running, 1)[0]) == ("a.test:443", "match", 200)


def test_chromium(led: Led, proxy: Callable[..., ProxyProcess], tmp_path: Path) -> None:
    """Its hello is larger than a segment, its extensions are in an order of their own each time,
    and it pretends that there is an encrypted name."""
    if led.kind != "redirect":
        return  # what is looked at is the same
    running = proxy()
    program = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    command = [*led.client.prefix, program, *FLAGS.split(), f"--user-data-dir={tmp_path}/profile"]
    command += [f"--host-resolver-rules=MAP a.test {ORIGIN[4]}", "--no-proxy-server"]
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [*command, "https://a.test/chromium"],
        env={**env, "HOME": str(tmp_path)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert b"GET /chromium HTTP/1.1" in done.stdout, done.stderr[-2000:]
    found = lines(running, 1)
    assert {shown(line) for line in found} <= {("a.test:443", one, 200) for one in ("ech", "match")}
