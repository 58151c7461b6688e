"""front/spoken.py: what clients may speak, by their connections."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from spliceproxy.config import Address
from spliceproxy.front.spoken import Spoken


def listens(host: str, port: int = 0) -> socket.socket:
    """For both families where ``host`` is empty and there is IPv6."""
    if host or not socket.has_dualstack_ipv6():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def spoken_by(places: Spoken, listener: socket.socket, address: object) -> str:
    """What the client of a new connection may speak, at the proxy's end of it."""
    family = socket.AF_INET
    if isinstance(address, str):
        family = socket.AF_UNIX
    elif isinstance(address, tuple) and ":" in address[0]:
        family = socket.AF_INET6
    with socket.socket(family) as client:
        client.connect(address)
        accepted, _ = listener.accept()
        with accepted:
            return places.by(accepted)


def test_by_port_address_and_family() -> None:
    with listens("") as every, listens("127.0.0.1") as one, listens("0.0.0.0") as four:
        sockets = [every, one, four]
        ways = [Address(protocol="socks"), Address(protocol="http"), Address()]
        places = Spoken(zip(sockets, ways, strict=True))
        assert [places.by(sock) for sock in sockets] == ["socks", "http", "mixed"]
        wanted = ["socks", "http", "mixed"]
        for listener, spoken in zip(sockets, wanted, strict=True):
            address = ("127.0.0.1", listener.getsockname()[1])
            assert spoken_by(places, listener, address) == spoken
        if socket.has_dualstack_ipv6():
            assert spoken_by(places, every, ("::1", every.getsockname()[1])) == "socks"


def test_an_address_of_its_own_beside_all() -> None:
    """The one that is named counts."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6 on the loopback interface")
    with listens("::1") as six, listens("127.0.0.1", six.getsockname()[1]) as four:
        places = Spoken([(six, Address(protocol="http")), (four, Address())])
        port = six.getsockname()[1]
        assert spoken_by(places, six, ("::1", port)) == "http"
        assert spoken_by(places, four, ("127.0.0.1", port)) == "mixed"


def test_by_the_path_of_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "proxy")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        places = Spoken([(listener, Address(path=path, protocol="socks"))])
        assert spoken_by(places, listener, path) == "socks"
