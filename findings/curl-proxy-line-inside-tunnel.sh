#!/usr/bin/env bash
# curl --haproxy-protocol writes its PROXY line to the origin, inside of the tunnel, where the
# request goes through an HTTP proxy by CONNECT: the proxy's listener never sees it. A plain
# http:// request through the same proxy has the line in front of the request, for the proxy.
#
# The manual speaks of a line "at the beginning of the connection". A listener that demands the
# line can be tried with curl for http://, and refuses the CONNECT of https:// or --proxytunnel.
# The addresses in the line are those of the connection to the proxy in both cases.
#
# curl 7.88.1 (Debian 12). Output, behind the version:
#
#   http:// by the proxy:  PROXY TCP4 ... | GET http://example.com/ HTTP/1.1
#   by CONNECT, outside:   CONNECT example.com:80 HTTP/1.1
#   by CONNECT, inside:    PROXY TCP4 ... | GET / HTTP/1.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work"
curl --version | head -1
cat > "$work/proxy.py" <<'PYTHON'
import socket
import subprocess
import sys

listener = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def head(client):
    """The lines up to the empty one; of a PROXY line only how it begins."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            raise SystemExit(f"curl went away after {data!r}")
        data += byte
    lines = [line for line in data.decode().split("\r\n") if line.startswith(("PROXY", "GET", "CON"))]
    return " | ".join("PROXY TCP4 ..." if line.startswith("PROXY TCP4 ") else line for line in lines)


def run(*options):
    command = ["curl", "-s", "--noproxy", "", "--haproxy-protocol", "-x", url, *options]
    return subprocess.Popen([*command, "http://example.com/"], stdout=subprocess.DEVNULL)


seen = []
curl = run()
client, _ = listener.accept()
seen.append(head(client))
client.sendall(ANSWER)
client.close()
curl.wait(10)
curl = run("--proxytunnel")
client, _ = listener.accept()
seen.append(head(client))
client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
seen.append(head(client))
client.sendall(ANSWER)
client.close()
curl.wait(10)
for name, what in zip(("http:// by the proxy: ", "by CONNECT, outside:  ", "by CONNECT, inside:   "), seen):
    print(name, what)
sys.exit(
    seen
    != [
        "PROXY TCP4 ... | GET http://example.com/ HTTP/1.1",
        "CONNECT example.com:80 HTTP/1.1",
        "PROXY TCP4 ... | GET / HTTP/1.1",
    ]
)
PYTHON
timeout 60 python3 "$work/proxy.py"
