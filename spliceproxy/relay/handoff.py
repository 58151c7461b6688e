"""What the lane gives back: a client, how far its request has come, and why.

Whoever goes on with it has every byte that was received and not consumed, and the descriptors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

# Why a client is given back.
REQUEST = "request"  # a request that its owner must look at, maybe not all of it
RETRY = "retry"  # a request; the idle connection it was sent on was dead, take a new one
RESPONSE = "response"  # a request, and its origin, which has been sent it
UNANSWERED = "unanswered"  # the same, but the time limit for the response is over
BODY = "body"  # the same, and the client has been sent a part of the response's body
REFUSED = "refused"  # a new client beyond the limit
PARENT = "parent"  # a CONNECT that a parent proxy was asked for, which has not plainly said yes
HEADER = "header"  # one behind a balancer, whose header (of the PROXY protocol) is not plain
LINGER = "linger"  # no request: it has its answer, and is to be closed with care

CAUSES = (
    "",  # it is not given back
    REQUEST,
    RETRY,
    RESPONSE,
    UNANSWERED,
    BODY,
    LINGER,
    REFUSED,
    HEADER,
    PARENT,
)
"""All of them in the order of the enum Cause of native/lane/types.pxd: the compiled module
compares them when it is imported."""

TIME_IS_UP = -1
"""Stands for an errno where the limit of the lane, not the kernel's, ended an attempt."""


class Chunks(NamedTuple):
    """How far a chunked body has come. ``rest`` bytes of its sender's chunk are still to come; 0:
    the CRLF behind its payload, -1: the next size, -2: nothing. ``open``: the receiver has been
    told of so many. It is to be sent ``owed`` before anything else."""

    rest: int
    open: bool
    owed: bytes
    taken: int  # bytes of the body that are done with, as its sender has framed it

    @property
    def over(self) -> bool:
        """Whether the sender has sent all of it."""
        return self.rest == -2


class Begun(NamedTuple):
    """A response of whose body the client has been sent a part."""

    status: int
    content_type: str
    closes: bool  # the client has been told that its connection ends
    keeps: bool  # the origin's may be used again
    sent: int  # bytes that the client has been sent, of interim responses, too
    spliced: int  # of these
    left: int  # bytes of the body still to be read, if it is not chunked; -1: until FIN
    owed: bytes  # to be sent before them
    chunks: Chunks | None


@dataclass(slots=True)
class Handoff:
    """A client connection that its owner goes on with. The descriptors are the owner's, who
    takes them with :meth:`take_client` and :meth:`take_origin`; :meth:`close` closes the rest.

    ``origin`` is -1 but for RESPONSE, UNANSWERED, BODY and PARENT; then ``buffer`` begins with the
    head of the request that it was sent, ``answer`` is what it has said so far, and ``reused``
    whether its connection had served before. That of a PARENT is the parent's, which was asked for
    the tunnel that the head in ``buffer`` wants.
    """

    cause: str
    client: int
    address: str
    requests: int  # answered on this connection
    buffer: bytes  # received and not consumed
    origin: int
    answer: bytes
    peer: str
    reused: bool
    # Monotonic seconds, when the head was there; 0.0: not known. In a HEADER: when it was accepted.
    started: float
    # In a REQUEST: the attempts to connect that have failed, in the order in which they did, each
    # as (address, errno).
    tried: tuple[tuple[str, int], ...] = ()
    # Bytes of the request's body, if it has a length, which its origin has not been sent: those at
    # the front of what is behind the head, and those still to come.
    left: int = 0
    # Bytes that the client has been sent: of interim responses; in a REQUEST, of the owner's own
    # answer (:meth:`Lane.refuse`).
    sent: int = 0
    # What the owner has said to the question about the first request in ``buffer``
    # (:meth:`Lane.answer`); None where it has not been asked, or has not answered.
    decided: Any = None
    number: int = 0  # of the request, as in its record; 0 where it has none
    # Of the request, in microseconds: question, dns, dial, first byte.
    stages: tuple[int, int, int, int] = (0, 0, 0, 0)
    spliced: int = 0  # of the bytes of the request's body that were sent
    # Milliseconds, since its connection was there: for bytes of the client, until that took any,
    # for bytes of the origin, and until that took any.
    waits: tuple[int, int, int, int] = (0, 0, 0, 0)
    # Of the request's body, if that is chunked: behind the head in ``buffer`` is what comes next.
    chunks: Chunks | None = None
    begun: Begun | None = None  # in a BODY: its response, which goes on in ``answer``
    moved: int = 0  # bytes of the request's body that its origin was sent, and were counted
    # In a REQUEST or a PARENT: monotonic seconds, since when its origin has been dialled, the
    # look-up of its name included; 0.0 if it has not.
    dialling: float = 0.0
    # As of Record.summed, of one that comes from another process.
    summed: tuple[int, int] | None = None
    via: str = ""  # as of Lane.hand_over
    # The version of SOCKS that the client speaks, 0 for HTTP; one of version 5 has been told that
    # it needs no password. ``buffer`` has what it has said since, or, if that is ``spelled``, the
    # head of a CONNECT in the place of its request. It has said ``more`` bytes than that head has.
    socks: int = 0
    more: int = 0
    spelled: bool = False
    # As of Record: the parent by way of which its origin has been reached, "" for none.
    route: str = ""
    connect_by: str = ""
    # The name of the parent (relay.lane.Hop) that ``tried`` or ``origin`` is about, "" for none;
    # and the generation of the settings by which that was decided.
    hop: str = ""
    generation: int = 0
    # What its client holds of limits (what Lane.meter was told to make), None for nothing; whether
    # its request has been counted for them.
    held: Any = None
    metered: bool = False
    accounted: int = 0  # bytes of its request, both ways, that budgets have counted

    @property
    def between(self) -> bool:
        """Whether nothing has been done of the first request in ``buffer``, so that anybody may
        serve this client."""
        begun = self.number or self.started or self.dialling or self.left or self.sent
        begun = begun or self.socks
        return self.cause == REQUEST and not begun and self.decided is None and self.chunks is None

    def take_client(self) -> int:
        """The client's descriptor: the caller's alone from now on."""
        fd, self.client = self.client, -1
        return fd

    def take_origin(self) -> int:
        """The origin's descriptor, likewise."""
        fd, self.origin = self.origin, -1
        return fd

    def close(self) -> None:
        """Closes what nobody has taken."""
        if self.client >= 0:
            os.close(self.take_client())
        if self.origin >= 0:
            os.close(self.take_origin())


def between(fd: int, address: str, requests: int, buffer: bytes, via: str = "") -> Handoff:
    """A client between two requests, of whom so many have been answered."""
    return Handoff(REQUEST, fd, address, requests, buffer, -1, b"", "", False, 0.0, via=via)
