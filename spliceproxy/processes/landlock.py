"""What workers and the admin process may still open: Landlock, landlock(7).

Each of them gives up all files but those that its work needs, for good. So a module of --policy, or
who takes over a worker, can read and write nothing else, whatever the user may. What is open
already stays so, and sockets are no files here. A domain cannot be widened: where a reload names
another folder, workers are replaced (:mod:`spliceproxy.processes.reloading`).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from spliceproxy.config import Config
from spliceproxy.messages import log
from spliceproxy.observe.standard import STANDARD
from spliceproxy.observe.syslog_address import is_syslog
from spliceproxy.processes.kernel import called, libc, no_new_privileges

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, by the numbers that they have on every machine."""

_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 5, 1 << 8, 1 << 14

HANDLED = ((1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
"""LANDLOCK_ACCESS_FS_ that each version of the interface knows, from 1 on; the last has what is
known here."""

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
USE = READ_FILE | WRITE_FILE  # of a device
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE

SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc",
    "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/systemd/userdb",
)  # fmt: skip
"""Programs and their libraries, time zones, names of users and hosts, certificates, and what the
process knows of itself."""

LINKS = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime")
"""What may be a link to somewhere else."""

DEVICES = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts",
)  # fmt: skip


class Place(NamedTuple):
    """A file or folder with all below it, and what may be done there. A folder that takes the
    place of another by the same name is another one."""

    path: str
    device: int
    inode: int
    access: int


OWN = Place("/proc/self", 0, 0, READ | WRITE_FILE | TRUNCATE)
"""What a process says of itself, such as its name: by the link that is another for each."""

Domain = frozenset[Place]
"""What a process may open."""


def version() -> int:
    """Of the kernel's interface; 0 where there is none, or it is turned off."""
    found = libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    return max(0, int(found))


class Confinement:
    """Of one proxy. ``coming`` is another configuration, which is to be in force soon."""

    def __init__(self) -> None:
        self.coming: Config | None = None

    def domain(self, config: Config) -> Domain:
        """For a process that begins with this one."""
        found = set(_places(config))
        if self.coming is not None:
            found.update(_places(self.coming))
        return frozenset(one for one in found if not any(_is_within(one, other) for other in found))


def wanted(config: Config) -> bool:
    """Whether processes are to be confined. ValueError: they are to be, and cannot."""
    if version():
        return True
    if config.landlock == "require":
        raise ValueError(
            "--landlock require: this kernel has no Landlock, or it is turned off; allowed: auto, "
            "off, or a kernel that has it (lsm=landlock,... at its start)"
        )
    log.debug("Landlock: this kernel has none, so workers may open what their user may")
    return False


def enforce(domain: Iterable[Place]) -> None:
    """This process opens nothing else from here on. OSError."""
    handled = HANDLED[min(version(), len(HANDLED)) - 1]
    attributes = struct.pack("Q", handled)
    ruleset = called(
        libc().syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    )
    try:
        for place in (*domain, OWN):
            _allow(ruleset, place, handled)
        no_new_privileges()
        called(libc().syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, place: Place, handled: int) -> None:
    try:
        fd = os.open(place.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # its user may not reach it, or it has gone: then there is nothing to allow
    try:
        access = place.access & handled
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, fd)
        called(libc().syscall(ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(fd)


def _places(config: Config) -> Iterator[Place]:
    for access, paths in ((READ, _read(config)), (WRITE, _written(config)), (USE, DEVICES)):
        for path in paths:
            try:
                found = os.stat(path)
            except OSError:
                continue
            yield Place(os.path.realpath(path), found.st_dev, found.st_ino, access)


def _is_within(one: Place, other: Place) -> bool:
    """Whether what the other allows holds for this one, too."""
    within = one.path.startswith(f"{other.path}/") or (one.path == other.path and one != other)
    return within and one.access | other.access == other.access


def _read(config: Config) -> Iterator[str]:
    yield from SYSTEM
    for link in LINKS:
        if os.path.islink(link):
            yield _folder(os.path.realpath(link))
    # The program, and Python. A working folder that is the root stands for no modules.
    yield os.path.dirname(os.path.dirname(__file__))
    for path in (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path):
        if os.path.abspath(path) != "/":
            yield os.path.abspath(path)
    hook, py, _ = config.policy.hook.rpartition(".py")
    files = (
        Path(hook + py) if py else None,
        config.auth.htpasswd,
        config.auth.users_file,
        config.policy.locked,
        config.admin.token_file,
        *(parent.ca_file for parent in config.routing.parents.values()),
        config.names.hosts,
    )
    # Such a file is replaced by another, so its folder is what counts.
    yield from (_folder(str(path)) for path in files if path is not None)
    if config.serve is not None:
        yield str(config.serve)
    yield from map(str, config.landlock_read)


def _written(config: Config) -> Iterator[str]:
    log = config.access_log
    if log != "off" and log not in STANDARD and not is_syslog(log):
        # A file is rotated, so its folder is what counts; a device or a pipe stays where it is.
        there = os.path.exists(log) and not os.path.isfile(log)
        yield log if there else _folder(log)
    if config.policy.learn is not None:
        yield _folder(str(config.policy.learn))
    yield from map(str, config.landlock_write)


def _folder(path: str) -> str:
    """Where a file is; the file itself where that is the root of all."""
    folder = os.path.dirname(path)
    return path if folder == "/" else folder
