#!/usr/bin/env bash
# Linux: a receive buffer that is lowered (SO_RCVBUF) below what TCP has promised the peer drops data
# that arrives within that promise, and it has to be sent again.
#
# RFC 9293 section 3.8.6 discourages a window that shrinks, and the kernel does not shrink it: it takes
# the promise and the room from two places. socket(7) and tcp(7) do not mention it. A program
# that wants smaller buffers for a peer that it reads slowly has to wait until what was promised
# has come. Nothing is lost in the end; the counter is TCPRcvQDrop in /proc/net/netstat.
#
# Linux 6.18, loopback, tcp_rmem[2] of 32 MiB. Output (the counts vary, but for the 0):
#
#   the same buffer: 0 arrivals dropped
#   lowered to 64 KiB after a fast phase: 1 arrival or more dropped: True, and sent again: True
#   every byte has come in the end: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uname -r
cat > "$work/lowered.py" <<'PYTHON'
import contextlib
import socket
import sys
import time

ROUNDS, SIZE = 200, 1 << 20


def dropped():
    rows = open("/proc/net/netstat").read().splitlines()
    for names, values in zip(rows[::2], rows[1::2]):
        found = dict(zip(names.split(), values.split()))
        if "TCPRcvQDrop" in found:
            return int(found["TCPRcvQDrop"])
    return 0


def push(sender, most):
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < most:
            sent += sender.send(bytes(1 << 16))
    return sent


def take(receiver):
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while data := receiver.recv(SIZE):
            taken += len(data)
    return taken


def run(lower):
    """Arrivals that were dropped, segments sent again, and whether every byte came."""
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setblocking(False)
    receiver.setblocking(False)
    sent = taken = 0
    for _ in range(ROUNDS):  # the kernel promises more and more
        sent += push(sender, SIZE)
        taken += take(receiver)
    before = dropped()
    if lower:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sent += push(sender, 4 * SIZE)
    time.sleep(0.5)  # nothing tells that a segment was dropped but the counter
    drops = dropped() - before
    end = time.monotonic() + 20
    while taken < sent and time.monotonic() < end:
        taken += take(receiver)
        time.sleep(0.001)
    info = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    again = int.from_bytes(info[100:104], sys.byteorder)  # tcpi_total_retrans
    return drops, again, taken == sent


drops, _, whole = run(lower=False)
print(f"the same buffer: {drops} arrivals dropped")
lowered, again, all_came = run(lower=True)
print(
    f"lowered to 64 KiB after a fast phase: 1 arrival or more dropped: {lowered > 0}, "
    f"and sent again: {again > 0}"
)
print(f"every byte has come in the end: {whole and all_came}")
sys.exit(0 if drops == 0 and lowered and again and whole and all_came else 1)
PYTHON
python3 "$work/lowered.py"
