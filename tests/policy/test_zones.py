"""Clients with link-local addresses: the kernel tells on which link they are, and nobody else is
told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from harness import read_head, serving
from policy_rig import Answer, World, get, world


def link_local() -> tuple[str, str]:
    """An address of this machine, and its link."""
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else []:
        number, _, _, scope, _, link = line.split()
        if scope == "20":
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(number)), link
    pytest.skip("no link-local address here")


def meet(made: World, engine: str, *args: str) -> tuple[Answer, str, list[bytes]]:
    """An answer for a link-local client, its line in the log, and what the origin was sent."""
    address, link = link_local()
    heads: list[bytes] = []

    def answer(s: socket.socket) -> None:
        heads.append(read_head(s))
        s.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    proxy = made.proxy("--engine", engine, "--guard", "off", *args, listen=("[::]:0",))
    with serving(answer) as (host, port):
        target = (address, proxy.port, 0, socket.if_nametoindex(link))
        with socket.socket(socket.AF_INET6) as s:
            s.settimeout(20)
            s.connect(target)
            s.sendall(get(host, port).encode())
            found = Answer(s)
        (line,) = proxy.wait_access(1)
        proxy.stop()
    return found, line, heads


ENGINES = pytest.mark.parametrize("engine", ["native", "copy"])


@ENGINES
def test_the_link_is_not_told(tmp_path: Path, engine: str) -> None:
    """The same client is written alike by all engines, and in the fields of requests."""
    address, _ = link_local()
    with world(tmp_path) as made:
        answer, line, (head,) = meet(made, engine, "--forwarded-for", "on")
    assert answer.status == 204
    assert line.split()[2] == address
    assert f'Forwarded: for="[{address}]"'.encode() in head
    assert f"X-Forwarded-For: {address}\r\n".encode() in head


@ENGINES
@pytest.mark.parametrize(("network", "status"), [("fe80::/10", 204), ("fe80::/128", 403)])
def test_networks_of_such_clients(tmp_path: Path, engine: str, network: str, status: int) -> None:
    with world(tmp_path) as made:
        answer, _, _ = meet(made, engine, "--allow-clients", network)
    assert answer.status == status
