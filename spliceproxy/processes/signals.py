"""The signals that a proxy looks at, and what is said of those that mean nothing to it."""

from __future__ import annotations

import signal

from spliceproxy.messages import log

STOPS = (signal.SIGTERM, signal.SIGINT)
"""One of them begins a graceful stop; a second one stops at once."""

UNUSED = (signal.SIGUSR2,)
"""They end a process by default: one that is sent by mistake must not."""

LATER = (signal.SIGUSR1, signal.SIGQUIT, signal.SIGHUP, *UNUSED)
"""A worker that has not started yet ignores them. SIGUSR1 reopens its access log, SIGQUIT shows
its flows (:mod:`spliceproxy.processes.dumps`), and SIGHUP is for the supervisor, which reads the
settings again."""

_told: set[int] = set()


def name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def tell_unused(number: int) -> None:
    """Says once in a process that a signal means nothing here."""
    if number not in _told:
        _told.add(number)
        log.warning("%s is ignored: spliceproxy does nothing on it", name_of(number))
