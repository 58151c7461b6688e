"""tcpinfo: the offsets are those of the running kernel."""

from __future__ import annotations

import select
import socket
import struct

import pytest

from spliceproxy.observe.tcpinfo import TcpInfo, decode


def read(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


def test_a_live_connection(pair):
    client, server = pair
    client.sendall(b"x" * 5000)
    assert server.recv(5000, socket.MSG_WAITALL) == b"x" * 5000
    server.sendall(b"y" * 70)  # and acknowledges what came before
    assert client.recv(70, socket.MSG_WAITALL) == b"y" * 70

    sender, receiver = decode(read(client)), decode(read(server))
    # RFC 4898: bytes_acked counts the SYN too.
    assert sender.bytes_acked == 5001
    assert sender.bytes_received == 70
    assert receiver.bytes_received == 5000
    assert 0 < sender.rtt < 10_000_000
    assert 0 < sender.rttvar < 10_000_000
    assert 0 < sender.min_rtt <= sender.rtt + sender.rttvar
    assert sender.delivery_rate > 0
    assert sender.retransmits == 0


def test_the_times(pair):
    client, _ = pair
    client.setblocking(False)
    while select.select([], [client], [], 0)[1]:
        client.send(b"x" * 65536)
    while not (info := decode(read(client))).busy_time:
        pass  # the kernel counts it in ticks
    assert 0 < info.busy_time < 60_000_000
    assert info.rwnd_limited <= info.busy_time
    assert info.sndbuf_limited <= info.busy_time


def test_every_field_is_read_from_its_offset():
    raw = bytearray(256)
    for offset, value in ((16, 11), (68, 1), (72, 2), (100, 3), (148, 6), (228, 12)):
        struct.pack_into("=I", raw, offset, value)
    for offset, value in (
        (120, 4),
        (128, 5),
        (160, 7),
        (168, 8),
        (176, 9),
        (184, 10),
        (200, 13),
        (208, 14),
    ):
        struct.pack_into("=Q", raw, offset, value)
    assert decode(bytes(raw)) == TcpInfo(
        rtt=1,
        rttvar=2,
        retransmits=3,
        bytes_acked=4,
        bytes_received=5,
        min_rtt=6,
        delivery_rate=7,
        busy_time=8,
        rwnd_limited=9,
        sndbuf_limited=10,
        mss=11,
        window=12,
        bytes_sent=13,
        bytes_retrans=14,
    )


def test_an_older_kernel_returns_less(pair):
    client, server = pair
    client.sendall(b"x")
    server.recv(1)
    raw = read(client)
    # 104 bytes was the whole struct up to Linux 3.14.
    whole = decode(raw)
    assert decode(raw[:104]) == TcpInfo(*whole[:2], whole.retransmits, *[0] * 7, mss=whole.mss)
    assert decode(b"") == TcpInfo(*[0] * 10)


def test_no_round_trip_measured_yet():
    raw = bytearray(256)
    struct.pack_into("=I", raw, 148, 0xFFFFFFFF)
    assert decode(bytes(raw)).min_rtt == 0
