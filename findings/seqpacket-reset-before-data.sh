#!/usr/bin/env bash
# A socket that is closed with something unread tells its peer ECONNRESET. A stream, Unix or TCP, first
# gives the peer all that had been sent before. SOCK_SEQPACKET of a Unix socket says ECONNRESET first,
# once; the messages are still there behind it, and then the end. Neither unix(7) nor recv(2) says so.
# So whoever takes "reset" for the end of a conversation loses messages that were sent in full, be
# they the last word on who owns a descriptor. A look (MSG_PEEK) takes the error away, too.
#
# Linux 6.18 (no package is needed). Output:
#
#   seqpacket  recv: ECONNRESET one two end
#   stream     recv: onetwo ECONNRESET end
#   dgram      recv: one two EAGAIN
#   tcp        recv: onetwo ECONNRESET end
#   seqpacket  peek: ECONNRESET, recv: one two end
set -euo pipefail
seen=$(python3 - <<'PYTHON'
import errno
import socket


def tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    return one, other


KINDS = {
    "seqpacket": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "stream": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM),
    "dgram": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "tcp": tcp,
}


def receive(sock, flags=0):
    try:
        return sock.recv(100, flags).decode() or "end"
    except OSError as error:
        return errno.errorcode[error.errno]


def closed_unread(kind):
    """An end whose peer has said two things, and left one unread."""
    one, other = KINDS[kind]()
    one.send(b"unread")
    other.recv(1, socket.MSG_PEEK)
    other.send(b"one")
    other.send(b"two")
    other.close()
    return one


def show(kind, first=""):
    one = closed_unread(kind)
    if first:
        first = f"peek: {receive(one, socket.MSG_PEEK)}, "
    one.settimeout(0.0 if kind == "dgram" else 5.0)
    found = []
    while not found or found[-1] not in ("end", "EAGAIN"):
        found.append(receive(one))
    print(f"{kind:9}  {first}recv: {' '.join(found)}")


for kind in KINDS:
    show(kind)
show("seqpacket", "peek")
PYTHON
)
printf '%s\n' "$seen"
[ "$seen" = "seqpacket  recv: ECONNRESET one two end
stream     recv: onetwo ECONNRESET end
dgram      recv: one two EAGAIN
tcp        recv: onetwo ECONNRESET end
seqpacket  peek: ECONNRESET, recv: one two end" ]
