"""The one logger of everything that the proxy tells people, but for the access log.

What a level means:

``debug``    a step of one request or connection, for whoever looks for a fault.
``info``     it starts, stops, and does what it is asked; also what an origin did wrong, and what a
             rule that only reports would have done.
``warning``  something is lost, refused or slower, and it goes on by itself.
``error``    something is broken, and somebody has to look: a request that a fault of our own has
             ended, a file that cannot be written, a worker that failed.

Clients and origins can make no line of their own choice: what they send is quoted, and a fault
that they could repeat is told seldom (:mod:`spliceproxy.seldom`).
"""

from __future__ import annotations

import logging

log = logging.getLogger("spliceproxy")


def plain(error: BaseException) -> str:
    """What an error says, for a message: ``/a/file: Permission denied``, without the number."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return str(error) or ("no memory" if isinstance(error, MemoryError) else type(error).__name__)
