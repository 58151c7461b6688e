#!/usr/bin/env bash
# A balancer that listens for both families on one socket names its IPv4 clients as IPv6 ones in the
# header of the PROXY protocol: ::ffff:127.0.0.1, by TCP6 or AF_INET6. HAProxy, nginx and stunnel do,
# in both versions of the header. A receiver that compares the address with networks as it is written
# finds no client in 10.0.0.0/8 any more as soon as its balancer listens on [::].
#
# One would expect TCP4: the specification says that it is for "TCP over IPv4", which this is, and an
# accept on an IPv4 socket of the same program gives that.
#
# HAProxy 2.6.12, nginx 1.22.1, stunnel 5.68 (Debian 12). Output, behind the versions:
#
#   haproxy v1:  [127.0.0.1] TCP4 127.0.0.1    [::] TCP6 ::ffff:127.0.0.1
#   haproxy v2:  [127.0.0.1] TCP4 127.0.0.1    [::] TCP6 ::ffff:127.0.0.1
#   nginx:       [127.0.0.1] TCP4 127.0.0.1    [::] TCP6 ::ffff:127.0.0.1
#   stunnel:     [127.0.0.1] TCP4 127.0.0.1    [::] TCP6 ::ffff:127.0.0.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
haproxy -v | head -1
nginx -v 2>&1
stunnel4 -version 2>&1 | grep -m 1 '^stunnel'
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost \
    -days 2 -keyout "$work/key" -out "$work/cert" 2> /dev/null
cat "$work/cert" "$work/key" > "$work/both.pem"
cat > "$work/receive.py" <<'PYTHON'
import socket
import ssl
import subprocess
import sys
import time

folder = sys.argv[1]
receiver = socket.create_server(("127.0.0.1", 0))
receiver.settimeout(20)
to = f"127.0.0.1:{receiver.getsockname()[1]}"
MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
HAPROXY = """defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen l
    bind {bind}
    server s {to} {options}
"""
NGINX = f"""daemon off; pid {folder}/pid; error_log {folder}/error.log; load_module {MODULE};
events {{{{ }}}}
stream {{{{ server {{{{ listen {{bind}}; proxy_pass {to}; proxy_protocol on; }}}} }}}}
"""
STUNNEL = f"""foreground = yes
pid =
[s]
accept = {{bind}}
connect = {to}
cert = {folder}/both.pem
protocol = proxy
"""
PROGRAMS = {
    "haproxy v1": (HAPROXY, ["haproxy", "-db", "-q", "-f"], " v4v6", "send-proxy"),
    "haproxy v2": (HAPROXY, ["haproxy", "-db", "-q", "-f"], " v4v6", "send-proxy-v2"),
    "nginx": (NGINX, ["nginx", "-p", folder, "-e", f"{folder}/start", "-c"], " ipv6only=off", ""),
    "stunnel": (STUNNEL, ["stunnel4"], "", ""),
}
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE


def connected(port):
    """As soon as the balancer listens."""
    for _ in range(1000):
        client = socket.socket()
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return client
        client.close()
        time.sleep(0.01)
    raise SystemExit("nobody listens")


def words(data):
    if data.startswith(b"PROXY "):
        return " ".join(data.decode().split()[1:3])
    if data[13] == 0x11:
        return f"TCP4 {socket.inet_ntop(socket.AF_INET, data[16:20])}"
    return f"TCP6 {socket.inet_ntop(socket.AF_INET6, data[16:32])}"


def ask(name, where):
    template, argv, both, option = PROGRAMS[name]
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    bind = f"127.0.0.1:{port}" if where == "127.0.0.1" else f"{where}:{port}{both}"
    if name == "stunnel" and where != "127.0.0.1":
        bind = f":::{port}"
    with open(f"{folder}/config", "w") as file:
        file.write(template.format(bind=bind, to=to, options=option))
    running = subprocess.Popen([*argv, f"{folder}/config"], stderr=subprocess.DEVNULL)
    try:
        client = connected(port)
        if name == "stunnel":
            client = tls.wrap_socket(client)
        connection, _ = receiver.accept()
        connection.settimeout(20)
        return words(connection.recv(300))
    finally:
        running.kill()
        running.wait()


wrong = False
for name in PROGRAMS:
    found = [ask(name, where) for where in ("127.0.0.1", "[::]")]
    print(f"{name + ':':12} [127.0.0.1] {found[0]}    [::] {found[1]}")
    wrong |= found != ["TCP4 127.0.0.1", "TCP6 ::ffff:127.0.0.1"]
sys.exit(wrong)
PYTHON
timeout 60 python3 "$work/receive.py" "$work"
