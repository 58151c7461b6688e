"""The real squid with a file of its own: what it says to requests of clients from anywhere.

Clients are where X-Forwarded-For says that they are, and names are in a file of hosts. So nothing
here needs the network, and a start costs a twentieth of a second of CPU.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from harness import free_port, need

BELOW = """
pid_filename none
cache_log {folder}/cache.log
access_log none
cache deny all
coredump_dir {folder}
netdb_filename none
hosts_file {folder}/hosts
follow_x_forwarded_for allow all
pinger_enable off
shutdown_lifetime 0 seconds
connect_timeout 2 seconds
forward_timeout 2 seconds
dns_timeout 1 seconds
"""
"""What is added to each file. None of it changes what is allowed."""

PASSED = (
    "ERR_CANNOT_FORWARD",
    "ERR_CONNECT_FAIL",
    "ERR_DNS_FAIL",
    "ERR_INVALID_RESP",
    "ERR_READ_ERROR",
    "ERR_READ_TIMEOUT",
    "ERR_ZERO_SIZE_OBJECT",
)
"""What it says to what it allows: nobody is there, or somebody who does not answer."""

NOWHERE = ("ERR_CANNOT_FORWARD", "ERR_READ_ERROR")
"""What it says where there is neither a peer nor a direct way: to CONNECT, and to the rest."""

SECONDS = 20.0


class Probe(NamedTuple):
    """A request; ``user`` is USER:PASSWORD or ""."""

    method: str
    host: str
    port: int
    client: str = "10.1.2.3"
    user: str = ""
    path: str = "/"

    @property
    def target(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.method == "CONNECT":
            return f"{host}:{self.port}"
        port = "" if self.port == 80 else f":{self.port}"
        return f"http://{host}{port}{self.path}"

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        coded = base64.b64encode(self.user.encode())
        return ((b"Proxy-Authorization", b"Basic " + coded),) if self.user else ()


class Said(NamedTuple):
    """The status, and the kind of error page, or the X-Way of whoever has answered."""

    status: int
    error: str

    @property
    def verdict(self) -> str:
        """``allow``, ``deny``, ``auth``, or ``way:NAME`` for what a peer has answered."""
        if self.status == 407:
            return "auth"
        if self.error.startswith("way:"):
            return self.error
        by_origin = self.status > 0 and not self.error
        return "allow" if self.error in PASSED or by_origin else "deny"


class Squid:
    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, probe: Probe) -> Said:
        host = probe.target if probe.method == "CONNECT" else probe.target.split("/")[2]
        fields = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in probe.fields)
        head = (
            f"{probe.method} {probe.target} HTTP/1.1\r\nHost: {host}\r\n"
            f"X-Forwarded-For: {probe.client}\r\n{fields}Connection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self._port), SECONDS) as client:
            client.sendall(head.encode())
            got = b""
            with suppress(OSError):
                while b"\r\n\r\n" not in got:
                    more = client.recv(65536)
                    if not more:
                        break
                    got += more
            if probe.method == "CONNECT" and b" 200 " in got[:16]:
                client.settimeout(0.5)  # a peer says which one it is
                with suppress(OSError):
                    got += client.recv(65536)
        status = int(got.split(b" ", 2)[1]) if got else 0
        error = re.search(rb"\r\n(?:X-Squid-Error: |X-Way: |(?=way:))(\S+)", got)
        return Said(status, error[1].decode() if error else "")


@contextmanager
def running(folder: Path, text: str, names: Mapping[str, str]) -> Iterator[Squid | str]:
    """squid with this file; or what it said if it did not start. A port in it is replaced."""
    os.chmod(folder, 0o777)  # it gives up root's rights
    port = free_port()
    lines = re.sub(r"(?m)^\s*http_port .*$", "", text)
    (folder / "hosts").write_text("".join(f"{to} {name}\n" for name, to in names.items()))
    source = folder / "running.conf"
    source.write_text(
        f"{lines}\nhttp_port 127.0.0.1:{port}\n{BELOW.format(folder=folder)}", newline=""
    )
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            [need("squid"), "-N", "-n", f"at{port}", "-f", str(source)],
            stdout=said,
            stderr=said,
            cwd=folder,
        )
        try:
            if _listens(process, port):
                yield Squid(port)
            else:
                yield (folder / "said").read_text(errors="replace") or "it has ended"
        finally:
            process.kill()
            process.wait()
            for left in Path("/dev/shm").glob(f"at{port}-*"):  # what it shares with nobody
                left.unlink(missing_ok=True)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            return False
    return False
