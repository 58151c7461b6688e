"""The proxies that are compared, and how each is started, as fast as it can be set to be.

None caches or logs. A relay cannot take CONNECT: it leads from a port for each origin to
that origin and parses nothing, so it bounds what a data path can reach.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import ours
from .build import program
from .kinds import Kind, Setting, find
from .process import Program, free_ports, running

NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
HAPROXY = "apt-get install haproxy, or HAPROXY names one"
NGINX_131 = "NGINX_131 names an nginx of version 1.31 or newer"
PPROXY = "pip install pproxy 'uvloop<0.22', in an environment of its own, in PATH"
DIRECT = "direct"
C_LOOP = "c-loop"


def _c_loop(s: Setting) -> list[str]:
    return [program("c_loop"), str(s.port)]


def _haproxy(s: Setting) -> list[str]:
    return [_path("haproxy"), "-db", "-q", "-f", s.config("haproxy.cfg")]


def _nginx_stream(s: Setting) -> list[str]:
    return [_path("nginx"), "-p", str(s.folder), "-c", s.config("nginx-stream.conf")]


def _nginx_tunnel(s: Setting) -> list[str]:
    return [_path("nginx-1.31"), "-p", str(s.folder), "-c", s.config("nginx-tunnel.conf")]


def _squid(s: Setting) -> list[str]:
    alone = ["-N"] if s.workers == 1 else ["--foreground", "-n", f"perf{s.port}"]
    return [_path("squid"), *alone, "-f", s.config("squid.conf")]


def _tinyproxy(s: Setting) -> list[str]:
    return [_path("tinyproxy"), "-d", "-c", s.config("tinyproxy.conf")]


def _apache(s: Setting) -> list[str]:
    return [_path("apache2"), "-DFOREGROUND", "-f", s.config("apache.conf")]


def _trafficserver(s: Setting) -> list[str]:
    etc = s.folder / "etc"
    shutil.copytree("/etc/trafficserver", etc)
    shutil.copy(s.config("records.config"), etc / "records.config")
    etc.joinpath("storage.config").write_text("")
    for name in ("run", "log", "cache"):
        s.folder.joinpath(name).mkdir()
    root = s.config("runroot.yaml")
    return ["env", f"TS_RUNROOT={root}", _path("traffic_server")]


def _proxy_py(s: Setting) -> list[str]:
    return [
        *(_path("proxy"), "--hostname", "127.0.0.1", "--port", str(s.port)),
        *("--num-workers", str(s.workers), "--num-acceptors", str(s.workers)),
        *("--timeout", "300", "--backlog", "4096", "--log-level", "ERROR"),
        *("--data-dir", str(s.folder), "--open-file-limit", str(s.limit)),
    ]


def _pproxy(s: Setting) -> list[str]:
    one = f"{_path('pproxy')} -l http://127.0.0.1:{s.port}/"
    if s.workers == 1:
        return one.split()
    many = f"for i in $(seq {s.workers}); do {one} --reuse & done; wait"
    return ["/bin/sh", "-c", f"trap 'kill $(jobs -p)' TERM; {many}"]


def _path(name: str) -> str:
    return find(name) or name


def _debian(name: str) -> str:
    return f"apt-get install {name}"


KINDS = {
    kind.name: kind
    for kind in (
        *ours.variants(),
        ours.before(),
        Kind(DIRECT, "", "", lambda _: [], relay=True, scales=False),
        Kind(C_LOOP, "", "", _c_loop, forwards=False, scales=False),
        Kind("haproxy", "haproxy", HAPROXY, _haproxy, relay=True, scales=False),
        Kind("squid", "squid", _debian("squid"), _squid),
        Kind("tinyproxy", "tinyproxy", _debian("tinyproxy"), _tinyproxy, scales=False,
             closes=True),
        Kind("apache", "apache2", _debian("apache2"), _apache, scales=False),
        Kind("trafficserver", "traffic_server", _debian("trafficserver"), _trafficserver,
             scales=False),
        Kind("proxy.py", "proxy", "pip install proxy.py", _proxy_py),
        Kind("pproxy", "pproxy", PPROXY, _pproxy),
        Kind("nginx-tunnel", "nginx-1.31", NGINX_131, _nginx_tunnel, forwards=False),
        Kind("nginx-stream", NGINX_STREAM, _debian("libnginx-mod-stream"), _nginx_stream,
             forwards=False, relay=True),
    )
}  # fmt: skip
"""All by name. haproxy forwards in ``mode http`` and relays in ``mode tcp``, with splice(2)
through pipes of 1 MiB. nginx-tunnel ends CONNECT by itself, which nginx does since 1.31."""


class Proxy:
    """A proxy that runs; ``direct`` is none. ``port`` takes GET in absolute form."""

    def __init__(self, kind: Kind, setting: Setting, process: Program | None) -> None:
        self.kind, self.setting = kind, setting
        self.port = setting.port if process else setting.pages
        self.pid = process.pid if process else 0

    def tunnel(self, mode: str, origin: int, *options: str) -> list[str]:
        """``tunnel.c`` for tunnels to origin 0 (echo), 1 (chargen) or 2 (discard)."""
        target = self.setting.echo + origin
        port = self.setting.port
        if self.kind.relay:
            port = port + 1 + origin if self.pid else target
            options = (*options, "-D")
        return [program("tunnel"), mode, str(port), str(target), *options]

    def count(self, what: str) -> int:
        """How many ``calls`` or ``ends`` the functions of its workers have counted."""
        files = self.setting.folder.glob(f"{what}.*")
        return sum(int.from_bytes(file.read_bytes(), sys.byteorder) for file in files)


SETTLING = 1.0
"""Seconds until it is measured: what spliceproxy loads when it already serves costs 50 ms of CPU,
which is a tenth of a short measurement."""


@contextlib.contextmanager
def started(
    kind: Kind, pages: int, echo: int, workers: int, limit: int, folder: Path
) -> Iterator[Proxy]:
    """A new one, in a new folder of ``folder``."""
    own = folder / f"{kind.name}-{len(list(folder.iterdir()))}"
    own.mkdir()
    own.chmod(0o777)  # some become another user
    setting = Setting(free_ports(4), pages, echo, workers, limit, own)
    argv = kind.argv(setting)
    if not argv:
        yield Proxy(kind, setting, None)
        return
    first = setting.port + 1 if kind.relay and not kind.forwards else setting.port
    with running(argv, own, port=first) as process:
        time.sleep(SETTLING)
        yield Proxy(kind, setting, process)
