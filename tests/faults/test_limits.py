"""Limits and their ends: connections, descriptors, silence, and the drain at SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable

import pytest
from fault_peers import (
    Reader,
    accept,
    at_rest,
    at_start,
    good_request,
    head,
    request,
    response,
    sees_end,
)
from harness import ProxyProcess, cpu_seconds, descriptors, read_all, wait_for

NewProxy = Callable[..., ProxyProcess]


def idle_client(proxy: ProxyProcess, origin: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A kept-alive client between two requests, and its origin's connection."""
    client = proxy.connect()
    client.sendall(request(origin.getsockname()))
    server = accept(origin)
    head(server)
    server.sendall(response())
    assert Reader(client).answer().status == 200
    return client, server


# ---- counts ------------------------------------------------------------------------------


def test_max_connections(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    proxy = new_proxy("--max-connections", "3", uvloop=each_loop)
    with contextlib.ExitStack() as stack:
        address = origin.getsockname()
        tunnel = stack.enter_context(proxy.tunnel(*address))
        tunnel_end = stack.enter_context(accept(origin))
        waiting = stack.enter_context(proxy.connect())
        waiting.sendall(request(address))
        server = stack.enter_context(accept(origin))
        head(server)
        idle = stack.enter_context(proxy.connect())
        for data in (request(address), b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"):
            with proxy.connect() as refused:
                refused.sendall(data)
                answer = Reader(refused).answer()
                assert (answer.status, answer.error) == (503, "connection_limit_reached")
                assert int(answer.fields["retry-after"]) > 0
        assert [line.split()[3] for line in proxy.wait_access(2)] == ["NONE/503"] * 2
        # Those who were first are served on.
        server.sendall(response(b"mine"))
        assert Reader(waiting).answer().body == b"mine"
        idle.sendall(request(address))
        head(server)
        server.sendall(response(b"mine too", "Connection: close"))
        assert Reader(idle).answer().body == b"mine too"
        tunnel.close()
        tunnel_end.close()
        proxy.wait_access(5)
        good_request(proxy, origin)


def test_far_beyond_max_connections(new_proxy: NewProxy, origin: socket.socket) -> None:
    """Silent clients take every place and every refusal; the proxy does not spin, and
    recovers when they leave."""
    proxy = new_proxy("--max-connections", "4")
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(proxy.connect())
        wait_for(lambda: "no new clients are accepted" in proxy.stderr(), "the pause")
        before = cpu_seconds(proxy.worker)
        time.sleep(1)  # the time over which CPU time is measured
        assert cpu_seconds(proxy.worker) - before < 0.3

    def is_served() -> bool:
        with proxy.connect() as client:
            client.sendall(b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n")
            return Reader(client).answer().status == 200

    wait_for(is_served, "a place")
    good_request(proxy, origin)


def test_descriptors_run_out(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    proxy = new_proxy(uvloop=each_loop, prefix=["prlimit", "--nofile=64:64"])
    before = at_start(proxy, origin)
    worker = proxy.worker
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(proxy.connect())
        wait_for(lambda: descriptors(worker) >= 64, "every descriptor in use")
        wait_for(lambda: "no new clients are accepted" in proxy.stderr(), "the message")
        spent = cpu_seconds(worker)
        time.sleep(1)  # the time over which CPU time is measured
        assert cpu_seconds(worker) - spent < 0.3
        assert proxy.stderr().count("no new clients are accepted") < 5
    at_rest(proxy, before)
    good_request(proxy, origin)
    assert proxy.worker == worker


def test_no_descriptor_for_the_origin(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """The client is accepted with the last one: 503, and its connection is not harmed."""
    proxy = new_proxy(uvloop=each_loop, prefix=["prlimit", "--nofile=64:64"])
    before = at_start(proxy, origin)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(64 - before)]
        wait_for(lambda: descriptors(proxy.worker) == 64, "every descriptor in use")
        for client in (clients[0], clients[-1]):
            client.sendall(request(origin.getsockname()))
            answer = Reader(client).answer()
            assert (answer.status, answer.error) == (503, "connection_limit_reached")
        clients[1].close()
        clients[2].close()
        wait_for(lambda: descriptors(proxy.worker) <= 62, "two free descriptors")
        clients[0].sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            server.sendall(response(b"now"))
            assert Reader(clients[0]).answer().body == b"now"
    at_rest(proxy, before)


def test_idle_origins_give_way(new_proxy: NewProxy, origin: socket.socket) -> None:
    """Descriptors of pooled connections are there for those who need them."""
    proxy = new_proxy(prefix=["prlimit", "--nofile=64:64"])
    before = at_start(proxy, origin)
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range((64 - before) // 2):
            client = stack.enter_context(proxy.connect())
            client.sendall(request(origin.getsockname()))
            pairs.append((client, stack.enter_context(accept(origin))))
        for client, server in pairs:
            head(server)
            server.sendall(response())
            assert Reader(client).answer().status == 200
        # Every descriptor is a client's or a pooled origin's.
        with socket.create_server(("127.0.0.1", 0)) as other:
            other.settimeout(20)
            pairs[0][0].sendall(request(other.getsockname()))
            pairs[1][0].sendall(request(other.getsockname()))
            pairs[2][0].sendall(request(other.getsockname()))
            with accept(other) as server:
                head(server)
                server.sendall(response(b"other"))


# ---- silence ------------------------------------------------------------------------------


def test_idle_tunnel(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-idle", "2", uvloop=each_loop)
    before = at_start(proxy, origin)
    with proxy.tunnel(*origin.getsockname()) as client, accept(origin) as server:
        start = time.monotonic()
        for _ in range(12):  # traffic either way keeps it
            server.sendall(b"x")
            assert client.recv(1) == b"x"
            time.sleep(0.2)
        assert sees_end(client) == b""
        assert sees_end(server) == b""
        assert time.monotonic() - start > 4.1
    assert proxy.wait_access(2)[1].split()[3] == "TCP_TUNNEL_TIMEDOUT/200"
    at_rest(proxy, before)


@pytest.mark.parametrize("first", ["client", "origin"])
def test_half_closed_tunnel(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket, first: str
) -> None:
    proxy = new_proxy("--timeout-half-close", "2", uvloop=each_loop)
    before = at_start(proxy, origin)
    with proxy.tunnel(*origin.getsockname()) as client, accept(origin) as server:
        one, other = (client, server) if first == "client" else (server, client)
        one.shutdown(socket.SHUT_WR)
        assert read_all(other) == b""
        for _ in range(12):  # the other direction may go on
            other.sendall(b"x")
            assert one.recv(1) == b"x"
            time.sleep(0.2)
        assert sees_end(one) == b""
    assert proxy.wait_access(2)[1].split()[3] == "TCP_TUNNEL_TIMEDOUT/200"
    at_rest(proxy, before)


# ---- drain ----------------------------------------------------------------------------------


def test_drain_of_requests(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    """A running request is answered with Connection: close, an idle connection closed at
    once, and the proxy ends by itself."""
    proxy = new_proxy("--timeout-drain", "60", uvloop=each_loop)
    idle, idle_server = idle_client(proxy, origin)
    with idle, idle_server, proxy.connect() as client:
        client.sendall(request(origin.getsockname(), "X: running", method="POST"))
        with accept(origin) as server:
            head(server)
            proxy.process.send_signal(signal.SIGTERM)
            assert sees_end(idle) == b""
            server.sendall(response(b"finished"))
            reader = Reader(client)
            answer = reader.answer()
            assert answer.body == b"finished"
            assert answer.fields["connection"] == "close"
            assert reader.rest() == b""
        assert proxy.process.wait(20) == 0
    assert [line.split()[3] for line in proxy.access()] == ["TCP_MISS/200"] * 2


def test_drain_refuses_new_connections(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-drain", "60")
    idle, idle_server = idle_client(proxy, origin)
    with (
        idle,
        idle_server,
        proxy.tunnel(*origin.getsockname()) as client,
        accept(origin) as server,
    ):
        proxy.process.send_signal(signal.SIGTERM)
        assert sees_end(idle) == b""
        wait_for(lambda: _is_refused(proxy), "a refusal")
        client.close()
        server.close()
        assert proxy.process.wait(20) == 0


def _is_refused(proxy: ProxyProcess) -> bool:
    try:
        proxy.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_drain_waits_for_tunnels(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    proxy = new_proxy("--timeout-drain", "60", uvloop=each_loop)
    idle, idle_server = idle_client(proxy, origin)
    with (
        idle,
        idle_server,
        proxy.tunnel(*origin.getsockname()) as client,
        accept(origin) as server,
    ):
        proxy.process.send_signal(signal.SIGTERM)
        assert sees_end(idle) == b""  # it drains
        for _ in range(3):
            client.sendall(b"still")
            assert server.recv(5) == b"still"
            server.sendall(b"here")
            assert client.recv(4) == b"here"
        assert proxy.process.poll() is None
        client.close()
        server.close()
        assert proxy.process.wait(20) == 0
    assert [line.split()[3] for line in proxy.access()] == ["TCP_MISS/200", "TCP_TUNNEL/200"]


def test_end_of_the_drain_time(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    """What is not over by then is ended, and logged."""
    proxy = new_proxy("--timeout-drain", "1", uvloop=each_loop)
    address = origin.getsockname()
    with contextlib.ExitStack() as stack:
        tunnel = stack.enter_context(proxy.tunnel(*address))
        stack.enter_context(accept(origin))
        waiting = stack.enter_context(proxy.connect())
        waiting.sendall(request(address))
        head(stack.enter_context(accept(origin)))
        receiving = stack.enter_context(proxy.connect())
        receiving.sendall(request(address))
        server = stack.enter_context(accept(origin))
        head(server)
        server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello")
        assert receiving.recv(1)
        start = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert time.monotonic() - start >= 1
        assert Reader(tunnel).rest() == b""
        assert not Reader(receiving).rest().endswith(b"HTTP")
    assert sorted(line.split()[3] for line in proxy.access()) == [
        "TCP_MISS_ABORTED/000",
        "TCP_MISS_ABORTED/200",
        "TCP_TUNNEL_ABORTED/200",
    ]


def test_nothing_is_lost_from_the_log(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """Requests that end as the signal comes are in the log too."""
    proxy = new_proxy(uvloop=each_loop)
    address = origin.getsockname()
    for _ in range(50):
        with proxy.connect() as client:
            client.sendall(request(address, "Connection: close"))
            with accept(origin) as server:
                head(server)
                server.sendall(response(b"", "Connection: close"))
            assert Reader(client).answer().whole
    assert proxy.stop() == 0
    assert len(proxy.access()) == 50
