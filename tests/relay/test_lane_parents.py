"""Parent proxies that the lane asks for tunnels (native/lane/tunnels.pxd): what grants one, and
what its owner gets of everything else."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from plain_oracle import PATIENCE, Plain
from relay_rig import native_relay, open_fds
from test_lane_log import expected, line_of
from test_plain_dialling import ONE, TWO, Place, given_back, place, run

from spliceproxy.config import Timeouts
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import parse_response
from spliceproxy.observe.record import Record
from spliceproxy.relay import columns
from spliceproxy.relay.handoff import PARENT, REQUEST, TIME_IS_UP, Handoff
from spliceproxy.relay.lane import JSON, NATIVE, SQUID, Hop

__all__ = ["place"]  # a fixture

CONNECT = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
TOLD = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\nProxy-Authorization: Basic YTpi\r\n\r\n"
"""What the parent is sent."""

SENT, GRANTED = columns.WIDTH - 2, columns.WIDTH - 1


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    native_relay()
    before = open_fds()
    made = Plain(timeouts=getattr(request, "param", None))
    yield made
    made.close()
    assert open_fds() <= before


@pytest.fixture
def parent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def ask(
    plain: Plain,
    port: int,
    *addresses: str,
    data: bytes = CONNECT,
    seconds: float = 3.0,
    by_name: bool = True,
    spoken: str = "http",
    token: object = None,
) -> socket.socket:
    """A client that asks for a tunnel by way of the parent "a", at these addresses."""
    native = plain.lane._native
    hop = Hop("a", by_name, seconds, SENT, GRANTED)
    where = addresses or ("127.0.0.1",), port, "", "user"
    native.add_client("", "")
    native.add_route("C", "", b"", b"o:1", b"0   a", TOLD, 60.0, *where, token, b"", 0, hop)
    outer, inner = socket.socketpair()
    outer.settimeout(PATIENCE)
    inner.setblocking(False)
    native.hand_over(inner.detach(), "", data, 0, "", spoken)
    return outer


def asked(plain: Plain, parent: socket.socket) -> socket.socket:
    """The parent's end of a connection, on which it was asked."""
    run(plain, parent)
    peer, _ = parent.accept()
    peer.settimeout(PATIENCE)
    run(plain, peer)
    assert peer.recv(4096) == TOLD
    return peer


def say(plain: Plain, peer: socket.socket, data: bytes) -> None:
    """The parent's answer is with the relay."""
    peer.sendall(data)
    limit = time.monotonic() + PATIENCE
    while not plain.handoffs and not plain.relay.tunnels:
        assert time.monotonic() < limit
        select.select([plain.relay.fileno()], [], [], 1)
        plain.step()


def counted(plain: Plain) -> tuple[int, int]:
    return plain.row[SENT], plain.row[GRANTED]


# ---- what grants a tunnel ----------------------------------------------------------------------

YES = {
    "plain": b"HTTP/1.1 200 OK\r\n\r\n",
    "old": b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    "another 2xx": b"HTTP/1.1 204 Fine\r\n\r\n",
    "without a phrase": b"HTTP/1.1 200 \r\n\r\n",
    "with framing, which means nothing": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
}


@pytest.mark.parametrize("behind", [b"", b"hello", bytes(range(256)) * 20], ids=len)
@pytest.mark.parametrize("name", YES)
def test_yes(plain: Plain, parent: socket.socket, name: str, behind: bytes) -> None:
    """What comes behind it is the client's."""
    with ask(plain, parent.getsockname()[1]) as client, asked(plain, parent) as peer:
        say(plain, peer, YES[name] + behind)
        assert not plain.handoffs
        got = bytearray()
        while len(got) < len(ESTABLISHED + behind):
            run(plain, client)
            got += client.recv(65536)
        assert bytes(got) == ESTABLISHED + behind
        client.sendall(b"on")
        run(plain, peer)
        assert peer.recv(10) == b"on"
        assert counted(plain) == (1, 1)
        status = columns.request_column("CONNECT", 200)
        assert plain.row[status] == 1
    plain.step()


