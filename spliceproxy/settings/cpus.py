"""How many CPUs this process may use, by its affinity and the CPU quotas of its cgroups."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_V2 = ("cpu.max",)
_OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc/self/mountinfo writes blanks
_DIGITS = re.compile(r"[0-9]+").fullmatch


class Quota(NamedTuple):
    """How many CPUs a cgroup may keep busy, fractions included, and the file that says so."""

    cpus: float
    file: str


def available(root: str = "/") -> tuple[int, str]:
    """The number of CPUs to use, at least 1, and the reason in a few words. ``root`` is where proc
    and the cgroups are looked for."""
    allowed = len(os.sched_getaffinity(0))
    faults: list[str] = []
    found = min(quotas(root, faults), default=None)
    why = "one per CPU that it may use"
    if found is not None and math.ceil(found.cpus) < allowed:
        allowed = max(1, math.ceil(found.cpus))
        why = f"the CPU quota of {found.cpus:g} in {found.file}"
    return allowed, "; ".join([why, *faults])


def quotas(root: str, faults: list[str]) -> Iterator[Quota]:
    """The quotas of this process's cgroups and of their ancestors, as far as they can be seen.

    Version 2 has them in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us (the
    kernel's Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst); where both are
    mounted, both are looked at. What cannot be read becomes a line of ``faults``.
    """
    try:
        groups = list(_groups(Path(root, "proc/self/cgroup").read_text("utf-8", "replace")))
        mounts = list(_mounts(Path(root, "proc/self/mountinfo").read_text("utf-8", "replace")))
    except OSError as error:
        faults.append(f"its cgroups are unknown ({error.strerror})")
        return
    for version, group in groups:
        files = _V1 if version == 1 else _V2
        for one, top, mounted in mounts:
            if one != version:
                continue
            for folder in _folders(group, top, mounted):
                quota = _read(Path(root, str(folder).lstrip("/")), files, faults)
                if quota is not None:
                    yield Quota(quota, str(folder / files[0]))
            break  # a second mount shows the same


def _groups(text: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Version and path of the cgroups that have a CPU controller, of /proc/self/cgroup
    (cgroups(7))."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(text: str) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """Version, cgroup at the top and mount point of the cgroup file systems, of
    /proc/self/mountinfo (proc(5))."""
    for line in text.splitlines():
        before, _, behind = line.partition(" - ")
        fields, types = before.split(" "), behind.split(" ")
        if len(fields) < 5 or len(types) < 3:
            continue
        top, mounted = (PurePosixPath(_unescaped(field)) for field in fields[3:5])
        if types[0] == "cgroup2":
            yield 2, top, mounted
        elif types[0] == "cgroup" and "cpu" in types[2].split(","):
            yield 1, top, mounted


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _folders(
    group: PurePosixPath, top: PurePosixPath, mounted: PurePosixPath
) -> Iterator[PurePosixPath]:
    """The folder of a cgroup and those of its ancestors, up to the mount point.

    In a container without a cgroup namespace the path is the host's, and so is ``top``. A path
    with ".." is outside of the namespace, and nothing of it can be seen.
    """
    if ".." in group.parts:
        return
    # If the mount does not hold the path, a container's runtime has made the mount for it.
    below = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
    folder = mounted / below
    yield folder
    while folder != mounted:
        folder = folder.parent
        yield folder


def _read(folder: Path, files: tuple[str, ...], faults: list[str]) -> float | None:
    """CPUs of the quota in the files of one cgroup. None: it has none."""
    words: list[str] = []
    for name in files:
        file = folder / name
        try:
            words += file.read_text("utf-8", "replace").split()
        except FileNotFoundError:  # the top cgroup of version 2, or the controller is off
            return None
        except OSError as error:
            faults.append(f"{file} is unreadable ({error.strerror})")
            return None
    if words[:1] in (["max"], ["-1"]):
        return None
    if len(words) != 2 or not all(map(_DIGITS, words)) or "0" in words:
        faults.append(f"{folder / files[0]} holds no CPU quota that can be read")
        return None
    return int(words[0]) / int(words[1])
