"""The lane: lets the relay repeat what was decided here, and takes back what it may not
decide.

A client's connection is with the relay while it has nothing to say, and while all that it
says is plain (:mod:`forward.plain`) and goes where a request has been allowed to go a moment
ago. Everything else comes back as a :class:`Handoff`, and becomes a Connection here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Protocol

from spliceproxy.config import HTTP, Config
from spliceproxy.forward.lane_options import KINDS, askable, lane_options
from spliceproxy.forward.plain import is_plain, written_authority
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.http1.head import RequestHead
from spliceproxy.http1.rewrite import host_field
from spliceproxy.net import tcp
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.observe.records import Records
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.networks import named
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Notes, Verdict
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.interface import Relay
from spliceproxy.relay.lane import Lane as NativeLane
from spliceproxy.relay.questions import Question
from spliceproxy.upstream.dialer import from_source
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import Key

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it since Python 3.11

    from spliceproxy.forward.limiting import Holding
    from spliceproxy.relay.interface import TunnelEnd
    from spliceproxy.relay.moving import LaneFacts
    from spliceproxy.upstream.parent import LaneWay


class Answers(Protocol):
    """Who answers what the lane asks."""

    def asked(self, questions: list[Question]) -> None: ...
    def left(self, ident: int) -> None: ...
    def refused(self, end: tuple[LaneFacts, TunnelEnd]) -> None: ...


class Front(Protocol):
    """Who goes on with what comes back."""

    def given_back(self, handoff: Handoff) -> None: ...
    def not_accepted(self, error: int) -> None: ...
    def lost(self, count: int) -> None: ...


class _News:
    """What the relay says, and whom it concerns. Nothing comes before there are clients."""

    __slots__ = ("_records", "asked", "front", "left", "refused", "watched")

    front: Front
    watched: Callable[[], None]
    asked: Callable[[list[Question]], None]
    left: Callable[[int], None]
    refused: Callable[[tuple[LaneFacts, TunnelEnd]], None]

    def __init__(self, records: Records) -> None:
        self._records = records

    def given_back(self, handoff: Handoff) -> None:
        self.front.given_back(handoff)

    def not_accepted(self, error: int) -> None:
        self.front.not_accepted(error)

    def ended(self, records: list[Record]) -> None:
        self._records.ended(records)

    def logged(self, many: bool) -> None:
        self._records.expect(many)

    def dropped(self, count: int) -> None:
        self._records.miss(count)

    def summed(self) -> None:
        self._records.hurry()

    def lost(self, count: int) -> None:
        self.front.lost(count)


class Lane:
    """The lane of one worker. ``VALID`` is how many seconds the addresses of a name, and the
    decision that belongs to them, may be repeated: a change of DNS or of /etc/hosts is followed
    within this time, at the cost of a question a second."""

    VALID = 1.0

    __slots__ = (
        "_asks",
        "_driver",
        "_forwards",
        "_native",
        "_news",
        "_own",
        "_policy",
        "admit",
        "answer",
        "grown",
        "hand_back",
        "meter",
        "note",
        "recorded",
        "refuse",
        "rest",
        "sum_live",
        "take_sums",
        "wait",
        "watch_budgets",
        "watched",
    )

    def __init__(
        self,
        native: NativeLane,
        news: _News,
        driver: RelayDriver,
        config: Config,
        policy: Policy,
        records: Records,
        own: Own,
        asks: str,
    ) -> None:
        """Of :meth:`of`. ``native`` is the relay's side."""
        self._native = native
        self._news = news
        self._driver = driver
        self._take(config, policy, records, own, asks)
        self.admit = native.admit
        self.answer = native.answer
        self.hand_back = native.hand_back
        self.meter = native.meter
        self.refuse = native.refuse
        self.sum_live = native.sum_live
        self.take_sums = native.take_sums
        self.wait = native.wait
        self.watched, self.grown, self.rest = native.watched, native.grown, native.rest
        self.watch_budgets = native.watch_budgets

    @classmethod
    def of(
        cls,
        relay: Relay,
        driver: RelayDriver,
        config: Config,
        policy: Policy,
        records: Records,
        own: Own,
        asks: str = "",
        waits: float = 0.0,
    ) -> Self | None:
        """The lane of ``relay``, which ``driver`` runs; None where its engine has none. ``own``
        are the addresses to which nothing is sent, ``asks`` the kinds of requests about which
        :meth:`answer_by` will have somebody to ask; the functions of --policy may take ``waits``
        seconds for it."""
        news = _News(records)
        native = relay.lane(lane_options(config, policy, records, asks, waits), news)
        if native is None:
            return None
        records.follow(native)
        return cls(native, news, driver, config, policy, records, own, asks)

    def change(
        self,
        config: Config,
        policy: Policy,
        records: Records,
        own: Own,
        asks: str,
        waits: float,
        *,
        rest: bool,
    ) -> None:
        """From here on another configuration decides, of the generation of the ``records``. What
        has been decided is forgotten. ``rest``: as of the relay's :meth:`Lane.change`."""
        options = lane_options(config, policy, records, asks, waits)
        self._native.change(options, records.generation, rest)
        if policy.places != self._policy.places:
            self._native.forget_places()
        self._take(config, policy, records, own, asks)
        self._driver.wake()

    def generations(self) -> set[int]:
        """As of the relay's."""
        return self._native.generations()

    def _take(self, config: Config, policy: Policy, records: Records, own: Own, asks: str) -> None:
        """What is looked at here. Not ``_forwards``: the relay cannot rewrite heads, and is for
        CONNECT only; ``recorded``: somebody wants a record of each request; ``_asks``: the kinds
        that it asks about; ``note``: as of :attr:`Records.note`."""
        self._policy = policy
        self._own = own
        self._forwards = Rewriting.of(config).repeatable
        self._asks = askable(asks, forwards=self._forwards)
        self.recorded = records.recorded
        if records.tally is not None:
            from spliceproxy.observe import json_line  # noqa: F401 - while there are descriptors
        if policy.looks_inside:
            from spliceproxy.forward import moving_facts  # noqa: F401 - likewise
        self.note = records.note or (shown_note if records.tally is not None else None)

    def answer_by(self, answers: Answers) -> None:
        """``answers`` is asked; to be said before there is a client."""
        self._news.asked, self._news.left = answers.asked, answers.left
        self._news.refused = answers.refused

    def ask_about(self, asks: str) -> None:
        """From now on somebody is asked about these kinds, and what has been decided is
        forgotten. Without a kind each request comes back, and can be looked at."""
        self._asks = askable(asks, forwards=self._forwards)
        self._native.ask_about(self._asks)
        self.forget()

    def forget(self) -> None:
        """What has been decided is asked about again."""
        self._native.forget()

    def watch_by(self, begun: Callable[[], None]) -> None:
        """``begun`` is called when :meth:`watched` has something, and nobody looks; or when
        :meth:`grown` has."""
        self._news.watched = begun

    def report_to(self, front: Front) -> None:
        """``front`` goes on with what comes back; to be said before there is a client."""
        self._news.front = front

    @property
    def clients(self) -> int:
        """Client connections that are with the relay, tunnels not counted."""
        return self._native.clients

    # ---- clients -----------------------------------------------------------------------

    def listen(self, sock: socket.socket, *, proxied: bool, spoken: str, place: int) -> None:
        """The relay accepts clients from here on, which a balancer brings if it is ``proxied``, and
        which may speak what is ``spoken``. ``place`` is as of :attr:`Policy.places`, here and
        below: 0 for none of them."""
        self._native.listen(sock.fileno(), proxied, spoken, place)

    def know(self, address: str) -> None:
        """As of :meth:`relay.lane.Lane.know`."""
        self._native.know(address)

    def know_nobody(self) -> None:
        """Nobody of these is known any more."""
        self._native.know_nobody()

    def unlisten(self) -> None:
        """The relay accepts no more, from any socket."""
        self._native.unlisten()

    def limit(self, most: int, others: int) -> None:
        """Beyond ``most`` connections (0: no limit) clients are refused; ``others`` of them
        are not with the relay."""
        self._native.limit(most, others)

    def begin(
        self, sock: socket.socket, address: str, data: bytes, via: str, spoken: str, place: int
    ) -> bool:
        """A new client, of which ``data`` was received, and which may speak what is ``spoken``,
        goes to the relay; false if it cannot."""
        try:
            self._native.hand_over(sock.fileno(), address, data, 0, via, spoken, None, place)
        except OSError:
            return False
        tcp.let_go(sock)
        self._driver.wake()
        return True

    def hand_over(
        self,
        stream: Stream,
        address: str,
        requests: int,
        via: str = "",
        spoken: str = HTTP,
        holding: Holding | None = None,
        place: int = 0,
    ) -> bool:
        """A client's connection between two requests goes to the relay, with what it holds; false
        if it cannot. One without a request may speak what is ``spoken``."""
        stream.pause()
        data, held = bytes(stream.buffer), None if holding is None else holding.held
        try:
            self._native.hand_over(stream.fd, address, data, requests, via, spoken, held, place)
        except OSError:
            return False
        if holding is not None:
            holding.given()
        stream.detach()
        self._driver.wake()
        return True

    def give_back(self, *, moving: bool = False) -> None:
        """The clients between two requests come back. The others are not kept afterwards; if
        ``moving``, they come back when they have their answers."""
        self._native.give_back(moving)

    def close_clients(self) -> None:
        """Closes every client, whatever it is at."""
        self._native.close_clients()

    def skip(self, number: int) -> None:
        """Later requests have higher numbers than this one."""
        self._native.skip(number)

    # ---- routes ------------------------------------------------------------------------

    def allow(
        self,
        client: Standing,
        head: RequestHead,
        verdict: Verdict,
        record: Record,
        by: LaneWay | None = None,
    ) -> bool:
        """Requests like this one, of clients like this one, may go where the verdict says for a
        moment, without being looked at; ``by`` is the parent by way of which. Returns whether the
        lane can serve such requests, by asking for each or without. One that is traced is to be
        looked at each time."""
        group = client.group
        if record.trace is not None:
            return False
        if head.method != "CONNECT" and not (self._forwards and is_plain(head)):
            return False
        authority = written_authority(head)
        if not authority or self._own.may_be(verdict.port if by is None else by.port):
            return False
        key, host = origin_key(verdict.key), host_field(head)
        addresses, port = self._where(verdict)
        hop = None
        if by is not None:
            key, host, addresses, port, hop = by
        if not addresses:
            return False
        kind = KINDS.get((head.method, head.form), "")
        if not verdict.repeat_for or group is None or any(verdict.said.rates):
            return (kind or KINDS["", head.form]) in self._asks
        if not kind:
            kind = KINDS["", head.form]
            authority = head.method.encode("ascii") + b" " + authority
        self._native.add_route(
            kind,
            group,
            (head.get(b"proxy-authorization") or b"") if self._policy.identifies else b"",
            authority,
            key,
            host,
            self.seconds(verdict),
            addresses,
            port,
            verdict.source_address,
            record.user,
            self._native.known(record) if self.recorded else None,
            self.note(record) if self.note is not None else b"",
            record.decision,
            hop,
            () if record.holding is None else record.holding.meters,
            verdict.check,
        )
        self._native.add_client(named(record.mark + record.client, client.place), group)
        return True

    def seconds(self, verdict: Verdict) -> float:
        """For how long a verdict may be repeated. A host that is an address leads nowhere else
        later on; but a parent may be put aside."""
        if verdict.addresses == (verdict.host,) and verdict.way is None:
            return verdict.repeat_for
        return min(self.VALID, verdict.repeat_for)

    def _where(self, verdict: Verdict) -> tuple[tuple[str, ...], int]:
        """The addresses to dial, and their port."""
        return from_source(verdict.addresses, verdict.source_address), verdict.port

    # ---- idle connections to origins ---------------------------------------------------

    def __len__(self) -> int:
        return self._native.idle

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        """As :meth:`IdlePool.take`."""
        found = self._native.take(origin_key(key), addresses)
        if found is None:
            return None
        fd, peer = found
        return self.stream(fd, peer, b""), peer

    def take_own(
        self, key: Key, addresses: Container[str], user: object
    ) -> tuple[Stream, str] | None:
        """None: whose connections are here, are the lane's clients."""
        return None

    def put(self, key: Key, stream: Stream, peer: str, user: object = None) -> None:
        """As :meth:`IdlePool.put`."""
        if stream.buffer:
            stream.close()
            return
        self._native.put(origin_key(key), stream.detach(), peer)
        self._driver.wake()

    def close(self) -> None:
        """As :meth:`IdlePool.close`."""
        self._native.close_idle()

    def stream(self, fd: int, peer: str, received: bytes) -> Stream:
        """A stream of a descriptor that the relay has given back, and what it had received.
        Where this raises the descriptor is closed."""
        return Stream.of(fd, peer, received, self._driver.loop)


def shown_note(notes: Notes) -> bytes:
    """What the lane keeps for operators who ask what there is: the tags, of which it knows nothing
    otherwise."""
    if not notes.tags:
        return b""
    from spliceproxy.observe import json_line  # late: without tags nobody needs it

    return json_line.note(notes)


def origin_key(key: Key) -> bytes:
    """A key of :mod:`upstream.pool` as the relay has it: different ones stay different."""
    host, port, source = key
    return f"{port} {source} {host}".encode()
