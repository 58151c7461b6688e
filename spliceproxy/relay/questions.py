"""What the lane asks: where a request may go, and what its owner notes of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Known(Protocol):
    """What is known of a request beyond its head, as it was at one moment. The relay makes it, and
    it holds nothing else: a route may keep it."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def reported(self) -> tuple[str, ...]: ...
    @property
    def looked_up(self) -> float: ...
    @property
    def allowed_by(self) -> str: ...
    @property
    def generation(self) -> int: ...


class Question(Protocol):
    """A plain request that waits in the lane until its owner has said where it may go. It stays
    as it is when the request is over, all but ``uid``, ``waits``, ``followed`` and ``closes``. It
    is what :class:`policy.verdict.Head` and :class:`policy.verdict.Notes` promise: the notes are
    for the owner to write. If the client leaves before there is an answer, the record of its
    request has what they say by then."""

    host: str
    port: int
    user: str
    tags: Mapping[str, str]
    reported: tuple[str, ...]
    looked_up: float
    allowed_by: str
    trace: Any

    @property
    def generation(self) -> int:
        """Of the owner's settings when the question was put (:meth:`Lane.change`)."""

    @property
    def ident(self) -> int:
        """Of its client's connection; no other in the relay has it."""

    @property
    def kind(self) -> str:
        """As of :meth:`Lane.add_route`."""

    @property
    def client(self) -> str:
        """The client's IP address, "" for a Unix socket."""

    @property
    def via(self) -> str:
        """As of :meth:`Lane.hand_over`."""

    @property
    def name(self) -> str:
        """``client``, with the mark of ``via`` in front of it, if there is one, and the place in
        front of that (``policy.networks.named``)."""

    @property
    def socks(self) -> int:
        """The version of SOCKS by which the client asks, 0 for HTTP."""

    @property
    def received(self) -> int:
        """Bytes of the request: as many as ``head`` has, but for SOCKS."""

    @property
    def head(self) -> bytes:
        """The head as received, with its empty line; that of a CONNECT for SOCKS."""

    @property
    def authority(self) -> bytes:
        """As written: that of the target, and of Host where the target has none."""

    @property
    def credentials(self) -> bytes:
        """The value of Proxy-Authorization, b"" without one."""

    @property
    def method(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def fields(self) -> list[tuple[bytes, bytes]]: ...
    def values(self, name: bytes) -> list[bytes]: ...

    def known(self) -> Known:
        """The notes as they are now."""

    @property
    def waits(self) -> bool:
        """Whether it has no answer yet, and its client is there."""

    @property
    def where(self) -> bytes:
        """``kind`` and ``authority``."""

    @property
    def uid(self) -> int:
        """Of the process behind a Unix socket (SO_PEERCRED, unix(7)); -1 where that is not known,
        or nobody waits."""

    @property
    def started(self) -> float:
        """Monotonic seconds, when the head was there; 0.0 with neither a log nor records."""

    @property
    def number(self) -> int:
        """Of the request, for its record; 0 where nobody wants one, or nobody waits."""

    @property
    def followed(self) -> bool:
        """Whether the client has said more than this request."""

    @property
    def closes(self) -> bool:
        """Whether the client wants its connection closed behind the answer."""
