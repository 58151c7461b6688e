"""Whether the policy functions can be loaded, found out before anything is listened on; and whether
the user of the workers may use the files that the settings name.

Each worker loads the functions for itself: what a module opens when it is imported must be no other
process's. So the supervisor, which the workers are forked from, never loads them. It has a child
try, with the rights of a worker, which says what is wrong and ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.config import LISTEN_VARIABLE, NOTIFY_VARIABLE

if TYPE_CHECKING:
    from spliceproxy.processes.landlock import Domain
    from spliceproxy.processes.rights import Rights

MOST = 32 << 10
"""Bytes of what is wrong: they fit into a pipe that nobody reads yet (pipe(7))."""


class Needed(NamedTuple):
    """A file or folder that workers use: ``mode`` as of access(2). ``where`` has named it."""

    where: str
    path: str
    mode: int


def fault(hook: str, rights: Rights | None = None, domain: Domain | None = None) -> str:
    """What is wrong with them, as the text of a HookError; "" for nothing. What the module prints
    is left out, for each worker will print it again."""
    return _told(partial(_load, hook, domain), rights)


def refused(needed: Iterable[Needed], rights: Rights) -> list[str]:
    """A line for each that who has these rights may not use."""
    return _told(partial(_look, list(needed)), rights).splitlines()


def _told(work: Callable[[], str], rights: Rights | None) -> str:
    """What this says in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _try(work, rights, writer)
    os.close(writer)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:  # SIGCHLD is ignored: it has ended, and nobody knows how
        code = 0
    os.set_blocking(reader, False)  # what the module has started may hold the other end
    with open(reader, "rb", buffering=0) as file:
        text = (file.read(MOST) or b"").decode("utf-8", "replace")
    if code and not text:
        by = f"signal {-code}" if code < 0 else f"status {code}"
        return f"its import ends the process ({by})"
    return text


def _try(work: Callable[[], str], rights: Rights | None, writer: int) -> None:
    """Does not return."""
    status = 1
    for name in (NOTIFY_VARIABLE, LISTEN_VARIABLE):  # what is started has no part in them
        os.environ.pop(name, None)
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.write(writer, _said(work, rights).encode("utf-8", "backslashreplace")[:MOST])
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be done again, such as its buffers


def _said(work: Callable[[], str], rights: Rights | None) -> str:
    try:
        if rights is not None:
            rights.take()
    except OSError as error:
        return f"this process cannot have the rights of --user alone: {error.strerror}"
    return work()


def _load(hook: str, domain: Domain | None) -> str:
    from spliceproxy.policy.functions import HookError, load

    if domain is not None:
        from spliceproxy.processes import landlock

        landlock.enforce(domain)
    try:
        load(hook)
    except HookError as error:
        return str(error)
    return ""


def _look(needed: Iterable[Needed]) -> str:
    return "\n".join(
        f"{one.where} {one.path}: the user of the workers cannot "
        f"{'read' if one.mode & os.R_OK else 'write'} it; see --user"
        for one in needed
        if not os.access(one.path, one.mode)
    )
