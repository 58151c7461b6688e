"""What every relay engine offers for bytes, and what it reports of them.

An engine owns an epoll instance. Its descriptor is a reader on the event loop: when it is
readable, the loop calls :meth:`Relay.step` once. Between two calls of ``step`` no socket is
read; the bytes that come with a new tunnel are sent at once. All sockets must be non-blocking
stream sockets.

A *flow* is a tunnel or a transfer. A *way* is one direction of it; of a tunnel, *up* is
client to origin, *down* is origin to client. A way *stalls* when its source is readable and
splice(2) gives nothing.

All engines promise the same bytes and the same ends, and tests/relay holds each of them to it.
When a way splices, how long its turn lasts and who is served first is each engine's own: they
share the numbers below, and use them as is best for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from spliceproxy.config import Config
from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.lane import Lane, LaneOptions, LaneOwner

if TYPE_CHECKING:
    from spliceproxy.relay.meters import Counting, Meters
    from spliceproxy.relay.moving import FrozenExchange, FrozenTransfer, FrozenTunnel, TunnelState

CHUNK = 64 * 1024
"""Bytes that one recv of the copy path asks for."""

BULK_READ = 16 * 1024
"""A read of this many bytes counts towards splicing. Near 16 KiB a call copying and splicing
cost the same (Linux 6.18); above that splicing is cheaper."""

PROMOTE_AFTER = 3
"""Bulk reads in a row after which a way splices (HAProxy's FAST_STREAMER)."""

CHATTY_READ = 8 * 1024
"""A splice that moved less than this counts towards copying again."""

DEMOTE_AFTER = 2
"""Chatty splices in a row after which a way copies again."""

REST = 1.0
"""Seconds without a byte after which a way starts again by copying
(HAProxy's ``tune.idletimer``)."""

SPLICE_MIN = 64 * 1024
"""A transfer of at least this known length splices from its first byte."""

TURN_BYTES = 4 << 20
"""Bytes that a way may move in one wake-up before others have their turn. Long turns are
cheap: 16 tunnels cost 0.145 s/GB with 4 MiB, 0.24 with 1 MiB (loopback, Linux 6.18)."""

TURN_MOVES = 4
"""Reads that a way may make in one wake-up."""

CROWD = 16
"""Pipes that may be lent, to ways whose targets are full, before each way that splices becomes
*narrow*: it takes and holds less, by the numbers below (native/core/crowd.pxd). A stalled
download holds up to 8.5 MiB in the buffers of the kernel when it is wide, and 0.6 MiB when it
is narrow. A GB costs 1.06 of the CPU with 100 downloads, and up to 1.4 with one, where the peers
are on this machine."""

CROWD_LASTS = 10.0
"""Seconds that ways stay narrow after so many pipes were lent."""

NARROW_UNSENT = 128 * 1024
"""Bytes that may wait to be sent to the target of a narrow way (TCP_NOTSENT_LOWAT)."""

NARROW_RECEIVE = 212_992
"""The receive buffer of its source, if that is near, as SO_RCVBUF takes it: the kernel makes
twice as much of it. It is what net.core.rmem_max allows by default."""

NARROW_READ = 256 * 1024
"""Bytes that it takes at a time."""

NEAR = 0.002
"""Seconds of the shortest round trip below which a source is near. What its buffer holds makes
100 MB/s there, and more where it is nearer."""

STEP_SECONDS = 0.002
"""After this long ``step`` goes back to the event loop, whatever is left."""

# Reasons for the end of a tunnel or transfer. A body in the lane ends like a transfer from the
# origin, but for a client that fails: that is CLIENT_RESET.
DONE = "done"  # both sides have sent FIN; a transfer: its whole length has moved
CLIENT_RESET = "client-reset"  # the client's connection failed: reset, timeout, ...
ORIGIN_RESET = "origin-reset"
IDLE = "idle-timeout"
HALF_CLOSE = "half-close-timeout"
ABORTED = "aborted"  # abort(), cancel() or close()
KILLED = "killed"  # kill(): an operator has ended it
POLICY = "policy"  # the same: the settings allow it no more
TLS_NAME = "tls-name"  # tunnel only: what was found of the name inside TLS is refused
LIMIT = "limit"  # as POLICY: it has lasted, or moved, as much as a limit allows
SOURCE_EOF = "source-eof"  # transfer only: FIN before `length` bytes
SOURCE_ERROR = "source-error"  # transfer only
TARGET_ERROR = "target-error"  # transfer only
TARGET_IDLE = "target-idle-timeout"  # transfer only: IDLE, and the target does not take bytes

REASONS = (
    "",  # it has not ended
    DONE,
    CLIENT_RESET,
    ORIGIN_RESET,
    SOURCE_ERROR,
    TARGET_ERROR,
    SOURCE_EOF,
    IDLE,
    TARGET_IDLE,
    HALF_CLOSE,
    ABORTED,
    KILLED,
    POLICY,
    TLS_NAME,
    LIMIT,
)
"""All of them in the order of the enum Reason of native/core/types.pxd: the compiled module
compares them when it is imported."""


class TunnelEnd(NamedTuple):
    """How a tunnel ended. Early data counts as copied; ``*_info`` are the raw
    ``struct tcp_info`` (tcp(7)) of each leg, empty where the socket has none. ``silent`` is "c" or
    "s" where a time limit has ended it: the client or the origin (server) does not take what
    there is for it, has yet to end, or was spoken to last. ``waits`` are milliseconds: until the
    client took bytes, for bytes of the origin, until the origin took bytes, and the silence of
    the origin in which none were due. ``found`` is what was found of the name inside TLS, one of
    ``relay.checking.FOUND``; ``flight`` is what the client has said first, where another name was
    found in it that is refused."""

    reason: str
    errno: int
    up_copied: int
    up_spliced: int
    down_copied: int
    down_spliced: int
    client_info: bytes
    origin_info: bytes
    silent: str = ""
    waits: tuple[int, int, int, int] = (0, 0, 0, 0)
    found: str = ""
    flight: bytes = b""


class TransferEnd(NamedTuple):
    """How a transfer ended: ``copied`` + ``spliced`` bytes reached the target's socket. It has
    waited ``for_target`` milliseconds until that took bytes, and ``for_source`` for the source."""

    reason: str
    errno: int
    copied: int
    spliced: int
    for_target: int = 0
    for_source: int = 0


class FlowView(NamedTuple):
    """What an operator sees of a tunnel, or of a request in the lane, that lives. ``token`` is that
    of :meth:`Relay.tunnel`, or the lane's token of the request; None: neither has one. The
    engines without a lane know a tunnel's token and bytes only, and leave the texts to its owner.
    """

    ident: int  # for Relay.kill
    number: int  # of the request in the lane, as in its record; 0 where it has none
    tunnel: bool  # else a request
    phase: str  # "tunnel", or what the request waits for: ask, queue, dial, parent, wait, body
    token: object
    client: str
    user: str
    method: str
    target: str
    peer: str  # the origin's address
    note: str  # of the owner's, for its lines (Lane.answer); "" without one
    decision: int  # the column of what was decided, likewise; 0 where there is none
    started: float  # monotonic seconds, when its head was there; 0.0 where that is not known
    rests: float  # seconds without a byte
    up_copied: int  # with the head of a request
    up_spliced: int
    down_copied: int
    down_spliced: int
    splices: bool  # at least one way, now
    client_rtt: int  # µs, smoothed; -1 where there is none
    origin_rtt: int
    generation: int = 0  # of the owner's settings, by which it was decided; 0: the owner knows
    via: str = ""  # as of relay.lane.Lane.hand_over
    route: str = ""  # the name of the parent by way of which it goes (relay.lane.Hop), "" for none
    place: int = 0  # as of relay.lane.Lane.listen


class RelayStats(NamedTuple):
    """The first four are numbers of now, the others count since the start."""

    tunnels: int
    transfers: int
    pipes_lent: int
    pipes_idle: int
    copied: int
    spliced: int
    pipe_starved: int  # turns that wanted a pipe and copied instead
    splice_fallbacks: int  # ways that gave up splicing for good
    urgent_stalls: int  # of these, ways behind an urgent byte
    events: int  # epoll events served
    steps: int
    exchanges: int = 0  # in the lane
    given_back: int = 0  # clients of the lane that its owner had to go on with


class Relay(Protocol):
    """The engine. ``token`` is any object: ``step`` returns it with the end of its flow.

    Each descriptor has one owner. The two of a tunnel belong to the relay once :meth:`tunnel`
    has returned, and it closes them. Those of a transfer stay the caller's and are only lent:
    from the call of :meth:`transfer` until ``step`` has returned its end, or :meth:`cancel` has
    returned. Meanwhile the caller may use the other direction of both sockets.
    """

    engine: str

    @property
    def tunnels(self) -> int:
        """Tunnels whose end ``step`` has not yet reported."""

    @property
    def clients(self) -> int:
        """Clients in the lane: their connections to the proxy, tunnels not counted."""

    def lane(self, options: LaneOptions, owner: LaneOwner) -> Lane | None:
        """Opens the relay's lane (:mod:`spliceproxy.relay.lane`), which a relay can do once;
        None where the engine has none."""

    def counting(self, meters: Meters, row: int) -> Counting:
        """What counts for limits in this row."""

    def fileno(self) -> int:
        """The epoll descriptor, for ``loop.add_reader``."""

    def tunnel(
        self,
        client: int,
        origin: int,
        to_origin: bytes,
        to_client: bytes,
        token: object,
        check: NameCheck | None = None,
    ) -> int:
        """Moves bytes both ways until both have ended; returns the id of the tunnel.

        ``to_origin`` (early data) and ``to_client`` (the answer to CONNECT) go first. With a
        ``check`` nothing of the client goes on before it is known what that says of the name
        inside TLS; both sides are reset (TLS_NAME) where that is refused. OSError: epoll cannot
        take a descriptor. Nothing was sent then, and both descriptors are still the caller's.
        """

    def transfer(
        self, source: int, target: int, length: int, token: object, to_client: bool = False
    ) -> int:
        """Moves exactly ``length`` bytes (-1: until FIN) one way; returns the id of the transfer.
        ``to_client``: they are counted as bytes to a client, else as bytes from one.

        No byte beyond ``length`` is read from the source, and FIN is not passed on. Both
        descriptors may be in a second transfer the other way at the same time.
        OSError as in :meth:`tunnel`.
        """

    def cancel(self, ident: int) -> TransferEnd | None:
        """Ends a transfer and returns its end (ABORTED), which ``step`` does not return then.
        Bytes in flight are lost. None if there is no such transfer."""

    def abort(self, ident: int) -> None:
        """Resets both legs of a tunnel; its end (ABORTED) comes from the next ``step``."""

    def progress(self, ident: int) -> tuple[int, int, int, int, str] | None:
        """Bytes that a tunnel has moved: up copied, up spliced, down copied, down spliced; and what
        was found of the name inside TLS so far, as in TunnelEnd. None if there is no such
        tunnel."""

    def pace(self, ident: int, up: int, down: int) -> bool:
        """A tunnel, or a client in the lane and whatever serves it, may move so many bytes per
        second from the client and to it; 0: any number. False: there is none any more."""

    def abort_all(self) -> None:
        """:meth:`abort` for every tunnel."""

    def flows(self, most: int) -> Iterator[list[FlowView]]:
        """The tunnels, and the requests of the lane that are being served, at most so many at a
        time. Each list is made when it is asked for, with bounded work, and may be empty; what
        begins or ends between two of them may be missed."""

    def kill(self, ident: int, reason: str = KILLED) -> bool:
        """Ends a flow of :meth:`flows`: KILLED for an operator, POLICY or LIMIT. False: there is
        none any more."""

    def limits(self, idle: float, half_close: float, tls_name: float) -> None:
        """Other time limits (RelayOptions) from here on, for the flows that live as well."""

    # How tunnels move to another process (:mod:`relay.moving`), and requests of the lane that have
    # been sent: those move as clients that are given back. None of it within a step.

    def movable(self) -> list[int]:
        """The ids of the tunnels and requests that :meth:`freeze` would take now."""

    def freeze(self, ident: int) -> FrozenTunnel | FrozenExchange | None:
        """Stops one: no byte of it moves, no time limit ends it, nor does :meth:`abort` or
        :meth:`kill`, and :meth:`flows` does not have it. It still counts. None: there is none, or
        it cannot move now."""

    def freeze_transfer(self, ident: int) -> FrozenTransfer | None:
        """The same for a transfer, which :meth:`movable` does not have: it is its owner's to give
        away. After :meth:`release` nobody is told of an end, and the descriptors are the owner's
        alone. :meth:`cancel` ends it as ever."""

    def thaw(self, ident: int) -> bool:
        """What is frozen goes on. False: there is none. It may end at once, which the next step
        tells."""

    def release(self, ident: int) -> bool:
        """Gives up what is frozen, and has another owner: our descriptors are closed, and that is
        all. False: there is none. Nobody is told of an end, and none is counted."""

    def adopt(self, state: TunnelState, fds: Sequence[int], token: object) -> int:
        """A frozen tunnel of descriptors (as of :class:`FrozenTunnel`), which are this relay's from
        now on; its id. It does not count as begun. OSError, MemoryError, Unmovable: they are still
        the caller's, and nothing has happened to the connections."""

    def step(self) -> list[tuple[object, object]]:
        """Serves what is ready, within STEP_SECONDS, and returns what has ended: for each flow
        its token and its TunnelEnd or TransferEnd. What the lane has to say is among it, as a
        method of the lane's owner and its argument. MemoryError: there is no memory to say it,
        and the next call says it again."""

    def reader(
        self, report: Callable[[list[tuple[object, object]]], None], stuck: Callable[[], None]
    ) -> Callable[[], None]:
        """The function that the loop is to call when ``fileno`` is readable.

        It calls :meth:`step`, and ``report`` with what that has returned. It may leave out a
        ``report`` of nothing, unless the relay has just become empty, or must be called sooner
        than :meth:`next_wake` has said last. It calls ``stuck`` where :meth:`step` raises
        MemoryError.
        """

    def next_wake(self) -> float | None:
        """Seconds until ``step`` must be called although the epoll descriptor is not readable,
        for a time limit or a reset that waits. 0.0: at once. None: never."""

    def stats(self) -> RelayStats:
        """The counters."""

    def dump(self, most: int) -> str:
        """For people: a line of counters, one for each flow (what it is, what it waits for, its
        flags, the bytes that wait, ages in seconds), for ``most`` flows at most, and one that
        says how many more there are. No payload, no target, no credentials. Each line ends
        with LF."""

    def close(self) -> None:
        """Resets every tunnel, drops every transfer, closes pipes and epoll. What is frozen may be
        another's by now: it is released. Idempotent."""


class RelayOptions(NamedTuple):
    """Settings of an engine, seconds and counts."""

    idle: float = 3600.0  # without a byte either way
    half_close: float = 60.0  # the same, once one side has ended
    tls_name: float = 5.0  # for the first flight of a client that is checked, from its first byte
    max_pipes: int = -1  # -1: what the pipe quota of this user affords
    shares: int = 1  # processes that use this quota
    # What is counted (relay.columns), to be added to by the relay; None: a row of its own.
    row: memoryview | None = None

    @classmethod
    def of(cls, config: Config, row: memoryview | None = None) -> RelayOptions:
        """Those of a worker that has this configuration: the one place where they are made."""
        times = config.timeouts
        limits = times.idle, times.half_close, times.tls_name
        return cls(*limits, shares=config.workers, row=row)
