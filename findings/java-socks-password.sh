#!/usr/bin/env bash
# Java says that java.net.socks.username and java.net.socks.password are for SOCKS5 ("Networking
# Properties" of java.base). A socket reads neither. Without an Authenticator it sends user.name,
# which is the user of the system unless somebody says otherwise, and an empty password, to any proxy
# that chooses the method with a password; and it always offers that method.
#
# OpenJDK 17.0.15 (Debian 12). Output (methods offered; user and password sent):
#
#   no flags               0 2  tester:
#   properties             0 2  tester:
#   Authenticator          0 2  ann:secret
#
# So a proxy with users refuses Java programs that have both properties and no Authenticator.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
java -version 2>&1 | head -1
cat > "$work/Ask.java" <<'JAVA'
import java.net.*;

public class Ask {
    public static void main(String[] args) throws Exception {
        if (args.length > 1)
            Authenticator.setDefault(new Authenticator() {
                protected PasswordAuthentication getPasswordAuthentication() {
                    return new PasswordAuthentication("ann", "secret".toCharArray());
                }
            });
        InetSocketAddress proxy = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        try (Socket socket = new Socket(new Proxy(Proxy.Type.SOCKS, proxy))) {
            socket.connect(InetSocketAddress.createUnresolved("b.invalid", 80));
        } catch (SocketException refused) {
        }
    }
}
JAVA
cat > "$work/try.py" <<'PYTHON'
import socket
import subprocess
import sys

KINDS = {
    "no flags": ([], []),
    "properties": (["-Djava.net.socks.username=ann", "-Djava.net.socks.password=secret"], []),
    "Authenticator": ([], ["yes"]),
}
listener = socket.create_server(("127.0.0.1", 0))
port = str(listener.getsockname()[1])
for kind, (flags, args) in KINDS.items():
    command = ["java", "-Duser.name=tester", *flags, sys.argv[1], port, *args]
    program = subprocess.Popen(command)
    client, _ = listener.accept()
    data = client.recv(257)
    methods = " ".join(map(str, data[2:]))
    client.sendall(b"\x05\x02")
    data = client.recv(513)
    user = data[2 : 2 + data[1]].decode()
    password = data[3 + data[1] :].decode()
    client.sendall(b"\x01\x01")
    client.close()
    program.wait(60)
    print(f"{kind:<22} {methods}  {user}:{password}")
PYTHON
sed -n 's/^#   \(.*\)$/\1/p' "$0" > "$work/known"
python3 "$work/try.py" "$work/Ask.java" | tee "$work/seen"
diff "$work/known" "$work/seen" || { echo 'it behaves otherwise now'; exit 1; }
