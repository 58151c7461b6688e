"""The lane: requests that a relay repeats by itself.

Only the native engine has one. Its owner decides which requests may go where
(:meth:`Lane.add_route`); the lane accepts clients, reads heads that are plain, repeats what
was decided, and gives back every client that it cannot serve alone, with each byte that the
client has sent (:mod:`relay.handoff`). It works within :meth:`Relay.step` and tells its owner from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from spliceproxy.config import HTTP, MIXED
from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.questions import Known

if TYPE_CHECKING:
    from spliceproxy.relay.interface import TunnelEnd
    from spliceproxy.relay.moving import LaneFacts

BALANCERS = 16
"""Addresses of balancers that the lane knows at a time, as in native/lane/types.pxd."""

REFUSALS = 64
"""Clients beyond the limit on connections that their owner answers at the same time. Further
ones wait to be accepted."""

BUSY = 512
"""Connections to one origin that will soon be free: further clients wait for one of them."""

EXTRA = 128
"""Connections beyond BUSY that are made within 100 ms, while those are in use for long."""

LATE = 0.5
"""Seconds for which a connection is in use before it counts as one that will not soon be free."""

STALLED = ("", "none", "client", "origin", "network")
"""Who has kept an exchange of a second or more waiting, "" where that is not known, in the order of
the enum Stalled of native/lane/types.pxd."""

END = "end"  # it is over
START = "start"  # a tunnel begins
LIVE = "live"  # a tunnel lives
EVENTS = (END, START, LIVE)
"""What a line or a record is about, in the order of the enum Event of native/lane/types.pxd."""

NUMBER_BITS = 40
"""Bits of the number of a request (its id) in which requests are counted; above them is the number
of the worker. The lane has the even numbers, and its owner the odd ones."""

NATIVE = "native"
SQUID = "squid"  # its ten fields alone
JSON = "json"
"""The formats in which the lane writes lines."""


NOTE_MAX = 1024
"""Bytes of the longest note of a route: no more than a user and tags."""


class LineForm(NamedTuple):
    """How the lane writes a line of the log (``observe.formats``). The bytes are
    those that stay as they are in a text; any other is written as %XX. A text that is longer
    is cut."""

    target: bytes  # and in every text but a user's name
    user: bytes
    method_most: int
    target_most: int
    user_most: int
    address_most: int
    type_most: int
    query: bool  # of a target is written, not its question mark alone
    name: str = NATIVE
    note: bytes = b""  # JSON: that of a request without a route (Lane.add_route)
    note_most: int = NOTE_MAX  # bytes of the longest note


SUMS = ("destinations", "clients", "users", "failures")
"""What the lane adds up by, in the order of native/lane/types.pxd."""


class Sum(NamedTuple):
    """What exchanges have moved that have one key in common, since the last time that it was
    asked. ``key`` is an address of a client, the name of a user (UTF-8), or a destination: the
    target of a CONNECT as it is written, or the key of an origin (:meth:`Lane.add_route`); b""
    where that is not known. Of ``failures``, which end with a ``reason`` (``interface.REASONS``),
    the key is the destination, and the rest is of the last one; else it is "" and 0.0."""

    kind: str  # one of SUMS
    key: bytes
    requests: int
    received: int  # bytes from clients
    sent: int  # bytes to clients
    reason: str
    last: float  # Unix time
    client: str
    peer: str


class Hop(NamedTuple):
    """A parent proxy, by way of which the lane sends requests for tunnels (CONNECT). One that was
    asked with a head of another's (Via) is given back before it is asked."""

    name: str  # ASCII, at most HOP_MAX characters: for the lines
    by_name: bool  # it is told the name of the destination, else an address
    seconds: float  # to connect to it; no more than LaneOptions.dial, which is for its answer, too
    sent: int  # columns: of what was sent to it,
    granted: int  # and of tunnels that it has granted


HOP_MAX = 64


