"""What it costs that a proxy is looked at: everything that observes, against nothing of it.

    python perf/observing.py                    # 15 rounds, about 15 minutes
    BEFORE=/old/bin/python python perf/observing.py --rounds 5 -o observing.json

One worker each, by turns: a proxy that writes no access log and has no admin address, and one with
everything of that (ON), whose admin address is asked for each of PATHS once a second. With BEFORE
another build of spliceproxy is measured, too, which may be one that counted nothing. CPU time is
that of all the proxy's processes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rig import machine, ratios
from rig.kinds import Kind, Setting
from rig.load import Stuck, Wrong
from rig.measures import MEASURES, Figures
from rig.origins import Origins, origins
from rig.ours import BEFORE, OURS
from rig.process import leave_on_sigterm, raise_limit
from rig.proxies import KINDS, Proxy, started
from rig.settings import Settings

NAMES = ("wrk-forward-small", "setup", "pingpong-100", "bulk-down-16")
ON = ("--access-log", "access.log", "--log-format", "json")
PATHS = ("/metrics", "/stats.json?since={since:.3f}")
EVERY = 1.0
"""Seconds between two looks at the admin address. The status page, while it is open, asks for what
is new ``since`` its last look, and a Prometheus that is in a hurry for the metrics."""

TOKEN = "benchmark-token-0123456789abcdef"
OBSERVED = f"{OURS}+observed"


def admin_port(setting: Setting) -> int:
    """One of the ports that only a relay needs."""
    return setting.port + 1


def observed(kind: Kind) -> Kind:
    """The same proxy with everything that observes."""

    def argv(s: Setting) -> list[str]:
        token = s.folder / "token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        address = ("--admin", f"127.0.0.1:{admin_port(s)}", "--admin-token-file", str(token))
        return [*kind.argv(s), *ON, *address]

    return kind._replace(name=OBSERVED, argv=argv, more="everything that observes")


class Watcher:
    """Asks an admin address for all of PATHS, in a thread, until it is stopped."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._wrong = ""
        self.answers = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wrong where an answer was not as it must be."""
        self._over.set()
        self._thread.join()
        if self._wrong:
            raise Wrong(self._wrong)

    def _watch(self) -> None:
        at = time.monotonic()
        since = 0.0
        while not self._wrong:
            now = time.time()
            for path in PATHS:
                self._fetch(path.format(since=since))
            since = now
            at += EVERY
            if self._over.wait(max(0.0, at - time.monotonic())):
                return

    def _fetch(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._wrong = f"admin {path}: {error}"
            return
        finally:
            connection.close()
        if answer.status != 200 or not body:
            self._wrong = f"admin {path}: status {answer.status}, {len(body)} bytes"
        self.answers += 1


@contextlib.contextmanager
def watched(proxy: Proxy) -> Iterator[None]:
    """Its admin address is asked meanwhile, if it has one."""
    if proxy.kind.name != OBSERVED:
        yield
        return
    watcher = Watcher(admin_port(proxy.setting))
    try:
        yield
    finally:
        watcher.stop()


def measure(name: str, kind: Kind, settings: Settings, servers: Origins, folder: Path) -> Figures:
    """Of one proxy's life."""
    (measured,) = (one for one in MEASURES if one.name == name)
    ports = servers.pages.port, servers.echo
    with started(kind, *ports, 1, settings.limit, folder) as proxy, watched(proxy):
        return measured.run(settings, servers, proxy)


def show(found: dict[str, dict[str, list[Figures]]], base: str = OURS) -> None:
    """A line for each: CPU time, and its ratio to that of the ``base``."""
    for name, by_kind in found.items():
        for kind, rows in by_kind.items():
            ratio = ratios.paired(rows, by_kind.get(base, []))
            cpu = statistics.median(row["cpu"] for row in rows)
            print(f"{name:18} {kind:22} {cpu:9.4g}  {ratio or '-'}")


Measured = Callable[[str, Kind, Settings, Origins, Path], Figures]


def rounds(
    kinds: Sequence[Kind],
    names: Sequence[str],
    settings: Settings,
    folder: Path,
    measure: Measured = measure,
) -> dict[str, dict[str, list[Figures]]]:
    """All figures, by measure and kind. ``measure`` makes those of one proxy's life."""
    found: dict[str, dict[str, list[Figures]]] = {}
    with origins(folder, settings.limit) as servers:
        for turn in range(settings.rounds):
            first = turn % len(kinds)
            for name in names:
                for kind in (*kinds[first:], *kinds[:first]):
                    try:
                        figures = measure(name, kind, settings, servers, folder)
                    except (Stuck, RuntimeError) as error:
                        print(f"{turn + 1} {name}: {kind.name}: {error}", file=sys.stderr)
                        continue
                    figures.pop("report", None)
                    rows = found.setdefault(name, {}).setdefault(kind.name, [])
                    rows.append({"round": turn, **figures})
                    text = f"{turn + 1} {name:18} {kind.name:22} {figures['cpu']:.4g}"
                    print(f"{text} others {figures['others']:.2f}", flush=True)
    return found


def compare(
    kinds: Sequence[Kind],
    names: Sequence[str],
    about: str | None,
    times: int,
    measure: Measured = measure,
    base: str = OURS,
) -> None:
    """The program that measures these kinds so many times, unless its arguments say otherwise."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=times)
    parser.add_argument("--seconds", type=float, default=3, help="of one measurement")
    parser.add_argument("--measures", nargs="+", choices=names, default=names)
    parser.add_argument("-o", type=Path, help="JSON of all figures")
    flags = parser.parse_args()
    leave_on_sigterm()
    limit = raise_limit()
    settings = Settings(flags.seconds, flags.rounds, 100, 1, 1, [], [], [], Path(), limit)
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    folder.chmod(0o755)
    try:
        found = rounds(kinds, flags.measures, settings, folder, measure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(found, base)
    if flags.o:
        described = machine.describe(" ".join(["python", *sys.argv]))
        result: dict[str, Any] = {"machine": described, "figures": found}
        flags.o.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    kinds = [KINDS[OURS], observed(KINDS[OURS])]
    if not KINDS[BEFORE].missing():
        kinds.append(KINDS[BEFORE])
    compare(kinds, NAMES, __doc__, 15)


if __name__ == "__main__":
    main()
