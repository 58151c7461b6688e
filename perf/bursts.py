"""Small differences: proxies that all live, and a short load on each of them by turns.

    python perf/bursts.py 'limited=--config limits.toml' --measures setup
    python perf/bursts.py 'log=--access-log access.log' 'json=--access-log a --log-format json'

Each is spliceproxy with one worker and these arguments; the one that the others are compared with
has none of them, and is there twice: how far its second one is off is what no ratio tells more
than. With BEFORE another build of spliceproxy is measured, too. What else the machine does changes
within seconds, and meets all of one turn alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from rig import ratios
from rig.kinds import Kind, Setting
from rig.load import Stuck, Wrong
from rig.measures import MEASURES, Figures
from rig.origins import origins
from rig.ours import BEFORE, OURS
from rig.process import leave_on_sigterm, raise_limit
from rig.proxies import KINDS, started
from rig.settings import Settings

NAMES = ("wrk-forward-small", "close-small", "setup", "pingpong-100", "bulk-down-16")
AGAIN = f"{OURS}, again"


def with_arguments(text: str) -> Kind:
    """``NAME=ARGUMENTS``. A file that they name is where this program was started, and what they
    write is in the proxy's own folder. SystemExit(2)."""
    name, mark, given = text.partition("=")
    if not mark or not name:
        print(f"{text!r}: allowed: NAME=ARGUMENTS of spliceproxy", file=sys.stderr)
        raise SystemExit(2)
    more = [os.path.abspath(one) if os.path.isfile(one) else one for one in shlex.split(given)]
    plain = KINDS[OURS]

    def argv(setting: Setting) -> list[str]:
        return [*plain.argv(setting), *more]

    return plain._replace(name=name, argv=argv)


def burst(name: str, kinds: list[Kind], settings: Settings, folder: Path) -> list[list[Figures]]:
    """The figures of all turns, by kind. One that failed is not among them, and is told."""
    (measured,) = (one for one in MEASURES if one.name == name)
    found: list[list[Figures]] = [[] for _ in kinds]
    with origins(folder, settings.limit) as servers, contextlib.ExitStack() as stack:
        ports = servers.pages.port, servers.echo
        proxies = [
            stack.enter_context(started(kind, *ports, 1, settings.limit, folder)) for kind in kinds
        ]
        for turn in range(settings.rounds + 1):  # the first one warms up
            order = range(len(kinds)) if turn % 2 else reversed(range(len(kinds)))
            for at in order:
                try:
                    figures = measured.run(settings, servers, proxies[at])
                except (Stuck, Wrong) as error:
                    print(f"{turn} {name}: {kinds[at].name}: {error}", file=sys.stderr)
                    continue
                if turn:
                    found[at].append({**figures, "round": turn})
    return found


def show(name: str, kinds: list[Kind], found: list[list[Figures]]) -> None:
    """A line for each: CPU time, and its ratio to that of the first."""
    for kind, rows in zip(kinds, found, strict=True):
        if rows:
            cpu = statistics.median(row["cpu"] for row in rows)
            ratio = ratios.paired(rows, found[0])
            text = (
                "-" if ratio is None else f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            )
            print(f"{name:18} {kind.name:22} {cpu:9.4g}  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("proxy", nargs="*", metavar="NAME=ARGUMENTS")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--seconds", type=float, default=1, help="of one turn; wrk takes whole ones"
    )
    parser.add_argument("--measures", nargs="+", choices=NAMES, default=["setup"])
    flags = parser.parse_args()
    leave_on_sigterm()
    limit = raise_limit()
    plain = KINDS[OURS]
    kinds = [plain, *map(with_arguments, flags.proxy), plain._replace(name=AGAIN)]
    if not KINDS[BEFORE].missing():
        kinds.insert(1, KINDS[BEFORE])
    settings = Settings(flags.seconds, flags.rounds, 100, 1, 1, [], [], [], Path(), limit)
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    folder.chmod(0o755)
    try:
        for name in flags.measures:
            show(name, kinds, burst(name, kinds, settings, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
