"""What is known of one request or tunnel when it is over: the source of its log line."""

from __future__ import annotations

import time
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from spliceproxy.errors import ErrorType
from spliceproxy.observe.stalled import SECOND, Waits, stalled_by
from spliceproxy.observe.tcpinfo import TcpInfo, decode
from spliceproxy.observe.termination import CLIENT_LIMIT, HEAD, letters
from spliceproxy.relay.lane import END, NUMBER_BITS

if TYPE_CHECKING:
    from spliceproxy.config import Address
    from spliceproxy.observe.trace import Trace

_OF_ORIGIN: frozenset[ErrorType] = frozenset(
    {
        "connection_terminated",
        "connection_write_timeout",
        "http_protocol_error",
        "http_response_header_size",
        "http_response_incomplete",
        "http_response_timeout",
        "http_response_transfer_coding",
        "http_upgrade_failed",
    }
)
"""Errors of the origin that a connection leads to (RFC 9209 section 2.3)."""

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Times(NamedTuple):
    """Microseconds. Each stage counts by itself, and is 0 where there was none of it."""

    head: int  # from the first byte of the request's head to its last
    question: int  # to decide where the request may go, without ``dns``
    dns: int  # to look up a name
    dial: int  # to wait for a connection to the origin, and to make it
    first_byte: int  # from there to the first byte of the answer; 0 for a tunnel
    total: int  # from the whole head to the end


class Hop(Protocol):
    """A parent by way of which a request has gone (``upstream.parents``)."""

    @property
    def port(self) -> int: ...

    @property
    def stays(self) -> bool:
        """Whether a tunnel through it cannot move to another process."""

    def left(self) -> None:
        """One connection to it has ended."""


class Holding(Protocol):
    """What a request holds of limits, for as long as it lasts."""

    @property
    def meters(self) -> Sequence[Any]: ...
    @property
    def watched(self) -> bool: ...
    @property
    def up(self) -> int: ...
    @property
    def counted(self) -> int: ...
    def account(self, moved: int) -> None: ...
    def release(self) -> None: ...


