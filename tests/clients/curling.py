"""Runs curl, and tells what it got."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from harness import need


class Got(NamedTuple):
    """``exit`` status; ``head`` is every head that came; ``info`` curl's own figures of the
    last URL; ``log`` its -v output."""

    exit: int
    head: str
    body: bytes
    info: dict[str, Any]
    log: str

    @property
    def status(self) -> int:
        return int(self.info["http_code"])


def curl_in(folder: Path) -> Callable[..., Got]:
    """A function that runs curl: ``curl(proxy URL or None, argument...)``."""
    program = need("curl")
    head, body = folder / "head", folder / "body"

    def run(proxy: str | None, *args: object, stdin: bytes | None = None) -> Got:
        for path in (head, body):
            path.write_bytes(b"")
        command = [program, "-q", "-sv", "--noproxy", "", "--max-time", "60"]
        command += ["-x", proxy] if proxy else []
        command += ["-D", str(head), "-o", str(body), "-w", "%{json}\n"]
        command += [str(arg) for arg in args]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=90)
        info = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        log = done.stderr.decode(errors="replace")
        return Got(done.returncode, head.read_text("latin-1"), body.read_bytes(), info, log)

    return run


def field(got: Got, name: str) -> list[str]:
    """The values of a field in all heads."""
    lines = [line.partition(": ") for line in got.head.splitlines()]
    return [value for key, _, value in lines if key.lower() == name.lower()]
