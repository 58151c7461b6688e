"""A certificate authority and a server's certificate, made by the openssl program."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from harness import need


class Certificates:
    """``ca`` signed ``cert`` (key: ``key``), which is for localhost, 127.0.0.1 and ::1."""

    def __init__(self, folder: Path) -> None:
        openssl = need("openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.cert, self.key = (folder / name for name in ("ca.pem", "pem", "key"))
        ca_key, request, extensions = (folder / name for name in ("ca.key", "csr", "ext"))
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
        new = f"{openssl} req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        for command in (
            f"{new} -x509 -days 30 -subj /CN=ca -keyout {ca_key} -out {self.ca}",
            f"{new} -subj /CN=localhost -keyout {self.key} -out {request}",
            f"{openssl} x509 -req -days 30 -in {request} -CA {self.ca} -CAkey {ca_key}"
            f" -CAcreateserial -extfile {extensions} -out {self.cert}",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))