class Record(metaclass=ABCMeta):  # noqa: B024 - one of the lane's is a Record, too
    """One request or tunnel. Times are ``time.monotonic()`` seconds, but ``ended_at``
    (Unix time, set by :meth:`end`). Those of the lane (:func:`record_of`) can be read only. An
    idle tunnel keeps this object and no other."""

    __slots__ = (
        "_client_info",
        "_origin_info",
        "_waits",
        "allowed_by",
        "by",
        "bytes_in",
        "bytes_out",
        "client",
        "connect_by",
        "content_type",
        "decision",
        "detail",
        "dial",
        "dialling_since",
        "ended_at",
        "error",
        "event",
        "failed",
        "fields",
        "first_byte",
        "generation",
        "head",
        "holding",
        "hop",
        "host",
        "listener",
        "looked_up",
        "mark",
        "method",
        "minor",
        "name",
        "number",
        "peer",
        "port",
        "question",
        "rates",
        "reason",
        "reported",
        "route",
        "rule",
        "seconds",
        "sni",
        "socks",
        "spliced_in",
        "spliced_out",
        "stage",
        "started",
        "status",
        "summed",
        "tags",
        "target",
        "tls_name",
        "trace",
        "tried",
        "user",
        "via",
        "why",
        "words",
    )

    def __init__(
        self,
        client: str,
        started: float = 0.0,
        trace: Trace | None = None,
        number: int = 0,
        generation: int = 1,
    ) -> None:
        self.client = client  # the client's address, "" for a Unix socket
        # The address of the balancer that has brought the client by the PROXY protocol, "unix" for
        # a Unix socket; "" if nobody has. The mark (policy.networks) says what that has said of it.
        self.via = self.mark = ""
        # Of a tunnel: the address where its client has come in, where routes name any.
        self.listener: Address | None = None
        self.started = started
        self.trace = trace  # of its connection; None: nothing is told of it
        self.generation = generation  # of the configuration that has decided
        self.seconds = 0.0
        self.event = END  # what this record is about: of relay.lane.EVENTS
        self.ended_at = 0.0
        self.dialling_since = 0.0  # 0.0: it begins when the origin is dialled
        # Attempts to connect that have failed by then, each with its address and errno.
        self.tried: tuple[tuple[str, int], ...] = ()
        self.looked_up = 0.0  # seconds for which a name was waited for
        self.method = ""
        self.target = ""  # as received: absolute URI, host:port, or a path
        self.minor = 1  # of its HTTP version
        self.name = ""  # what was found of the name of a connection that was led here
        self.tls_name = ""  # what was found of the name inside TLS (relay.checking)
        self.sni = ""  # that name, where it is another one and refused
        self.socks = 0  # the version of SOCKS by which the client has asked, 0 for HTTP
        # Of the request, only where the format of the log has some of them.
        self.fields: Sequence[tuple[bytes, bytes]] = ()
        self.host = ""  # where it is to go, lower case; "" if the proxy itself was asked
        self.port = 0
        self.user = ""
        self.peer = ""  # the address dialled, "" if none was
        # The parent by way of which it has gone: its name, "" for none; what it was told of the
        # destination, "name" or "address"; and itself, which only the process knows that has
        # connected to it.
        self.route = self.connect_by = ""
        self.hop: Hop | None = None
        self.holding: Holding | None = None  # what it counts for, while it lasts
        # Bytes per second that a function has allowed from the client and to it, 0 for any number.
        self.rates = (0, 0)
        self.status = 0  # sent to the client; 0 if nothing was
        self.content_type = ""  # of the answer, as received; "" if it has none
        # RFC 9209 type where the proxy answered itself, or cut an answer.
        self.error: ErrorType | Literal[""] = ""
        self.failed = ""  # the address:port that this is about, "" for none
        self.rule = ""  # the id of what denied the request
        self.why = ""  # a sentence about that, for a person
        self.words = ""  # the same, where the rule itself has one
        self.detail = ""  # why it has failed, in words; it may quote the request
        self.allowed_by = ""  # the id of the rule that allowed it, "" if none has matched
        self.decision = 0  # the column in which that is counted (relay.columns), 0: none yet
        self.reported: tuple[str, ...] = ()  # ids of rules that only report, and would have
        self.tags: Mapping[str, str] = _NO_TAGS  # the policy function's
        self.reason = ""  # how it ended: the relay's reason, "" for a plain end
        self.bytes_in = 0  # received from the client, head included
        self.bytes_out = 0  # sent to the client, head included
        self.spliced_in = 0  # of these bytes, those that were spliced; the others were copied
        self.spliced_out = 0
        # Bytes in and out that another process, where it was, has in its lists of who has moved the
        # most; None: it has not been in them.
        self.summed: tuple[int, int] | None = None
        self.number = number  # its id, 0 where it has none: as of NUMBER_BITS of relay.lane
        # Microseconds, as of Times.
        self.head = self.question = self.dial = self.first_byte = 0
        self.stage = HEAD  # where it is: a letter of observe.termination
        self.by = ""  # who has ended it, likewise; "" if the error or the reason says it
        self._client_info = self._origin_info = b""  # struct tcp_info, b"" where it is not known
        self._waits: Waits | None = None  # None: not known

    def __repr__(self) -> str:
        values = f"{self.method} {self.target!r} status={self.status} bytes_out={self.bytes_out}"
        why = "".join(
            f" {name}={getattr(self, name)!r}" for name in ("rule", "error") if getattr(self, name)
        )
        return f"<Record {values}{why}>"

    @property
    def ended(self) -> bool:
        """Whether it is over: bytes and seconds are known then."""
        return self.ended_at > 0.0

    @property
    def destination(self) -> str:
        """``host:port``; an IPv6 address is in brackets."""
        return endpoint(self.host, self.port)

    @property
    def id(self) -> str:
        """The number of the worker and that of the request in it; "" where it has none."""
        return ident(self.number)

    @property
    def times(self) -> Times:
        """How long each stage took."""
        return Times(
            self.head,
            self.question,
            microseconds(self.looked_up),
            self.dial,
            self.first_byte,
            microseconds(self.seconds),
        )

    @property
    def termination(self) -> str:
        """How it ended, in two letters (:mod:`observe.termination`)."""
        by = self.by
        if not by and not self.peer and self.error == "connection_write_timeout":
            by = CLIENT_LIMIT  # an answer of our own that it did not take
        return letters(by, self.stage, self.error, self.reason)

    @property
    def client_tcp(self) -> TcpInfo | None:
        """Of the client's connection, at the end of a tunnel, or of a request that took a second
        or more."""
        return decode(self._client_info) if self._client_info else None

    @property
    def origin_tcp(self) -> TcpInfo | None:
        """Of the origin's connection, likewise."""
        return decode(self._origin_info) if self._origin_info else None

    @property
    def stalled(self) -> str:
        """Who has kept it waiting (:mod:`observe.stalled`); "" where that is not known."""
        if self._waits is None or self.seconds < SECOND:
            return ""
        return stalled_by(self._waits, self.client_tcp, self.origin_tcp)

    def field(self, name: str) -> str:
        """A field of the request, its values joined by commas; "" without one, or where the format
        of the log has none."""
        wanted = name.lower().encode("latin-1", "replace")
        found = [value for one, value in self.fields if one.lower() == wanted]
        return b", ".join(found).decode("latin-1")

    def inform(self, client: bytes, origin: bytes, waits: Waits | None) -> None:
        """What the kernel and the relay know of both connections: struct tcp_info of each (b"":
        not known), and the times that were waited."""
        self._client_info, self._origin_info, self._waits = client, origin, waits

    def blame(self, error: ErrorType, where: str = "") -> None:
        """The request has failed for this error; ``where`` is the ``address:port`` that it is
        about, where it is not that of the connection."""
        self.error = error
        self.failed = where
        if not where and self.peer and error in _OF_ORIGIN:
            self.failed = endpoint(self.peer, self.hop.port if self.hop else self.port)

    def end(self) -> None:
        """Stamps the end."""
        self.ended_at = time.time()
        self.seconds = time.monotonic() - self.started


