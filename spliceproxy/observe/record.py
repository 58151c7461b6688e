"""What is known of one request or tunnel when it is over: the source of its log line."""

from __future__ import annotations

import time
from abc import ABCMeta
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from spliceproxy.errors import ErrorType

if TYPE_CHECKING:
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


class Record(metaclass=ABCMeta):  # noqa: B024 - one of the lane's is a Record, too
    """One request or tunnel. Times are ``time.monotonic()`` seconds, but ``ended_at``
    (Unix time, set by :meth:`end`). Those of the lane (:func:`record_of`) can be read only. An
    idle tunnel keeps this object and no other."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "client",
        "content_type",
        "dialling_since",
        "ended_at",
        "error",
        "failed",
        "host",
        "looked_up",
        "method",
        "peer",
        "port",
        "reason",
        "reported",
        "rule",
        "seconds",
        "started",
        "status",
        "tags",
        "target",
        "trace",
        "tried",
        "user",
        "why",
    )

    def __init__(self, client: str, started: float = 0.0, trace: Trace | None = None) -> None:
        self.client = client  # the client's address, "" for a Unix socket
        self.started = started
        self.trace = trace  # of its connection; None: nothing is told of it
        self.seconds = 0.0
        self.ended_at = 0.0
        self.dialling_since = 0.0  # 0.0: it begins when the origin is dialled
        # Attempts to connect that have failed by then, each with its address and errno.
        self.tried: tuple[tuple[str, int], ...] = ()
        self.looked_up = 0.0  # seconds for which a name was waited for
        self.method = ""
        self.target = ""  # as received: absolute URI, host:port, or a path
        self.host = ""  # where it is to go, lower case; "" if the proxy itself was asked
        self.port = 0
        self.user = ""
        self.peer = ""  # the address dialled, "" if none was
        self.status = 0  # sent to the client; 0 if nothing was
        self.content_type = ""  # of the answer, as received; "" if it has none
        # RFC 9209 type where the proxy answered itself, or cut an answer.
        self.error: ErrorType | Literal[""] = ""
        self.failed = ""  # the address:port that this is about, "" for none
        self.rule = ""  # the id of what denied the request
        self.why = ""  # a sentence about that, for a person
        self.reported: tuple[str, ...] = ()  # ids of rules that only report, and would have
        self.tags: Mapping[str, str] = _NO_TAGS  # the policy hook's
        self.reason = ""  # how it ended: the relay's reason, "" for a plain end
        self.bytes_in = 0  # received from the client, head included
        self.bytes_out = 0  # sent to the client, head included

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

    def blame(self, error: ErrorType, where: str = "") -> None:
        """The request has failed for this error; ``where`` is the ``address:port`` that it is
        about, where it is not that of the connection."""
        self.error = error
        self.failed = where
        if not where and self.peer and error in _OF_ORIGIN:
            self.failed = endpoint(self.peer, self.port)

    def end(self) -> None:
        """Stamps the end."""
        self.ended_at = time.time()
        self.seconds = time.monotonic() - self.started


def record_of(ending: type[Any]) -> type[Record]:
    """A class of records for what a class of the relay's knows, which is all but this."""

    class LaneRecord(ending):  # type: ignore[misc]
        """A request or tunnel that was served in the lane."""

        __slots__ = ()

        trace = None
        tried: tuple[tuple[str, int], ...] = ()
        dialling_since = looked_up = 0.0
        error = failed = rule = why = ""
        ended = True
        destination = Record.destination
        __repr__ = Record.__repr__

    Record.register(LaneRecord)
    return LaneRecord


def endpoint(host: str, port: int) -> str:
    """``host:port``; an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
