"""Answers the lane, which asks where requests may go that it has no route for.

The questions of a step come together. Most are answered before the relay goes on: a place is read
from the authority, the policy is asked, and the lane dials. What the policy has to wait for is a
task until then. Whatever has to be answered in another way than by a place is handed over: it
becomes a Connection, with what was decided, if anything was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from spliceproxy.config import Config
from spliceproxy.errors import Denied, Failure
from spliceproxy.forward.asking import Answer, Later, Names
from spliceproxy.forward.lane import Lane, origin_key
from spliceproxy.forward.lane_options import CONNECT, KINDS
from spliceproxy.forward.own_faults import tell
from spliceproxy.forward.refusing import challenge, note_refusal, refusal
from spliceproxy.forward.resumed import Decided, Page, carry
from spliceproxy.forward.services import Services
from spliceproxy.forward.tunnel import finish
from spliceproxy.http1.target import split_authority
from spliceproxy.observe.record import Record, microseconds
from spliceproxy.observe.records import Records
from spliceproxy.observe.termination import QUESTION
from spliceproxy.policy.decision import YES
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.interface import CLIENT_RESET
from spliceproxy.relay.questions import Question as Asked
from spliceproxy.upstream.dialer import from_source
from spliceproxy.upstream.own import Own

if TYPE_CHECKING:
    from spliceproxy.forward.lending import Lending
    from spliceproxy.forward.limiting import Limiting
    from spliceproxy.relay.interface import TunnelEnd
    from spliceproxy.relay.moving import LaneFacts
    from spliceproxy.upstream.parent import LaneWay

PLACES = 4096
"""Authorities, as clients write them, whose host and port are remembered."""

CLIENTS = 4096
"""Addresses of clients whose standing is remembered."""

_LATE = "no decision was made in time"
_UNDECIDED = Failure("proxy_internal_error", _LATE, why=_LATE)
"""What a client is told whose question is open beyond every limit of what it waits for."""


def kinds_asked(config: Config) -> str:
    """The kinds of requests that can be answered by a place."""
    if config.serve is None and config.default_backend is not None:
        return "".join(KINDS.values())
    return "".join(kind for kind in KINDS.values() if kind.isupper())


Place = tuple[str, int, bytes, bytes, bool, bool]
"""Where a request wants to go: host, port, the key of its connections from any address, the value
of Host for the origin, whether it is the default backend, and whether it may be this proxy itself.
It is taken apart for each request, which a class of its own would make slow."""


class Known:
    """In the place of a Later: an answer that is there, and has to be counted yet."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Answer]:
        yield from ()
        return self._answer

    def close(self) -> None:
        pass


