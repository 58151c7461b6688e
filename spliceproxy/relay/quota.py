"""How many pipes of which size the limits of this user afford (pipe(7))."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
LARGEST = 1 << 20
SMALLEST = 64 * 1024
"""Sizes of a pipe in bytes. Splicing through 1 MiB takes half the CPU of 64 KiB."""

ENOUGH = 16
"""Pipes that the quota should afford before a larger size is chosen."""

RETRY = 1.0
"""Seconds after a pipe was refused until another is asked for."""

PRIVILEGED = 256
"""Pipes of a process for which no quota holds. They are 256 MiB when all are full, and that
takes as many ways whose receivers are slow."""


def _proc(name: str, default: int) -> int:
    """A number of /proc/sys/fs (proc(5)), or the kernel's default if it cannot be read."""
    try:
        return int(Path("/proc/sys/fs", name).read_text())
    except OSError:
        return default


def affordable(shares: int = 1) -> tuple[int, int]:
    """The size in bytes and the number of pipes that one process may use, from the limits in
    pipe(7).

    All processes of a user share the quota ``pipe-user-pages-soft``. Ours take half of it, and
    ``shares`` of them divide that. Where it is 0 there is no quota, and half of the kernel's
    default is the limit. The quota does not hold for a privileged process.
    """
    pages = (_proc("pipe-user-pages-soft", 16384) or 16384) // 2 // shares
    size = min(LARGEST, _proc("pipe-max-size", LARGEST))
    if _privileged():
        return size, PRIVILEGED
    while size > SMALLEST and pages * PAGE // size < ENOUGH:
        size //= 2
    return size, pages * PAGE // size


def _privileged() -> bool:
    """Whether it has CAP_SYS_RESOURCE or CAP_SYS_ADMIN (pipe(7), capabilities(7)). In a
    container they may not count: then pipes are refused, and ways copy as beyond any quota."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16)
    return bool(effective & (1 << 24 | 1 << 21))
