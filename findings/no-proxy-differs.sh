#!/usr/bin/env bash
# no_proxy has no standard. Beside plain names and names below them, hardly an entry means the
# same to two clients: networks, ports, brackets, a leading or a final dot, blanks and * do not.
#
# curl 7.88.1, GNU Wget 1.21.3 (Debian 12), urllib of Python 3.11, requests 2.34.2, httpx 0.28.1.
# Output ("proxy": the proxy is asked, "direct": it is not):
#
#   no_proxy               url                     curl   wget   urllib requests httpx
#   b.invalid              http://b.invalid/       direct direct direct direct direct
#   b.invalid              http://a.b.invalid/     direct direct direct direct direct
#   b.invalid              http://xb.invalid/      proxy  proxy  proxy  proxy  proxy
#   .b.invalid             http://b.invalid/       direct proxy  direct direct proxy
#   *.b.invalid            http://a.b.invalid/     proxy  proxy  proxy  proxy  proxy
#   b.invalid              http://b.invalid./      direct proxy  proxy  proxy  proxy
#   x.invalid b.invalid    http://b.invalid/       direct proxy  proxy  proxy  proxy
#   127.0.0.0/8            http://127.0.0.1:9/     direct proxy  proxy  direct proxy
#   127.0.0.1:9            http://127.0.0.1:9/     proxy  proxy  direct proxy  direct
#   ::1                    http://[::1]:9/         direct direct proxy  direct direct
#   [::1]                  http://[::1]:9/         proxy  proxy  direct proxy  direct
#   *                      http://b.invalid/       direct proxy  direct direct direct
#   x.invalid,*            http://b.invalid/       proxy  proxy  proxy  proxy  direct
#
# So only "name", without dots around it, ports and patterns, separated by commas, is safe.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check requests==2.34.2 httpx==0.28.1 2> /dev/null
curl --version | head -1
wget --version | head -1
"$work/venv/bin/python" --version

cat > "$work/try.py" <<'PYTHON'
import os
import socket
import subprocess
import sys
import threading

CLIENTS = {
    "curl": ["curl", "-q", "-s", "-m5"],
    "wget": ["wget", "-q", "-t1", "-T5", "-O", "/dev/null"],
    "urllib": [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)"],
    "requests": [sys.executable, "-c", "import sys, requests; requests.get(sys.argv[1], timeout=5)"],
    "httpx": [sys.executable, "-c", "import sys, httpx; httpx.get(sys.argv[1], timeout=5)"],
}
asked = []


def proxy(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head and (got := client.recv(4096)):
            head += got
        asked.append(head)
        client.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        client.close()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=proxy, args=(listener,), daemon=True).start()
url_of_proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
clean = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
for line in sys.stdin.read().splitlines():
    no_proxy, url = line[:22].strip(), line[23:46].strip()
    env = clean | {"http_proxy": url_of_proxy, "no_proxy": no_proxy, "HOME": "/nonexistent"}
    row = []
    for command in CLIENTS.values():
        asked.clear()
        quiet = subprocess.DEVNULL
        subprocess.run([*command, url], env=env, timeout=60, stdout=quiet, stderr=quiet)
        row.append("proxy" if asked else "direct")
    print(f"{line[:46]:<46} {' '.join(f'{word:<6}' for word in row)}".rstrip(), flush=True)
PYTHON
sed -n 's/^#   \([^n].*\)$/\1/p' "$0" > "$work/known"
"$work/venv/bin/python" "$work/try.py" < "$work/known" | tee "$work/seen"
diff -b "$work/known" "$work/seen" || { echo 'it behaves otherwise now'; exit 1; }
