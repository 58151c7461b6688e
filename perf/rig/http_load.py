"""GET through a proxy by wrk, siege and ``http.c``: every status, length and count checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from . import load
from .load import Stuck, Target, Wrong
from .origins import PAGES, Origins
from .proxies import Proxy

WRK = Path(__file__).parent.parent / "load" / "wrk.lua"

SIEGES = 3  # attempts
SPARE = 15.0  # seconds that wrk or siege may take beyond their own

_SIEGE = """\
verbose = false
quiet = true
color = off
json_output = true
protocol = HTTP/1.1
connection = keep-alive
accept-encoding = identity
parser = false
cache = false
logging = false
show-logfile = false
benchmark = true
delay = 0
timeout = 20
failures = 1000000
concurrent = {conc}
limit = {conc}
time = {seconds}S
{proxy}
"""


def wrk(
    proxy: Proxy,
    origins: Origins,
    page: str,
    conc: int,
    seconds: float,
    backend: bool = False,
    hosts: int = 1,
) -> dict[str, Any]:
    """One thread of wrk on kept-alive connections, for so many hosts by turns."""
    asked = load.target(proxy, origins, page, backend)
    argv = ["wrk", "-t1", f"-c{conc}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    argv += ["-s", str(WRK), f"http://127.0.0.1:{asked.port}"]
    env = {"TARGET": asked.target, "HOST": asked.host, "HOSTS": str(hosts)}
    report = _counted(proxy, origins, asked, argv, conc, seconds, env)
    if report["broken"] and not proxy.kind.closes:
        raise Wrong(f"wrk: {report['broken']} connections broke")
    return report


def siege(
    proxy: Proxy, origins: Origins, page: str, conc: int, seconds: float, backend: bool = False
) -> dict[str, Any]:
    """siege, a thread for each connection. Now and then it waits for its own threads for
    ever, or cancels one that holds a lock or half a structure and crashes, also without a
    proxy: then it is run again."""
    asked = load.target(proxy, origins, page, backend)
    lines = ""
    if not backend and proxy.pid:
        lines = f"proxy-host = 127.0.0.1\nproxy-port = {proxy.port}"
    home = proxy.setting.folder / "siege"
    (home / ".siege").mkdir(parents=True, exist_ok=True)
    (home / ".siege" / "siege.conf").touch()  # or it makes one, and has many words about it
    settings = home / "siegerc"
    settings.write_text(_SIEGE.format(conc=conc, seconds=max(1, round(seconds)), proxy=lines))
    url = f"http://{asked.host}/{page}"
    argv = ["siege", "-R", str(settings), url]
    env = {"HOME": str(home)}
    for _ in range(SIEGES - 1):
        try:
            return _counted(proxy, origins, asked, argv, conc, seconds, env)
        except Stuck:
            continue
    return _counted(proxy, origins, asked, argv, conc, seconds, env)


def all_checked(
    proxy: Proxy, origins: Origins, page: str, conc: int, seconds: float, close: bool = False
) -> dict[str, Any]:
    """``http.c``, which compares every byte and waits for every answer."""
    asked = load.target(proxy, origins, page, False)
    options = ["-c", str(conc), "-t", str(seconds), *(["-C"] if close else [])]
    before = origins.pages.requests()
    report = load.run(proxy, origins, asked.checker(*options), seconds)
    if not close and report["opened"] != conc:
        raise Wrong(f"{report['opened']} of {conc} connections")
    if report["retries"] and not proxy.kind.closes:
        raise Wrong(f"{report['retries']} kept-alive connections ended before an answer")
    _check_count(report, origins.pages.requests() - before, int(report["retries"]))
    return report


def paced(
    proxy: Proxy, origins: Origins, page: str, conc: int, seconds: float, rate: int, hosts: int
) -> dict[str, Any]:
    """So many requests a second in all, by ``http.c``, for so many hosts by turns, each of which
    has been asked before."""
    asked = load.target(proxy, origins, page, False)
    options = ["-c", str(conc), "-k", str(hosts)]
    load.run(proxy, origins, asked.checker(*options, "-n", str(max(hosts, conc))), SPARE)
    before = origins.pages.requests()
    options += ["-t", str(seconds), "-r", str(rate)]
    report = load.run(proxy, origins, asked.checker(*options), seconds)
    _check_count(report, origins.pages.requests() - before, int(report["retries"]))
    return report


def post(proxy: Proxy, origins: Origins, size: int, conc: int, seconds: float) -> dict[str, Any]:
    """POST with ``size`` bytes on kept-alive connections; the origin compares every byte."""
    options = ["-c", str(conc), "-t", str(seconds), "-b", str(size)]
    before = origins.bodies()
    report = load.run(proxy, origins, poster(proxy, origins).checker(*options), seconds)
    _check_count(report, origins.bodies() - before, 0)
    return report


def poster(proxy: Proxy, origins: Origins) -> Target:
    """The origin that takes bodies."""
    port = origins.echo + 3
    host = f"127.0.0.1:{port}"
    to = proxy.port if proxy.pid else port
    return Target(to, f"http://{host}/", host, origins.taken, proxy.kind.credentials)


def installed(name: str) -> bool:
    """Whether wrk or siege can be run."""
    return shutil.which(name) is not None


def _counted(
    proxy: Proxy,
    origins: Origins,
    asked: Target,
    argv: list[str],
    conc: int,
    seconds: float,
    env: dict[str, str],
) -> dict[str, Any]:
    """With a checker beside it, and the origin's count."""
    beside = asked.checker("-c", "1", "-r", str(load.CHECKS), "-t", str(seconds))
    before = origins.pages.requests()
    report = load.run(proxy, origins, argv, seconds, env=env, beside=beside, spare=SPARE)
    size = PAGES[asked.file.name]
    if report["bytes"] < report["requests"] * size:
        raise Wrong(f"{report['bytes']} bytes in {report['requests']} answers of {size}")
    # What was under way when the time was over has been asked for, and is not counted.
    _check_count(report, origins.pages.requests() - before, conc)
    return report


def _check_count(report: dict[str, Any], seen: int, more: int) -> None:
    """The origin must have seen each request once."""
    answered = int(report["requests"])
    if not answered:
        raise Wrong("no answer at all")
    if not answered <= seen <= answered + more:
        raise Wrong(f"{answered} answers, but the origin has counted {seen} requests")
    load.check_counts(report, answered, more)
