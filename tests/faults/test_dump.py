"""SIGQUIT: each worker shows what it has, and goes on."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from harness import ProxyProcess, has_signal, read_exactly, read_head, serving, wait_for
from test_unread_messages import Unread

SECRET = b"SECRET"
PASSWORD = "c29tZWJvZHk6c2VjcmV0"


@pytest.fixture
def new_proxy(tmp_path: Path) -> Iterator[Callable[..., ProxyProcess]]:
    started: list[ProxyProcess] = []

    def new(*args: str, workers: int = 1) -> ProxyProcess:
        started.append(ProxyProcess(tmp_path / str(len(started)), *args, workers=workers))
        return started[-1]

    yield new
    for proxy in started:
        proxy.kill()


def echo(connection: socket.socket) -> None:
    while got := connection.recv(65536):
        connection.sendall(got)


def shown(proxy: ProxyProcess, ready: Callable[[str], bool]) -> str:
    """Sends SIGQUIT until what is shown is ``ready``: a client may have yet to be accepted."""
    texts: list[str] = []

    def look() -> bool:
        before = len(proxy.stderr())
        proxy.process.send_signal(signal.SIGQUIT)
        wait_for(
            lambda: (
                len(set(re.findall(r"^worker (\d+): \w+: ", proxy.stderr()[before:], re.M)))
                == len(proxy.workers())
            ),
            "all workers' lines",
        )
        texts.append(proxy.stderr()[before:])
        return ready(texts[-1])

    wait_for(look, "the flows")
    return texts[-1]


@pytest.mark.parametrize("engine", ["native", "splice", "copy"])
def test_tunnel_and_idle_client_are_shown(
    new_proxy: Callable[..., ProxyProcess], engine: str
) -> None:
    proxy = new_proxy("--engine", engine)
    with (
        serving(echo) as (host, port),
        proxy.tunnel(host, port) as tunnel,
        proxy.connect() as client,
    ):
        tunnel.sendall(SECRET)
        assert read_exactly(tunnel, 6) == SECRET
        with serving(answer_once) as (other, other_port):
            url = f"http://{other}:{other_port}/path?query"
            client.sendall(
                f"GET {url} HTTP/1.1\r\nHost: {other}:{other_port}\r\n"
                f"Proxy-Authorization: Basic {PASSWORD}\r\n\r\n".encode()
            )
            head = read_head(client)
            assert b" 200 " in head
            assert read_exactly(client, 2) == b"ok"
        kinds = {"tunnel"} if engine != "native" else {"tunnel", "client", "listener"}
        text = shown(proxy, lambda text: kinds <= set(re.findall(r": \d+ (\w+) ", text)))
        worker = proxy.worker
        for line in text.splitlines():
            assert line.startswith(f"worker {worker}: "), line
        assert re.search(rf"^worker {worker}: {engine}: .*tunnels=1 ", text, re.M)
        for hidden in ("SECRET", PASSWORD, "query", "path"):
            assert hidden not in text
        if engine == "native":
            assert re.search(r": \d+ client queue=head phase=head .* client=127\.0\.0\.1 ", text)
            assert re.search(r": \d+ tunnel queue=(young|idle) fd=\d+,\d+ up\(waits=0 ", text)
        else:
            assert " tunnel phase=open " in text
        # Nobody has noticed.
        tunnel.sendall(b"again")
        assert read_exactly(tunnel, 5) == b"again"
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 400 ")
        assert proxy.worker == worker
    assert proxy.stop() == 0


def answer_once(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def test_each_worker_shows_its_own(new_proxy: Callable[..., ProxyProcess]) -> None:
    proxy = new_proxy(workers=2)
    workers = set(proxy.workers())
    # The proxy is up with its first worker, and one that is still starting ignores the signal.
    for pid in workers:
        wait_for(partial(has_signal, pid, "SigCgt", signal.SIGQUIT), "a worker's start")
    text = shown(proxy, lambda text: True)
    found = {int(pid) for pid in re.findall(r"^worker (\d+): native: ", text, re.M)}
    assert found == workers == set(proxy.workers())
    assert proxy.stop() == 0


def test_two_signals_at_once_are_one(new_proxy: Callable[..., ProxyProcess]) -> None:
    """A terminal sends one to the worker, and the supervisor passes its own on."""
    proxy = new_proxy()
    for _ in range(3):
        os.kill(proxy.worker, signal.SIGQUIT)
    wait_for(lambda: ": native: " in proxy.stderr(), "the dump")
    with proxy.connect() as client:  # the worker has seen all signals by then
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
        read_head(client)
    assert proxy.stderr().count(": native: ") == 1


def test_nobody_reads_it() -> None:
    """Standard error is a full pipe: the worker goes on, and ends in time."""
    proxy = Unread(full=True, stdout=False, env={})
    try:
        request = "GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n"
        assert proxy.ask(request) == 400  # the worker knows its signals by now
        for _ in range(3):
            proxy.process.send_signal(signal.SIGQUIT)
            assert proxy.ask(request) == 400
        status, seconds = proxy.stop()
        assert status == 0
        assert seconds < 10
    finally:
        proxy.close()
