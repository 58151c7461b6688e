"""The proxies that are compared, and how each is started, as fast as it can be set to be.

None caches or logs. A relay cannot take CONNECT: it leads from a port for each origin to
that origin and parses nothing, so it bounds what a data path can reach.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .build import program
from .process import Program, free_ports, running

TEMPLATES = Path(__file__).parent / "peers"
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
PPROXY = "pip install pproxy 'uvloop<0.22', in an environment of its own, in PATH"
OURS = "spliceproxy"
OURS_AUTH = "spliceproxy+auth"
DIRECT = "direct"
C_LOOP = "c-loop"


class Setting(NamedTuple):
    """What the start of a proxy depends on. A relay's ports for echo, chargen and discard
    are the three after ``port``."""

    port: int
    pages: int  # port of the HTTP origin
    echo: int  # port of the echo; chargen and discard are the two after it
    workers: int
    limit: int  # descriptors of a process
    folder: Path  # its own

    def config(self, name: str) -> str:
        """The path of the filled-in template."""
        values = {f"PORT{i}": str(self.port + i) for i in range(4)}
        values |= {"ECHO": str(self.echo), "CHARGEN": str(self.echo + 1)}
        values |= {"DISCARD": str(self.echo + 2), "WORKERS": str(self.workers)}
        values |= {"FOLDER": str(self.folder), "LIMIT": str(self.limit)}
        values |= {"CLIENTS": str(self.limit // 2 - 400)}
        values |= {"USER": "root" if os.getuid() == 0 else os.environ.get("USER", "nobody")}
        text = TEMPLATES.joinpath(name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        path = self.folder / name
        path.write_text(text)
        return str(path)


class Kind(NamedTuple):
    """One kind of proxy."""

    name: str
    program: str  # a file, or what must be in PATH or beside this Python; "": always there
    install: str
    argv: Callable[[Setting], list[str]]
    forwards: bool = True  # an absolute-form GET
    tunnels: bool = True
    relay: bool = False  # the tunnels are without CONNECT
    scales: bool = True  # with workers come processes, each with descriptors of its own
    # It closes after each answer, which wrk takes for an error. Whether the answers were
    # whole is told by the origin's count.
    closes: bool = False
    credentials: str = ""  # Proxy-Authorization; measured for what asking for it costs

    def missing(self) -> bool:
        """Whether it is not installed."""
        if self.program.startswith("/"):
            return not os.path.exists(self.program)
        return bool(self.program) and find(self.program) is None


def find(name: str) -> str | None:
    """A program beside this Python, or in PATH, or where Debian puts servers."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def _spliceproxy(s: Setting) -> list[str]:
    return [
        *(sys.executable, "-m", "spliceproxy", "--listen", f"127.0.0.1:{s.port}"),
        *("--workers", str(s.workers), "--default-backend", f"127.0.0.1:{s.pages}"),
        *("--access-log", "off", "--log-level", "warning", "--timeout-drain", "0"),
        *("--via", "spliceproxy"),
    ]


def _with_auth(s: Setting) -> list[str]:
    return [*_spliceproxy(s), "--auth", "user:password"]


def _c_loop(s: Setting) -> list[str]:
    return [program("c_loop"), str(s.port)]


def _haproxy(s: Setting) -> list[str]:
    return [_path("haproxy"), "-db", "-q", "-f", s.config("haproxy.cfg")]


def _nginx_stream(s: Setting) -> list[str]:
    return [_path("nginx"), "-p", str(s.folder), "-c", s.config("nginx-stream.conf")]


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
        Kind(OURS, "", "", _spliceproxy),
        Kind(OURS_AUTH, "", "", _with_auth, credentials="Basic dXNlcjpwYXNzd29yZA=="),
        Kind(DIRECT, "", "", lambda _: [], relay=True, scales=False),
        Kind(C_LOOP, "", "", _c_loop, forwards=False, scales=False),
        Kind("haproxy", "haproxy", _debian("haproxy"), _haproxy, relay=True, scales=False),
        Kind("squid", "squid", _debian("squid"), _squid),
        Kind("tinyproxy", "tinyproxy", _debian("tinyproxy"), _tinyproxy, scales=False,
             closes=True),
        Kind("apache", "apache2", _debian("apache2"), _apache, scales=False),
        Kind("trafficserver", "traffic_server", _debian("trafficserver"), _trafficserver,
             scales=False),
        Kind("proxy.py", "proxy", "pip install proxy.py", _proxy_py),
        Kind("pproxy", "pproxy", PPROXY, _pproxy),
        Kind("nginx-stream", NGINX_STREAM, _debian("libnginx-mod-stream"), _nginx_stream,
             forwards=False, relay=True),
    )
}  # fmt: skip
"""All by name. haproxy forwards in ``mode http`` and relays in ``mode tcp``, with splice(2)
through pipes of 1 MiB."""


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
        yield Proxy(kind, setting, process)
