"""What the figures were measured on, and with which programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .kinds import find
from .ours import BEFORE

_VERSIONS = {
    "spliceproxy": (sys.executable, "-m", "spliceproxy", "--version"),
    "haproxy": ("haproxy", "-v"),
    "squid": ("squid", "-v"),
    "tinyproxy": ("tinyproxy", "-v"),
    "apache": ("apache2", "-v"),
    "trafficserver": ("traffic_server", "-V"),
    "proxy.py": ("proxy", "--version"),
    "pproxy": ("pproxy", "--version"),
    "nginx": ("nginx", "-v"),
    "nginx-tunnel": ("nginx-1.31", "-v"),
    "spliceproxy-before": (BEFORE, "-m", "spliceproxy", "--version"),
    "wrk": ("wrk", "-v"),
    "siege": ("siege", "-V"),
    "cc": ("cc", "--version"),
}


def describe(command: str) -> dict[str, str]:
    """Machine, kernel, versions and the command."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor[1] if processor else platform.machine(),
        "CPUs": str(len(os.sched_getaffinity(0))),
        "memory": f"{pages / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "command": command,
        **{name: text for name, argv in _VERSIONS.items() if (text := _version(argv))},
    }


def _version(argv: Sequence[str]) -> str:
    """The first line that it prints with a digit; "" if it is not installed."""
    path = find(argv[0])
    if path is None:
        return ""
    home = {**os.environ, "HOME": "/nonexistent"}  # siege would make files there
    try:
        done = subprocess.run(
            [path, *argv[1:]], capture_output=True, text=True, timeout=20, env=home, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    for line in (done.stdout + done.stderr).splitlines():
        if re.search(r"\d\.\d", line):
            return line.strip()[:100]
    return ""
