#!/usr/bin/env bash
# Linux: of several listening sockets on one port (SO_REUSEPORT), close(2) of one resets the
# connections that wait in its queue, though the others go on accepting on the same port.
#
# The clients have been told that they are connected. socket(7) says only that connections are
# spread over the group. A restart that binds a second socket before it closes the first one
# loses them, unless net.ipv4.tcp_migrate_req is 1 (since Linux 5.14, off by default); handing
# the listening socket itself over loses none.
#
# Linux 6.18, tcp_migrate_req = 0. Output:
#
#   64 clients are connected to two listeners, and nobody has accepted
#   one listener closed: some clients were reset, the other listener accepts the rest, none is lost twice
#   the same socket kept open by a copy (dup): 0 of 64 were reset
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$(cat /proc/sys/net/ipv4/tcp_migrate_req 2> /dev/null || echo 0)" != 0 ]; then
    echo 'net.ipv4.tcp_migrate_req is set here: nothing is shown'
    exit 0
fi
cat > "$work/close.py" <<'PYTHON'
import os
import select
import socket
import sys

CLIENTS = 64


def listener(port):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(256)
    return sock


def run(keep_a_copy):
    """The numbers of clients that were reset, and that the other listener accepts."""
    first = listener(0)
    port = first.getsockname()[1]
    second = listener(port)
    clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(CLIENTS)]
    copy = os.dup(first.fileno()) if keep_a_copy else -1
    first.close()
    accepted = [socket.socket(fileno=copy)] if keep_a_copy else []
    for listening in (second, *accepted):
        listening.setblocking(False)
    served = []
    for listening in (second, *accepted):
        while True:
            try:
                served.append(listening.accept()[0])
            except BlockingIOError:
                break
    reset = 0
    for client in clients:
        readable, _, _ = select.select([client], [], [], 0)
        try:
            reset += bool(readable) and client.recv(1) == b""
        except ConnectionResetError:
            reset += 1
    return reset, len(served)


print(f"{CLIENTS} clients are connected to two listeners, and nobody has accepted")
reset, served = run(keep_a_copy=False)
print(
    f"one listener closed: {'some clients were' if reset else 'no client was'} reset, the other "
    f"listener accepts the rest, {'none is lost twice' if reset + served == CLIENTS else 'ODD'}"
)
kept, _ = run(keep_a_copy=True)
print(f"the same socket kept open by a copy (dup): {kept} of {CLIENTS} were reset")
sys.exit(0 if reset and reset + served == CLIENTS and not kept else 1)
PYTHON
python3 "$work/close.py"
