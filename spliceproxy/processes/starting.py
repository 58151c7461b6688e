"""What the supervisor does before there is a worker: limits, sockets, the first messages."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

from spliceproxy.config import Address, Config
from spliceproxy.messages import log, plain
from spliceproxy.processes import listeners
from spliceproxy.version import __version__


def raise_descriptor_limit() -> int:
    """Raises RLIMIT_NOFILE to the hard limit; returns what it then is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # fs.nr_open was lowered below it
        log.warning("the limit of open files stays at %d: %s", soft, plain(error))
        return soft
    return hard


def bind(config: Config) -> tuple[listeners.Listeners, listeners.Listeners | None]:
    """The sockets of the workers, and that of the admin process, if there is to be one.
    ListenError."""
    listening = listeners.bind(config.listen, config.workers)
    if config.admin.address is None:
        return listening, None
    try:
        return listening, listeners.bind([config.admin.address], 1, config.admin.mode)
    except BaseException:
        listening.close()
        raise


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
    if address.path:
        log.info("listening on %s", address)
    elif address.host:
        log.info("listening on http://%s", address)
    else:
        log.info("listening on http://*:%d (every address)", address.port)


def announce_admin(address: Address) -> None:
    if address.path:
        log.info("the admin address is %s", address)
    else:
        log.info("the admin address is http://%s", address if address.host else f"*:{address.port}")
