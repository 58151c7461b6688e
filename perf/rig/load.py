"""Runs a load program against a proxy: what it reports, what it cost, whether it was right."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .build import program
from .origins import Origins
from .proxies import Proxy
from .usage import cpu_seconds, machine_seconds

SPARE = 30.0  # seconds beyond its own that a load program may take
CHECKS = 50  # requests a second whose every byte is compared while wrk or siege run


class Wrong(Exception):
    """An answer, a count or bytes that are not as they must be; says which."""


class Stuck(Wrong):
    """A load program did not end, or a signal ended it: the fault is its own."""


class Target(NamedTuple):
    """What a GET asks for, and from whom."""

    port: int
    target: str  # of the request-line
    host: str
    file: Path  # with the bytes that must come
    credentials: str  # Proxy-Authorization, "" for none

    def checker(self, *options: str) -> list[str]:
        """``http.c``, which looks at every byte."""
        where = [str(self.port), self.target, self.host, str(self.file)]
        return [program("http"), *where, *options]


def target(proxy: Proxy, origins: Origins, page: str, backend: bool) -> Target:
    """Absolute form for the origin, or (``backend``) origin form for the proxy itself."""
    file = origins.pages.www / page
    if backend:
        return Target(proxy.port, f"/{page}", f"127.0.0.1:{proxy.port}", file, "")
    host = f"127.0.0.1:{origins.pages.port}"
    return Target(proxy.port, f"http://{host}/{page}", host, file, proxy.kind.credentials)


def fetch(asked: Target) -> None:
    """One GET from Python; Wrong for a bad answer."""
    connection = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=20)
    fields = {"Host": asked.host}
    if asked.credentials:
        fields["Proxy-Authorization"] = asked.credentials
    try:
        connection.request("GET", asked.target, headers=fields)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Wrong(f"GET {asked.target}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise Wrong(f"GET {asked.target}: status {answer.status}")
    if body != asked.file.read_bytes():
        raise Wrong(f"GET {asked.target}: wrong bytes")


def run(
    proxy: Proxy,
    origins: Origins,
    argv: Sequence[str],
    seconds: float,
    *,
    env: dict[str, str] | None = None,
    beside: Sequence[str] = (),
    spare: float = SPARE,
) -> dict[str, Any]:
    """What ``argv`` prints as JSON, with the CPU seconds of everyone.

    ``beside`` is a checker that runs at the same time; its requests are added. Wrong where
    one of them has seen an error. ``others`` is what else used the machine, in cores.
    """
    counted = {what: _settled(proxy, what) for what in proxy.kind.counts}
    proxy_before, origin_before = cpu_seconds(proxy.pid), origins.cpu_seconds()
    children, machine, begin = _children(), machine_seconds(), time.monotonic()
    env = {**os.environ, **(env or {})}
    if proxy.kind.credentials:
        env["PROXY_AUTHORIZATION"] = proxy.kind.credentials
    side = subprocess.Popen(beside, stdout=subprocess.PIPE, text=True, env=env) if beside else None
    try:
        report = parse_report(argv, _output(argv, seconds + spare, env))
        if side is not None:
            checked = parse_report(beside, side.communicate(timeout=SPARE)[0])
            report["checked"] = checked["requests"]
            report["requests"] += checked["requests"]
            report["bytes"] += checked["bytes"]
    finally:
        if side is not None and side.poll() is None:
            side.kill()
            side.wait()
    report["proxy_cpu"] = cpu_seconds(proxy.pid) - proxy_before
    report["origin_cpu"] = origins.cpu_seconds() - origin_before
    report["load_cpu"] = _children() - children
    spent = time.monotonic() - begin
    known = report["proxy_cpu"] + report["origin_cpu"] + report["load_cpu"]
    report["others"] = max(0.0, machine_seconds() - machine - known) / spent
    report["counted"] = {what: _settled(proxy, what) - n for what, n in counted.items()}
    return report


def check_counts(report: dict[str, Any], units: int, more: int = 0) -> None:
    """Wrong unless a function of the proxy has counted ``units``, or up to ``more`` above it:
    what was under way when the time was over."""
    for what, number in report["counted"].items():
        if not units <= number <= units + more:
            raise Wrong(f"{units} answers, but the function has counted {number} {what}")


def _settled(proxy: Proxy, what: str) -> int:
    """The count, once it has stood still; ends are told in batches."""
    before, now = -1, proxy.count(what)
    while before != now:
        time.sleep(0.1)
        before, now = now, proxy.count(what)
    return now


def _output(argv: Sequence[str], seconds: float, env: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise Stuck(f"{Path(argv[0]).name}: no end after {seconds:.0f} s") from None
    if done.returncode:
        error = Stuck if done.returncode < 0 else Wrong
        raise error(f"{Path(argv[0]).name}: {_end(done)}")
    return done.stdout


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """How a program ended, and its last words."""
    code = done.returncode
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    words = (done.stderr.strip() or done.stdout.strip())[-200:]
    return f"{how}: {words}" if words else how


def parse_report(argv: Sequence[str], text: str) -> dict[str, Any]:
    """The JSON object that the program printed last; Wrong if it tells of an error."""
    name = Path(argv[0]).name.partition("-")[0]  # built programs have a digest behind it
    found = re.search(r"\{[^{}]*\}\s*\Z", text)
    if found is None:
        raise Wrong(f"{name}: no report: {text.strip()[-200:]}")
    report: dict[str, Any] = json.loads(found[0])
    if name == "siege":
        report = _from_siege(report)
    if report.get("errors"):
        raise Wrong(f"{name}: {report['errors']} errors: {report['first_error']}")
    return report


def _from_siege(report: dict[str, Any]) -> dict[str, Any]:
    """siege's report in the words of the others; it rounds to hundredths of a MiB."""
    failures = report["failed_transactions"]
    other = report["transactions"] - report["successful_transactions"]
    return {
        "seconds": report["elapsed_time"],
        "requests": report["transactions"],
        "bytes": int((report["data_transferred"] + 0.01) * (1 << 20)),
        "p99_us": None,  # it does not say
        "errors": failures + other,
        "first_error": f"{failures} failed, {other} other statuses",
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
