"""Several addresses of one origin, which the lane dials by itself (RFC 8305 section 5)."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator

import pytest
from harness import free_port
from plain_oracle import OK, OK_GOT, PATIENCE, Plain
from relay_rig import native_relay, open_fds

from spliceproxy.config import Timeouts
from spliceproxy.relay.handoff import REQUEST, TIME_IS_UP, Handoff
from spliceproxy.upstream.dialer import ATTEMPT_DELAY

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
CONNECT = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

ONE, TWO, THREE = "127.0.0.11", "127.0.0.12", "127.0.0.13"
NOWHERE = "255.255.255.255"
"""connect(2) to it fails at once."""


class Place:
    """A port at which some addresses of this machine listen, some are silent, and the others
    refuse."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.port = free_port()  # of all these addresses
        # Whoever connects to this address is refused, and nobody else gets the port.
        self._bound("127.0.0.10", self.port)

    def _bound(self, host: str, port: int) -> socket.socket:
        sock = self._stack.enter_context(socket.socket())
        sock.bind((host, port))
        return sock

    def listen(self, host: str) -> socket.socket:
        sock = self._bound(host, self.port)
        sock.listen(8)
        sock.settimeout(PATIENCE)
        return sock

    def be_silent(self, host: str) -> None:
        """Takes no more connections: a SYN is dropped where the backlog is full."""
        sock = self._bound(host, self.port)
        sock.listen(0)
        for _ in range(2):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, self.port))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    native_relay()
    before = open_fds()
    made = Plain(timeouts=getattr(request, "param", None))
    made.lane._native.add_client("", "")
    yield made
    made.close()
    assert open_fds() <= before


def ask(
    plain: Plain, port: int, *addresses: str, data: bytes = ASK, source: str = ""
) -> socket.socket:
    """A client that asks for an origin with these addresses."""
    kind, host = ("C", b"o:1") if data is CONNECT else ("G", b"o")
    plain.lane._native.add_route(kind, "", b"", host, b"o", host, 60.0, addresses, port, source, "")
    outer, inner = socket.socketpair()
    outer.settimeout(PATIENCE)
    inner.setblocking(False)
    plain.lane._native.hand_over(inner.detach(), "", data, 0)
    return outer


def run(plain: Plain, sock: socket.socket | None = None) -> None:
    """Until there is something to read, or a client comes back."""
    limit = time.monotonic() + PATIENCE
    while True:
        plain.step()
        if plain.handoffs or (sock is not None and select.select([sock], [], [], 0)[0]):
            return
        assert time.monotonic() < limit
        wake = plain.relay.next_wake()
        ready = [plain.relay.fileno(), *([] if sock is None else [sock])]
        select.select(ready, [], [], PATIENCE if wake is None else wake)


def given_back(plain: Plain) -> Handoff:
    (handoff,) = plain.handoffs
    plain.handoffs.clear()
    socket.socket(fileno=handoff.take_client()).close()
    handoff.close()
    return handoff


def served(plain: Plain, client: socket.socket, listener: socket.socket) -> None:
    """The request arrives at this listener, and its answer at the client."""
    run(plain, listener)
    assert not plain.handoffs
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(PATIENCE)
        run(plain, peer)
        assert peer.recv(1000).startswith(b"GET / ")
        peer.sendall(OK)
        run(plain, client)
        assert client.recv(1000) == OK_GOT
        client.close()
        plain.step()
        plain.lane.close()


def test_the_next_is_tried_at_the_failure_of_the_last(plain: Plain, place: Place) -> None:
    """At once, and one that cannot be dialled at all is passed over."""
    listener = place.listen(THREE)
    began = time.monotonic()
    client = ask(plain, place.port, ONE, NOWHERE, THREE)
    served(plain, client, listener)
    assert time.monotonic() - began < ATTEMPT_DELAY


def test_the_next_is_tried_beside_one_that_is_silent(plain: Plain, place: Place) -> None:
    place.be_silent(ONE)
    place.be_silent(TWO)
    listener = place.listen(THREE)
    began = time.monotonic()
    client = ask(plain, place.port, ONE, TWO, THREE)
    served(plain, client, listener)
    assert time.monotonic() - began >= 2 * ATTEMPT_DELAY - 0.01


def test_a_tunnel_goes_where_there_is_a_connection(plain: Plain, place: Place) -> None:
    place.be_silent(ONE)
    listener = place.listen(TWO)
    with ask(plain, place.port, ONE, TWO, data=CONNECT) as client:
        run(plain, client)
        assert client.recv(1000) == ESTABLISHED
        peer, _ = listener.accept()
        with peer:
            assert plain.relay.tunnels == 1
            assert f" origin={TWO} " in plain.relay.dump(9)
            client.close()
            run_down(plain)


def run_down(plain: Plain) -> None:
    while plain.relay.tunnels:
        select.select([plain.relay.fileno()], [], [], PATIENCE)
        plain.step()


