"""What a tunnel is in one process, so that another can go on with it.

A tunnel moves in two steps on either side. It is *frozen* where it is: out of epoll and without
a time limit, so that no byte moves. The other process makes one of its state and of copies of its
descriptors, which is frozen, too. When that is certain the first lets go of it, and the second
thaws it; or the other way round, and nothing has happened. Which of them goes on is for their
owners to agree about: two that do would send bytes twice.

The engines differ in what they keep, and the state is what all of them need. So a tunnel may move
from one engine to another.

    frozen         Relay.freeze, Relay.adopt
    goes on        Relay.thaw, with everything as it was
    given up       Relay.release: the descriptors are closed without any effect on the connection,
                   for others have copies; nobody is told of an end

Times are milliseconds of CLOCK_MONOTONIC, which all processes of a machine share, so that what
has passed of a time limit has passed in the next process, too.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Sequence
from typing import Any, NamedTuple

from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.interface import CLIENT_RESET, DONE, ORIGIN_RESET
from spliceproxy.tls import hello

DRAIN_MOST = 16 * 1024
"""Bytes in a pipe up to which they are read out of it where a tunnel is frozen: a message has room
for few descriptors, and for more bytes than these."""


class Unmovable(Exception):
    """What was to be adopted cannot be: it says why, for a person."""


class WayState(NamedTuple):
    """One direction of a tunnel. What is pending was read of its source, and is to be sent to
    its target before anything else: ``held``, or ``piped`` bytes in a pipe."""

    copied: int
    spliced: int
    held: bytes
    piped: int
    over: bool  # nothing is read of its source any more, and its target knows
    splices: bool
    copies: bool  # splice(2) does not work here, or stalls
    narrow: bool  # takes less: some options of its sockets say so (native/core/crowd.pxd)
    active: int  # when a byte last moved
    mark: int  # since when it waits as it does now; 0: it does not
    for_source: int  # waits, in ms, as of native/core/waits.pxd
    for_target: int
    silent: int


class CheckState(NamedTuple):
    """What is still to be found of the name inside TLS (relay.checking): a NameCheck, and what the
    client has said by now, since when, which is not sent on; 0: nothing."""

    name: str
    refused: int
    since: int
    data: bytes


class TunnelState(NamedTuple):
    """A tunnel. Where a side is ``dead`` what it had sent before goes to the other, which is reset
    when it has acknowledged all; or closed, where the ``reason`` is DONE."""

    up: WayState
    down: WayState
    dead: int  # the side that has failed, or left: 0 the client, 1 the origin; -1: none
    reason: str  # why, as of interface.REASONS; "" where no side is dead
    errno: int
    spoke: int  # the side whose bytes were the last
    young: bool  # its origin has no TCP keep-alive yet
    unacknowledged: int  # what a side has yet to acknowledge before it is reset, as last seen
    acknowledged: int  # and since when that has not changed; 0: it was not looked at
    found: str = ""  # of the name inside TLS, as of TunnelEnd
    check: CheckState | None = None


class LaneFacts(NamedTuple):
    """What the lane knows of a request, or of the tunnel that it became."""

    client: str
    user: str
    target: str
    peer: str
    number: int
    started: float  # monotonic seconds, 0.0 where nobody wants times
    question: int  # microseconds
    dns: int
    dial: int
    head: int  # bytes of its request
    lines: bytes  # that request, where records have the lines of heads
    decision: int  # column
    note: bytes
    generation: int  # of the configuration that has decided
    known: Any  # its token (relay.questions.Known); None without one
    via: str = ""  # as of relay.lane.Lane.hand_over
    socks: int = 0  # the version of SOCKS by which it was asked for, 0 for HTTP
    route: str = ""  # the name of its parent, and what that was told (relay.lane.Hop); "" for none
    connect_by: str = ""
    entries: tuple[int, ...] = ()  # of limits for which it counts as long as it lasts


class FrozenTunnel(NamedTuple):
    """``fds`` are those of client and origin, and both ends of the pipe of each way that has bytes
    in one, up first. They stay the relay's. ``token`` is that of :meth:`Relay.tunnel`, None for a
    tunnel of the lane's."""

    fds: tuple[int, ...]
    state: TunnelState
    token: object
    lane: LaneFacts | None


class FrozenExchange(NamedTuple):
    """A request of the lane's that has been sent: its client and its origin, and how far it has
    come, as of one that is given back, but without the descriptors. ``key`` is that of its origin
    (``Lane.add_route``), b"" where the connection is not to be kept."""

    fds: tuple[int, ...]
    handoff: Handoff
    lane: LaneFacts
    key: bytes


class FrozenTransfer(NamedTuple):
    """A transfer, whose descriptors are its owner's to give away: ``left`` bytes are to be read yet
    (-1: until FIN), and ``owed`` are to be sent before them. The rest is as of
    :class:`TransferEnd`."""

    left: int
    owed: bytes
    copied: int
    spliced: int
    for_target: int
    for_source: int


# ---- whether a state can be one ----------------------------------------------------------------

_RESETS = (CLIENT_RESET, ORIGIN_RESET)


def check(state: TunnelState) -> None:
    """Unmovable for a state that no tunnel can have."""
    for name, way in (("up", state.up), ("down", state.down)):
        if way.held and way.piped:
            raise Unmovable(f"the way {name} has bytes both in memory and in a pipe")
        if way.over and (way.held or way.piped):
            raise Unmovable(f"the way {name} is over, and has bytes to send")
    if state.check is not None and not _can_be(state.check, state):
        raise Unmovable("what is to be found of the name inside TLS cannot be found")
    if state.dead < 0:
        if state.reason:
            raise Unmovable(f"no side has failed, and the reason is {state.reason!r}")
        if state.up.over and state.down.over:
            raise Unmovable("both ways are over")
        return
    if state.reason not in (*_RESETS, DONE):
        raise Unmovable(f"a side has failed, and the reason is {state.reason!r}")
    if not (state.down, state.up)[state.dead].over:
        raise Unmovable("a way to a side that has failed is not over")


def _can_be(check: CheckState, state: TunnelState) -> bool:
    """Whether a client may have said this, of which nothing is known and nothing was sent on."""
    return (
        0 < len(check.name) <= 255
        and len(check.data) < hello.MOST
        and bool(check.data) == bool(check.since)
        and not (state.found or state.up.held or state.up.piped or state.up.copied)
    )


def check_kinds(fds: Sequence[int], pipes: int = 0) -> None:
    """Unmovable unless these are two sockets, and so many ends of pipes behind them."""
    if len(fds) != 2 + pipes:
        raise Unmovable(f"{len(fds)} descriptors, and {2 + pipes} are needed")
    try:
        for fd in fds[:2]:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise Unmovable(f"descriptor {fd} is no socket")
        for fd in fds[2:]:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                raise Unmovable(f"descriptor {fd} is no pipe")
        if any(map(os.get_blocking, fds)):
            raise Unmovable("a descriptor would block")
    except OSError as error:
        raise Unmovable(f"a descriptor: {error.strerror}") from error


def check_descriptors(state: TunnelState, fds: Sequence[int]) -> None:
    """Unmovable for descriptors that are not those of this state."""
    piped = [way.piped for way in (state.up, state.down) if way.piped]
    check_kinds(fds, 2 * len(piped))
    try:
        for fd, size in zip(fds[2::2], piped, strict=True):
            (there,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))
            if there != size:
                raise Unmovable(f"{there} bytes are in a pipe, and {size} should be")
    except OSError as error:
        raise Unmovable(f"a descriptor: {error.strerror}") from error
