"""Whether the terminal that a process was started from is gone (SIGHUP)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable

LOOK_AGAIN = 0.25
"""Seconds after SIGHUP at which the terminal is looked at once more: the signal may come a moment
before the kernel has taken the terminal from its processes."""


class Terminal:
    """The controlling terminal of this process, if it has one when this is made. With ``ignores``
    its end means nothing, as under nohup(1). ``gone`` is called where it is found to be gone behind
    :meth:`hung_up`."""

    def __init__(self, *, ignores: bool) -> None:
        self._had = _opens()
        self.ignores = ignores
        self._until = 0.0  # it is to be looked at then, time.monotonic()
        self.gone: Callable[[], None] = lambda: None

    def hung_up(self) -> bool:
        """SIGHUP has come; whether the terminal is gone, and that means something."""
        self._until = time.monotonic() + LOOK_AGAIN if self._had else 0.0
        return self._is_gone()

    def moments(self) -> Iterable[float]:
        """When it is looked at again."""
        return [self._until] if self._until else []

    def go_on(self) -> None:
        """Looks at it, when that is due."""
        if self._until and time.monotonic() >= self._until:
            self._until = 0.0
            if self._is_gone():
                self.gone()

    def _is_gone(self) -> bool:
        """It is gone once."""
        if not self._had or _opens():
            return False
        self._had, self._until = False, 0.0
        return not self.ignores


def _opens() -> bool:
    """Whether there is one: an error that says nothing of that leaves it as it is."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    return True
