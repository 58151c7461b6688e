"""What a stalled download holds in the proxy's sockets, and what bulk costs, by the size of pipes.

    python perf/stalled.py -o stalled.json                  # about 5 minutes
    python perf/stalled.py --plot stalled.json stalled.png

For each size of pipes there is a proxy whose ways are never narrow, and one as it is. Downloads:
each client reads for a second and then no more; the figure is the mean of what is unread and of
what is unsent in the proxy's sockets. CPU time is the proxy's for a GB of tunnels down.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rig.build import program
from rig.process import free_ports, leave_on_sigterm, raise_limit, running
from rig.usage import cpu_seconds

SIZES = tuple(1024 * kib for kib in (64, 128, 256, 512, 1024))
NEVER = 10**6  # pipes lent, at which ways become narrow
RULES = ("never narrow", "as it is")
TUNNELS = (1, 16, 100)
DOWNLOADS = 100
QUIET = 2.0  # seconds until all buffers are full
PROXY = """
import sys
from spliceproxy.relay import interface, quota
quota.LARGEST = {size}
interface.CROWD = {crowd}
from spliceproxy.cli.main import main
sys.exit(main())
"""


def queues(proxy: int, origin: int) -> tuple[int, int]:
    """Bytes unread from the origin and unsent to clients, of all the proxy's sockets
    (proc_net_tcp in the kernel's documentation)."""
    unread = unsent = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, sizes = line.split()[:5]
        sent, received = (int(size, 16) for size in sizes.split(":"))
        ports = [int(address.split(":")[1], 16) for address in (local, remote)]
        if ports[1] == origin and ports[0] != proxy:
            unread += received
        if ports[0] == proxy:
            unsent += sent
    return unread, unsent


def stalled(proxy: int, origin: int) -> dict[str, float]:
    """MiB that a download holds after its client has stopped."""
    buffer = bytearray(1 << 20)
    with contextlib.ExitStack() as stack:
        chooser = stack.enter_context(selectors.DefaultSelector())
        for _ in range(DOWNLOADS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", proxy), 20))
            target = f"127.0.0.1:{origin}"
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = sock.recv(1)
                if not part:
                    raise RuntimeError(f"no tunnel: {head!r}")
                head += part
            chooser.register(sock, selectors.EVENT_READ)
        end = time.monotonic() + 1 + DOWNLOADS / 100
        while time.monotonic() < end:
            for key, _ in chooser.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.recv_into(buffer)
        time.sleep(QUIET)
        unread, unsent = queues(proxy, origin)
    return {"unread": unread / DOWNLOADS / 2**20, "unsent": unsent / DOWNLOADS / 2**20}


def bulk(pid: int, proxy: int, origin: int, tunnels: int, seconds: float) -> float:
    """CPU seconds for a GB."""
    before = cpu_seconds(pid)
    argv = [program("tunnel"), "bulk", str(proxy), str(origin), "-c", str(tunnels)]
    done = subprocess.run(
        [*argv, "-t", str(seconds), "-d", "down"], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    if figures["errors"] or not figures["bytes"]:
        raise RuntimeError(done.stdout)
    return (cpu_seconds(pid) - before) / figures["bytes"] * 1e9


def sample(size: int, rule: str, seconds: float, folder: Path) -> dict[str, float]:
    """All figures of one proxy of each."""
    figures: dict[str, float] = {}
    origin = free_ports(5)
    with running([program("origin"), str(origin)], folder, port=origin):
        for what in (0, *TUNNELS):
            proxy = free_ports(1)
            crowd: Any = NEVER if rule == RULES[0] else "interface.CROWD"
            code = PROXY.format(size=size, crowd=crowd)
            argv = [sys.executable, "-c", code, "--workers", "1", "--access-log", "off"]
            argv += ["--listen", f"127.0.0.1:{proxy}"]
            with running(argv, folder, port=proxy) as started:
                time.sleep(1)  # it loads what it did not need to listen
                if what:
                    cost = bulk(started.pid, proxy, origin + 1, what, seconds)
                    figures[f"cpu {what}"] = cost
                else:
                    figures |= stalled(proxy, origin + 1)
    return figures


def draw(samples: dict[str, Any], file: Path) -> None:
    """Bytes held on the left, CPU time on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (held, cost) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for rule, style in zip(RULES, ("--", "-"), strict=True):
        sizes = sorted(int(size) for size in samples[rule])
        kib = [size // 1024 for size in sizes]
        medians = [
            {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for rows in (samples[rule][str(size)] for size in sizes)
        ]
        values = [row["unread"] + row["unsent"] for row in medians]
        held.plot(kib, values, style, marker="o", color="#4477aa", label=rule)
        for tunnels, colour in zip(TUNNELS, ("#4477aa", "#ee6677", "#228833"), strict=True):
            values = [row[f"cpu {tunnels}"] for row in medians]
            label = f"{tunnels} tunnel{'s' * (tunnels > 1)}, {rule}"
            cost.plot(kib, values, style, marker="o", color=colour, label=label)
    for axes, title in (
        (held, "MiB that a stalled download holds"),
        (cost, "CPU seconds for a GB"),
    ):
        axes.set(title=title, xlabel="KiB of a pipe", xscale="log", ylim=(0, None))
        axes.set_xticks(kib, [str(size) for size in kib])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("-o", type=Path, help="JSON of all samples")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("JSON", "PNG"))
    flags = parser.parse_args()
    if flags.plot:
        draw(json.loads(flags.plot[0].read_text()), flags.plot[1])
        return
    leave_on_sigterm()
    raise_limit()
    samples: dict[str, dict[str, list[dict[str, float]]]] = {rule: {} for rule in RULES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(flags.rounds):
            for size in SIZES:
                for rule in RULES:
                    figures = sample(size, rule, flags.seconds, Path(folder))
                    samples[rule].setdefault(str(size), []).append(figures)
                    text = " ".join(f"{key} {value:.3g}" for key, value in figures.items())
                    print(f"{size // 1024:5} KiB {rule:13} {text}", flush=True)
                    if flags.o:
                        flags.o.write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    main()