class _Served:
    """What a record of the lane says beyond what its class of the relay's knows."""

    __slots__ = ()

    if TYPE_CHECKING:  # that class has them
        lines: Sequence[bytes]
        stages: tuple[int, int, int, int, int]
        termination: str
        client_leg: tuple[int, ...] | None
        origin_leg: tuple[int, ...] | None

    trace = hop = holding = listener = None
    mark = name = sni = ""
    rates = (0, 0)
    tried: tuple[tuple[str, int], ...] = ()
    dialling_since = looked_up = 0.0
    error = failed = rule = why = words = detail = ""
    decision = 0
    ended = True
    minor = 1
    field = Record.field
    destination = Record.destination
    id = Record.id
    __repr__ = Record.__repr__

    head = 0  # the lane takes none that does not come at once

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        lines = [line.partition(b":") for line in self.lines]
        return [(name, value.strip(b" \t")) for name, _, value in lines]

    @property
    def times(self) -> Times:
        return Times(0, *self.stages)

    @property
    def question(self) -> int:
        return self.times.question

    @property
    def dial(self) -> int:
        return self.times.dial

    @property
    def first_byte(self) -> int:
        return self.times.first_byte

    @property
    def by(self) -> str:
        return str(self.termination[0]).replace("-", "")

    @property
    def stage(self) -> str:
        return str(self.termination[1])

    @property
    def client_tcp(self) -> TcpInfo | None:
        leg = self.client_leg
        return None if leg is None else TcpInfo(*leg)

    @property
    def origin_tcp(self) -> TcpInfo | None:
        leg = self.origin_leg
        return None if leg is None else TcpInfo(*leg)


def record_of(ending: type[Any]) -> type[Record]:
    """A class of records for what a class of the relay's knows, which is all but _Served."""

    class LaneRecord(_Served, ending):  # type: ignore[misc]
        """A request or tunnel that was served in the lane."""

        __slots__ = ()

    Record.register(LaneRecord)
    return LaneRecord


def ident(number: int) -> str:
    """A request's number as a text: that of the worker, and of the request in it."""
    return f"{number >> NUMBER_BITS}-{number & ((1 << NUMBER_BITS) - 1)}" if number else ""


def microseconds(seconds: float) -> int:
    """Whole ones, never less than 0."""
    return max(int(seconds * 1e6), 0)


def endpoint(host: str, port: int) -> str:
    """``host:port``; an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
