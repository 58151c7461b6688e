"""What processes use: read from /proc (proc(5)), but for limits."""

from __future__ import annotations

import os
import re
import resource
import time
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LIMIT = re.compile(rb"^Max open files +([0-9]+)", re.MULTILINE)


class Usage(NamedTuple):
    """Of one process."""

    cpu: float  # seconds, user and system
    started: float  # seconds after the start of the machine
    memory: int  # resident bytes, with those that processes share
    threads: int
    descriptors: int  # open ones
    most_descriptors: int  # that it may have


def started_at(one: Usage) -> float:
    """When a process was started, Unix time."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + one.started


def usage(pid: int) -> Usage | None:
    """None where there is no such process any more, or it may not be looked at."""
    try:
        stat = _read(f"/proc/{pid}/stat")
        # The second field is a name in parentheses, and may have both in it.
        fields = stat[stat.rindex(b")") + 2 :].split()
        return Usage(
            cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
            started=int(fields[19]) / _TICKS,
            memory=int(fields[21]) * _PAGE,
            threads=int(fields[17]),
            descriptors=_descriptors(pid),
            most_descriptors=_limit(pid),
        )
    except (OSError, ValueError, IndexError):
        return None


def _descriptors(pid: int) -> int:
    """Linux 6.2 and later says the number as the size of the directory."""
    path = f"/proc/{pid}/fd"
    size = os.stat(path).st_size
    if size:
        return size
    try:
        with os.scandir(path) as each:
            return sum(1 for _ in each)
    except PermissionError:  # of the supervisor, where --user says who asks
        return 0


def _limit(pid: int) -> int:
    """The soft limit; 0 for none."""
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except PermissionError:  # that of another user can be read, but not by prlimit(2)
        found = _LIMIT.search(_read(f"/proc/{pid}/limits"))
        return int(found[1]) if found else 0
    return 0 if soft == resource.RLIM_INFINITY else soft


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
