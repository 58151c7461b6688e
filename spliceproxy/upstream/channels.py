"""The c-ares channels of one resolver.

c-ares learns how fast a server is, and cannot be kept from acting on it, nor from caching; both
belong to a channel. So there are two kinds, and none is used for long. None is made without a free
descriptor: c-ares could not read resolv.conf, would not say so, and would ask 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Sequence

import aiodns
import pycares

from spliceproxy.errors import EXHAUSTED

CHANNEL_AGE = 30.0
CHANNEL_LOOKUPS = 4096
"""Seconds and look-ups after which the next look-up gets a new c-ares channel. c-ares has a
cache of its own that aiodns cannot switch off: it has no size limit, and it keeps an answer
without records for an hour whatever its SOA says. A channel costs 0.2 ms."""

QUERY_SHARE = 5
QUERY_TRIES = 3
QUERY_TIMEOUT = 2.0
"""A server has a fifth of the limit, at most QUERY_TIMEOUT seconds (c-ares' default), to
answer before the next one is asked; c-ares doubles it from round to round. So a lost packet
and a dead server, or two, leave time for an answer within the limit."""

PATIENT_AGE = 0.5
"""c-ares (since 1.32) takes the usual speed of a server for that of each name: where three
answers came fast, a try lasts a quarter of a second at first, and what comes after a try is not
heard. So there is a patient channel for names that are slow: one try for the whole limit, and no
answer before it. It is replaced when it has had one, but not more often than each PATIENT_AGE
seconds: it lives until its last query ends, and has a thread and an inotify(7) instance."""


class Channels:
    """Create it inside the event loop; ValueError for name servers that are none. ``timeout``
    is the limit for one name in seconds, ``clock`` gives the time by which channels age."""

    __slots__ = (
        "_clock",
        "_lookups",
        "_loop",
        "_nameservers",
        "_patient",
        "_patient_heard",
        "_patient_since",
        "_since",
        "_timeout",
        "_usual",
    )

    def __init__(
        self, timeout: float, nameservers: Sequence[str] | None, clock: Callable[[], float]
    ) -> None:
        self._timeout = timeout
        self._nameservers = nameservers
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._patient: Callable[[], aiodns.DNSResolver | None] = lambda: None  # a weak reference
        self._patient_heard = False
        self._patient_since = 0.0
        self._lookups = 0
        self._since = clock()
        self._usual = self._open_usual()

    def is_old(self) -> bool:
        """Whether :meth:`usual` will be a new one."""
        old = self._clock() >= self._since + CHANNEL_AGE or self._lookups >= CHANNEL_LOOKUPS
        return old and not is_exhausted()

    def usual(self) -> aiodns.DNSResolver:
        """The channel for a look-up. One that is replaced closes itself when its last look-up
        is done; until then somebody must hold it."""
        if self.is_old():
            self._usual = self._open_usual()
            self._since = self._clock()
            self._lookups = 0
        self._lookups += 1
        return self._usual

    def patient(self) -> aiodns.DNSResolver:
        """The channel for what is slow on the usual one, which takes its place where none can be
        made. It closes itself with its last look-up; until then somebody must hold it."""
        channel = self._patient()
        age = self._clock() - self._patient_since
        used_up = channel is None or (self._patient_heard and age >= PATIENT_AGE)
        if used_up and not is_exhausted():
            channel = self._open(self._timeout, 1)
            self._patient = weakref.ref(channel)
            self._patient_since = self._clock()
            self._patient_heard = False
        return channel or self._usual

    def heard(self, channel: aiodns.DNSResolver) -> None:
        """A server has answered on this channel."""
        if channel is self._patient():
            self._patient_heard = True

    def last(self) -> aiodns.DNSResolver:
        """The usual channel, to be closed at the end."""
        return self._usual

    def _open_usual(self) -> aiodns.DNSResolver:
        return self._open(min(self._timeout / QUERY_SHARE, QUERY_TIMEOUT), QUERY_TRIES)

    def _open(self, timeout: float, tries: int) -> aiodns.DNSResolver:
        try:
            return aiodns.DNSResolver(
                nameservers=self._nameservers,
                loop=self._loop,
                timeout=timeout,
                tries=tries,
                # No `lookups`, nor any other text: pycares (5.2) hands c-ares memory that it
                # has freed. So c-ares looks into /etc/hosts, too, behind us.
            )
        except pycares.AresError as error:
            servers = ", ".join(self._nameservers or ("of resolv.conf",))
            raise ValueError(f"name servers {servers}: {error.args[-1]}") from error


def is_exhausted() -> bool:
    """Whether no socket can be had: c-ares says then that no server can be reached, which is
    neither the name's fault nor the server's, and must not be kept."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno in EXHAUSTED
    return False
