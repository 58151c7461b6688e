"""What a request costs by how many hosts, users or clients there are.

    python perf/hosts.py [--numbers 1000 10000 100000] [--rounds 3] [-o FOLDER]

Each by turns is asked for once, then comes the measurement: so many requests again, at least
``--requests``, each for the next host, by the next user, or from the next client. What has
been learned of one is long ago when its turn comes again. Hosts and clients are addresses of
127.0.0.0/8, names lead to hosts, users are of one file of passwords. Names are measured the first
time, too. The figures are CPU time of the proxy with one worker for a request or a tunnel, medians
of the rounds, which go from proxy to proxy.

HAPROXY, NGINX_131 and BEFORE name programs as for bench.sh. FOLDER gets ``hosts.json`` and
``hosts.png``. Exit status 1 if spliceproxy gave a wrong answer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
from rig import load, machine, plots
from rig.kinds import Kind, Setting
from rig.load import Wrong
from rig.measures import SMALL
from rig.origins import Origins, origins
from rig.ours import BEFORE, OURS
from rig.process import leave_on_sigterm, raise_limit
from rig.proxies import KINDS, Proxy, started
from rig.tables import markdown, number

NUMBERS = (1, 100, 1000, 10_000, 100_000)
AT_ONCE = 100  # connections, or tunnels that are being set up
FEW = 1000  # of what the first time is measured, at least
WARMING = 600.0  # seconds for the first pass; a bcrypt hash for each user takes a millisecond

Argv = Callable[[Proxy, Origins, int, int], list[str]]
"""The load program, for so many (first number) by turns, with so many requests (second)."""


class Axis(NamedTuple):
    """What there are many of."""

    name: str
    what: str
    unit: str  # of the load program's report
    peers: tuple[str, ...]
    argv: Argv
    prepared: Callable[[Kind, int], Kind] = lambda kind, _: kind
    first: bool = False  # what is measured is the first time


def _get(*options: str) -> Argv:
    def argv(proxy: Proxy, servers: Origins, many: int, requests: int) -> list[str]:
        asked = load.target(proxy, servers, SMALL, False)
        filled = [str(many) if option == "MANY" else option for option in options]
        return asked.checker("-c", str(min(AT_ONCE, requests)), "-n", str(requests), *filled)

    return argv


def _connect(*options: str) -> Argv:
    def argv(proxy: Proxy, _: Origins, many: int, requests: int) -> list[str]:
        at_once = ("-c", str(min(AT_ONCE, requests)))
        return proxy.tunnel("setup", 0, *at_once, "-m", str(requests), "-k", str(many), *options)

    return argv


def _with_names(kind: Kind, _: int) -> Kind:
    """In a mount namespace whose resolv.conf(5) names the server of ``origin.c``."""

    def argv(s: Setting) -> list[str]:
        path = s.folder / "resolv.conf"
        path.write_text(f"nameserver 127.0.0.1:{s.echo + 4}\n")
        shell = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        own = ("unshare", "-m") if os.getuid() == 0 else ("unshare", "-rm")
        return [*own, "sh", "-c", shell, str(path), *kind.argv(s)]

    return kind._replace(argv=argv)


def _with_users(kind: Kind, many: int) -> Kind:
    """All have one password and one hash of it, for making 100,000 takes minutes; it is checked
    for each all the same."""
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()

    def argv(s: Setting) -> list[str]:
        path = s.folder / "users"
        path.write_text("".join(f"user{n:06}:{hashed}\n" for n in range(many)))
        return [*kind.argv(s), "--htpasswd", str(path)]

    return kind._replace(argv=argv)


AXES = (
    Axis("hosts-get", "GET, kept alive, by hosts", "requests", ("haproxy", "squid"),
         _get("-k", "MANY")),
    Axis("hosts-connect", "CONNECT, by hosts", "finished", ("nginx-tunnel", "squid"),
         _connect()),
    Axis("names", "CONNECT, by names", "finished", (), _connect("-N"), _with_names),
    Axis("names-first", "CONNECT, by names, the first time", "finished", (), _connect("-N"),
         _with_names, first=True),
    Axis("users", "GET, kept alive, by users", "requests", (), _get("-u", "MANY"), _with_users),
    Axis("clients", "GET, a new connection each, by clients", "requests", ("haproxy", "squid"),
         _get("-C", "-s", "MANY")),
)  # fmt: skip


def measure(
    axis: Axis, kind: Kind, many: int, requests: int, servers: Origins, folder: Path
) -> float:
    """µs of the proxy for one. Wrong where an answer was."""
    limit = raise_limit()
    ports = servers.pages.port, servers.echo
    with started(axis.prepared(kind, many), *ports, 1, limit, folder) as proxy:
        # One host, so that what the proxy does once is not measured; or each of them once.
        warm = (1, FEW) if axis.first else (many, max(many, AT_ONCE))
        load.run(proxy, servers, axis.argv(proxy, servers, *warm), WARMING)
        count = many if axis.first else max(many, requests)
        report = load.run(proxy, servers, axis.argv(proxy, servers, many, count), WARMING)
        if report[axis.unit] != count:
            raise Wrong(f"{report[axis.unit]} {axis.unit}, not {count}")
        return float(report["proxy_cpu"]) / count * 1e6


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS, metavar="N",
                        help="of hosts, users and clients (default: %(default)s)")  # fmt: skip
    parser.add_argument("--axes", nargs="+", choices=[axis.name for axis in AXES],
                        help="what there are many of (default: each)")  # fmt: skip
    parser.add_argument("--requests", type=int, default=20_000, help="at least (default: 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    peers = sorted({name for axis in AXES for name in axis.peers})
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers,
                        help="to compare with, where they can (default: %(default)s)")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, help="folder for hosts.json and hosts.png")
    flags = parser.parse_args()
    if min(flags.numbers) < 1 or max(flags.numbers) > 1_000_000:
        parser.error("--numbers: 1 to 1000000 are allowed")
    leave_on_sigterm()
    wrong: list[str] = []
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    folder.chmod(0o755)
    axes = [axis for axis in AXES if not flags.axes or axis.name in flags.axes]
    try:
        with origins(folder, raise_limit()) as servers:
            for turn in range(flags.rounds):
                for axis in axes:
                    kinds = _kinds(axis, flags.peers)
                    for many in [n for n in flags.numbers if n >= FEW or not axis.first]:
                        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                            try:
                                cost = measure(axis, kind, many, flags.requests, servers, folder)
                            except (Wrong, RuntimeError) as error:
                                text = f"{kind.name}: {axis.what}, {many}: {error}"
                                print(f"WRONG: {text}", file=sys.stderr, flush=True)
                                if kind.name == OURS:
                                    wrong.append(text)
                                continue
                            at = found.setdefault(axis.name, {}).setdefault(kind.name, {})
                            at.setdefault(many, []).append(cost)
                            print(f"{axis.what}, {many}: {kind.name} {cost:.1f} µs", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(axes, found)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        described = machine.describe(" ".join(["python", *sys.argv]))
        result: dict[str, Any] = {"machine": described, "samples": found, "wrong": wrong}
        flags.out.joinpath("hosts.json").write_text(json.dumps(result, indent=1) + "\n")
        plots.by_number(
            flags.out / "hosts.png",
            [(axis.what, _medians(found.get(axis.name, {}))) for axis in axes],
            "CPU time of the proxy by how many hosts, users or clients there are",
        )
    return 1 if wrong else 0


def _kinds(axis: Axis, peers: list[str]) -> list[Kind]:
    names = [OURS, BEFORE, *(name for name in axis.peers if name in peers)]
    return [KINDS[name] for name in names if not KINDS[name].missing()]


def _medians(found: dict[str, dict[int, list[float]]]) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(float(many), statistics.median(costs)) for many, costs in by_number.items()]
        for name, by_number in found.items()
    }


def _show(axes: list[Axis], found: dict[str, dict[str, dict[int, list[float]]]]) -> None:
    for axis in axes:
        lines = _medians(found.get(axis.name, {}))
        numbers = sorted({many for line in lines.values() for many, _ in line})
        rows = [
            [name, *(number(dict(line).get(n)) for n in numbers)] for name, line in lines.items()
        ]
        head = [f"{axis.what}: µs", *(f"{int(n):,}" for n in numbers)]
        print("\n" + markdown(head, rows))


if __name__ == "__main__":
    sys.exit(main())
