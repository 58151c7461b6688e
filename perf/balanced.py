"""What it costs that a balancer says who its clients are: HAProxy in front, with headers of the
PROXY protocol and without.

    python perf/balanced.py                    # 10 rounds, about 8 minutes
    python perf/balanced.py --rounds 3 --measures close-small -o balanced.json

One worker each, by turns. Every load goes through HAProxy in TCP mode, so that the connections look
alike. CPU time is that of the proxy's processes alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from observing import rounds, show
from rig import machine
from rig.kinds import Kind, Setting, find
from rig.measures import MEASURES, Figures
from rig.origins import Origins
from rig.ours import OURS
from rig.process import leave_on_sigterm, raise_limit, running
from rig.proxies import KINDS, Proxy, started
from rig.settings import Settings

NAMES = ("wrk-forward-small", "close-small", "setup")
PLAIN = "plain"
WAYS = {PLAIN: "", "v1": "send-proxy", "v2": "send-proxy-v2"}
"""Options of HAProxy's server, by how a proxy hears of its clients."""

HAPROXY = """\
global
    nbthread 1
    maxconn 9000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen clients
    bind 127.0.0.1:{front} backlog 4096
    server proxy 127.0.0.1:{port} {options}
"""


def balanced(kind: Kind, way: str) -> Kind:
    """The proxy behind a balancer. Its clients may reach the origins, which are on this machine."""

    def argv(s: Setting) -> list[str]:
        address = f"127.0.0.1:{s.port}"
        made = [*kind.argv(s), "--guard", "off", "--allow-clients", "0.0.0.0/0"]
        if way == PLAIN:
            return made
        made[made.index(address)] = f"proxy+tcp://{address}"
        return [*made, "--proxy-protocol-from", "127.0.0.1"]

    return kind._replace(name=way, argv=argv, more=way)


@contextlib.contextmanager
def in_front(proxy: Proxy, folder: Path) -> Iterator[Proxy]:
    """The same proxy, for whoever comes by a balancer."""
    front = proxy.setting.port + 1
    config = folder / f"{front}.cfg"
    options = WAYS[proxy.kind.name]
    config.write_text(HAPROXY.format(front=front, port=proxy.setting.port, options=options))
    argv = [find("haproxy") or "haproxy", "-db", "-q", "-f", str(config)]
    with running(argv, folder, port=front):
        through = Proxy(proxy.kind, proxy.setting._replace(port=front), None)
        through.port, through.pid = front, proxy.pid
        yield through


def measure(name: str, kind: Kind, settings: Settings, servers: Origins, folder: Path) -> Figures:
    """Of one proxy's life."""
    (measured,) = (one for one in MEASURES if one.name == name)
    ports = servers.pages.port, servers.echo
    with (
        started(kind, *ports, 1, settings.limit, folder) as proxy,
        in_front(proxy, folder) as through,
    ):
        time.sleep(1)  # it loads what it did not need to listen
        return measured.run(settings, servers, through)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3, help="of one measurement")
    parser.add_argument("--measures", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("-o", type=Path, help="JSON of all figures")
    flags = parser.parse_args()
    leave_on_sigterm()
    limit = raise_limit()
    settings = Settings(flags.seconds, flags.rounds, 100, 1, 1, [], [], [], Path(), limit)
    kinds = [balanced(KINDS[OURS], way) for way in WAYS]
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    folder.chmod(0o755)
    try:
        found = rounds(kinds, flags.measures, settings, folder, measure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(found, PLAIN)
    if flags.o:
        described = machine.describe(" ".join(["python", *sys.argv]))
        result: dict[str, Any] = {"machine": described, "figures": found}
        flags.o.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
