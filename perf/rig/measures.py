"""What bench.sh measures, and the figures that come of it.

A figure is a dictionary: ``rate`` (per second), ``cpu`` (of the proxy, for one unit),
``p99`` (ms) and, in cores, what ``load``, ``origin`` and ``others`` used meanwhile.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from . import http_load, load, stalled, usage
from .kinds import Kind
from .load import Wrong
from .origins import PAGES, Origins
from .ours import BEFORE, OURS
from .proxies import C_LOOP, DIRECT, Proxy
from .settings import Settings

Figures = dict[str, Any]

SMALL = "small.html"
REST = 1.6  # seconds after which a tunnel is idle for good (spliceproxy.relay.interface.REST)
ACTIVE = 100  # one idle tunnel in so many is active at the end
AT_ONCE = 64  # tunnels that are being set up
ADDRESSES = 8  # hosts, where they are not what is measured
GET_HOSTS = 1000
PACE = 800  # requests a second: each of GET_HOSTS is asked for less than once a second
CONNECT_HOSTS = 20_000
STALLED = 100


class Measure(NamedTuple):
    """``rate`` and ``cpu`` are the units of the figures of these names."""

    name: str
    what: str
    rate: str
    cpu: str
    suits: Callable[[Kind], bool]
    run: Callable[[Settings, Origins, Proxy], Figures]


def _forwards(kind: Kind) -> bool:
    return kind.forwards and not kind.more


def _forwards_small(kind: Kind) -> bool:
    return kind.forwards


def _tunnels(kind: Kind) -> bool:
    return kind.tunnels and not kind.more


def _tunnels_often(kind: Kind) -> bool:
    return kind.tunnels


def _sieged(kind: Kind) -> bool:
    return _forwards(kind) and kind.name != DIRECT  # so fast that siege often hangs itself


def _ours(kind: Kind) -> bool:
    return kind.name in (OURS, BEFORE)


def _bodies(kind: Kind) -> bool:
    return _forwards(kind) and not kind.closes


def _stalls(kind: Kind) -> bool:
    return _tunnels(kind) and kind.name not in (DIRECT, C_LOOP)


def _figures(report: dict[str, Any], rate: float, units: float, scale: float) -> Figures:
    """``rate`` counts in all, ``units`` are what the CPU time is for."""
    seconds = report["seconds"]
    p99 = report.get("p99_us")
    return {
        "rate": rate / seconds,
        "cpu": report["proxy_cpu"] / units * scale,
        "p99": None if p99 is None else p99 / 1e3,
        "load": report["load_cpu"] / seconds,
        "origin": report["origin_cpu"] / seconds,
        "others": report["others"],
        "report": report,
    }


def _requests(report: dict[str, Any]) -> Figures:
    return _figures(report, report["requests"], report["requests"], 1e6)


def _bytes(report: dict[str, Any]) -> Figures:
    return _figures(report, report["bytes"] / 1e9, report["bytes"], 1e9)


def _get(page: str, tool: Callable[..., dict[str, Any]], backend: bool = False) -> Measure:
    size = PAGES[page]
    big = size >= 100_000
    label = f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else "1 MiB"
    how = "--default-backend" if backend else "forwarded"

    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        report = tool(proxy, origins, page, settings.conc, settings.duration, backend)
        return _bytes(report) if big else _requests(report)

    return Measure(
        f"{tool.__name__}-{'backend' if backend else 'forward'}-{page.partition('.')[0]}",
        f"{tool.__name__}: GET {label}, {how}",
        "GB/s" if big else "req/s",
        "s/GB" if big else "µs/req",
        _suits(page, tool, backend),
        run,
    )


def _suits(page: str, tool: Callable[..., Any], backend: bool) -> Callable[[Kind], bool]:
    if backend:
        return _ours
    if tool is http_load.siege:
        return _sieged
    return _forwards_small if page == SMALL else _forwards


def _close(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
    return _requests(
        http_load.all_checked(proxy, origins, SMALL, settings.conc, settings.duration, close=True)
    )


def _many(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
    report = http_load.wrk(proxy, origins, SMALL, settings.conc, settings.duration, hosts=GET_HOSTS)
    return _requests(report)


def _paced(hosts: int) -> Callable[[Settings, Origins, Proxy], Figures]:
    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        options = settings.conc, settings.duration, PACE, hosts
        return _requests(http_load.paced(proxy, origins, SMALL, *options))

    return run


def _post(size: int, conc: int) -> Callable[[Settings, Origins, Proxy], Figures]:
    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        return _requests(http_load.post(proxy, origins, size, conc, settings.duration))

    return run


def _setup(hosts: int) -> Callable[[Settings, Origins, Proxy], Figures]:
    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        options = ("-c", str(AT_ONCE), "-t", str(settings.duration), "-k", str(hosts))
        report = load.run(proxy, origins, proxy.tunnel("setup", 0, *options), settings.duration)
        load.check_counts(report, report["finished"], AT_ONCE)
        return _figures(report, report["finished"], report["finished"], 1e6)

    return run


def _stalled(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
    """MiB for one download; ``cpu`` and ``rate`` are none, for it is mostly rest."""
    held = stalled.measure(origins, proxy, STALLED)
    each = {name: size / STALLED / (1 << 20) for name, size in held._asdict().items()}
    return {"held": sum(each.values()), **each}


def _bulk(tunnels: int, way: str) -> Callable[[Settings, Origins, Proxy], Figures]:
    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        options = ("-c", str(tunnels), "-t", str(settings.duration), "-d", way)
        argv = proxy.tunnel("bulk", 1 if way == "down" else 2, *options)
        report = load.run(proxy, origins, argv, settings.duration)
        return {**_bytes(report), "p99": None}

    return run


def _pingpong(tunnels: int) -> Callable[[Settings, Origins, Proxy], Figures]:
    def run(settings: Settings, origins: Origins, proxy: Proxy) -> Figures:
        options = ("-c", str(tunnels), "-t", str(settings.duration))
        report = load.run(proxy, origins, proxy.tunnel("pingpong", 0, *options), settings.duration)
        return _figures(report, report["messages"], report["messages"], 1e6)

    return run


def _all() -> list[Measure]:
    found = []
    for backend in (False, True):
        tools = [tool for tool in (http_load.wrk, http_load.siege)
                 if http_load.installed(tool.__name__)]  # fmt: skip
        for tool in tools:
            pages = PAGES if tool is http_load.wrk else [SMALL]
            found += [_get(page, tool, backend) for page in pages]
    close = "GET 330 B, forwarded, a new connection each"
    found.append(Measure("close-small", close, "req/s", "µs/req", _forwards_small, _close))
    if http_load.installed("wrk"):
        what = f"wrk: GET 330 B, forwarded, {GET_HOSTS:,} hosts by turns"
        found.append(Measure("wrk-many-small", what, "req/s", "µs/req", _bodies, _many))
    for name, hosts in (("paced-small", 1), ("paced-many-small", GET_HOSTS)):
        what = f"GET 330 B, forwarded, {PACE} a second"
        what += f", {hosts:,} hosts by turns" if hosts > 1 else ""
        found.append(Measure(name, what, "req/s", "µs/req", _bodies, _paced(hosts)))
    for name, size, conc in (("post-1k", 1 << 10, 100), ("post-128k", 128 << 10, 32)):
        what = f"POST {size >> 10} KiB, {conc} connections"
        found.append(Measure(name, what, "req/s", "µs/req", _bodies, _post(size, conc)))
    for name, hosts, suits in (
        ("setup", ADDRESSES, _tunnels_often),
        ("setup-many", CONNECT_HOSTS, _tunnels),
    ):
        what = f"CONNECT, 32 bytes echoed, close; {AT_ONCE} at a time"
        what += f", {hosts:,} hosts by turns" if hosts > ADDRESSES else ""
        found.append(Measure(name, what, "tunnels/s", "µs/tunnel", suits, _setup(hosts)))
    for tunnels, way in ((1, "down"), (16, "down"), (16, "up")):
        plural = "s" if tunnels > 1 else ""
        what = f"{tunnels} tunnel{plural}, {way}load"
        name = f"bulk-{way}-{tunnels}"
        found.append(Measure(name, what, "GB/s", "s/GB", _tunnels, _bulk(tunnels, way)))
    for tunnels in (1, 100):
        what = f"64-byte ping-pong, {tunnels} tunnel{'s' if tunnels > 1 else ''}"
        name = f"pingpong-{tunnels}"
        run = _pingpong(tunnels)
        found.append(Measure(name, what, "msg/s", "µs/msg", _tunnels, run))
    what = f"{STALLED} downloads that their clients stop reading"
    found.append(Measure("stalled", what, "", "", _stalls, _stalled))
    return found


MEASURES = _all()


def swept(kind: Kind) -> bool:
    """Whether it is measured with many clients at once."""
    return _forwards(kind) or kind.name == f"{OURS}+function"


def sweep_step(settings: Settings, origins: Origins, proxy: Proxy, clients: int) -> Figures:
    """``clients`` kept-alive clients at once, every byte compared."""
    seconds = settings.duration
    return _requests(http_load.all_checked(proxy, origins, SMALL, clients, seconds))


def idle(origins: Origins, proxy: Proxy, steps: list[int]) -> Figures:
    """Memory of idle tunnels, in one life of a proxy: ``points`` are (tunnels, bytes above
    what it had without), then an echo on one tunnel in ACTIVE of the last step."""
    argv = proxy.tunnel("idle", 0, "-c", str(steps[-1]), "-t", "2")
    start = usage.pss(proxy.pid)
    points: list[tuple[int, int]] = []
    why, quiet, fds, reply = "", 0.0, 0, ""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for step in steps:
            client.stdin.write(f"open {step}\n")
            client.stdin.flush()
            words = client.stdout.readline().split(None, 4)
            if len(words) < 4 or int(words[1]) < step:
                why = f"{words[1]} of {step} tunnels: {' '.join(words[4:]).strip()}"
                break
            time.sleep(REST)
            points.append((step, usage.pss(proxy.pid) - start))
        if points and not why:
            before = usage.cpu_seconds(proxy.pid)
            time.sleep(2)
            quiet = usage.cpu_seconds(proxy.pid) - before
            fds = usage.descriptors(proxy.pid)
            client.stdin.write(f"ping {max(1, steps[-1] // ACTIVE)}\n")
            client.stdin.flush()
            reply = client.stdout.readline()
        client.stdin.close()
    if not points:
        raise Wrong(f"tunnel: {why}")
    report = load.parse_report(argv, reply) if reply else {}
    return {
        "points": points,
        "bytes": points[-1][1] / points[-1][0],
        "descriptors": fds / points[-1][0],
        "idle_cpu": quiet / 2,
        "p99": report["p99_us"] / 1e3 if report else None,
        "stopped": why,
    }
