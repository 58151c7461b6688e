"""A proxy for a long time under a load that comes and goes, while its settings change and its
program is started anew: whether memory, descriptors, pipes and sockets stay as they are.

    python perf/soak.py --minutes 30 -o perf/results/soak.json --plot perf/results/soak.png
    python perf/soak.py --minutes 2 --reload 5 --recycle 20 --upgrade 30

The load is that of the tests (tests/crowd_load.py), whose clients know each byte. Exit status 1 if
a client has noticed anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from crowd_load import CrowdLoad, Sizes
from rig import machine
from rig.changing import Changing, changing
from rig.process import leave_on_sigterm, raise_limit

from spliceproxy.admin.client import NoAnswer

STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT",
    7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING",
}  # fmt: skip
"""include/net/tcp_states.h of the kernel, as in /proc/net/tcp."""

SIZES = Sizes(
    busy=60, idle=40, half=10, websockets=5, slow=2, asking=4, closing=4, fleeting=8, bodies=2,
    pace=0.4,
)  # fmt: skip

Sample = dict[str, float]


def sample(proxy: Changing) -> Sample:
    """Of all processes: bytes of memory, descriptors, pipes, and sockets by their TCP state."""
    found: Counter[str] = Counter()
    inodes: set[str] = set()
    processes = proxy.processes
    for pid in processes:
        with contextlib.suppress(OSError):  # it may end meanwhile
            found["memory"] += _memory(pid)
            names = [_link(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            found["descriptors"] += len(names)
            found["pipes"] += len({name for name in names if name.startswith("pipe:")})
            inodes |= {name[8:-1] for name in names if name.startswith("socket:[")}
    found["processes"] = len(processes)
    for inode, state in _sockets():
        if inode in inodes:
            found[state] += 1
    return {name: float(number) for name, number in found.items()}


def _memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    return int(match[1]) * 1024 if match else 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _sockets() -> Iterator[tuple[str, str]]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}") as file:
            next(file)
            for line in file:
                fields = line.split()
                yield fields[9], STATES.get(int(fields[3], 16), fields[3])


class Changes:
    """What is done to the proxy, each at its own pace; how often it was done."""

    def __init__(self, proxy: Changing, settings: Path, flags: argparse.Namespace) -> None:
        self._proxy = proxy
        self._settings = settings
        self._number = 0
        now = time.monotonic()
        self._every = {"reload": flags.reload, "recycle": flags.recycle, "upgrade": flags.upgrade}
        self._due = {verb: now + seconds for verb, seconds in self._every.items()}
        self.done: Counter[str] = Counter()

    def go_on(self) -> list[str]:
        """Does what is due; says what that was."""
        done = []
        for verb, due in self._due.items():
            if time.monotonic() >= due:
                self._due[verb] = time.monotonic() + self._every[verb]
                done.append(self._do(verb))
        self.done.update(done)
        return done

    def _do(self, verb: str) -> str:
        self._number += 1
        bad = verb == "reload" and self._number % 4 == 0
        rule = f'[[rule]]\nid = "n{self._number}"\naction = "deny"\nhosts = ["n.example"]\n'
        self._settings.write_text("no-such-key = 1\n" if bad else rule)
        try:
            if verb == "upgrade":
                self._proxy.upgrade()
            else:
                self._proxy.order(verb)
        except NoAnswer as error:
            if bad or "still drains" in str(error):
                return f"{verb} refused"
            raise
        if bad:
            raise SystemExit("settings that make no sense were taken")
        return verb


def run(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it: samples by seconds since the start, and what has happened."""
    settings = folder / "settings.toml"
    settings.write_text("")
    args = [
        "--config", str(settings), "--workers", str(flags.workers), "--timeout-half-close", "36000",
        "--access-log", str(folder / "access"), "--log-format", "json",
    ]  # fmt: skip
    samples: list[tuple[float, Sample]] = []
    events: list[tuple[float, str]] = []
    with changing(folder, args) as proxy:
        load = CrowdLoad(("127.0.0.1", proxy.port), SIZES)
        changes = Changes(proxy, settings, flags)
        begun = time.monotonic()
        due = begun
        try:
            while (now := time.monotonic()) < begun + 60 * flags.minutes:
                events += [(now - begun, event) for event in changes.go_on()]
                if now >= due:
                    due = now + flags.every
                    samples.append((now - begun, sample(proxy) | {"answers": float(load.answers)}))
                    _tell(samples[-1], load)
                time.sleep(0.2)
            lost = load.finish()
        finally:
            load.close()
        messages = proxy.faults()
    return {
        "samples": samples, "events": events, "changes": dict(changes.done), "lost": dict(lost),
        "faults": load.faults[:100], "messages": messages[-100:], "answers": load.answers,
        "blocks": load.blocks, "longest": load.longest,
    }  # fmt: skip


