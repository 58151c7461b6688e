"""Clients that wait to be accepted while the settings or the program change, and that comes to
nothing, or to something else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, all_ended
from harness import free_port, read_exactly, read_head, serving, stop

CLIENTS = 32
"""So many that each of four queues gets some: it would be odd if the kernel did otherwise."""

Address = tuple[str, int]


def answer(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while read_head(connection).endswith(b"\r\n\r\n"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def web() -> Iterator[Address]:
    with serving(answer, idle=True) as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with all_ended(str(tmp_path)):
        yield tmp_path


@pytest.fixture
def gate(folder: Path) -> Path:
    path = folder / "gate"
    os.mkfifo(path)
    return path


def served(clients: list[socket.socket], web: Address) -> None:
    """Each gets an answer."""
    where = f"{web[0]}:{web[1]}"
    for client in clients:
        client.sendall(f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    for client in clients:
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        assert read_exactly(client, 2) == b"ok"
        client.close()


def beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_more_workers_that_are_refused(folder: Path, gate: Path, web: Address) -> None:
    """A reload binds for workers that there will not be."""
    policy = folder / "policy.py"
    policy.write_text(
        f"with open({str(gate)!r}) as gate:\n    gate.read()\nraise ValueError('no')\n"
    )
    settings = folder / "settings.toml"
    settings.write_text("workers = 1\n")
    patch = "at = sys.argv.index('--workers')\ndel sys.argv[at : at + 2]\n"
    proxy = ChangingProxy(folder, "--config", str(settings), patch=patch)
    settings.write_text("workers = 4\npolicy = 'policy.py'\n")
    answers = []
    reload = beside(lambda: answers.append(proxy.admin.ask("/reload", "POST")))
    with gate.open("w"):  # the worker is at it
        clients = [proxy.connect() for _ in range(CLIENTS)]
    reload.join(30)
    assert answers[0].status == 409
    served(clients, web)
    proxy.end(tells_of=True)


MORE = (
    "import os\n"
    "sys.argv[sys.argv.index('--workers') + 1] = '4'\n"
    "from spliceproxy.processes import taking_over\n"
    "def ready(self, *_):\n"
    "    if not self._told:\n"
    "        self._told = True\n"
    "        with open(os.environ['GATE']) as gate:\n"
    "            gate.read()\n"
    "        os._exit(7)\n"
    "taking_over.TakingOver._on_ready = ready\n"
)


def test_a_new_program_with_more_workers_that_fails(folder: Path, gate: Path, web: Address) -> None:
    proxy = ChangingProxy(folder, env={"GATE": str(gate)})
    proxy.become(MORE)
    answers = []
    upgrade = beside(lambda: answers.append(proxy.upgrade()))
    with gate.open("w"):  # it has its sockets, and its workers wait
        clients = [proxy.connect() for _ in range(CLIENTS)]
    upgrade.join(30)
    assert answers[0].status == 409
    served(clients, web)
    proxy.end()


CEASES = (
    "from spliceproxy.front import server\n"
    "before = server.Server.move_to\n"
    "def move_to(self, giver):\n"
    "    before(self, giver)\n"
    "    with open(os.environ['GATE']) as gate:\n"
    "        gate.read()\n"
    "server.Server.move_to = move_to\n"
)


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_an_address_that_the_new_program_has_not(
    folder: Path, gate: Path, web: Address, engine: str
) -> None:
    """Whoever waits there is the old program's, although it accepts no more meanwhile."""
    first, second = free_port(), free_port()
    settings = folder / "settings.toml"
    settings.write_text(f"listen = ['127.0.0.1:{first}', '127.0.0.1:{second}']\n")
    proxy = ChangingProxy(
        folder, "--config", str(settings), "--engine", engine, patch=CEASES, listen=(),
        env={"GATE": str(gate)},
    )  # fmt: skip
    settings.write_text(f"listen = ['127.0.0.1:{first}']\n")
    upgrade = beside(proxy.upgraded)
    with gate.open("w"):  # the old worker accepts no more
        clients = [
            socket.create_connection(("127.0.0.1", port), 20)
            for port in (first, second)
            for _ in range(4)
        ]
        where = f"{web[0]}:{web[1]}"
        clients[-1].sendall(f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    assert read_head(clients[-1]).startswith(b"HTTP/1.1 200 ")
    assert read_exactly(clients.pop(), 2) == b"ok"
    served(clients, web)
    upgrade.join(30)
    assert not upgrade.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", second), 20)
    proxy.end()


def test_an_address_that_the_new_settings_have_not(folder: Path, web: Address) -> None:
    """The same by a reload: the worker is busy when the clients come."""
    first, second = free_port(), free_port()
    settings = folder / "settings.toml"
    settings.write_text(f"listen = ['127.0.0.1:{first}', '127.0.0.1:{second}']\n")
    proxy = ChangingProxy(folder, "--config", str(settings), listen=())
    settings.write_text(f"listen = ['127.0.0.1:{first}']\n")
    worker = proxy.worker
    stop(worker)
    clients = [socket.create_connection(("127.0.0.1", second), 20) for _ in range(8)]
    reload = beside(lambda: proxy.admin.ask("/reload", "POST"))
    os.kill(worker, signal.SIGCONT)
    reload.join(30)
    assert "generation 2 is in force" in proxy.stderr()
    served(clients, web)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", second), 20)
    proxy.end()