def test_what_a_client_sends_early_waits(plain: Plain, parent: socket.socket) -> None:
    client = ask(plain, parent.getsockname()[1], data=CONNECT + b"early")
    with client, asked(plain, parent) as peer:  # which has the head, and nothing behind it
        client.sendall(b" and more")
        plain.step()
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        peer.settimeout(PATIENCE)
        say(plain, peer, YES["plain"] + b"behind")
        run(plain, peer)
        assert peer.recv(100) == b"early and more"
        run(plain, client)
        assert client.recv(100) == ESTABLISHED + b"behind"
    plain.step()


def test_a_client_of_socks(plain: Plain, parent: socket.socket) -> None:
    request = b"\4\1" + struct.pack(">H", 1) + b"\0\0\0\1\0o\0"
    client = ask(plain, parent.getsockname()[1], data=request, spoken="mixed")
    with client, asked(plain, parent) as peer:
        say(plain, peer, YES["plain"] + b"behind")
        run(plain, client)
        assert client.recv(100) == b"\0\x5a\0\0\0\0\0\0behind"
    plain.step()


# ---- everything else is the owner's ------------------------------------------------------------

ODD = {
    "no": b"HTTP/1.1 403 No\r\n\r\n",
    "wrong credentials": b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "switched": b"HTTP/1.1 101 Switch\r\n\r\n",
    "interim, and a yes": b"HTTP/1.1 103 Hints\r\n\r\n" + YES["plain"],
    "no phrase": b"HTTP/1.1 200\r\n\r\n",
    "a version of its own": b"HTTP/2.0 200 OK\r\n\r\n",
    "a third digit": b"HTTP/1.1 2000 OK\r\n\r\n",
    "letters": b"HTTP/1.1 2xx OK\r\n\r\n",
    "a field that is none": b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
    "a field that is folded": b"HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
    "a control character": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\n\n",
    "garbage": b"\0" * 5000,
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000,
    "a large head": b"HTTP/1.1 200 OK\r\na: %b\r\n\r\n" % (b"x" * 9000),
}


def is_owners(plain: Plain, client: socket.socket) -> Handoff:
    """The client comes back with the connection to its parent, and has not been told anything."""
    (handoff,) = plain.handoffs
    plain.handoffs.clear()
    assert (handoff.cause, handoff.hop) == (PARENT, "a")
    assert not handoff.between
    assert not plain.relay.tunnels
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.settimeout(PATIENCE)
    socket.socket(fileno=handoff.take_client()).close()
    return handoff


@pytest.mark.parametrize("name", ODD)
def test_anything_else(plain: Plain, parent: socket.socket, name: str) -> None:
    client = ask(plain, parent.getsockname()[1], data=CONNECT + b"early")
    with client, asked(plain, parent) as peer:
        say(plain, peer, ODD[name])
        handoff = is_owners(plain, client)
        with socket.socket(fileno=handoff.take_origin()) as there:
            there.setblocking(False)
            rest = bytearray(handoff.answer)
            while len(rest) < len(ODD[name]):
                select.select([there], [], [], PATIENCE)
                rest += there.recv(65536)
            assert bytes(rest) == ODD[name]
        assert handoff.buffer == CONNECT + b"early"
        assert handoff.dialling > 0
        assert handoff.peer == "127.0.0.1"
        assert counted(plain) == (1, 0)


def test_what_grants_a_tunnel_is_an_answer_for_python_too() -> None:
    """And what Python does not take for one does not."""
    for head in YES.values():
        assert 200 <= parse_response(head).status < 300
    for head in ODD.values():
        with contextlib.suppress(HeadError):
            assert head.endswith(YES["plain"]) or parse_response(head)


def test_an_answer_cut_at_every_byte(plain: Plain, parent: socket.socket) -> None:
    whole = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    for cut in range(1, len(whole)):
        with ask(plain, parent.getsockname()[1]) as client, asked(plain, parent) as peer:
            say(plain, peer, whole[:cut])
            handoff = is_owners(plain, client)
            assert handoff.answer == whole[:cut]
            with socket.socket(fileno=handoff.take_origin()) as there:
                there.setblocking(True)
                there.settimeout(PATIENCE)
                peer.sendall(whole[cut:])
                assert there.recv(100) == whole[cut:]


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_parent_that_leaves(plain: Plain, parent: socket.socket, how: str) -> None:
    with ask(plain, parent.getsockname()[1]) as client:
        with asked(plain, parent) as peer:
            if how == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        run(plain)
        handoff = is_owners(plain, client)
        assert handoff.answer == b""
        with socket.socket(fileno=handoff.take_origin()) as there:
            assert there.recv(1) == b""


