#!/usr/bin/env bash
# HAProxy's send-proxy-v2 says LOCAL for a client that has come to it by a Unix socket. A receiver
# that takes LOCAL for a connection of the balancer's own, such as a health check, gives that client
# whatever the balancer itself may do.
#
# The specification (section 2.2) has LOCAL for connections that were established "on purpose by the
# proxy without being relayed", and the family UNSPEC, with the command PROXY, for a client whose
# address cannot be said. Version 1 says UNKNOWN for the same client. A health check sends LOCAL too,
# so the two cannot be told apart.
#
# HAProxy 2.6.12 (Debian 12), and 3.4.0. Output, behind the version:
#
#   send-proxy, a client by TCP:            PROXY TCP4
#   send-proxy, a client by a Unix socket:  PROXY UNKNOWN
#   send-proxy-v2, by TCP:                  PROXY, IPv4
#   send-proxy-v2, by a Unix socket:        LOCAL, no family
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
haproxy -v | head -1
cat > "$work/receive.py" <<'PYTHON'
import socket
import subprocess
import sys
import time

folder = sys.argv[1]
receiver = socket.create_server(("127.0.0.1", 0))
receiver.settimeout(20)
with socket.socket() as chosen:
    chosen.bind(("127.0.0.1", 0))
    port = chosen.getsockname()[1]
CONFIG = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen l
    bind 127.0.0.1:%d
    bind unix@%s/clients
    server s 127.0.0.1:%d %s
"""


def connected(family, address):
    """As soon as HAProxy listens."""
    for _ in range(1000):
        client = socket.socket(family)
        if client.connect_ex(address) == 0:
            return client
        client.close()
        time.sleep(0.01)
    raise SystemExit("HAProxy does not listen")


def words(data):
    if data.startswith(b"PROXY "):
        return " ".join(data.decode().split()[:2])
    command = {0x20: "LOCAL", 0x21: "PROXY"}[data[12]]
    family = {0x00: "no family", 0x11: "IPv4"}[data[13]]
    return f"{command}, {family}"


seen = []
for options in ("send-proxy", "send-proxy-v2"):
    with open(f"{folder}/haproxy.cfg", "w") as file:
        file.write(CONFIG % (port, folder, receiver.getsockname()[1], options))
    haproxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", f"{folder}/haproxy.cfg"])
    try:
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", port)),
            (socket.AF_UNIX, f"{folder}/clients"),
        ):
            client = connected(family, address)
            connection, _ = receiver.accept()
            connection.settimeout(20)
            seen.append(words(connection.recv(300)))
            connection.close()
            client.close()
    finally:
        haproxy.kill()
        haproxy.wait()
names = (
    "send-proxy, a client by TCP:           ",
    "send-proxy, a client by a Unix socket: ",
    "send-proxy-v2, by TCP:                 ",
    "send-proxy-v2, by a Unix socket:       ",
)
for name, what in zip(names, seen):
    print(name, what)
sys.exit(seen != ["PROXY TCP4", "PROXY UNKNOWN", "PROXY, IPv4", "LOCAL, no family"])
PYTHON
timeout 60 python3 "$work/receive.py" "$work"
