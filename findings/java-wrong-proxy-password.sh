#!/usr/bin/env bash
# HttpURLConnection of the JDK, with an Authenticator that has a wrong password for the proxy: for one
# http:// URL it sends the same wrong password 19 times within a second, and a proxy that slows or
# locks out who guesses sees an attack. For https:// it never sends a password, for
# jdk.http.auth.tunneling.disabledSchemes is "Basic" by default: a right password fails, too.
#
# OpenJDK 17.0.15 (Debian 12). Output, behind the version:
#
#   http: 20 requests, 19 with the password
#   https: 1 requests, 0 with the password
#   https, disabledSchemes empty: 20 requests, 19 with the password
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
java -version 2>&1 | head -1

cat > Ask.java <<'JAVA'
import java.net.*;

public class Ask {
    public static void main(String[] args) throws Exception {
        Authenticator.setDefault(new Authenticator() {
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication("alice", "wrong".toCharArray());
            }
        });
        SocketAddress place = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        URL url = new URL(args[1]);
        try {
            ((HttpURLConnection) url.openConnection(new Proxy(Proxy.Type.HTTP, place))).getResponseCode();
        } catch (java.io.IOException refused) {
        }
    }
}
JAVA
cat > count.py <<'PYTHON'
import socket
import subprocess
import sys
import threading

ANSWER = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'Proxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
)
heads = []


def refuse(client: socket.socket) -> None:
    rest = b""
    while got := client.recv(65536):
        rest += got
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            heads.append(head.lower())
            client.sendall(ANSWER)


def listen(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=refuse, args=(listener.accept()[0],), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=listen, args=(listener,), daemon=True).start()
for name, url, options in (
    ("http", "http://a.invalid/", []),
    ("https", "https://a.invalid/", []),
    (
        "https, disabledSchemes empty",
        "https://a.invalid/",
        ["-Djdk.http.auth.tunneling.disabledSchemes="],
    ),
):
    heads.clear()
    port = str(listener.getsockname()[1])
    subprocess.run(["java", *options, "Ask.java", port, url], check=True, timeout=100)
    right = sum(b"proxy-authorization: basic " in head for head in heads)
    print(f"{name}: {len(heads)} requests, {right} with the password", flush=True)
PYTHON
python3 count.py | tee seen
diff seen - <<'SEEN' || { echo 'it behaves otherwise now'; exit 1; }
http: 20 requests, 19 with the password
https: 1 requests, 0 with the password
https, disabledSchemes empty: 20 requests, 19 with the password
SEEN