def test_who_is_refused_comes_back_with_why(plain: Plain, place: Place) -> None:
    with ask(plain, place.port, ONE, TWO) as client:
        run(plain)
        (found,) = plain.handoffs
        assert (found.hop, found.origin) == ("a", -1)
        handoff = given_back(plain)
        assert handoff.cause == REQUEST
        assert handoff.tried == ((ONE, errno.ECONNREFUSED), (TWO, errno.ECONNREFUSED))
        assert client.recv(1) == b""
    assert counted(plain) == (1, 0)


@pytest.mark.parametrize("plain", [Timeouts(dial=30.0)], indirect=True)
def test_the_time_to_reach_it_is_its_own(plain: Plain, place: Place) -> None:
    place.be_silent(ONE)
    began = time.monotonic()
    with ask(plain, place.port, ONE, seconds=0.3):
        run(plain)
    assert given_back(plain).tried == ((ONE, TIME_IS_UP),)
    assert 0.2 < time.monotonic() - began < 10


@pytest.mark.parametrize("plain", [Timeouts(dial=0.3)], indirect=True)
def test_the_time_for_its_answer_is_that_for_all(plain: Plain, parent: socket.socket) -> None:
    with ask(plain, parent.getsockname()[1], seconds=0.3) as client, asked(plain, parent):
        run(plain)
        handoff = is_owners(plain, client)
        assert handoff.answer == b""
        handoff.close()


def test_who_was_passed_on_by_another_proxy(plain: Plain, parent: socket.socket) -> None:
    """The parent is to be told, which Python does."""
    head = CONNECT.replace(b"\r\n\r\n", b"\r\nviA: 1.1 other\r\n\r\n")
    with ask(plain, parent.getsockname()[1], data=head):
        run(plain)
    handoff = given_back(plain)
    assert (handoff.cause, handoff.hop, handoff.tried) == (REQUEST, "", ())
    assert handoff.buffer == head
    assert counted(plain) == (0, 0)
    assert not select.select([parent], [], [], 0)[0]


def test_a_client_that_leaves_meanwhile(plain: Plain, parent: socket.socket) -> None:
    client = ask(plain, parent.getsockname()[1])
    with asked(plain, parent) as peer:
        client.close()
        run(plain, peer)
        assert peer.recv(1) == b""
    assert not plain.handoffs
    assert plain.row[columns.CUT_COLUMNS["C"]] == 1


@pytest.mark.parametrize("form", [NATIVE, SQUID, JSON])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_line(parent: socket.socket, form: str, by_name: bool) -> None:
    native_relay()
    with contextlib.closing(Plain(log=True, form=form)) as plain:
        with ask(plain, parent.getsockname()[1], by_name=by_name) as client:
            peer = asked(plain, parent)
            say(plain, peer, YES["plain"])
            run(plain, client)
            assert client.recv(100) == ESTABLISHED
            peer.close()
            run(plain, client)
            assert client.recv(1) == b""
        plain.step()
        line = line_of(plain)
        assert line == expected(
            line,
            method="CONNECT",
            target="o:1",
            user="" if form == JSON else "user",  # a note says it there, and this has none
            peer="127.0.0.1",
            status=200,
            route="a",
            connect_by="name" if by_name else "address",
            bytes_in=len(CONNECT),
            bytes_out=len(ESTABLISHED),
            stage="D",
        )


def test_a_record(parent: socket.socket) -> None:
    native_relay()
    with contextlib.closing(Plain(watched=True)) as plain:
        token = plain.lane._native.known(Record(""))
        with ask(plain, parent.getsockname()[1], token=token) as client:
            with asked(plain, parent) as peer:
                say(plain, peer, YES["plain"])
                (views,) = list(plain.relay.flows(10))
                assert [(view.route, view.peer) for view in views] == [("a", "127.0.0.1")]
            run(plain, client)
        plain.step()
        (record,) = plain.records
        assert (record.route, record.connect_by) == ("a", "name")
