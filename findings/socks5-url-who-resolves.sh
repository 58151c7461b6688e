#!/usr/bin/env bash
# socks5:// means two things: requests (PySocks) and curl look the name up themselves and send an
# address, as socks5h:// is there for the other way; httpx and python-socks send the name.
#
# The same variable ALL_PROXY=socks5://... then makes one program's names visible to the proxy
# and its rules, and another's not, and fails for the latter where only the proxy has DNS.
#
# requests 2.32.3 with PySocks 1.7.1, httpx 0.28.1 with socksio 1.0.0, python-socks 2.7.1 (PyPI),
# curl 7.88.1 (Debian 12). Output, behind curl's version (type of the address in the request,
# RFC 1928 section 4; the name is "localhost"):
#
#   requests socks5://      an address
#   requests socks5h://     the name
#   httpx socks5://         the name
#   python-socks socks5://  the name
#   curl socks5://          an address
#   curl socks5h://         the name
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work"
unset ALL_PROXY all_proxy NO_PROXY no_proxy HTTP_PROXY http_proxy
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q requests==2.32.3 PySocks==1.7.1 httpx==0.28.1 socksio==1.0.0 \
    python-socks==2.7.1
curl --version | head -1
cat > "$work/resolving.py" <<'PYTHON'
import socket
import subprocess
import sys
import threading

import httpx
import requests
from python_socks.sync import Proxy

TYPES = {1: "an address", 3: "the name", 4: "an address"}
listener = socket.create_server(("127.0.0.1", 0))
listener.settimeout(15)
port = listener.getsockname()[1]
url = "http://localhost:9/"


def by_requests(scheme):
    requests.get(url, proxies={"http": f"{scheme}://127.0.0.1:{port}"}, timeout=10)


def by_httpx(scheme):
    httpx.get(url, proxy=f"{scheme}://127.0.0.1:{port}", timeout=10)


def by_python_socks(scheme):
    Proxy.from_url(f"{scheme}://127.0.0.1:{port}").connect("localhost", 9, timeout=10)


def by_curl(scheme):
    proxy = f"{scheme}://127.0.0.1:{port}"
    subprocess.run(["curl", "-s", "-m", "10", "-x", proxy, url], check=False)


def seen(ask, scheme):
    """The type of the address that a client asks for; it is refused then."""

    def run():
        try:
            ask(scheme)
        except Exception:  # the refusal
            pass

    thread = threading.Thread(target=run)
    thread.start()
    client, _ = listener.accept()
    client.settimeout(10)
    greeting = client.recv(2)
    client.recv(greeting[1])
    client.sendall(b"\x05\x00")
    kind = client.recv(4)[3]
    client.sendall(b"\x05\x05\x00\x01\0\0\0\0\0\0")
    client.close()
    thread.join(15)
    return TYPES[kind]


WANTED = [
    ("requests", by_requests, "socks5", "an address"),
    ("requests", by_requests, "socks5h", "the name"),
    ("httpx", by_httpx, "socks5", "the name"),
    ("python-socks", by_python_socks, "socks5", "the name"),
    ("curl", by_curl, "socks5", "an address"),
    ("curl", by_curl, "socks5h", "the name"),
]
same = True
for name, ask, scheme, wanted in WANTED:
    found = seen(ask, scheme)
    print(f"{name + ' ' + scheme + '://':<23} {found}", flush=True)
    same &= found == wanted
sys.exit(not same)
PYTHON
timeout 120 "$work/venv/bin/python" "$work/resolving.py"
