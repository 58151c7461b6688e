"""The c-ares channels of one resolver.

A channel of c-ares learns how fast a server is, and it caches. Neither can be switched off. So
there are two kinds of channels, and none is used for long. No channel is made without a free
descriptor: c-ares could not read resolv.conf then, would not say so, and would ask 127.0.0.1.
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
"""A server has a fifth of the limit to answer before the next one is asked, but at most
QUERY_TIMEOUT seconds, which is c-ares' default. c-ares doubles the time from round to round. So
there is time for an answer within the limit after a lost packet and one or two dead servers."""

PATIENT_AGE = 0.5
"""c-ares (since 1.32) expects every name to be as fast as its server usually is. After three
fast answers a try lasts a quarter of a second at first, and an answer that comes after its try is
not heard. So slow names have a patient channel: it makes one try for the whole limit, and has had
no answer before. It is replaced after an answer, but not more often than every PATIENT_AGE
seconds, because it lives until its last query ends and has a thread and an inotify(7) instance."""


class Channels:
    """Create it inside the event loop. ``timeout`` is the limit for one name in seconds, ``clock``
    gives the time by which channels age. ValueError if a name server is not an address."""

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
        """Whether :meth:`usual` will make a new channel."""
        old = self._clock() >= self._since + CHANNEL_AGE or self._lookups >= CHANNEL_LOOKUPS
        return old and not is_exhausted()

    def usual(self) -> aiodns.DNSResolver:
        """The channel for a look-up. A channel that was replaced closes itself when its last
        look-up is done. Until then somebody must hold a reference to it."""
        if self.is_old():
            self._usual = self._open_usual()
            self._since = self._clock()
            self._lookups = 0
        self._lookups += 1
        return self._usual

    def patient(self) -> aiodns.DNSResolver:
        """The channel for names that are slow on the usual one; the usual one itself if no
        other can be made. It closes itself with its last look-up. Until then somebody must hold
        a reference to it."""
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
        """Notes that a server has answered on this channel."""
        if channel is self._patient():
            self._patient_heard = True

    def last(self) -> aiodns.DNSResolver:
        """Returns the usual channel, which the caller closes at the end."""
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
    """Whether no socket can be had. c-ares says then that no server can be reached. That is
    neither the name's fault nor the server's, so such an answer must not be kept."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno in EXHAUSTED
    return False
