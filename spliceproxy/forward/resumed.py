"""A client that the relay gives back, and how far its first request has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Notes, Verdict
from spliceproxy.relay.handoff import (
    BODY,
    LINGER,
    RESPONSE,
    RETRY,
    UNANSWERED,
    Begun,
    Chunks,
    Handoff,
)
from spliceproxy.relay.questions import Known


def carry(known: Known, notes: Notes) -> None:
    """Writes down what is known of a request in the notes that go on with it."""
    notes.host, notes.port, notes.user = known.host, known.port, known.user
    notes.tags, notes.reported, notes.looked_up = known.tags, known.reported, known.looked_up
    notes.allowed_by = known.allowed_by


class Page(NamedTuple):
    """An answer of the proxy's own, and whether the client may ask again behind it."""

    data: bytes
    keep: bool


class Decided(NamedTuple):
    """Where a request may go, or why nowhere (as :data:`forward.asking.Answer`), and what was known
    of it when that was decided. ``page``: the answer that the relay has begun to send, or was
    about to."""

    answer: Verdict | Exception
    known: Known
    page: Page | None = None

    def holds(self, generation: int) -> bool:
        """Whether nobody need be asked again, by the settings of this ``generation``. Those of
        another one may have no parents of these names."""
        answer = self.answer
        by_parent = isinstance(answer, Verdict) and answer.way is not None
        return not by_parent or self.known.generation == generation

    def note(self, notes: Record) -> Verdict:
        """The verdict, for this once: whatever it could be repeated for has passed in part. Raises
        what it is if it is none."""
        carry(self.known, notes)
        notes.generation = self.known.generation
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer._replace(repeat_for=0.0)


class Spoken(NamedTuple):
    """What the relay has read of a client of SOCKS of this ``version``; the rest is as of
    :class:`relay.lane.Handoff`."""

    version: int
    more: int
    spelled: bool


@dataclass(slots=True)
class Resumed:
    """Made from the relay's hand-off, whose ``cause`` it keeps.

    ``origin`` is the connection on which the request was sent, and ``peer`` its address;
    ``reused`` says whether it had served a request before. It is None where nothing was sent, or
    where the idle connection that the relay chose was dead. Who takes the connection clears it
    here, or drops the whole value. ``started`` is when the request's head was there, in seconds
    of ``time.monotonic()``; 0.0 where that is not known. ``tried`` are the attempts to connect
    that have failed, and ``dialling_since`` says since when the relay has tried, in vain; 0.0
    where it has not. ``left`` bytes of the request's body are still to be sent, and the client has
    been sent ``passed`` bytes: of interim responses, or of the page that ``decided`` has. That is
    the answer to its question, if the relay has asked one: nobody is asked again. ``number`` is the
    request's, 0 for none, ``stages`` are the times that it has taken so far, ``spliced`` those
    bytes of its body that were sent without being copied, and ``waits`` what it was waited for
    (:class:`relay.handoff.Handoff`). ``chunks`` is how far the request's body has come if it is
    chunked, and ``begun`` the response if the client has been sent a part of its body. ``moved``
    bytes of the request's body were counted in the relay, and ``summed``, ``route`` and
    ``connect_by`` are as in the record.
    ``metered``: the request has been counted for limits, and ``accounted`` bytes of it for
    budgets.
    ``hop`` is the parent proxy that ``origin`` and ``tried`` are about, "" for none, by the
    settings of ``generation``.
    """

    cause: str
    origin: Stream | None
    peer: str
    reused: bool
    started: float
    tried: tuple[tuple[str, int], ...] = ()
    left: int = 0
    passed: int = 0
    decided: Decided | None = None
    number: int = 0
    stages: tuple[int, int, int, int] = (0, 0, 0, 0)
    spliced: int = 0
    waits: tuple[int, int, int, int] = (0, 0, 0, 0)
    chunks: Chunks | None = None
    begun: Begun | None = None
    moved: int = 0
    dialling_since: float = 0.0
    summed: tuple[int, int] | None = None
    route: str = ""
    connect_by: str = ""
    hop: str = ""
    generation: int = 0
    metered: bool = False
    accounted: int = 0

    @classmethod
    def of(cls, handoff: Handoff, origin: Stream | None) -> Resumed:
        """``origin`` is a stream of the hand-off's connection to the origin."""
        return cls(
            handoff.cause,
            origin,
            handoff.peer,
            handoff.reused,
            handoff.started,
            handoff.tried,
            handoff.left,
            handoff.sent,
            None if handoff.decided is None else Decided(*handoff.decided),
            handoff.number,
            handoff.stages,
            handoff.spliced,
            handoff.waits,
            handoff.chunks,
            handoff.begun,
            handoff.moved,
            handoff.dialling,
            handoff.summed,
            handoff.route,
            handoff.connect_by,
            handoff.hop,
            handoff.generation,
            handoff.metered,
            handoff.accounted,
        )

    @property
    def lingers(self) -> bool:
        """Whether the client already has its last answer, and is only to be closed with care."""
        return self.cause == LINGER

    @property
    def sent(self) -> bool:
        """Whether the relay has sent the request to an origin, with success or without."""
        return self.cause in (RETRY, RESPONSE, UNANSWERED, BODY)

    @property
    def answered(self) -> int:
        """Bytes that the client has been sent, if some of its answer is among them."""
        return self.begun.sent if self.begun is not None else 0

    @property
    def uploads(self) -> bool:
        """Whether some of the request's body is still to be sent."""
        if self.chunks is not None:
            return not self.chunks.over or self.chunks.owed != b""
        return self.left > 0

    @property
    def late(self) -> bool:
        """Whether the time for the response is over."""
        return self.cause == UNANSWERED

    def note(self, record: Record) -> None:
        """Writes down what the relay has done of the request."""
        record.started = self.started or record.started
        record.dialling_since = self.dialling_since
        record.tried = () if self.hop else self.tried
        record.summed = self.summed
        record.route, record.connect_by = self.route, self.connect_by
        if self.number:
            record.number = self.number
            record.question, _, record.dial, record.first_byte = self.stages

    def close(self) -> None:
        """Closes the connection to the origin, if nobody has taken it."""
        if self.origin is not None:
            self.origin.close()
            self.origin = None
