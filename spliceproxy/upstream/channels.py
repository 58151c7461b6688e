"""The c-ares channels of one resolver.

A channel of c-ares learns how fast a server is, and it caches. Neither can be switched off. So
there are two kinds of channels, and none is used for long. No channel is made without a free
descriptor: c-ares could not read resolv.conf then, would not say so, and would ask 127.0.0.1.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Sequence

from spliceproxy.errors import EXHAUSTED, NOTHING_LEFT, Failure
from spliceproxy.upstream.ares import Channel
from spliceproxy.upstream.search import RESOLV_CONF

CHANNEL_AGE = 30.0
CHANNEL_LOOKUPS = 4096
"""Seconds and look-ups after which the next look-up gets a new c-ares channel. c-ares has a
cache of its own that pycares cannot switch off: it has no size limit, and it keeps an answer
without records for an hour whatever its SOA says. A channel costs 0.2 ms."""

CHECK = 1.0
"""Seconds between two looks at resolv.conf. A channel reads it when it is made: after a change
the next look-up gets a new one."""

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
seconds, because it lives until its last query ends and has sockets of its own."""


NO_DESCRIPTORS = "no descriptors left to ask"


class Channels:
    """Create it inside the event loop. ``timeout`` is the limit for one name in seconds, ``clock``
    gives the time by which channels age. ValueError if a name server is not an address."""

    __slots__ = (
        "_check_at",
        "_clock",
        "_lookups",
        "_nameservers",
        "_patient",
        "_patient_heard",
        "_patient_since",
        "_patient_stamp",
        "_since",
        "_stamp",
        "_timeout",
        "_usual",
    )

    def __init__(
        self, timeout: float, nameservers: Sequence[str] | None, clock: Callable[[], float]
    ) -> None:
        self._timeout = timeout
        self._nameservers = nameservers
        self._clock = clock
        self._patient: Callable[[], Channel | None] = lambda: None  # a weak reference
        self._patient_heard = False
        self._patient_since = 0.0
        self._patient_stamp: tuple[int, ...] = ()
        self._lookups = 0
        self._since = clock()
        self._check_at = clock()
        self._stamp = _stamp()
        # That of resolv.conf is made with the first look-up, or never.
        self._usual = self._open_usual() if nameservers else None

    def change(self, timeout: float, nameservers: Sequence[str] | None) -> bool:
        """Another limit, or other servers: there will be new channels. Whether others are asked."""
        others = nameservers != self._nameservers
        if timeout != self._timeout or others:
            self._timeout, self._nameservers = timeout, nameservers
            self._lookups = CHANNEL_LOOKUPS
            self._patient_stamp = ()
        return others

    def is_old(self) -> bool:
        """Whether :meth:`usual` will make a new channel."""
        if self._usual is None:
            return True
        now = self._clock()
        old = now >= self._since + CHANNEL_AGE or self._lookups >= CHANNEL_LOOKUPS
        return (old or self._has_changed(now)) and not is_exhausted()

    def _has_changed(self, now: float) -> bool:
        """Whether resolv.conf is another than the one that was read."""
        if now < self._check_at:
            return False
        self._check_at = now + CHECK
        if _stamp() == self._stamp:
            return False
        self._check_at = now  # it is true until there is a new channel
        return True

    def usual(self) -> Channel:
        """The channel for a look-up. A channel that was replaced closes itself when its last
        look-up is done. Failure if there is none yet, and no descriptor for it."""
        if self._usual is None and is_exhausted():
            raise Failure("connection_limit_reached", NO_DESCRIPTORS, why=NOTHING_LEFT)
        if self._usual is None or self.is_old():
            self._stamp = _stamp()  # before it is read: a change in between is seen next time
            self._usual = self._open_usual()
            self._since = self._clock()
            self._lookups = 0
        self._lookups += 1
        return self._usual

    def patient(self) -> Channel:
        """The channel for names that are slow on the usual one; the usual one itself if no
        other can be made. It closes itself with its last look-up."""
        channel = self._patient()
        age = self._clock() - self._patient_since
        stamp = _stamp()
        used_up = (
            channel is None
            or (self._patient_heard and age >= PATIENT_AGE)
            or stamp != self._patient_stamp  # it may never hear the servers that it asks
        )
        if used_up and not is_exhausted():
            channel = self._open(self._timeout, 1)
            self._patient = weakref.ref(channel)
            self._patient_since = self._clock()
            self._patient_stamp = stamp
            self._patient_heard = False
        return channel or self._usual or self.usual()

    def heard(self, channel: Channel) -> None:
        """Notes that a server has answered on this channel."""
        if channel is self._patient():
            self._patient_heard = True

    def last(self) -> Channel | None:
        """Returns the usual channel, which the caller closes at the end."""
        return self._usual

    def _open_usual(self) -> Channel:
        return self._open(min(self._timeout / QUERY_SHARE, QUERY_TIMEOUT), QUERY_TRIES)

    def _open(self, timeout: float, tries: int) -> Channel:
        try:
            return Channel(timeout, tries, self._nameservers)
        except ValueError as error:
            servers = ", ".join(self._nameservers or ("of resolv.conf",))
            raise ValueError(f"name servers {servers}: {error}") from error


def _stamp() -> tuple[int, ...]:
    """What changes when resolv.conf does."""
    try:
        status = os.stat(RESOLV_CONF)
    except OSError as error:
        return (error.errno or 0,)
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def is_exhausted() -> bool:
    """Whether no socket can be had. c-ares says then that no server can be reached. That is
    neither the name's fault nor the server's, so such an answer must not be kept."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno in EXHAUSTED
    return False