class LaneOptions(NamedTuple):
    """Settings of the lane. The rules say what becomes of a field, by its name in lower
    case; a field without a rule is forwarded as it is."""

    request_rules: Mapping[bytes, str]
    response_rules: Mapping[bytes, str]
    schemes: Collection[bytes]  # of Authorization, in lower case: with any other it is not plain
    via: bytes  # our Via line with its CRLF, b"" for none
    name: bytes  # ours in Via
    established: bytes  # the answer to CONNECT
    head: float  # seconds: a client between two requests
    # Seconds: a question without an answer; its client is given back then. What an answer waits
    # for has limits of its own, which must be shorter.
    ask: float
    dial: float  # seconds: all attempts to connect for one request
    race: float  # seconds after which the next address is tried beside the last
    idle: float  # seconds: an idle connection to an origin
    idle_most: int  # of these, in all
    idle_each: int  # and for one origin
    ports: tuple[int, int]  # the first and last that an outgoing connection may get
    asks: str  # the kinds of requests about which the owner is asked (Lane.add_route)
    lines: LineForm | None  # None: there is no log, and nothing is kept for one
    # Makes the class of records from the relay's own (Ending). None: there are no tokens.
    record: Callable[[type[Any]], type[Any]] | None
    # What exchanges move is added up (Lane.take_sums), and they have numbers and times, for whoever
    # asks what there is (Relay.flows).
    sums: bool = False
    note_most: int = 0  # bytes of the longest note of a route, where the lines have none
    worker: int = 0  # its number, for the ids of requests
    header: float = 3.0  # seconds: a new client whose balancer has yet to say who it is
    live: float = 0.0  # seconds between two lines about a tunnel that lives; 0.0: there are none
    heads: bool = False  # records have the lines of the request's head
    socks: bool = False  # nobody has a password: clients of SOCKS are told so without a question
    # By errno, at 0 for TIME_IS_UP: the place of its Proxy Error Type among relay.columns'.
    dial_errors: bytes = b""


class LaneOwner(Protocol):
    """Who opened the lane. It is told what comes of it, within :meth:`Relay.step`."""

    def asked(self, questions: list[Any]) -> None:
        """Each :class:`Question` is to be answered, now or later, by :meth:`Lane.answer` or
        :meth:`Lane.hand_back`. Where this raises, those without an answer are given back."""

    def left(self, ident: int) -> None:
        """The client of a question has gone, or is given back: it needs no answer. The record of
        its request has been told of, or is for whoever goes on with it."""

    def refused(self, end: tuple[LaneFacts, TunnelEnd]) -> None:
        """A tunnel has ended with TLS_NAME, and all that is to be told of it is the owner's to
        tell: it has no line, no record and no sum of the lane's."""

    def given_back(self, handoff: Handoff) -> None:
        """A client to go on with."""

    def not_accepted(self, error: int) -> None:
        """accept(2) failed with this errno, and will again; EAGAIN: the limit is reached."""

    def ended(self, records: list[Any]) -> None:
        """Exchanges with a token are over, in this order: a record of each, of the class that
        ``record`` of the options has made."""

    def logged(self, many: bool) -> None:
        """Lines wait to be taken, and should be at once where there are ``many``."""

    def dropped(self, count: int) -> None:
        """So many more lines are lost, for there was no memory to keep them."""

    def summed(self) -> None:
        """There are many sums to be taken."""

    def watched(self) -> None:
        """:meth:`Lane.watched` has something where the owner has looked at nothing, or
        :meth:`Lane.grown` has."""

    def lost(self, count: int) -> None:
        """So many clients were closed, for there was no memory to go on with them, or to give them
        back."""


class Made(Protocol):
    """What the lane makes of exchanges that it served alone, until its owner takes it."""

    def take_log(self) -> tuple[bytes, int]:
        """The lines that were made since the last call, and how many there are."""

    def sum_live(self, slot: int) -> int:
        """Adds up what tunnels and answers have moved that have not ended, some thousand slots
        from ``slot`` on; returns the slot to go on with, -1 behind the last. It stops early where
        there are many sums: they are to be taken first."""

    def take_sums(self) -> tuple[list[Sum], int]:
        """What has been added up since the last call, and how many sums found no room."""


