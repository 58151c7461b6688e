"""System calls by which a process gives up rights, and for which Python has no function."""

from __future__ import annotations

import ctypes
import os

_SET_DUMPABLE = 4
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT = 47
_CAP_AMBIENT_CLEAR_ALL = 4
"""Of prctl(2)."""

_CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def called(result: int) -> int:
    """The result of a call. OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def no_capabilities() -> None:
    """This process has none from here on. OSError."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    called(libc().capset(header, (ctypes.c_uint32 * 6)()))


def no_new_privileges() -> None:
    """No program that is started gets any, whoever owns it. OSError."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def dumpable() -> None:
    """The files of this process in /proc are its user's again, as if it were the user's from the
    start. OSError."""
    _prctl(_SET_DUMPABLE, 1)


def _prctl(option: int, value: int) -> None:
    long = ctypes.c_ulong
    called(libc().prctl(option, long(value), long(0), long(0), long(0)))
