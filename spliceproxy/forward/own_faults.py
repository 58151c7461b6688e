"""Says why a request could not be served where that is a fault of the proxy's own, once a minute
for each kind."""

from __future__ import annotations

import logging

from spliceproxy.messages import plain
from spliceproxy.seldom import Seldom


def tell(faults: Seldom, client: str, error: Exception) -> None:
    """A line about it, with a traceback where nobody foresaw it. ``client`` is the address of the
    one that it has hit, "" on a Unix socket."""
    number = error.errno if isinstance(error, OSError) else None
    foreseen = isinstance(error, (OSError, MemoryError))
    faults.say(
        (type(error), number),
        logging.ERROR,
        "a request of %s could not be served: %s",
        client or "a local client",
        plain(error),
        error=None if foreseen else error,
    )
