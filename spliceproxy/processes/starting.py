"""What the supervisor does before there is a worker: limits, sockets, the first messages."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.config import LISTEN_VARIABLE, Address, Config
from spliceproxy.messages import log, plain
from spliceproxy.processes import listeners
from spliceproxy.version import __version__

if TYPE_CHECKING:
    from spliceproxy.processes.landlock import Confinement
    from spliceproxy.processes.rights import Rights
    from spliceproxy.processes.succession import Predecessor
    from spliceproxy.processes.trial import Needed
    from spliceproxy.settings.sources import Found


TITLE = "spliceproxy"
"""What ps(1) and pkill(1) know the supervisor and the workers by (proc(5), comm)."""


def take_name() -> None:
    """Also where Python was started with the module, or an upgrade has started it."""
    with contextlib.suppress(OSError):  # no /proc: nobody can see it
        Path("/proc/self/comm").write_text(TITLE)


def raise_descriptor_limit() -> int:
    """Raises RLIMIT_NOFILE to the hard limit; returns what it then is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # fs.nr_open was lowered below it
        log.warning("the limit of open files stays at %d: %s", soft, plain(error))
        return soft
    return hard


def rights_of(config: Config) -> Rights | None:
    """Those of workers and the admin process, None where they are as this process is."""
    if not config.user:
        return None
    from spliceproxy.processes.rights import Rights

    return Rights.of(config)


def confinement_of(config: Config) -> Confinement | None:
    """What workers and the admin process may open, None where they are not confined. ValueError:
    they are to be, and cannot."""
    if config.landlock == "off" or (config.landlock == "auto" and not config.user):
        return None
    from spliceproxy.processes import landlock

    return landlock.Confinement() if landlock.wanted(config) else None


def needed(config: Config, given: Mapping[str, Found]) -> Iterator[Needed]:
    """What workers and the admin process have to read and write."""
    from spliceproxy.observe.standard import STANDARD
    from spliceproxy.observe.syslog_address import is_syslog
    from spliceproxy.processes.trial import Needed

    policy, auth, log = config.policy, config.auth, config.access_log
    learned = None if policy.learn is None else policy.learn.parent
    in_file = log != "off" and log not in STANDARD and not is_syslog(log)
    for folder in (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__))):
        yield Needed("the program:", folder, os.R_OK | os.X_OK)  # more of it is loaded later
    for name, path, mode in (
        ("serve", config.serve, os.R_OK | os.X_OK),
        ("htpasswd", auth.htpasswd, os.R_OK),
        ("auth-file", auth.users_file, os.R_OK),
        ("locked", policy.locked, os.R_OK),
        ("admin-token-file", config.admin.token_file, os.R_OK),
        ("hosts-file", config.names.hosts if "hosts-file" in given else None, os.R_OK),
        ("learn", learned, os.W_OK | os.X_OK),
        ("access-log", log if in_file else None, os.W_OK),
    ):
        if path is not None:
            yield Needed(given[name].where, str(path), mode)
    for name, parent in config.routing.parents.items():
        if parent.ca_file is not None:
            yield Needed(f"{given['parent'].where}.{name}.ca-file", str(parent.ca_file), os.R_OK)


def bind(
    config: Config, predecessor: Predecessor | None = None, rights: Rights | None = None
) -> tuple[listeners.Listeners, listeners.Listeners | None]:
    """The sockets of the workers, and that of the admin process, if there is to be one. Those that
    the program has which runs are taken from it. The files of Unix sockets are those of who has
    these ``rights``. ListenError."""
    owner = None if rights is None else rights.owner
    found = listeners.Listeners(config.workers, owner)
    admin = listeners.Listeners(1, owner)
    asked = [] if config.admin.address is None else [config.admin.address]
    if predecessor is not None:
        _take(found, predecessor, config.places, admin=False)
        _take(admin, predecessor, asked, admin=True)
    elif os.environ.get(LISTEN_VARIABLE) == str(os.getpid()):
        from spliceproxy.processes.activation import Activation

        activation = Activation.of_environment()
        activation.give(found, config.places)
        activation.give(admin, asked)
        activation.finish()
    listening = found.changed(config.places, config.workers)
    if predecessor is None:
        _open(listening)
    # Else the program that runs may go on after all: whoever comes before that is its.
    if not asked:
        return listening, None
    try:
        return listening, admin.changed(asked, 1, config.admin.mode)
    except BaseException:
        listening.close()
        raise


def _take(
    found: listeners.Listeners,
    predecessor: Predecessor,
    wanted: Sequence[Address],
    *,
    admin: bool,
) -> None:
    """The sockets of these addresses that the program has which runs. ListenError."""
    from spliceproxy.processes.succession import Refused

    left = list(predecessor.places(admin=admin))
    for address in wanted:
        for place in left:
            number, asked, port = place
            if same(asked, address) or same(replace(asked, port=port), address):
                left.remove(place)
                try:
                    queues = predecessor.queues(number)
                except Refused as error:
                    raise listeners.ListenError(f"{address} is not handed over: {error}") from None
                if predecessor.is_given(number):
                    found.take_given(address, queues)
                else:
                    found.take(address, port, queues)
                break
    for number, asked, _ in left:
        if predecessor.is_given(number):
            raise listeners.ListenError(
                f"systemd has passed the socket of {asked}, which no setting names any more; "
                "allowed: with it, or stop and start"
            )


def _open(listening: listeners.Listeners) -> None:
    try:
        listening.open()
    except listeners.ListenError:
        listening.close()
        raise


def same(one: Address, other: Address) -> bool:
    """Whether a socket of the one can be one of the other."""
    return one.where == other.where


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
    routing = config.routing
    if routing.pac:
        log.info("requests without a route go the way that the PAC file says: %s", routing.pac)
    elif routing.implied_parents or routing.from_environment:
        announce_parents(config)


def announce_parents(config: Config) -> None:
    """Says where requests go that no route names: by flags or, loudly, by the environment."""
    routing = config.routing
    if not routing.implied_parents:
        log.warning("the environment names no proxy: requests without a route go straight")
    for route in routing.implied_routes:
        for name in route.to:
            parent = routing.implied_parents.get(name)
            if parent is None:
                continue
            kind = {None: "requests and tunnels", True: "tunnels", False: "requests for http://"}
            what, secret = kind[route.tunnels], " with a password" if parent.credentials else ""
            if routing.from_environment:
                log.warning("the environment says: %s go through %s%s", what, parent.url, secret)
            else:
                log.info("%s go through %s%s", what, parent.url, secret)


def announce_listening(address: Address) -> None:
    if address.path or address.target or (address.way and address.host):
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
