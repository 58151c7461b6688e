#!/usr/bin/env bash
# What: c-ares gives a slow name up though the channel's own timeout would have waited for it,
#   as soon as the same server has answered a few other names fast.
# Which: pycares 5.2.1 (c-ares 1.34; the rule is there since 1.32), from PyPI.
# Behaviour: the channel has timeout=2.0 and tries=3. c-ares takes five times the mean answer time
#   of the server instead, at least 0.25 s, for the first try of every name, and doubles it (less
#   jitter) for each further one. A try that is over has its socket closed, so that an answer to it
#   is lost. A name that always takes 1.5 s is found on a new channel, and is a timeout behind ten
#   fast names.
# Output seen:
#   new channel:      found after 1.5 s
#   after fast names: Timeout while contacting DNS servers after 1.3 s
# Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pycares==5.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import struct
import sys
import threading
import time

import pycares

SLOW = 1.5
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))


def serve():
    """Every name is 127.0.0.1, and those that begin with "slow" take SLOW seconds."""
    while True:
        query, client = server.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end]
        answer = head + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + b"\x7f\0\0\1"
        delay = SLOW if query[13:17] == b"slow" else 0.0
        threading.Timer(delay, server.sendto, (answer, client)).start()


def ask(channel, name):
    """What becomes of a name, and after how many seconds."""
    done, said = threading.Event(), []

    def answered(result, error):
        said.append(pycares.errno.strerror(error) if error else "found")
        done.set()

    begin = time.monotonic()
    channel.getaddrinfo(name, None, family=socket.AF_INET, callback=answered)
    done.wait()
    return said[0], time.monotonic() - begin


threading.Thread(target=serve, daemon=True).start()
channels = []
for _ in range(2):
    channel = pycares.Channel(timeout=2.0, tries=3)
    channel.servers = ["127.0.0.1:%d" % server.getsockname()[1]]
    channels.append(channel)
new, used = channels
first, first_time = ask(new, "slow1.test.")
for n in range(10):
    ask(used, f"fast{n}.test.")
second, second_time = ask(used, "slow2.test.")
print(f"new channel:      {first} after {first_time:.1f} s")
print(f"after fast names: {second} after {second_time:.1f} s")
sys.exit(0 if first == "found" and second != "found" else 1)
PYTHON