class Answering:
    """Of one worker's ``lane``. ``own`` are the addresses to which nothing is sent."""

    __slots__ = (
        "_allowed",
        "_asking",
        "_backend",
        "_client",
        "_knows_peers",
        "_lane",
        "_limiting",
        "_names",
        "_note",
        "_own",
        "_place",
        "_recorded",
        "_services",
        "_waiting",
    )

    def __init__(
        self,
        services: Services,
        lane: Lane,
        names: Names,
        own: Own,
    ) -> None:
        self._services = services
        self._lane = lane
        self._names = names
        self._allowed = services.counts.allowed
        self.change(own)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        lane.answer_by(self)

    def change(self, own: Own) -> None:
        """The services are those of another configuration."""
        services = self._services
        self._own = own
        self._backend = services.config.default_backend
        self._asking = services.asking
        self._knows_peers = services.policy.knows_peers
        self._recorded = self._lane.recorded
        self._note = self._lane.note
        self._limiting = services.limiting
        self._place = lru_cache(maxsize=PLACES)(self._read)
        self._client = lru_cache(maxsize=CLIENTS)(self._standing)

    # ---- what the lane says ------------------------------------------------------------

    def asked(self, asked: Sequence[Asked]) -> None:
        """Answers each of these, or begins to."""
        for one in asked:
            try:
                self._begin(one)
            except Exception as error:  # noqa: BLE001 - it is this request's alone
                self._fail(one, error)

    def left(self, ident: int) -> None:
        """The client of a question has left."""
        task = self._waiting.get(ident)
        if task is not None:
            task.cancel()

    def refused(self, end: tuple[LaneFacts, TunnelEnd]) -> None:
        """What the client of a tunnel has said first is refused. It ends as one of Python's."""
        from spliceproxy.forward.moving_facts import record_of_lane  # the lane has loaded it

        facts, ended = end
        services = self._services
        summed = services.records.tally is not None
        record = record_of_lane(facts, None, self._allowed)
        finish(services, record, ended, summed=summed)

    async def finish(self) -> None:
        """Ends all that waits: nobody does any more."""
        tasks = list(self._waiting.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---- one answer --------------------------------------------------------------------

    def _begin(self, one: Asked) -> None:
        """An answer now, or a task. This is the way of each request that has no route: it makes
        as few calls as it can."""
        try:
            place = self._place(one.where)
        except ValueError:
            self._lane.hand_back(one)
            return
        host, port, _, _, own, odd = place
        if odd:
            self._lane.hand_back(one)
            return
        client, group = self._client(one.name)
        if self._knows_peers and not one.client and not one.via:
            client, group = client._replace(uid=one.uid), None
        # It takes the notes of a request as well as a record does.
        answer = self._asking.begin(client, one, host, port, one, own)  # type: ignore[arg-type]
        if isinstance(answer, Later):
            self._wait(one, place, group, answer)
        elif self._limiting is None:
            self._answer(one, place, group, answer)
        elif self._limiting.lending is None:
            self._answer(one, place, group, self._count(self._limiting, one, answer))
        else:
            self._count_lent(one, place, group, answer)

    def _answer(self, one: Asked, place: Place, group: str | None, answer: Answer) -> None:
        if not isinstance(answer, Verdict):
            if isinstance(answer, Failure):
                self._refuse(one, answer)
            else:
                self._fail(one, answer)
            return
        _, _, addresses, source, seconds, way, said, check = answer
        host, port, key, field, _, _ = place
        hop = None
        if way is not None:
            by = self._by_parent(one, answer)
            if by is None:
                addresses = ()
            else:
                key, field, addresses, port, hop = by
                seconds = 0.0 if len(way.parents) > 1 and way.by_turns else seconds
        elif source:
            key, addresses = origin_key(answer.key), from_source(addresses, source)
        token = one.known() if self._recorded else None
        # Who gets the client back has no need to ask again. Routes know nothing of rates.
        decided = answer, token or one, None  # a Decided, once somebody goes on with it
        looked_up = one.looked_up
        paced = said is not YES and (said.rate_in or said.rate_out)
        if not addresses or paced or (looked_up and self._is_late(host)):
            self._lane.hand_back(one, decided)
            return
        if seconds:
            if one.generation != self._asking.generation:
                seconds = 0.0  # the settings are others by now
            elif seconds > Lane.VALID:
                seconds = self._lane.seconds(answer)
        note = self._note(one) if self._note is not None else b""
        self._lane.answer(
            one,
            group,
            key,
            field,
            addresses,
            port,
            seconds,
            one.user,
            token,
            source,
            looked_up,
            decided,
            note,
            self._allowed[one.allowed_by],
            hop,
            check,
        )

    def _count(self, limiting: Limiting, one: Asked, answer: Answer) -> Answer:
        """The answer to a request that counts for limits."""
        if not isinstance(answer, Verdict):
            return answer
        addresses = answer.addresses
        try:
            limiting.ask(self._lane, one, addresses[0] if addresses else "", answer.said.limits)
        except Denied as error:
            return error
        return answer._replace(repeat_for=min(answer.repeat_for, limiting.limits.repeat_for))

    def _count_lent(self, one: Asked, place: Place, group: str | None, answer: Answer) -> None:
        """The same where other machines share the limits: it may have to wait."""
        assert self._limiting is not None
        from spliceproxy.forward.limiting import Unlent  # loaded where there are limits

        try:
            answer = self._count(self._limiting, one, answer)
        except Unlent:
            self._wait(one, place, group, Known(answer))
        else:
            self._answer(one, place, group, answer)

    def _by_parent(self, one: Asked, verdict: Verdict) -> LaneWay | None:
        """The parent by way of which the lane can go; None where it cannot, or where its name may
        be another's by now."""
        parents = self._asking.parents
        if parents is None or one.method != "CONNECT":
            return None
        if one.generation != self._asking.generation:
            return None
        by = parents.in_lane(verdict)
        return None if by is None or self._own.may_be(by.port) else by

    def _is_late(self, host: str) -> bool:
        """Whether a part of the name's addresses has yet to come."""
        late = self._names.late(host)
        return late is not None and not late.done()

    def _refuse(self, one: Asked, error: Failure) -> None:
        """Sends what a Connection would. A client that has much to read yet is handed over."""
        services = self._services
        # What follows a CONNECT was meant for the tunnel, as in front.answers.
        keep = (
            error.error != "http_request_error"
            and not services.draining
            and not one.closes
            and (one.kind != CONNECT or (bool(challenge(error)) and not one.followed))
        )
        if one.socks:
            page, keep = _reply(one.socks, error), False
        else:
            date = services.date()
            page = refusal(error, one, services.reasons, minor=1, close=not keep, date=date)
        record = _record(services.records, one) if services.records.wanted else None
        sent = self._lane.refuse(one, page, keep, Decided(error, one.known(), Page(page, keep)))
        if sent < 0:
            return
        services.counts.refused(one.method, error, one.received, sent, one.socks)
        if record is not None:
            note_refusal(record, error, services.counts)
            record.bytes_out += sent
            record.reason = CLIENT_RESET if sent < len(page) else ""
            services.records.write(record)

    def _fail(self, one: Asked, error: Exception) -> None:
        """A fault of ours: a Connection answers it, and tells it."""
        try:
            waited = self._lane.hand_back(one, Decided(error, one.known()))
        except MemoryError:
            waited = self._lane.hand_back(one)  # it asks again
        if not waited:
            tell(self._services.faults, one.client, error)

    def _wait(self, one: Asked, place: Place, group: str | None, later: Later | Known) -> None:
        task = self._services.loop.create_task(self._later(one, place, group, later))
        self._waiting[one.ident] = task
        task.add_done_callback(partial(self._waited, one.ident, later))
        # Whoever gets the client back must not ask again: a function is called once.
        self._lane.wait(one, _new(Decided, (_UNDECIDED, one, None)), self._note)

    def _waited(self, ident: int, later: Later | Known, task: asyncio.Task[None]) -> None:
        if self._waiting.get(ident) is task:  # not yet another of the same client
            del self._waiting[ident]
        later.close()  # it was cancelled before it began

    async def _later(
        self, one: Asked, place: Place, group: str | None, later: Later | Known
    ) -> None:
        try:
            answer = await later
            limiting = self._limiting
            if limiting is not None and limiting.lending is not None:
                answer = await self._settle(limiting, limiting.lending, one, answer)
            elif limiting is not None:
                answer = self._count(limiting, one, answer)
            self._answer(one, place, group, answer)
        except Exception as error:  # noqa: BLE001 - as in asked()
            self._fail(one, error)
        finally:
            if one.waits:  # the client has not left
                self._fail(one, RuntimeError("what a decision waited for was cancelled"))
            self._services.relay.wake()

    async def _settle(
        self, limiting: Limiting, lending: Lending, one: Asked, answer: Answer
    ) -> Answer:
        try:
            return await lending.settle(partial(self._count, limiting, one, answer))
        except Denied as error:
            return error

    # ---- where to ----------------------------------------------------------------------

    def _standing(self, name: str) -> tuple[Standing, str | None]:
        """What decisions know of clients with this name (as of a question), and their group."""
        client = self._services.policy.standing(name, None)
        return client, client.group

    def _read(self, where: bytes) -> Place:
        """The place of an authority as it is written, behind the letter of its kind. ValueError
        where it is not one of a plain request."""
        text = where.decode("ascii")
        kind = text[0]
        host, port = split_authority(text[1:])
        if kind == CONNECT:
            if not port:
                raise ValueError("CONNECT without a port")
            return self._made(host, port, b"")
        field = f"[{host}]" if ":" in host else host
        if port and port != 80:
            field = f"{field}:{port}"
        if kind.isupper():
            return self._made(host, port or 80, field.encode("ascii"))
        if self._backend is None:
            raise ValueError("no default backend")
        return self._made(*self._backend, field.encode("ascii"), own=True)

    def _made(self, host: str, port: int, field: bytes, *, own: bool = False) -> Place:
        key = origin_key((host, port, ""))
        return host, port, key, field, own, self._own.may_be(port)


_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__


def _record(records: Records, one: Asked) -> Record:
    """What is known of a request that gets its answer here."""
    now = time.monotonic()
    record = records.new(one.client, one.started or now)
    record.mark, record.via = one.via[:1], one.via[1:]
    record.number = one.number or record.number
    record.stage = QUESTION
    if records.fields:
        record.fields = one.fields
    record.method = one.method
    record.target = one.head.split(b" ", 2)[1].decode("ascii")
    carry(one, record)
    record.question = microseconds(now - record.started - one.looked_up)
    record.bytes_in = one.received
    record.socks = one.socks
    record.bytes_out = 2 if one.socks == 5 else 0  # the reply to its greeting
    return record


def _reply(version: int, error: Failure) -> bytes:
    """What a client of SOCKS is told."""
    from spliceproxy.socks import replies  # which most proxies never need

    return replies.refused(version, replies.REPLIES[error.error])
