"""SIGQUIT: a worker shows what it has, a line for each flow, on standard error.

The event loop makes the text, between two steps of the relay, and a thread writes it: whoever
does not read it stops nobody. Several workers may write at the same time, so each line begins
with the worker that it is of.
"""

from __future__ import annotations

import os
import time

from spliceproxy.messages import log
from spliceproxy.observe.linewriter import LineWriter
from spliceproxy.processes import logs
from spliceproxy.relay.driver import RelayDriver

MOST = 10_000
"""Flows that are shown; how many more there are is said."""

AGAIN = 0.25
"""Seconds in which a second signal is the same: a terminal sends SIGQUIT (Ctrl-\\) to each
process, and the supervisor passes its own on."""


class Dumps:
    """Of one worker."""

    def __init__(self, relay: RelayDriver) -> None:
        self._relay = relay
        self._writer: LineWriter | None = None
        self._last = -AGAIN  # monotonic seconds

    def show(self) -> None:
        """On SIGQUIT."""
        now = time.monotonic()
        if now - self._last < AGAIN:
            return
        self._last = now
        if self._writer is not None and not self._writer.ended.is_set():
            log.warning("SIGQUIT: nobody has read all that the last one shows; nothing is added")
            return
        prefix = f"worker {os.getpid()}: "
        lines = self._relay.dump(MOST).splitlines()
        text = "".join(f"{prefix}{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        self._writer = logs.beside(text, len(lines), "dump")
