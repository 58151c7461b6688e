"""The access log is opened anew, as logrotate wants it (SIGUSR1): by the workers of this program,
and by those of another that takes over from it, or drains behind it."""

from __future__ import annotations

import signal
from collections.abc import Callable

from spliceproxy.messages import log, plain
from spliceproxy.processes.children import Children
from spliceproxy.processes.state import State


class Reopening:
    """Of one supervisor. Each of ``others`` passes it on to another program, if there is one that
    nobody else tells."""

    def __init__(self, state: State, children: Children) -> None:
        self._state = state
        self._children = children
        self.others: list[Callable[[], None]] = []

    def on_signal(self, number: int) -> None:
        """SIGUSR1."""
        self.do()

    def do(self) -> None:
        """Tells all."""
        if self._state.rights is not None:
            try:
                self._state.rights.make_log(self._state.config.access_log)
            except OSError as error:
                log.error("access log: %s", plain(error))
        self._children.signal_workers(signal.SIGUSR1)
        for tell in self.others:
            tell()
