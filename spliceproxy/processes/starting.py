"""What the supervisor does before there is a worker: limits, sockets, the first messages."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spliceproxy.config import Address, Config
from spliceproxy.messages import log, plain
from spliceproxy.processes import listeners
from spliceproxy.version import __version__

if TYPE_CHECKING:
    from spliceproxy.processes.succession import Predecessor


def raise_descriptor_limit() -> int:
    """Raises RLIMIT_NOFILE to the hard limit; returns what it then is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # fs.nr_open was lowered below it
        log.warning("the limit of open files stays at %d: %s", soft, plain(error))
        return soft
    return hard


def bind(
    config: Config, predecessor: Predecessor | None = None
) -> tuple[listeners.Listeners, listeners.Listeners | None]:
    """The sockets of the workers, and that of the admin process, if there is to be one. Those that
    the program has which runs are taken from it. ListenError."""
    first = _handed(predecessor, config.listen, config.workers, admin=False)
    listening = first.changed(config.listen, config.workers)
    if config.admin.address is None:
        return listening, None
    asked = [config.admin.address]
    try:
        first = _handed(predecessor, asked, 1, admin=True)
        return listening, first.changed(asked, 1, config.admin.mode)
    except BaseException:
        listening.close()
        raise


def _handed(
    predecessor: Predecessor | None, wanted: Sequence[Address], workers: int, *, admin: bool
) -> listeners.Listeners:
    """The sockets of these addresses that there are already."""
    found = listeners.Listeners(workers)
    if predecessor is None:
        return found
    from spliceproxy.processes.succession import Refused

    left = list(predecessor.places(admin=admin))
    for address in wanted:
        for place in left:
            number, asked, port = place
            if same(asked, address) or same(replace(asked, port=port), address):
                left.remove(place)
                try:
                    found.take(address, port, predecessor.queues(number))
                except Refused as error:
                    raise listeners.ListenError(f"{address} is not handed over: {error}") from None
                break
    return found


def same(one: Address, other: Address) -> bool:
    """Whether a socket of the one can be one of the other."""
    return (one.host, one.port, one.path) == (other.host, other.port, other.path)


def announce(config: Config, addresses: Sequence[Address], descriptors: int) -> None:
    """Says what begins. ``descriptors``: how many each worker may have."""
    log.info(
        "spliceproxy %s, Python %s, workers: %d (%s), descriptors per worker: %d",
        __version__,
        sys.version.split()[0],
        config.workers,
        config.workers_why,
        descriptors,
    )
    for address in addresses:
        announce_listening(address)


def announce_listening(address: Address) -> None:
    if address.path or (address.way and address.host):
        log.info("listening on %s", address)
    elif address.way:
        log.info("listening on %s (every address)", address)
    elif address.host:
        log.info("listening on http://%s", address)
    else:
        log.info("listening on http://*:%d (every address)", address.port)


def announce_admin(address: Address) -> None:
    if address.path:
        log.info("the admin address is %s", address)
    else:
        log.info("the admin address is http://%s", address if address.host else f"*:{address.port}")
