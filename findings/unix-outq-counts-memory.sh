#!/usr/bin/env bash
# Linux: SIOCOUTQ of a Unix stream socket counts the memory of what the peer has not read, not its
# bytes, and does not fall while any byte of a message is left.
#
# For TCP it is the bytes that are not acknowledged (tcp(7)); unix(7) describes SIOCINQ alone. A program
# that has one limit or one log field for both reads a byte as hundreds. SIOCINQ, at the other end,
# counts bytes. Whether there is anything left to read can be seen from both: 0 is 0.
#
# Linux 6.18, x86-64. Output (the sizes vary with the kernel):
#
#   unix: 1 byte sent: SIOCOUTQ 768, SIOCINQ of the peer 1
#   unix: 1000 bytes sent: SIOCOUTQ 2304, SIOCINQ of the peer 1000
#   unix: 500 of them read: SIOCOUTQ 2304, SIOCINQ of the peer 500
#   unix: all read: SIOCOUTQ 0
#   tcp: 1000 bytes sent and not read, but acknowledged: SIOCOUTQ 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/outq.py" <<'PYTHON'
import fcntl
import select
import socket
import struct
import sys
import time

SIOCINQ, SIOCOUTQ = 0x541B, 0x5411


def queue(sock, request):
    return struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0]


def unix(count):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near.send(bytes(count))
    print(
        f"unix: {count} byte{'s' * (count > 1)} sent: SIOCOUTQ {queue(near, SIOCOUTQ)}, "
        f"SIOCINQ of the peer {queue(far, SIOCINQ)}"
    )
    return near, far


near, far = unix(1)
one = queue(near, SIOCOUTQ)
near, far = unix(1000)
before = queue(near, SIOCOUTQ)
far.recv(500)
half = queue(near, SIOCOUTQ)
print(f"unix: 500 of them read: SIOCOUTQ {half}, SIOCINQ of the peer {queue(far, SIOCINQ)}")
far.recv(500)
rest = queue(near, SIOCOUTQ)
print(f"unix: all read: SIOCOUTQ {rest}")

listener = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(listener.getsockname())
receiver, _ = listener.accept()
sender.send(bytes(1000))
select.select([receiver], [], [], 10)
end = time.monotonic() + 10  # for the acknowledgement
while queue(sender, SIOCOUTQ) and time.monotonic() < end:
    time.sleep(0.01)
tcp = queue(sender, SIOCOUTQ)
print(f"tcp: 1000 bytes sent and not read, but acknowledged: SIOCOUTQ {tcp}")
sys.exit(0 if one > 1 and half == before > 1000 and rest == tcp == 0 else 1)
PYTHON
python3 "$work/outq.py"
