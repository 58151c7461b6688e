# ruff: noqa: RUF001 - letters that look like others are what it is about
"""The guard in a real proxy: no spelling, name or path leads where it must not.

In ``private`` mode two loopback addresses are excepted and stand for the public internet; all
others are forbidden, and some have a server that must never be reached. The proxy's connect(2)
calls are watched from outside of its code. All of it is held without a function of --policy, and
with one that has allowed everything, at once or after a while; and by way of parents that are told
addresses, and would connect to any.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from forbidden import ADDRESSES
from harness import ProxyProcess
from policy_rig import (
    ANSWERS,
    Answer,
    Make,
    Origins,
    Replied,
    World,
    allowing,
    ask,
    connect,
    get,
    socks,
    socks_named,
    upgrade,
    world,
)

PUBLIC = "127.0.0.77"
OTHER = "127.0.0.78"  # public too
FORBIDDEN = ("127.0.0.1", "127.0.0.88", "::1")

KINDS = pytest.mark.parametrize("make", [connect, get, upgrade, socks, socks_named])


PARENTS = ("http", "socks5")
"""What a parent speaks; it connects to whatever it is asked for."""


class Site:
    """The world of this module."""

    def __init__(self, world: World, way: str) -> None:
        self.world = world
        self.origins = Origins(world.stack, PUBLIC, OTHER, *FORBIDDEN)
        self.port = self.origins.port
        config = world.folder / "config.toml"
        text = f'guard = "private"\nguard-allow = ["{PUBLIC}", "{OTHER}"]\n'
        self.parent: ProxyProcess | None = None
        if way in PARENTS:
            self.parent = ProxyProcess(world.folder / "parent", "--guard", "off", "--via", "parent")
            world.stack.callback(self.parent.kill)
            text += f"""[[route]]
