"""What it costs that a balancer says who its clients are: HAProxy in front, with headers of the
PROXY protocol and without.

    python perf/balanced.py                    # 10 rounds, about 8 minutes
    python perf/balanced.py --rounds 3 --measures close-small -o balanced.json

One worker each, by turns. Every load goes through HAProxy in TCP mode, so that the connections look
alike. CPU time is that of the proxy's processes alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from observing import compare
from rig.kinds import Kind, Setting, find
from rig.measures import MEASURES, Figures
from rig.origins import Origins
from rig.ours import OURS
from rig.process import running
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
        return measured.run(settings, servers, through)


def main() -> None:
    kinds = [balanced(KINDS[OURS], way) for way in WAYS]
    compare(kinds, NAMES, __doc__, 10, measure, PLAIN)


if __name__ == "__main__":
    main()
