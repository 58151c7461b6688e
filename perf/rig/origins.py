"""The servers behind the proxies: pages by HTTP, and what tunnels lead to."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from .build import program
from .process import Program, free_ports, running
from .usage import cpu_seconds

PAGES = {
    "small.html": 330,
    "1k.bin": 1 << 10,
    "16k.bin": 16 << 10,
    "128k.bin": 128 << 10,
    "1m.bin": 1 << 20,
}
"""Bytes by name."""

_NGINX = """\
{user}
worker_processes 1;
worker_rlimit_nofile {limit};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    sendfile_max_chunk 1m;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=100 inactive=600s;
    open_file_cache_valid 600s;
    types {{ text/html html; }}
    allow 127.0.0.0/8;
    deny all;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen {port} backlog=4096; root {folder}/www; }}
    server {{ listen 127.0.0.1:{status}; location / {{ stub_status; }} }}
}}
"""


class Pages:
    """A server of PAGES at ``port`` of each address of 127.0.0.0/8, for clients of these; its
    files are in ``www``."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.port = free_ports(2)
        self.www = folder / "www"
        self.name = "nginx" if shutil.which("nginx") else "spliceproxy --serve"
        self._access = folder / "access"
        self._looks = 0
        write_pages(self.www)
        if self.name == "nginx":
            config = folder / "nginx.conf"
            config.write_text(
                _NGINX.format(
                    folder=folder,
                    port=self.port,
                    status=self.port + 1,
                    limit=limit,
                    connections=limit - 500,
                    user="user root;" if os.getuid() == 0 else "",
                )
            )
            argv = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "start.log")]
        else:
            argv = [sys.executable, "-m", "spliceproxy", "--serve", str(self.www), "--workers", "1"]
            argv += ["--listen", f"0.0.0.0:{self.port}", "--access-log", str(self._access)]
            argv += [
                "--allow-clients",
                "127.0.0.0/8",
                "--timeout-drain",
                "0",
                "--log-level",
                "warning",
            ]
        self.server = Program(argv, folder, port=self.port)

    def requests(self) -> int:
        """Requests that it has seen, by its own count."""
        if self.name != "nginx":
            return self._logged()
        self._looks += 1
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 1}/", timeout=20) as answer:
            found = re.search(r"requests\s+\d+ \d+ (\d+)", answer.read().decode())
        if found is None:
            raise RuntimeError("nginx's stub_status is not understood")
        return int(found[1]) - self._looks

    def _logged(self) -> int:
        """The lines of the access log, once there come no more."""
        lines = -1
        while True:
            before = lines
            lines = self._access.read_bytes().count(b" TCP_HIT/")
            if lines == before:
                return lines
            time.sleep(0.5)


def write_pages(www: Path) -> None:
    """The files of PAGES; the same bytes every time."""
    www.mkdir(parents=True, exist_ok=True)
    www.chmod(0o755)
    for name, size in PAGES.items():
        www.joinpath(name).write_bytes(random.Random(name).randbytes(size))


class Origins:
    """Both servers: ``pages``, and ``origin.c`` with echo, chargen, discard, take and names on the
    five ports from ``echo`` on. ``taken`` is a file with what take answers to a right body."""

    def __init__(self, pages: Pages, sink: Program, echo: int) -> None:
        self.pages, self.echo = pages, echo
        self.taken = pages.www.parent / "taken"
        self.taken.write_text("ok")
        self._sink = sink

    def bodies(self) -> int:
        """How many bodies take has read to their ends."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.echo + 3}/", timeout=20) as answer:
            return int(answer.read())

    def cpu_seconds(self) -> float:
        """Of both, so far."""
        return cpu_seconds(self.pages.server.pid) + cpu_seconds(self._sink.pid)


@contextlib.contextmanager
def origins(folder: Path, limit: int) -> Iterator[Origins]:
    """The servers, in processes of their own with ``limit`` descriptors each."""
    echo = free_ports(5)
    with running([program("origin"), str(echo)], folder, port=echo) as sink:
        pages = Pages(folder, limit)
        try:
            yield Origins(pages, sink, echo)
        finally:
            pages.server.stop()
