"""The recipes of docs/scale-out.md: proxies and a balancer on machines of their own, with the
addresses and the configuration that stand there."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin.admin_rig import token_file
from balancers import Balancer, haproxy, nginx, stunnel
from clients.certificates import Certificates
from harness import ProxyProcess, need, read_head, wait_for
from machines import Network, network
from scaled_load import Clients, Origin

PAGE = Path(__file__).parents[2] / "docs" / "scale-out.md"

MACHINES = {
    "lb": "10.0.0.10",
    "a": "10.0.0.21",
    "b": "10.0.0.22",
    "client": "10.0.0.50",
    "origin": "10.0.0.80",
}


def recipe(first: str, number: int = 0) -> str:
    """The block of the page that begins with this line, without the line."""
    blocks = re.findall(r"(?m)(?:^ {4}.*\n|^\n(?= {4}))+", PAGE.read_text())
    found = [block for block in blocks if block.strip().startswith(first)]
    lines = [line[4:] for line in found[number].strip("\n").split("\n")]
    return "\n".join(lines[1:]) + "\n"


def command(number: int) -> list[str]:
    """The arguments of the proxy in a recipe."""
    text = recipe("# on 10.0.0.21", number).replace("\\\n", " ")
    program, *args = shlex.split(text)
    assert program == "spliceproxy"
    return args


class Site:
    """The machines, and what runs there."""

    def __init__(self, net: Network, folder: Path, stack: contextlib.ExitStack) -> None:
        self.net = net
        self.folder = folder
        self.stack = stack
        self.proxies: dict[str, ProxyProcess] = {}
        self.starts = 0
        self.origin = Origin(net, "origin")
        stack.callback(self.origin.stop)
        made = Certificates(folder / "certificates")
        self.ca = made.ca
        self.pem = folder / "proxy.pem"
        self.pem.write_text(made.cert.read_text() + made.key.read_text())

    def start(self, name: str, number: int = 0) -> ProxyProcess:
        """A proxy as the page has it, whose recipes are for the first machine."""
        self.starts += 1
        folder = self.folder / f"{name}{self.starts}"
        folder.mkdir()
        args = [
            one.replace(MACHINES["a"], MACHINES[name]).replace(
                "/etc/spliceproxy/token", str(token_file(folder))
            )
            for one in command(number)
        ]
        at = args.index("--listen")
        listen = [args[at + 1]]
        args[at : at + 2] = ["--log-format", "json"]
        proxy = ProxyProcess(folder, *args, listen=listen, prefix=self.net.on(name))
        self.stack.callback(proxy.kill)
        self.proxies[name] = proxy
        return proxy

    def run(self, balancer: Balancer) -> None:
        self.stack.callback(balancer.stop)

    def listens(self, name: str, port: int) -> bool:
        try:
            self.net.connect("client", name, port).close()
            return True
        except OSError:
            return False

    def ready(self, name: str) -> bool:
        """As a balancer asks."""
        try:
            with self.net.connect("lb", name, 9810) as sock:
                sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return read_head(sock).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def haproxy(self) -> None:
        text = recipe("# /etc/haproxy/haproxy.cfg").replace("/etc/haproxy/proxy.pem", str(self.pem))
        text = text.replace("maxconn 20000", "maxconn 400")  # as many descriptors as there are here
        self.run(
            haproxy(
                self.folder / "haproxy", text, lambda: self.listens("lb", 3128), self.net.on("lb")
            )
        )

    def clients(self) -> Clients:
        return Clients(self.net, "client", "lb", "origin")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("ip")
    with network(**MACHINES) as net, contextlib.ExitStack() as stack:
        yield Site(net, tmp_path, stack)


def hears_of(proxy: ProxyProcess, client: str, balancer: str) -> None:
    """Waits for the log, whose lines all name this client and this balancer."""
    lines = [json.loads(line) for line in proxy.wait_access(1)]
    assert {(line["client"], line["via"]) for line in lines} == {(client, balancer)}


def both_serve(site: Site, clients: Clients) -> None:
    """Waits until the balancer gives clients to both."""

    def ask() -> str:
        with clients.connect() as sock, contextlib.suppress(OSError, EOFError):
            return clients.request(sock)
        return ""

    found: set[str] = set()

    def looked() -> bool:
        found.add(ask())
        return {MACHINES["a"], MACHINES["b"]} <= found

    wait_for(looked, "both proxies behind the balancer")


def behind_a_balancer(site: Site) -> Clients:
    """Both proxies, which serve; and clients that have yet to begin."""
    need("haproxy")
    for name in "ab":
        site.start(name)
    site.haproxy()
    clients = site.clients()
    both_serve(site, clients)
    return clients


@pytest.mark.timeout(180)
def test_each_is_restarted_under_load_and_nothing_is_lost(site: Site) -> None:
    clients = behind_a_balancer(site)
    clients.start()
    try:
        for name in "ab":
            old = site.proxies[name]
            assert old.stop(60) == 0
            hears_of(old, MACHINES["client"], MACHINES["lb"])
            before = clients.done
            new = site.start(name)
            wait_for(lambda name=name: site.ready(name), "the proxy to be ready")
            wait_for(lambda new=new: len(new.access()) > 20, "clients of the new one", 60)
            assert clients.done > before
    finally:
        clients.stop()
    assert clients.lost == []
    assert clients.done > 100
    for proxy in site.proxies.values():
        hears_of(proxy, MACHINES["client"], MACHINES["lb"])
        assert "was closed" not in proxy.stderr()


def test_one_that_is_killed_loses_its_own_connections_only(site: Site) -> None:
    clients = behind_a_balancer(site)
    tunnels = [clients.tunnel() for _ in range(10)]
    by = {address: [one for one in tunnels if one.by == address] for address in MACHINES.values()}
    assert by[MACHINES["a"]]
    assert by[MACHINES["b"]]
    for tunnel in tunnels:
        tunnel.echo()
    site.proxies["a"].kill()
    for tunnel in by[MACHINES["a"]]:
        with pytest.raises(ConnectionError):
            tunnel.echo()
    for _ in range(20):  # whatever the checks of the balancer have noticed
        with clients.connect() as sock:
            assert clients.request(sock) == MACHINES["b"]
        new = clients.tunnel()
        new.echo()
        new.end()
    for tunnel in by[MACHINES["b"]]:
        tunnel.echo(100_000)
        tunnel.end()


def through_tls(site: Site, to: str) -> str:
    """The body that curl gets through a proxy with TLS on port 3129."""
    done = subprocess.run(
        [
            *site.net.on("client"), need("curl"), "-sS", "--noproxy", "", "--max-time", "20",
            "--connect-to", f"localhost:3129:{MACHINES[to]}:3129",
            "--proxy", f"https://{MACHINES[to]}:3129", "--proxy-cacert", str(site.ca),
            "--proxy-insecure", f"http://{MACHINES['origin']}/",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_tls_to_the_proxy_by_haproxy(site: Site) -> None:
    need("haproxy")
    for name in "ab":
        site.start(name)
    site.haproxy()
    both_serve(site, site.clients())
    assert through_tls(site, "lb") in (MACHINES["a"], MACHINES["b"])
    for proxy in site.proxies.values():
        hears_of(proxy, MACHINES["client"], MACHINES["lb"])


def test_tls_to_the_proxy_by_stunnel(site: Site) -> None:
    need("stunnel4")
    proxy = site.start("a", 1)
    text = recipe("; /etc/stunnel/stunnel.conf").replace("/etc/stunnel/proxy.pem", str(site.pem))
    folder = site.folder / "stunnel"
    site.run(stunnel(folder, text, lambda: site.listens("a", 3129), site.net.on("a")))
    assert through_tls(site, "a") == MACHINES["a"]
    hears_of(proxy, MACHINES["client"], "127.0.0.1")


def test_nginx_in_front(site: Site) -> None:
    need("nginx")
    text = recipe("# /etc/nginx/nginx.conf")
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        pytest.skip("nginx has no stream module")
    for name in "ab":
        site.start(name)
    folder = site.folder / "nginx"
    site.run(nginx(folder, text, lambda: site.listens("lb", 3128), site.net.on("lb")))
    clients = site.clients()
    both_serve(site, clients)
    for proxy in site.proxies.values():
        hears_of(proxy, MACHINES["client"], MACHINES["lb"])
    site.proxies["a"].kill()
    for _ in range(5):
        with clients.connect() as sock:
            assert clients.request(sock) == MACHINES["b"]