def _tell(one: tuple[float, Sample], load: CrowdLoad) -> None:
    at, found = one
    print(
        f"{at:6.0f} s  memory {found['memory'] / (1 << 20):.1f} MiB, descriptors "
        f"{found['descriptors']:.0f}, pipes {found['pipes']:.0f}, established "
        f"{found.get('ESTABLISHED', 0):.0f}, answers {load.answers}, faults {len(load.faults)}",
        flush=True,
    )


def growth(samples: list[tuple[float, Sample]], name: str) -> tuple[float, float]:
    """The medians of the second quarter of the time, and of the last."""
    numbers = [one.get(name, 0.0) for _, one in samples]
    quarter = max(1, len(numbers) // 4)
    return statistics.median(numbers[quarter : 2 * quarter] or numbers), statistics.median(
        numbers[-quarter:]
    )


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = result["samples"]
    minutes = [at / 60 for at, _ in samples]
    figure, axes = pyplot.subplots(4, 1, figsize=(9, 11), sharex=True)
    states = [name for name in STATES.values() if any(name in one for _, one in samples)]
    panels = (
        ("MiB of memory", ["memory"], 1 << 20),
        ("descriptors", ["descriptors"], 1),
        ("pipes", ["pipes"], 1),
        ("sockets by state", states, 1),
    )
    for axis, (title, names, unit) in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(minutes, [one.get(name, 0) / unit for _, one in samples], label=name)
        for at, event in result["events"]:
            if event == "upgrade":
                axis.axvline(at / 60, color="#bbbbbb", linewidth=0.7, zorder=0)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    axes[-1].legend(fontsize="small", ncols=3)
    axes[-1].set_xlabel("minutes; a grey line is an upgrade")
    done = ", ".join(f"{count} x {name}" for name, count in result["changes"].items())
    axes[0].set_title(f"All processes of a proxy under load: {done}")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--reload", type=float, default=20, help="seconds between two reloads")
    parser.add_argument("--recycle", type=float, default=90)
    parser.add_argument("--upgrade", type=float, default=120)
    parser.add_argument("-o", type=Path, help="JSON of all samples")
    parser.add_argument("--plot", type=Path, help="a PNG of them")
    flags = parser.parse_args()
    leave_on_sigterm()
    raise_limit()
    with tempfile.TemporaryDirectory(prefix="spliceproxy-perf-") as folder:
        result = run(flags, Path(folder))
    for name in ("memory", "descriptors", "pipes", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT2"):
        early, late = growth(result["samples"], name)
        print(f"{name}: {early:.0f} in the second quarter, {late:.0f} in the last")
    print(f"changes: {result['changes']}; lost: {result['lost']}; answers: {result['answers']}")
    for line in (*result["faults"][:10], *result["messages"][:10]):
        print(line)
    if flags.o:
        described = machine.describe(" ".join(["python", *sys.argv]))
        flags.o.write_text(json.dumps({"machine": described, **result}, indent=1) + "\n")
    if flags.plot:
        plot(result, flags.plot)
    if result["lost"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