def test_an_idle_connection_to_any_of_the_addresses_is_used(plain: Plain, place: Place) -> None:
    origin, idle = socket.socketpair()
    with origin:
        origin.settimeout(PATIENCE)
        idle.setblocking(False)
        plain.lane._native.put(b"o", idle.detach(), TWO)
        with ask(plain, place.port, ONE, TWO):
            plain.step()
            assert origin.recv(1000).startswith(b"GET / ")
        plain.step()


def test_one_to_another_address_is_not(plain: Plain, place: Place) -> None:
    origin, idle = socket.socketpair()
    with origin:
        idle.setblocking(False)
        plain.lane._native.put(b"o", idle.detach(), THREE)
        listener = place.listen(TWO)
        served(plain, ask(plain, place.port, ONE, TWO), listener)
        assert origin.recv(1) == b""  # closed, with all that are idle


def test_what_became_of_each_goes_along(plain: Plain, place: Place) -> None:
    client = ask(plain, place.port, NOWHERE, ONE, TWO)
    run(plain)
    handoff = given_back(plain)
    client.close()
    assert handoff.cause == REQUEST
    assert handoff.buffer == ASK
    assert handoff.tried == (
        (NOWHERE, errno.ENETUNREACH),
        (ONE, errno.ECONNREFUSED),
        (TWO, errno.ECONNREFUSED),
    )


@pytest.mark.parametrize("plain", [Timeouts(dial=0.6)], indirect=True)
def test_one_limit_holds_for_all_attempts(plain: Plain, place: Place) -> None:
    """The third would begin 0.5 s after the first, the fourth would be too late. What is told is
    the oldest that was not over."""
    for host in (TWO, THREE, "127.0.0.14"):
        place.be_silent(host)
    began = time.monotonic()
    client = ask(plain, place.port, ONE, TWO, THREE, "127.0.0.14", "127.0.0.15")
    run(plain)
    took = time.monotonic() - began
    handoff = given_back(plain)
    client.close()
    assert handoff.tried == ((ONE, errno.ECONNREFUSED), (TWO, TIME_IS_UP))
    assert took > 0.59
    assert began - 0.1 < handoff.dialling < began + 0.1


@pytest.mark.parametrize("plain", [Timeouts(dial=0.1)], indirect=True)
def test_a_limit_that_is_shorter_than_the_delay(plain: Plain, place: Place) -> None:
    place.be_silent(ONE)
    began = time.monotonic()
    client = ask(plain, place.port, ONE, TWO)
    run(plain)
    assert time.monotonic() - began < ATTEMPT_DELAY
    assert given_back(plain).tried == ((ONE, TIME_IS_UP),)
    client.close()


def test_more_addresses_than_are_dialled_here(plain: Plain, place: Place) -> None:
    """The owner dials the rest."""
    many = [f"127.0.1.{number}" for number in range(1, 20)]
    client = ask(plain, place.port, *many)
    run(plain)
    assert given_back(plain).tried == tuple((host, errno.ECONNREFUSED) for host in many[:8])
    client.close()


def test_a_client_that_leaves_ends_its_attempts(plain: Plain, place: Place) -> None:
    place.be_silent(ONE)
    place.be_silent(TWO)
    before = open_fds()
    client = ask(plain, place.port, ONE, TWO, data=CONNECT)
    limit = time.monotonic() + PATIENCE
    while open_fds() < before + 4:  # both ends of the client's, and two attempts
        assert time.monotonic() < limit
        select.select([plain.relay.fileno()], [], [], plain.relay.next_wake())
        plain.step()
    client.close()
    plain.step()
    assert open_fds() == before
    assert (plain.relay.clients, plain.handoffs) == (0, [])


def test_it_is_dialled_from_an_address(plain: Plain, place: Place) -> None:
    listener = place.listen(TWO)
    with ask(plain, place.port, ONE, TWO, data=CONNECT, source="127.0.0.77") as client:
        run(plain, client)
        assert client.recv(1000) == ESTABLISHED
        peer, (host, _) = listener.accept()
        peer.close()
        assert host == "127.0.0.77"
    run_down(plain)


def test_an_address_that_is_not_of_this_machine(plain: Plain, place: Place) -> None:
    client = ask(plain, place.port, ONE, source="192.0.2.7")
    run(plain)
    assert given_back(plain).tried == ((ONE, errno.EADDRNOTAVAIL),)
    client.close()


@pytest.mark.parametrize("addresses", [(), ("o.example",), ("fe80::1%1",), ("",)])
def test_what_is_no_address(plain: Plain, addresses: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="address"):
        plain.lane._native.add_route("G", "", b"", b"o", b"o", b"o", 1.0, addresses, 80, "", "")


def test_ipv6(plain: Plain) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6")
    with listener:
        served(plain, ask(plain, listener.getsockname()[1], ONE, "::1"), listener)