class Lane(Made, Protocol):
    """What the owner asks of its lane. It reads from sockets, and tells its owner what comes of
    it, within :meth:`Relay.step` alone."""

    @property
    def clients(self) -> int:
        """Client connections in the lane, tunnels not counted."""

    @property
    def idle(self) -> int:
        """Idle connections to origins."""

    def listen(self, fd: int, proxied: bool = False, spoken: str = MIXED, place: int = 0) -> None:
        """Accepts clients from a listening socket, which stays the owner's. ``spoken``: what they
        may speak (``config.Address.spoken``); who speaks something else is given back. ``proxied``:
        a balancer brings them. Then each connection begins with a header of the PROXY protocol, and
        is given back (HEADER) where that is not plain, or comes from somebody who is not known.
        ``place`` is the number of its address, which goes in front of the names of its clients;
        0: it does not. OSError: epoll cannot take it."""

    def know(self, address: str) -> None:
        """Whoever connects from this address, "" for a Unix socket, may bring clients. Only the
        last BALANCERS are known."""

    def know_nobody(self) -> None:
        """Nobody of these is known any more."""

    def unlisten(self) -> None:
        """Accepts no more clients, from any socket."""

    def limit(self, most: int, others: int) -> None:
        """Refuses clients beyond ``most`` connections (0: no limit), of which ``others`` are
        not in the lane."""

    def hand_over(
        self,
        fd: int,
        address: str,
        data: bytes,
        requests: int,
        via: str = "",
        spoken: str = HTTP,
        held: Mapping[int, int] | None = None,
        place: int = 0,
    ) -> None:
        """Takes a client between two requests: ``data`` was received from it and not
        consumed, ``requests`` were answered. What it has ``held`` is the lane's from then on.
        ``spoken`` and ``place`` are as of :meth:`listen`. ``via`` is "" or, for a client that a
        balancer has brought, a mark (``policy.networks``) and the address of that, "unix" for a
        Unix socket. OSError: it is still the owner's."""

    def forget_places(self) -> None:
        """The numbers of places are others from here on: whoever has come in before is given back
        with its next request."""

    def meter(self, counting: Any, holding: Callable[[Mapping[int, int]], Any]) -> None:
        """Requests may count for limits from here on. ``counting`` is the relay's
        (:meth:`Relay.counting`), and ``holding`` makes of what a client holds (entries, and for how
        long each counts) the ``held`` of its hand-off."""

    def watched(self) -> list[tuple[int, tuple[int, ...], int, int, float, bool]]:
        """The clients and tunnels that count for limits on bytes or time which the lane does not
        keep by itself: the id of each, as of :meth:`Relay.pace`, the entries of these limits, the
        bytes from the client and to it so far, the age of a tunnel in seconds (-1 for none), and
        whether it has moved enough to be paced. That has been counted for budgets."""

    def grown(self) -> list[tuple[int, tuple[int, ...], int, int, float, bool]]:
        """Of these, those that have moved enough since the last time. They are told of from here on
        (:meth:`LaneOwner.watched`) until the owner looks at nothing any more (:meth:`rest`)."""

    def watch_budgets(self) -> bool:
        """Also what counts for budgets, which the lane keeps by itself, is among :meth:`watched`
        from here on, for it is there already and may come under other limits. Whether there is
        any."""

    def rest(self) -> None:
        """The owner looks at nothing any more, and is to be told of the next that is watched."""

    def admit(self, question: Any, meters: Sequence[Any]) -> tuple[int, int, int] | None:
        """Counts the request of a question for all of these (``policy.limits.Meter``), and those
        that follow on a route made by its answer, too. None if it fits into all, or nobody waits
        any more; else it counts for none: the place of the one that it did not fit into, why
        (``policy.limits``), and after how many ns there is room, 0 if nobody knows."""

    def give_back(self, moving: bool = False) -> None:
        """Gives back every client that is between two requests, and keeps none again until
        :meth:`listen`. ``moving``: somebody goes on with them, so the others come back, too, as
        soon as they have their answers; else their connections end then."""

    def close_clients(self) -> None:
        """Closes every client, whatever it is at."""

    def add_client(self, address: str, group: str) -> None:
        """A client of this address is of this ``group``, as of :meth:`add_route`. A mark is in
        front of that of one that a balancer has brought."""

    def add_route(
        self,
        kind: str,
        group: str,
        credentials: bytes,
        authority: bytes,
        key: bytes,
        host: bytes,
        seconds: float,
        addresses: tuple[str, ...],
        port: int,
        source: str,
        user: str,
        token: object = None,
        note: bytes = b"",
        decision: int = 0,
        hop: Hop | None = None,
        meters: Sequence[Any] = (),
        check: NameCheck | None = None,
    ) -> None:
        """Requests of this kind, group of clients, credentials and authority may go to the
        origin ``key`` for so many seconds. ``addresses`` are those that may be dialled, at least
        one, in the order to try; idle connections to one of them may be used, too. Only the first
        eight count: if all of these fail, the client comes back. ``source`` is the address to
        dial from, "" for any; the others are of its family. ``host`` is the Host field to send,
        ``user`` whom the log names, and ``note`` what its lines say of each of these requests. With
        a ``token`` the owner is told how each of them ends (:meth:`LaneOwner.ended`); ``decision``
        is the column in which each is counted, 0 for none. With a ``hop`` ``addresses`` and
        ``port`` are that parent's, and ``host`` is the head that asks it for the tunnel: with
        anything but a plain 2xx the client comes back (PARENT). Each request counts for ``meters``,
        as of :meth:`admit`; one that does not fit is asked about. ``check`` is as of
        :meth:`interface.Relay.tunnel`. A route may be forgotten at any
        time, where there are many; one whose token holds much is not made. ValueError for what is
        no IP address."""

    def answer(
        self,
        question: Any,
        group: str | None,
        key: bytes,
        host: bytes,
        addresses: tuple[str, ...],
        port: int,
        seconds: float,
        user: str,
        token: object,
        source: str = "",
        spent: float = 0.0,
        decided: object = None,
        note: bytes = b"",
        decision: int = 0,
        hop: Hop | None = None,
        check: NameCheck | None = None,
    ) -> bool:
        """The request of a question may go to the origin ``key``, at one of ``addresses``. So may
        others like it, of clients of ``group``, for so many seconds: as of :meth:`add_route`. With
        0 seconds, or without a group, none may. ``spent`` seconds of the time for all attempts to
        connect are over. ``token``, ``decision``, ``hop`` and ``check``: as of
        :meth:`add_route`. A client whose user has a name of 64 bytes or more is given back. False,
        and nothing is done, if nobody waits for the answer any more. Where this raises the
        question is as it was."""

    def refuse(self, question: Any, data: bytes, keep: bool, decided: object = None) -> int:
        """Sends an answer of the owner's to the request of a question. If ``keep``, the client may
        ask again, unless it wants its connection closed; else it is given back to be closed with
        care (LINGER). Returns the number of bytes sent: all, or 0 where the client has left, and
        is closed. -1 if nobody waits, or if the client does not take all of it now: then it is
        given back with what the owner has ``decided``, and ``sent`` of the hand-off says how many
        bytes it has. The lane writes neither a line nor a record of it. Where this raises the
        question is as it was."""

    def wait(self, question: Any, decided: object, noting: Callable[[Any], bytes] | None) -> None:
        """The answer to a question comes later. If its time (``LaneOptions.ask``) is over before,
        its client is given back with what was ``decided``. ``noting`` makes the note of a question
        as it is then, as of :meth:`add_route`: for the line of a client that leaves, and anew
        whenever what is known has changed."""

    def known(self, notes: Any) -> Known:
        """What is known of a request, as it is in an object with these attributes."""

    def hand_back(self, question: Any, decided: object = None) -> bool:
        """Gives the client of a question back, with what the owner has ``decided`` about it. False
        if nobody waits for its answer any more."""

    def ask_about(self, kinds: str) -> None:
        """From now on the owner is asked about these kinds of requests (``LaneOptions.asks``), and
        gets the others back."""

    def forget(self) -> None:
        """Forgets every route."""

    def change(self, options: LaneOptions, generation: int, rest: bool = False) -> None:
        """The owner has other settings, of this ``generation``: every route and group is
        forgotten. Of the options head, ask, dial, request_rules, via, name, asks, lines, record,
        sums, note_most, live and heads hold from here on; sums are never off again. ``rest``: there
        are no lines any more, but an exchange without a record gets one in the form that there
        was."""

    def generations(self) -> set[int]:
        """Those by which something was decided that goes on."""

    def take(self, key: bytes, addresses: Container[str]) -> tuple[int, str] | None:
        """The idle connection used last of those to one of ``addresses``, as (descriptor,
        address of the peer), or None."""

    def put(self, key: bytes, fd: int, peer: str) -> None:
        """Keeps a connection between two messages, in the place of the one that has not been
        used for longest if there are too many; or closes it, also where this raises."""

    def close_idle(self) -> None:
        """Closes every idle connection."""

    def skip(self, number: int) -> None:
        """The number of a request that another process has counted as one of this worker's: later
        ones get higher ones."""
