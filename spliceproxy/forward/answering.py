"""Answers the lane, which asks where requests may go that it has no route for.

The questions of a step come together. Most are answered before the relay goes on: a place is read
from the authority, the policy is asked, and the lane dials. What the policy has to wait for is a
task until then. Whatever has to be answered in another way than by a place is handed over: it
becomes a Connection, which asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from spliceproxy.config import Config
from spliceproxy.errors import Failure
from spliceproxy.forward.asking import Answer, Later, Names, Question
from spliceproxy.forward.lane import CONNECT, KINDS, Lane, origin_key
from spliceproxy.forward.refusing import challenge, note_refusal, refusal
from spliceproxy.forward.services import Services
from spliceproxy.http1.target import split_authority
from spliceproxy.messages import log
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.interface import CLIENT_RESET
from spliceproxy.relay.lane import Question as Asked
from spliceproxy.upstream.dialer import from_source
from spliceproxy.upstream.own import Own

PLACES = 4096
"""Authorities, as clients write them, whose host and port are remembered."""


def kinds_asked(config: Config) -> str:
    """The kinds of requests that can be answered by a place."""
    if config.serve is None and config.default_backend is not None:
        return "".join(KINDS.values())
    return "".join(kind for kind in KINDS.values() if kind.isupper())


class Place(NamedTuple):
    """Where a request wants to go. ``field`` is the value of Host for the origin."""

    host: str
    port: int
    key: bytes  # of its connections, from any address
    field: bytes
    own: bool  # the default backend
    odd: bool  # maybe this proxy itself


class Answering:
    """Of one worker's ``lane``. ``own`` are the addresses to which nothing is sent."""

    __slots__ = (
        "_backend",
        "_lane",
        "_names",
        "_own",
        "_place",
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
        self._own = own
        self._backend = services.config.default_backend
        self._place = lru_cache(maxsize=PLACES)(self._read)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        lane.answer_by(self)

    # ---- what the lane says ------------------------------------------------------------

    def asked(self, asked: Sequence[Asked]) -> None:
        """Answers each of these, or begins to. Those that raise are handed over."""
        policy = self._services.policy
        standing = policy.standing
        open_ones: list[tuple[Asked, Place]] = []
        questions: list[Question] = []
        for one in asked:
            try:
                place = self._place(one.kind, one.authority)
            except ValueError:
                self._lane.hand_back(one)
                continue
            if place.odd or (policy.knows_peers and not one.client):
                self._lane.hand_back(one)
                continue
            client = standing(one.client, None)
            open_ones.append((one, place))
            # It takes the notes of a request as well as a record does.
            questions.append(Question(client, one, place.host, place.port, one, place.own))  # type: ignore[arg-type]
        answers = self._services.asking.ask(questions)
        for (one, place), question, answer in zip(open_ones, questions, answers, strict=True):
            if isinstance(answer, Later):
                self._wait(one, place, question, answer)
            else:
                self._answer(one, place, question, answer)

    def left(self, ident: int) -> None:
        """The client of a question has left."""
        task = self._waiting.get(ident)
        if task is not None:
            task.cancel()

    async def finish(self) -> None:
        """Ends all that waits: nobody does any more."""
        tasks = list(self._waiting.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---- one answer --------------------------------------------------------------------

    def _answer(self, one: Asked, place: Place, question: Question, answer: Answer) -> None:
        try:
            if isinstance(answer, Failure):
                self._refuse(one, answer)
                return
            if not isinstance(answer, Verdict) or self._late(one, place):
                self._lane.hand_back(one)
                return
            key, addresses, source = place.key, answer.addresses, answer.source_address
            if source:
                key, addresses = origin_key(answer.key), tuple(from_source(addresses, source))
            if not addresses:
                self._lane.hand_back(one)
                return
            self._lane.answer(
                one,
                question.client.group if answer.repeat_for else None,
                key,
                place.field,
                addresses,
                place.port,
                min(self._lane.VALID, answer.repeat_for),
                one.user,
                None,
                source,
            )
        except Exception:  # a fault of ours, or no memory: of this request alone
            log.exception("a question of the lane could not be answered")
            self._lane.hand_back(one)

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
        page = refusal(error, one, services.reasons, minor=1, close=not keep, date=services.date())
        record = _record(one) if services.records.wanted else None
        sent = self._lane.refuse(one, page, keep)
        if sent < 0:
            self._lane.hand_back(one)
        elif record is not None:
            note_refusal(record, error)
            record.bytes_out = sent
            record.reason = CLIENT_RESET if sent < len(page) else ""
            services.records.write(record)

    def _late(self, one: Asked, place: Place) -> bool:
        """Whether a part of the name's addresses has yet to come."""
        return one.looked_up > 0.0 and self._names.late(place.host) is not None

    def _wait(self, one: Asked, place: Place, question: Question, later: Later) -> None:
        task = self._services.loop.create_task(self._later(one, place, question, later))
        self._waiting[one.ident] = task
        task.add_done_callback(partial(self._waited, one.ident, later))

    def _waited(self, ident: int, later: Later, task: asyncio.Task[None]) -> None:
        if self._waiting.get(ident) is task:  # not yet another of the same client
            del self._waiting[ident]
        later.close()  # it was cancelled before it began

    async def _later(self, one: Asked, place: Place, question: Question, later: Later) -> None:
        try:
            self._answer(one, place, question, await later)
        finally:
            if one.waits:  # what the policy waited for was cancelled
                self._lane.hand_back(one)
            self._services.relay.wake()

    # ---- where to ----------------------------------------------------------------------

    def _read(self, kind: str, authority: bytes) -> Place:
        """The place of an authority as it is written. ValueError where it is not one of a plain
        request."""
        host, port = split_authority(authority.decode("ascii"))
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
        return Place(host, port, key, field, own, self._own.may_be(port))


def _record(one: Asked) -> Record:
    """What is known of a request that gets its answer here."""
    record = Record(one.client, one.started or time.monotonic())
    record.method = one.method
    record.target = one.head.split(b" ", 2)[1].decode("ascii")
    record.host, record.port, record.user = one.host, one.port, one.user
    record.tags, record.reported, record.looked_up = one.tags, one.reported, one.looked_up
    record.bytes_in = len(one.head)
    return record
