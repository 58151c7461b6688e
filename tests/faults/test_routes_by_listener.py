"""Routes by where clients have come in: nobody goes the way of those at another address, whoever
serves them, whatever was decided a moment ago, and wherever they go on after a reload."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from counting_load import board_of
from fault_peers import Reader
from harness import read_head, serving, wait_for
from test_reload import Reloaded

ONE, TWO = "127.0.0.11", "127.0.0.12"
"""Addresses of this machine from which connections are made."""


def tells(connection: socket.socket) -> None:
    """An origin that answers each request, and whoever connects, with the address of that."""
    said = connection.getpeername()[0].encode()
    answer = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said)
    with contextlib.suppress(ConnectionResetError):  # as a tunnel ends that is not allowed any more
        while read_head(connection):
            connection.sendall(answer)


def routes(*ways: tuple[str, str], more: str = "") -> str:
    """One for each listener, which has a source, or none to go by; the others are refused."""
    tables = [
        f'[[route]]\nlisteners = ["{listener}"]\n'
        + (f'to = "direct"\nsource-address = "{source}"\n' if source else 'to = "refuse"\n')
        for listener, source in ways
    ]
    return more + "".join(tables) + '[[route]]\nto = "refuse"\n'


class Here:
    """A proxy that listens at two addresses of TCP and at a Unix socket."""

    def __init__(
        self, folder: Path, engine: str, port: int, text: str, listen: Sequence[str] | None
    ) -> None:
        self.port = port
        self.path = folder / "s"
        self.names = ["127.0.0.1:0", "127.0.0.2:0", f"unix:{self.path}"]
        self._engine = f'engine = "{engine}"\nlog-format = "json"\n'
        listen = self.names if listen is None else listen
        self.one = Reloaded(folder, settings=self._engine + text, listen=listen, workers=1)
        self.proxy = self.one.proxy
        found = re.findall(r"listening on (?:\S*://)?([0-9.]+):(\d+)", self.proxy.stderr())
        self.at = {host: int(number) for host, number in found}

    def taken(self, text: str) -> None:
        """It has these settings now."""
        self.one.taken(self._engine + text)

    def client(self, listener: str) -> socket.socket:
        """A connection to it, which comes from the same address in any case."""
        if listener.startswith("unix:"):
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(20)
            made.connect(listener.removeprefix("unix:"))
            return made
        host = listener.rpartition(":")[0]
        return socket.create_connection((host, self.at[host]), 20, ("127.0.0.1", 0))

    def get(self, client: socket.socket) -> str:
        """From where the origin was asked, or the status of a refusal."""
        url = f"http://127.0.0.1:{self.port}/"
        client.sendall(f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        answer = Reader(client).answer()
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def tunnel(self, client: socket.socket) -> str:
        """The same by a tunnel."""
        target = f"127.0.0.1:{self.port}"
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = read_head(client)
        if not head.startswith(b"HTTP/1.1 200 "):
            return head.split(b" ")[1].decode()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return Reader(client).answer().body.decode()


New = Callable[..., Here]


@pytest.fixture
def new(tmp_path: Path) -> Iterator[New]:
    with serving(tells, idle=True) as (_, port):
        made: list[Here] = []

        def start(
            engine: str, text: Callable[[list[str], int], str], listen: Sequence[str] | None = None
        ) -> Here:
            folder = tmp_path / str(len(made))
            folder.mkdir()
            names = ["127.0.0.1:0", "127.0.0.2:0", f"unix:{folder / 's'}"]
            made.append(Here(folder, engine, port, text(names, port), listen))
            return made[-1]

        yield start
        for one in made:
            one.proxy.kill()
            assert "Traceback" not in one.proxy.stderr(), one.proxy.stderr()


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_each_client_goes_the_way_of_its_listener(new: New, engine: str) -> None:
    here = new(engine, lambda names, _: routes((names[0], ONE), (names[1], TWO)))
    wanted = [ONE, TWO, "403"]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(here.client(name)) for name in here.names]
        for _ in range(3):
            assert [here.get(client) for client in clients] == wanted
    for _ in range(3):
        for name, way in zip(here.names, wanted, strict=True):
            with here.client(name) as client:
                assert here.tunnel(client) == way
    if engine == "native":
        assert sum(board_of(here.proxy.process.pid).totals()["route_hits"].values()) >= 6


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_a_reload_names_listeners(new: New, engine: str) -> None:
    """Clients that are there already go by the new routes with their next request, and tunnels are
    judged by where they came in."""
    plain = f'[[route]]\nto = "direct"\nsource-address = "{ONE}"\n'
    here = new(engine, lambda names, _: plain)
    recheck = 'reload-tunnels = "recheck"\n'
    first, second, unix = here.names
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(here.client(name)) for name in here.names]
        assert [here.get(client) for client in clients] == [ONE, ONE, ONE]
        here.taken(routes((first, ONE), (second, TWO), more=recheck))
        assert [here.get(client) for client in clients] == [ONE, TWO, "403"]
        tunnels = [stack.enter_context(here.client(name)) for name in here.names[:2]]
        assert [here.tunnel(client) for client in tunnels] == [ONE, TWO]
        # The numbers of the listeners are others now, and one of them has no way any more.
        here.taken(routes((unix, ONE), (first, TWO), more=recheck))
        assert [here.get(client) for client in clients] == [TWO, "403", ONE]
        tunnels[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert Reader(tunnels[0]).answer().body == ONE.encode()
        here.taken(plain)
        assert [here.get(client) for client in clients] == [ONE, ONE, ONE]


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_tunnels_are_judged_by_their_listener(new: New, engine: str) -> None:
    more = 'reload-tunnels = "recheck"\n'
    text = lambda names, _: routes((names[0], ONE), (names[1], TWO), more=more)  # noqa: E731
    here = new(engine, text)
    with here.client(here.names[0]) as one, here.client(here.names[1]) as two:
        assert (here.tunnel(one), here.tunnel(two)) == (ONE, TWO)
        here.taken(routes((here.names[0], ONE), (here.names[1], ""), more=more))
        with pytest.raises(ConnectionResetError):
            two.recv(1)
        one.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert Reader(one).answer().body == ONE.encode()
        # In another process, too.
        assert here.one.ctl("recycle").returncode == 0
        here.taken(routes((here.names[0], ""), (here.names[1], TWO), more=more))
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    lines = here.proxy.wait_access(2)
    assert [json.loads(line)["termination"] for line in lines] == ["PD", "PD"]


def test_clients_of_another_worker_keep_their_listener(new: New) -> None:
    here = new("native", lambda names, _: routes((names[0], ONE), (names[1], TWO)))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(here.client(name)) for name in here.names]
        assert [here.get(client) for client in clients] == [ONE, TWO, "403"]
        before = here.proxy.workers()
        assert here.one.ctl("recycle").returncode == 0
        wait_for(lambda: here.proxy.workers() != before, "another worker")
        assert [here.get(client) for client in clients] == [ONE, TWO, "403"]


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_a_client_that_a_balancer_brings(new: New, engine: str) -> None:
    """The same address by another listener, and another that the header names."""
    more = 'guard = "off"\nallow-clients = ["0.0.0.0/0"]\nproxy-protocol-from = ["127.0.0.0/8"]\n'
    more += 'listen = ["127.0.0.1:0", "proxy+tcp://127.0.0.2:0"]\n'
    two = ("127.0.0.1:0", ONE), ("127.0.0.2:0", TWO)
    here = new(engine, lambda names, _: routes(*two, more=more), listen=())
    for _ in range(3):
        with here.client("127.0.0.1:0") as one, here.client("127.0.0.2:0") as other:
            other.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.2 1 2\r\n")
            assert [here.get(client) for client in (one, other, other)] == [ONE, TWO, TWO]
        with here.client("127.0.0.2:0") as other:
            other.sendall(b"PROXY TCP4 192.0.2.9 127.0.0.2 1 2\r\n")
            assert here.tunnel(other) == TWO


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_a_port_forward(new: New, engine: str) -> None:
    two = ("127.0.0.1:0", ONE), ("127.0.0.2:0", TWO)

    def text(names: list[str], port: int) -> str:
        more = f'listen = ["127.0.0.1:0"]\nforward = ["127.0.0.2:0=127.0.0.1:{port}"]\n'
        return routes(*two, more=more)

    here = new(engine, text, listen=())
    for _ in range(2):
        with here.client("127.0.0.1:0") as one, here.client("127.0.0.2:0") as led:
            assert here.get(one) == ONE
            led.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert Reader(led).answer().body == TWO.encode()
