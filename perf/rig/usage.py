"""What /proc says of a program with all its processes: CPU time, memory, descriptors.

CPU time is read from the CPU clock of each process (clock_getcpuclockid(3)): the same
count as utime + stime of /proc/PID/stat, threads that have ended included, but in
nanoseconds where that file has hundredths of a second. To it comes what /proc/PID/stat says
of children that have ended.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # kernel: include/linux/posix-timers.h


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); empty for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    fields = stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def tree(top: int) -> list[int]:
    """``top`` and its descendants that live."""
    found = [top] if stat(top) else []
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # the thread has ended
                continue
    return found


def cpu_seconds(top: int) -> float:
    """User and system time of the tree so far."""
    total = 0.0
    for pid in tree(top):
        try:
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError:
            continue  # it has ended: its parent counts it now
        total += sum(int(ticks) for ticks in stat(pid)[13:15]) / TICK
    return total


def pss(top: int) -> int:
    """Bytes of memory of the tree, shared pages by their share (smaps_rollup of proc(5))."""
    total = 0
    for pid in tree(top):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)
        total += int(found[1]) * 1024 if found else 0
    return total


def descriptors(top: int) -> int:
    """Open descriptors of the tree."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(top))


def machine_seconds() -> float:
    """CPU time that everybody on this machine has used so far, stolen time included."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def available_memory() -> int:
    """MemAvailable of /proc/meminfo, bytes."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0
