#!/usr/bin/env bash
# lftp and links ask a proxy for a tunnel with CONNECT of HTTP/1.1 and no Host field, though
# every HTTP/1.1 request must have one (RFC 9112 section 3.2). A proxy that says 400, as the
# same section wants, cannot be used with them for https; curl and wget send the field.
#
# Debian 12: lftp 4.9.2, Links 2.28, curl 7.88.1. Output, behind their versions:
#
#   curl: CONNECT example.com:443 HTTP/1.1 | Host: example.com:443 | User-Agent: ...
#   lftp: CONNECT example.com:443 HTTP/1.1
#   links: CONNECT example.com:443 HTTP/1.1 | User-Agent: Links (2.28; ...
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work"
curl --version | head -1
lftp --version | head -1
links -version

# Answers 403 to one request after the other, and prints their heads, a line each.
cat > "$work/listen.py" <<'PYTHON'
import socket

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    head = b""
    while b"\r\n\r\n" not in head and (got := client.recv(4096)):
        head += got
    print(" | ".join(head.decode("latin-1").split("\r\n")[:-2]), flush=True)
    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    client.close()
PYTHON
python3 "$work/listen.py" > "$work/heads" &
listener=$!
trap 'kill $listener; rm -rf "$work"' EXIT
until [ -s "$work/heads" ]; do sleep 0.1; done
proxy=127.0.0.1:$(head -1 "$work/heads")

# shows NAME COMMAND...: what it has sent first.
shows() {
    local name=$1 before
    shift
    before=$(wc -l < "$work/heads")
    timeout 20 "$@" > "$work/out" 2>&1 < /dev/null || true
    sed -n "$((before + 1))p" "$work/heads" | tee "$work/$name" | sed "s/^/$name: /"
}
shows curl curl -s -x "http://$proxy" https://example.com/
shows lftp lftp -c "set https:proxy http://$proxy; set net:max-retries 1; cat https://example.com/"
shows links links -https-proxy "$proxy" -source https://example.com/

grep -qi '| Host: ' "$work/curl" || exit 1
for name in lftp links; do
    grep -q '^CONNECT example.com:443 HTTP/1.1' "$work/$name" || exit 1
    if grep -qi '| Host: ' "$work/$name"; then exit 1; fi
done
