"""Builds the programs of ``perf/load`` when they are asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "load"
FLAGS = ("-O2", "-Wall", "-Wextra", "-std=gnu11")


def cache_folder() -> Path:
    """The folder of the built programs: in XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "spliceproxy-perf")


@cache
def program(name: str) -> str:
    """The path of ``perf/load/NAME.c``, compiled; SystemExit where that fails."""
    source = SOURCES / f"{name}.c"
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("cc: not found; install a C compiler (Debian: apt-get install gcc)")
    parts = [source.read_bytes(), (SOURCES / "common.h").read_bytes(), " ".join(FLAGS).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    target = cache_folder() / f"{name}-{digest}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, name)  # renamed at the end: others may build it too
            done = subprocess.run(
                [compiler, *FLAGS, "-o", str(made), str(source)], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"cc cannot build {source}:\n{done.stderr}")
            made.replace(target)
    return str(target)