to = "all"
[parent.all]
url = "{way}://127.0.0.1:{self.parent.port}"
connect-by = "address"
"""
        config.write_text(text)
        self.proxy = world.proxy("--config", str(config), *allowing(way, world.folder))

    def check(self) -> None:
        """Nothing but the public addresses has ever been dialled, nor has a parent been asked for
        anything else."""
        dialled = {host for host, _ in self.world.connects()}
        if self.parent is not None:
            assert set(self.world.connects()) <= {("127.0.0.1", self.parent.port)}
            targets = [line.split()[6] for line in self.parent.access()]
            dialled = {target.removeprefix("http://").split(":")[0] for target in targets}
        assert dialled <= {PUBLIC, OTHER}
        assert not any(self.origins.hits.get(address) for address in FORBIDDEN)


@pytest.fixture(scope="module", params=[*ANSWERS, *PARENTS])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("guard")) as made:
        yield Site(made, request.param)


@pytest.fixture(autouse=True)
def nothing_got_through(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" not in request.fixturenames:
        return
    site: Site = request.getfixturevalue("site")
    site.check()
    assert "Traceback" not in site.proxy.stderr()


@KINDS
def test_the_public_address_is_reached(site: Site, make: Make) -> None:
    """Or the tests below would prove nothing."""
    before = site.origins.hits[PUBLIC]
    assert ask(site.proxy, make(PUBLIC, site.port)).status == 200
    if make is connect:
        with site.proxy.tunnel(PUBLIC, site.port) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert Answer(s).body == PUBLIC.encode()
    assert site.origins.hits[PUBLIC] > before or make is not connect


ODD = [
    # IPv4 as inet_aton(3) or somebody else may read it: never looked up as a name
    "0x7f.1",
    "0x7f.0.0.1",
    "0X7F.0X0.0X0.0X1",
    "0x7f000001",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.0x1",
    "00000177.0.0.1",
    "2130706433",
    "4294967295",
    "127.1",
    "127.0.1",
    "127.88",
    "0",
    "0x0",
    "127.0.0.01",
    "127.000.000.001",
    "127.0.0.1.",
    "127.0.0.1..",
    "0x7f.1.",
    "0xa9.0xfe.0xa9.0xfe",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "012.0.0.1",
    "10.1",
    "127.0.0.1.0",
    "127.0.0.256",
    "1.2.3.4.5",
    "08.1",
    "4294967296",
    "0x",
    "134744072",  # a public address
]

DISGUISED = [
    # IPv6 forms that others read
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1%25eth0]",
    "[::1].",
    "[::1",
    "::1",
    "[[::1]]",
    "[127.0.0.1]",
    "[v1.::1]",
    "[::ffff:127.1]",
    "[::ffff:0x7f.0.0.1]",
    "[::00001]",
    # IDNA, percent-encoding, userinfo, separators
    "１２７.０.０.１",
    "127。0。0。1",
    "①②⑦.⓪.⓪.①",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "loc\u00adalhost",
    quote("１２７.０.０.１"),
    "%31%32%37.0.0.1",
    "localhos%74",
    "127.0.0.1%00.example.com",
    "127.0.0.1%2f@public.test",
    "public.test@127.0.0.1",
    "public.test:80@127.0.0.1",
    "public.test%40127.0.0.1",
    "127.0.0.1#@public.test",
    "127.0.0.1?@public.test",
    "127.0.0.1\\@public.test",
    "public.test,127.0.0.1",
    "public.test;127.0.0.1",
    "127.0.0.1\t",
    " 127.0.0.1",
    "127.0.0.1\x00.public.test",
    "http://127.0.0.1",
]

NAMES = {
    "loop.test": [["127.0.0.1"]],
    "loop88.test": [["127.0.0.88"]],
    "loop6.test": [["::1"]],
    "loop-both.test": [["::1", "127.0.0.1"]],
    "unspecified.test": [["0.0.0.0"]],
    "unspecified6.test": [["::"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "mapped-metadata.test": [["::ffff:169.254.169.254"]],
    "compatible.test": [["::127.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "instance-data.ec2.internal": [["169.254.169.254", "fd00:ec2::254"]],
    "ten.test": [["10.0.0.1"]],
    "many.test": [["10.0.0.1", "172.16.0.1", "192.168.0.1", "fd00::1", "127.0.0.1", "::1"]],
    "nat64.test": [["64:ff9b::7f00:1"]],
    "sixtofour.test": [["2002:7f00:1::"]],
    "teredo.test": [["2001:0:7f00:1::"]],
    "ula.test": [["fd00::2"]],
    "link.test": [["fe80::1"]],
    "multicast.test": [["239.255.255.250"]],
    "xn--bcher-kva.test": [["127.0.0.1"]],
    "localtest.me": [["127.0.0.1"]],
    "127.0.0.1.nip.io": [["127.0.0.1"]],
    "7f000001.nip.io": [["127.0.0.1"]],
    "a.b.c.127-0-0-1.nip.io": [["127.0.0.1"]],
}

SPELLED = ["localhost", "LOCALHOST", "localhost.", "a.localhost", "A.LocalHost."]


def test_there_are_enough() -> None:
    assert len(ADDRESSES) + len(ODD) + len(DISGUISED) + len(NAMES) + len(SPELLED) >= 150


@KINDS
@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address(site: Site, make: Make, host: str) -> None:
    answer = ask(site.proxy, make(host, site.port))
    assert (answer.status, answer.error) == (403, "destination_ip_prohibited")


@KINDS
@pytest.mark.parametrize("host", ODD)
def test_an_address_in_an_odd_spelling(site: Site, make: Make, host: str) -> None:
    answer = ask(site.proxy, make(host, site.port))
    assert (answer.status, answer.error) == (403, "destination_ip_prohibited")
    asked = set(site.world.names.asked) - set(NAMES)
    assert not {name for name in asked if name.startswith(host.lower().rstrip("."))}


@KINDS
@pytest.mark.parametrize("host", DISGUISED)
def test_an_address_in_disguise(site: Site, make: Make, host: str) -> None:
    answer = ask(site.proxy, make(host, site.port).encode())
    assert answer.status in (400, 403, 502)
    assert answer.error in ("http_request_error", "destination_ip_prohibited", "dns_error")


@KINDS
@pytest.mark.parametrize("host", [*NAMES, "LOOP.Test", "loop.test.", *SPELLED])
def test_a_name(site: Site, make: Make, host: str) -> None:
    site.world.names.zone.update(NAMES)
    answer = ask(site.proxy, make(host, site.port))
    assert (answer.status, answer.error) == (403, "destination_ip_prohibited")


@KINDS
def test_a_name_that_changes_its_mind(site: Site, make: Make) -> None:
    """Rebinding: whatever a look-up says, and however often, is what is checked."""
    names = site.world.names
    names.zone["rebind.test"] = [[PUBLIC], ["127.0.0.1"], ["127.0.0.88"]]
    statuses = [ask(site.proxy, make("rebind.test", site.port)).status for _ in range(30)]
    assert set(statuses) == {200, 403}


@KINDS
def test_only_some_addresses_are_allowed(site: Site, make: Make) -> None:
    """The others are not tried, not even when the allowed one fails."""
    site.world.names.zone["mixed.test"] = [["127.0.0.1", PUBLIC, "127.0.0.88", "::1"]]
    assert ask(site.proxy, make("mixed.test", site.port)).status == 200
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.setblocking(False)
        answer = ask(site.proxy, make("mixed.test", canary.getsockname()[1]))
        # What an HTTP parent says of a destination is no more than that. SOCKS has the same reply
        # for it as for a name that is not there.
        more = ("destination_unavailable", "dns_error") if site.parent else ()
        assert answer.status == 502
        assert answer.error in ("connection_refused", *more)
        with pytest.raises(BlockingIOError):
            canary.accept()


def test_requests_that_change_host(site: Site) -> None:
    """Each request of a connection is judged, also behind one that was allowed."""
    names = site.world.names
    names.zone["good.test"] = [[PUBLIC]]
    names.zone.update(NAMES)
    good, bad = get("good.test", site.port), get("loop.test", site.port)
    with site.proxy.connect() as s:
        for _ in range(3):
            s.sendall(good.encode())
            assert Answer(s).body == PUBLIC.encode()
            for host in ("loop.test", "127.0.0.1", "[::1]", "localhost", "ten.test"):
                s.sendall(get(host, site.port).encode())
                assert Answer(s).error == "destination_ip_prohibited"
        s.sendall((good + bad + good + bad).encode())  # pipelined
        assert [Answer(s).status for _ in range(4)] == [200, 403, 200, 403]


def test_a_pooled_connection_does_not_outlive_the_name(site: Site) -> None:
    """An idle connection is used only by requests that may go to its address."""
    names = site.world.names
    names.zone["moved.test"] = [[PUBLIC], [OTHER], ["127.0.0.88"], [PUBLIC]]
    with site.proxy.connect() as s:
        bodies = []
        for _ in range(4):
            s.sendall(get("moved.test", site.port).encode())
            answer = Answer(s)
            bodies.append(answer.body if answer.status == 200 else answer.error)
    expected = [PUBLIC.encode(), OTHER.encode(), "destination_ip_prohibited", PUBLIC.encode()]
    assert bodies == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "loop.test", ""])
def test_host_against_target(site: Site, host: str) -> None:
    """The target counts (RFC 9112 section 3.2.2), and Host leads nowhere."""
    site.world.names.zone.update(NAMES)
    target = f"http://{PUBLIC}:{site.port}/"
    answer = ask(site.proxy, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert (answer.status, answer.body) == (200, PUBLIC.encode())
    target = f"{PUBLIC}:{site.port}"
    answer = ask(site.proxy, f"CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert answer.status == 200
    forbidden = f"http://127.0.0.1:{site.port}/"
    answer = ask(site.proxy, f"GET {forbidden} HTTP/1.1\r\nHost: {PUBLIC}\r\n\r\n")
    assert answer.error == "destination_ip_prohibited"
    # Without an authority in the target there is nowhere to go.
    answer = ask(site.proxy, f"GET / HTTP/1.1\r\nHost: {host}:{site.port}\r\n\r\n")
    assert answer.status == 400


def test_two_hosts(site: Site) -> None:
    lines = f"Host: {PUBLIC}:{site.port}\r\nHost: 127.0.0.1:{site.port}\r\n\r\n"
    assert ask(site.proxy, f"GET http://{PUBLIC}:{site.port}/ HTTP/1.1\r\n{lines}").status == 400


def test_default_backend(tmp_path: Path) -> None:
    """The operator's backend is reached, wherever it is: by requests to the proxy itself,
    whatever their Host says, and by no others."""
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.88", "127.0.0.1")
        port = origins.port
        proxy = made.proxy("--guard", "private", "--default-backend", f"127.0.0.88:{port}")
        for host in ("127.0.0.1", f"127.0.0.1:{port}", "169.254.169.254", "a.test"):
            answer = ask(proxy, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
            assert (answer.status, answer.body) == (200, b"127.0.0.88")
        with proxy.connect() as s:  # with an idle connection to the backend
            for make in (get, upgrade, get):
                s.sendall(make("127.0.0.88", port).encode())
                answer = Answer(s)
                assert answer.error == "destination_ip_prohibited"
                if answer.fields.get("connection") == "close":
                    break
        assert ask(proxy, connect("127.0.0.88", port)).error == "destination_ip_prohibited"
        assert {host for host, _ in made.connects()} <= {"127.0.0.88"}  # the lane's are not seen
        assert origins.hits["127.0.0.88"] > 0
        assert origins.hits["127.0.0.1"] == 0


def test_mode_off(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.88")
        config = tmp_path / "config.toml"
        config.write_text('guard = "off"\nguard-deny = ["127.0.0.99"]\n')
        proxy = made.proxy("--config", str(config))
        assert ask(proxy, connect("127.0.0.88", origins.port)).status == 200
        answer = ask(proxy, connect("127.0.0.99", origins.port))
        assert answer.error == "destination_ip_prohibited"


def _far_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.254", 9))  # sends nothing: asks for the route only
        except OSError:
            pytest.skip("only loopback here")
        return str(s.getsockname()[0])


def _ask_far(proxy: ProxyProcess, address: str, request: str) -> Answer:
    with socket.create_connection((address, proxy.port), 20) as s:
        s.sendall(request.encode())
        return Answer(s)


def test_loopback_is_for_loopback_clients(tmp_path: Path) -> None:
    """In the mode that is on without being asked for."""
    address = _far_address()
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1")
        made.names.zone["loop.test"] = [["127.0.0.1"]]
        path = tmp_path / "socket"
        proxy = made.proxy(
            "--allow-clients",
            "0.0.0.0/0",
            "--allow-clients",
            "unix",
            listen=("0.0.0.0:0", f"unix:{path}"),
        )
        for host in ("127.0.0.1", "loop.test", "localhost", "0.0.0.0"):
            for make in (connect, get):
                request = make(host, origins.port)
                assert _ask_far(proxy, address, request).error == "destination_ip_prohibited"
                assert ask(proxy, request).status == 200
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(path))
                    s.sendall(request.encode())
                    assert Answer(s).status == 200
        answer = ask(proxy, connect("169.254.169.254", 80))
        assert answer.error == "destination_ip_prohibited"  # for nobody


def test_nobody_is_local_behind_a_balancer(tmp_path: Path) -> None:
    """It is a program of this machine, and brings clients of others."""
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1", "127.0.0.77")
        path = tmp_path / "socket"
        config = tmp_path / "config.toml"
        config.write_text('guard-local = "none"\nguard-allow = ["127.0.0.77"]\n')
        listen = ("127.0.0.1:0", f"unix:{path}")
        proxy = made.proxy("--config", str(config), listen=listen)

        def by_unix(request: str) -> Answer:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(path))
                s.sendall(request.encode())
                return Answer(s)

        for make in (connect, get):
            inside, outside = (make(a, origins.port) for a in ("127.0.0.1", "127.0.0.77"))
            for request in (inside, outside):
                answer = ask(proxy, request)
                assert answer.fields["proxy-status"].endswith('details="rule clients"')
            assert by_unix(outside).status == 200
            assert by_unix(inside).error == "destination_ip_prohibited"
        named = made.proxy("--config", str(config), "--allow-clients", "127.0.0.1")
        for make in (connect, get):
            for _ in range(2):  # the second is for the relay to repeat
                assert ask(named, make("127.0.0.77", origins.port)).status == 200
                answer = ask(named, make("127.0.0.1", origins.port))
                assert answer.error == "destination_ip_prohibited"
        assert not origins.hits["127.0.0.1"]


@KINDS
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
@pytest.mark.parametrize("guard", ["on", "off"])
def test_the_proxy_itself(tmp_path: Path, listen: str, guard: str, make: Make) -> None:
    """Its own address is no destination, by whatever name; not by Via alone."""
    with world(tmp_path) as made:
        proxy = made.proxy("--guard", guard, "--via", "off", listen=(listen,))
        made.names.zone["own.test"] = [["127.0.0.1"]]
        hosts = ["127.0.0.1", "0.0.0.0", "localhost", "own.test", "[::ffff:127.0.0.1]"]
        if listen.startswith("0"):
            hosts.append("127.0.0.2")
        for host in hosts:
            answer = ask(proxy, make(host, proxy.port))
            if isinstance(answer, Replied):
                assert answer.status == 403, host  # both have the same reply
            else:
                assert (answer.status, answer.error) == (502, "proxy_loop_detected"), host
        lines = proxy.wait_access(len(hosts))
        assert all("error=proxy_loop_detected" in line for line in lines)


def test_no_open_relay(tmp_path: Path) -> None:
    """A client of a public network is refused, unless it is configured."""
    address = _far_address()
    if ipaddress.ip_address(address) in ipaddress.ip_network("192.0.2.0/24"):
        far = 403
    else:
        far = 200 if ipaddress.ip_address(address).is_private else 403
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1")
        proxy = made.proxy("--guard", "off", listen=("0.0.0.0:0",))
        for make in (connect, get):
            answer = _ask_far(proxy, address, make("127.0.0.1", origins.port))
            assert answer.status == far
            if far == 403:
                assert answer.fields["proxy-status"].endswith('details="rule clients"')
            assert ask(proxy, make("127.0.0.1", origins.port)).status == 200
        proxy = made.proxy("--guard", "off", "--allow-clients", address, listen=("0.0.0.0:0",))
        request = connect("127.0.0.1", origins.port)
        assert _ask_far(proxy, address, request).status == 200
        assert ask(proxy, request).status == 403
