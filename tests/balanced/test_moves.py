"""Clients that a balancer has brought, when a worker is replaced or the program is started anew:
who they are goes along."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from balanced_rig import ANSWER, get, status, v2
from changing_proxy import ChangingProxy, all_ended
from harness import read_exactly, read_head, serving, wait_for

CLIENTS = {"between": "10.1.2.3", "tunnel": "10.1.2.4", "sent": "10.1.2.5"}


@pytest.fixture(params=["native", "copy"])
def proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ChangingProxy]:
    with all_ended(str(tmp_path)):
        yield ChangingProxy(
            tmp_path, "--engine", request.param, "--proxy-protocol-from", "127.0.0.1",
            "--allow-clients", "10.0.0.0/8", "--log-format", "json",
            env={"SPLICEPROXY_GUARD_ALLOW": "127.0.0.0/8"},
            listen=["proxy+tcp://127.0.0.1:0"],
        )  # fmt: skip


@pytest.mark.parametrize("how", ["recycle", "upgraded"])
def test_the_balancer_goes_along(proxy: ChangingProxy, how: str) -> None:
    asked, moved = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        while head := read_head(connection):
            if b"slow" in head:
                asked.set()
                assert moved.wait(60)
            connection.sendall(ANSWER)

    def shown() -> set[tuple[str, str]]:
        flows = proxy.admin.get("/tunnels")["tunnels"]
        return {(flow["client"], flow["via"]) for flow in flows}

    with serving(answer, idle=True) as web:
        between, tunnel, sent = proxy.connect(), proxy.connect(), proxy.connect()
        between.sendall(v2(CLIENTS["between"]) + get(web))
        assert status(between) == 200
        where = f"{web[0]}:{web[1]}"
        connect = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
        tunnel.sendall(v2(CLIENTS["tunnel"]) + connect)
        assert read_head(tunnel).startswith(b"HTTP/1.1 200 ")
        sent.sendall(v2(CLIENTS["sent"]) + get(web, "X: slow"))
        assert asked.wait(20)
        seen = {(CLIENTS[name], "127.0.0.1") for name in ("tunnel", "sent")}
        assert shown() == seen
        moves = proxy.admin.ask("/recycle" if how == "recycle" else "/upgrade", "POST")
        assert moves.status == 200, moves
        wait_for(lambda: shown() >= {(CLIENTS["tunnel"], "127.0.0.1")}, "the tunnel")
        moved.set()
        assert status(sent) == 200
        for client in (between, sent):
            client.sendall(get(web))
            assert status(client) == 200
        tunnel.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_exactly(tunnel, len(ANSWER)) == ANSWER
        for client in (between, tunnel, sent):
            client.close()
    wait_for(lambda: len(proxy.access()) == 5, "the lines")
    lines = [json.loads(line) for line in proxy.access()]
    assert {line["via"] for line in lines} == {"127.0.0.1"}
    assert {line["client"] for line in lines} == set(CLIENTS.values())
    proxy.end()
