"""Whether the policy functions can be loaded, found out before anything is listened on.

Each worker loads them for itself: what a module opens when it is imported must be no other
process's. So the supervisor, which the workers are forked from, never loads them. It has a child
try, which says what is wrong and ends.
"""

from __future__ import annotations

import os

from spliceproxy.config import NOTIFY_VARIABLE

MOST = 32 << 10
"""Bytes of what is wrong: they fit into a pipe that nobody reads yet (pipe(7))."""


def fault(hook: str) -> str:
    """What is wrong with them, as the text of a HookError; "" for nothing. What the module prints
    is left out, for each worker will print it again."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _try(hook, writer)
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


def _try(hook: str, writer: int) -> None:
    """Does not return."""
    status = 1
    os.environ.pop(NOTIFY_VARIABLE, None)  # what is started has nothing to say to the manager
    try:
        from spliceproxy.policy.functions import HookError, load

        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            load(hook)
        except HookError as error:
            os.write(writer, str(error).encode("utf-8", "backslashreplace")[:MOST])
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be done again, such as its buffers
