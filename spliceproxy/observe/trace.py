"""Trace points: each step of a request is a message of the level debug, for whoever looks for a
fault. docs/operation.md says what the words mean.

A line begins with the number of the client's connection, which no other in this worker has.
Whether there are such lines is decided when a worker starts, and again when an operator asks for
another level. Where there are none, a connection and a record have None instead of a
:class:`Trace`, and each point costs one look at that.

What comes from a client is escaped and cut as in the access log. Of a request nothing is shown but
its method, its target and its version.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from errno import errorcode

from spliceproxy.config import Config
from spliceproxy.errors import Denied, Failure
from spliceproxy.messages import log
from spliceproxy.observe.native_line import escape, why, without_query
from spliceproxy.observe.record import Record, endpoint

TARGET_MAX = 1024
"""Characters of a target that are shown."""

_WORD_MAX = 64
_HOST_MAX = 260  # the longest name, in brackets, with its port
_ADDRESSES_MAX = 8


class Tracer:
    """Gives the connections of one worker their numbers. Not ``query``: of a target's query its
    question mark alone is shown."""

    __slots__ = ("_numbers", "_query")

    def __init__(self, *, query: bool, before: Tracer | None = None) -> None:
        self._numbers: Iterator[int] = itertools.count(1) if before is None else before._numbers
        self._query = query

    @classmethod
    def of(cls, config: Config, before: Tracer | None = None) -> Tracer | None:
        """None where nobody would see the messages. It goes on with the numbers of the one
        ``before``."""
        return cls(query=config.log_query, before=before) if is_traced() else None

    def accepted(self, sock: socket.socket, client: str, *, beyond: bool) -> Trace:
        """The trace of a new client with this address. ``beyond``: it came beyond the limit on
        connections."""
        trace = Trace(next(self._numbers), self._query)
        trace.say(
            "accepted %s on %s%s",
            _peer(sock, client),
            _name(sock.getsockname()),
            ", beyond the limit on connections" if beyond else "",
        )
        return trace


class Trace:
    """The steps of one connection, each a method. A verdict follows its :meth:`asks`."""

    __slots__ = ("_number", "_query", "_since")

    def __init__(self, number: int, query: bool) -> None:
        self._number = number
        self._query = query
        self._since = 0.0

    def say(self, text: str, *values: object) -> None:
        """One line. Values that come from outside must be escaped."""
        log.debug(f"#%d {text}", self._number, *values)

    def given_back(self, cause: str, received: int) -> None:
        """The relay, which has accepted the client, gives it back with so many bytes."""
        self.say("given back: %s, bytes received %d", cause, received)

    def head(self, method: str, target: str, minor: int) -> None:
        """The head of a request is there; ``minor`` is of its HTTP version."""
        if not self._query:
            target = without_query(target)
        self.say("head %s %s HTTP/1.%d", _word(method), escape(target, TARGET_MAX), minor)

    def socks(self, version: int, target: str) -> None:
        """A request of SOCKS is there."""
        self.say("head CONNECT %s SOCKS%d", escape(target, TARGET_MAX), version)

    def asks(self) -> None:
        """The policy is asked."""
        self._since = time.monotonic()

    def allowed(self, addresses: Sequence[str], parents: Sequence[str] = ()) -> None:
        """The policy has said yes. Without ``addresses``: to an answer of the proxy's own, or to a
        name that one of the ``parents`` is told."""
        shown = ", ".join(addresses[:_ADDRESSES_MAX]) or "an answer of the proxy's own"
        if parents:
            shown = f"through {', '.join(parents)}" + (f" to {shown}" if addresses else "")
        more = len(addresses) - _ADDRESSES_MAX
        also = f" and {more} more" if more > 0 else ""
        self.say("verdict allowed: %s%s, in %.1f ms", shown, also, _ms(self._since))

    def refused(self, error: Exception) -> None:
        """The policy has said no, or could not say."""
        status = error.status if isinstance(error, Failure) else 500
        if isinstance(error, Denied):
            what = f"refused: {status} rule={_word(error.rule)}"
        else:
            kind = error.error if isinstance(error, Failure) else type(error).__name__
            what = f"failed: {status} error={_word(kind)}"
        self.say("verdict %s, in %.1f ms", what, _ms(self._since))

    def reused(self, address: str, port: int) -> None:
        """The request goes out on a connection that is there already."""
        self.say("reused a connection to %s", endpoint(address, port))

    def dial(self, host: str, port: int, count: int, source: str) -> Attempts:
        """A connection to one of so many addresses of a host is needed. ``source`` is the address
        to dial from, "" for any."""
        where = escape(endpoint(host, port), _HOST_MAX)
        origin = f", from {source}" if source else ""
        self.say("dial %s, addresses %d%s", where, count, origin)
        return Attempts(self, port)

    def handed_over(self) -> None:
        """The relay has both sockets."""
        self.say("handed over to the relay as a tunnel")

    def end(self, record: Record) -> None:
        """A request or tunnel is over."""
        self.say(
            "end %03d%s%s in=%d out=%d, in %.3f s",
            record.status,
            f" {record.reason}" if record.reason else "",
            why(record),
            record.bytes_in,
            record.bytes_out,
            record.seconds,
        )

    def closed(self) -> None:
        """The connection is over, and was no tunnel."""
        self.say("closed")


class Attempts:
    """The attempts of one dial to connect to this port."""

    __slots__ = ("_begun", "_port", "_trace")

    def __init__(self, trace: Trace, port: int) -> None:
        self._trace = trace
        self._port = port
        self._begun: dict[str, float] = {}

    def begin(self, address: str) -> None:
        """An attempt begins."""
        self._begun[address] = time.monotonic()

    def end(self, address: str, errno: int) -> None:
        """It has failed with this errno; 0: it is connected."""
        self._say(address, errorcode.get(errno, f"errno {errno}") if errno else "connected")

    def drop(self, address: str, *, late: bool) -> None:
        """It is not waited for any longer; ``late``: the time for all of them is up."""
        self._say(address, "timed out" if late else "not needed")

    def _say(self, address: str, outcome: str) -> None:
        where, ms = endpoint(address, self._port), _ms(self._begun[address])
        self._trace.say("attempt %s: %s, in %.1f ms", where, outcome, ms)


def is_traced() -> bool:
    """Whether each request is to be seen: messages of the level debug are written."""
    return log.isEnabledFor(logging.DEBUG)


def _ms(since: float) -> float:
    return (time.monotonic() - since) * 1000


def _word(text: str) -> str:
    return escape(text, _WORD_MAX)


def _peer(sock: socket.socket, client: str) -> str:
    """A client with its port, if it is still there."""
    if not client:
        return "a client"
    try:
        return endpoint(client, sock.getpeername()[1])
    except OSError:
        return client


def _name(name: object) -> str:
    """The address that a client has connected to. One of IPv4 on a dual-stack socket is written as
    IPv4."""
    if isinstance(name, tuple):
        host = str(name[0])
        return endpoint(host[7:] if host.startswith("::ffff:") and "." in host else host, name[1])
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return escape(text, _HOST_MAX)
