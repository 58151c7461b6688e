"""Answers the lane, which asks where requests may go that it has no route for.

The questions of a step come together. Most are answered before the relay goes on: a place is read
from the authority, the policy is asked, and the lane dials. What the policy has to wait for is a
task until then. Whatever has to be answered in another way than by a place is handed over: it
becomes a Connection, which asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from spliceproxy.config import Config
from spliceproxy.forward.asking import Answer, Asking, Later, Names, Question
from spliceproxy.forward.lane import CONNECT, KINDS, Lane
from spliceproxy.http1.target import split_authority
from spliceproxy.messages import log
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.lane import Question as Asked
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import Key

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
    key: Key
    field: bytes
    own: bool  # the default backend
    odd: bool  # maybe this proxy itself


class Answering:
    """Of one worker's lane. ``backend`` is where requests in origin form go, if anywhere;
    ``own`` are the addresses to which nothing is sent."""

    __slots__ = (
        "_asking",
        "_backend",
        "_driver",
        "_lane",
        "_names",
        "_own",
        "_place",
        "_policy",
        "_waiting",
    )

    def __init__(
        self,
        lane: Lane,
        driver: RelayDriver,
        asking: Asking,
        policy: Policy,
        names: Names,
        own: Own,
        backend: tuple[str, int] | None,
    ) -> None:
        self._lane = lane
        self._driver = driver
        self._asking = asking
        self._policy = policy
        self._names = names
        self._own = own
        self._backend = backend
        self._place = lru_cache(maxsize=PLACES)(self._read)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        lane.answer_by(self)

    # ---- what the lane says ------------------------------------------------------------

    def asked(self, asked: Sequence[Asked]) -> None:
        """Answers each of these, or begins to. Those that raise are handed over."""
        standing = self._policy.standing
        open_ones: list[tuple[Asked, Place]] = []
        questions: list[Question] = []
        for one in asked:
            try:
                place = self._place(one.kind, one.authority)
            except ValueError:
                self._lane.hand_back(one)
                continue
            if place.odd or (self._policy.knows_peers and not one.client):
                self._lane.hand_back(one)
                continue
            client = standing(one.client, None)
            open_ones.append((one, place))
            # It takes the notes of a request as well as a record does.
            questions.append(Question(client, one, place.host, place.port, one, place.own))  # type: ignore[arg-type]
        answers = self._asking.ask(questions)
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
            if not isinstance(answer, Verdict) or answer.source_address or self._late(one, place):
                self._lane.hand_back(one)
                return
            self._lane.answer(
                one,
                question.client.group if answer.repeat_for else None,
                place.key,
                place.field,
                answer.addresses,
                place.port,
                min(self._lane.VALID, answer.repeat_for),
                one.user,
                None,
            )
        except Exception:  # a fault of ours, or no memory: of this request alone
            log.exception("a question of the lane could not be answered")
            self._lane.hand_back(one)

    def _late(self, one: Asked, place: Place) -> bool:
        """Whether a part of the name's addresses has yet to come."""
        return one.looked_up > 0.0 and self._names.late(place.host) is not None

    def _wait(self, one: Asked, place: Place, question: Question, later: Later) -> None:
        task = self._driver.loop.create_task(self._later(one, place, question, later))
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
            self._driver.wake()

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
        return Place(host, port, (host, port, ""), field, own, self._own.may_be(port))
