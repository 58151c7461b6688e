"""The system calls of a running process, by strace."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness import need, wait_for

# PID CALL(...) = RESULT, also where another thread came between its two halves.
_CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?: resumed>|\().* = (-?\d+)", re.M)

MOVES = "recvfrom,sendto,recvmsg,sendmsg,read,write,readv,writev,splice,sendfile,tee"
"""Every call that could move payload."""


class Calls:
    """Filled when the tracing ends: how often each call succeeded, and its bytes."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()


def _sleeps(pid: int) -> bool:
    """Whether no thread of the process runs, or is stopped by its tracer (proc(5))."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)


@contextlib.contextmanager
def traced(pid: int, folder: Path, which: str = MOVES) -> Iterator[Calls]:
    """Traces these calls of the process and its threads meanwhile; as text they are in a file
    ``strace`` of the folder."""
    calls = Calls()
    out, err = folder / "strace", folder / "strace.err"
    command = [need("strace"), "-f", "-p", str(pid), "-e", f"trace={which}", "-s", "0"]
    with err.open("wb") as stderr:
        process = subprocess.Popen([*command, "-o", str(out)], stderr=stderr)
    try:
        wait_for(lambda: b"attached" in err.read_bytes() or process.poll(), "strace")
        if process.poll() is not None:
            raise RuntimeError(err.read_text())
        yield calls
        # What a call has done is seen before the tracer has noted its return: only a process
        # that waits for events again has been let go by the tracer after each call.
        wait_for(lambda: _sleeps(pid), "the end of the last call")
    finally:
        process.terminate()
        process.wait(20)
    for name, result in _CALL.findall(out.read_text()):
        if int(result) >= 0:
            calls.count[name] += 1
            calls.bytes[name] += int(result)
