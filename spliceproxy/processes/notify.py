"""What a service manager is told, and how: sd_notify(3), one datagram for each state.

The socket is that of NOTIFY_SOCKET: a path, or a name in the abstract namespace (unix(7)) that is
written with ``@`` in front. Nobody waits here. What finds no room is sent later, in its order.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Mapping

from spliceproxy.config import NOTIFY_VARIABLE, WATCHDOG_VARIABLE
from spliceproxy.messages import log, plain

KEPT = 32
"""States that wait until there is room. Beyond them the oldest is lost."""

WATCHDOG_SECONDS = "WATCHDOG_USEC"
VARIABLES = (NOTIFY_VARIABLE, WATCHDOG_SECONDS, WATCHDOG_VARIABLE)
"""What the manager says by the environment. It is for the supervisor alone, and not for its
children, nor for what they start."""

STATUS_MOST = 500
"""Characters of a sentence: systemd refuses datagrams that are too long, and shows one line."""

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


class Sender:
    """To the socket of this ``address``. ValueError: it is none that sd_notify(3) knows."""

    def __init__(self, address: str) -> None:
        if len(address) < 2 or address[0] not in "/@":
            raise ValueError(
                f"{NOTIFY_VARIABLE} {address!r}: nobody is told that this proxy is ready; allowed: "
                "/path, or @name in the abstract namespace"
            )
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._waits: deque[bytes] = deque(maxlen=KEPT)
        self._failed = False

    @property
    def waits(self) -> bool:
        """Whether there is something that found no room."""
        return bool(self._waits)

    def send(self, *lines: str) -> None:
        """One state; the lines of it go in one datagram."""
        self._waits.append("\n".join(lines).encode("utf-8", "backslashreplace"))
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as there is room."""
        while self._waits:
            try:
                self._sock.sendto(self._waits[0], self._address)
            except OSError as error:
                if error.errno in _FULL:
                    return
                if not self._failed:
                    self._failed = True
                    log.warning("the service manager cannot be told: %s", plain(error))
            self._waits.popleft()

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()


def status(text: str) -> str:
    """The line for a sentence that an operator sees in ``systemctl status``."""
    return f"STATUS={' '.join(text.split())[:STATUS_MOST]}"


def watchdog(environ: Mapping[str, str]) -> float:
    """Seconds within which the manager wants a sign of life, 0.0 if it wants none of this process
    (sd_watchdog_enabled(3)). ValueError."""
    text = environ.get(WATCHDOG_SECONDS, "")
    process = environ.get(WATCHDOG_VARIABLE, "")
    if not text or (process and process != str(os.getpid())):
        return 0.0
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ValueError(
            f"{WATCHDOG_SECONDS} {text!r}: no sign of life is given; allowed: microseconds, above 0"
        )
    return int(text) / 1e6
