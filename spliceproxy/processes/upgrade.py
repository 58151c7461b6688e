"""The program is started anew, and takes over what this one serves: SIGUSR2, ``ctl upgrade``.

This process starts the same command line once more, so what has been installed since runs. Both
talk by a pair of sockets, whose other end the new process inherits. How, is in
:mod:`spliceproxy.processes.succession`, with the other half.

    STARTING ──hello──► LOADING ──ready──► GIVING ──gave──► ENDING ──► left to drain
        │                  │                  │             (the admin process)
        └── it ends, refuses, is another, or takes too long: everything is as it was

Until GIVING the new workers wait, and nobody notices them. Then they accept from the same sockets,
and each worker gives to one of them what can move (:mod:`spliceproxy.processes.giving`). Whatever
has not been confirmed is served here. If the new program dies meanwhile, this one goes on, and the
workers of the new one, which drain, give back what they have.
"""

from __future__ import annotations

import enum
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from spliceproxy.admin.channel import Closed, Message, close_all
from spliceproxy.messages import log, plain
from spliceproxy.processes.children import Children
from spliceproxy.processes.handing_over import HandingOver, places
from spliceproxy.processes.left import Left
from spliceproxy.processes.orders import Orders, Tell
from spliceproxy.processes.parcels import FDS, Line
from spliceproxy.processes.program import Program
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.replacing import GIVE_SECONDS, READY_SECONDS
from spliceproxy.processes.signals import name_of
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.processes.stopping import Stopping
from spliceproxy.processes.succession import PROTOCOL
from spliceproxy.relay import columns
from spliceproxy.version import __version__

HELLO_SECONDS = 30.0
"""That the new program has to say who it is."""

END_SECONDS = 3.0
"""That the admin process has to end, when it has given its last answers."""

LOST_SECONDS = 1.0
"""That a new program which has hung up has to end."""

KILL_SECONDS = 5.0
"""That a new program which is not wanted has to end by itself."""

Phase = enum.Enum("Phase", ["STARTING", "LOADING", "GIVING", "ENDING"])


@dataclass
class _New:
    """The new program. ``until`` is when it is given up, time.monotonic()."""

    pid: int
    nonce: str
    line: Line
    tell: Tell
    until: float
    phase: Phase = Phase.STARTING
    version: str = ""
    lost: float = 0.0  # when it is given up because it has hung up, 0.0 if it has not
    wanted: set[int] = field(default_factory=set)  # the numbers of places that it listens on
    giving: HandingOver | None = None
    reopens: bool = False  # the log was rotated before its workers could be told


class Upgrade:
    """Of one supervisor. ``main_changes`` are told the process id of the new program while this
    process is still the main one."""

    def __init__(
        self,
        state: State,
        children: Children,
        orders: Orders,
        stopping: Stopping,
        reopening: Reopening,
        program: Program,
    ) -> None:
        self._state = state
        self._children = children
        self._stopping = stopping
        self._reopening = reopening
        self._new: _New | None = None
        self._left: Left | None = None  # when the new program is the main one
        self._unwanted: dict[int, float] = {}  # when they are killed
        self._program = program
        self.main_changes: list[Callable[[int], None]] = []
        children.gone.append(self._gone)
        children.forked.append(self._forked)
        orders.by_name["upgrade"] = self._order
        orders.heard.append(self._hear)
        reopening.others.append(self._reopen)
        for key, said in (("gave", self._gave), ("kept", self._kept)):
            orders.saying(key, said)

    # ---- what is asked -----------------------------------------------------------------

    def on_signal(self, number: int) -> None:
        """SIGUSR2."""
        self._order({}, lambda answer: None)

    def _order(self, message: Message, tell: Tell) -> Message | None:
        refusal = self._refusal()
        if refusal:
            log.error("no upgrade: %s", refusal)
            return {"error": refusal}
        try:
            self._start(tell)
        except OSError as error:
            why = f"a process cannot be started: {plain(error)}"
            log.error("no upgrade: %s", why)
            return {"error": why}
        self._state.busy = "an upgrade is under way"
        log.info("upgrade: the new program is process %d", self._process.pid)
        return None

    def _refusal(self) -> str:
        """Why there can be none now; "" if there can."""
        if os.getpid() == 1:
            return (
                "this is process 1 of its container, which ends with it: start another container "
                "instead"
            )
        if self._state.draining:
            return "the proxy drains"
        return self._state.busy

    @property
    def _process(self) -> _New:
        assert self._new is not None
        return self._new

    # ---- the new process ---------------------------------------------------------------

    def _start(self, tell: Tell) -> None:
        """OSError."""
        pid, nonce, line = self._program.start(self._children.mask)
        until = time.monotonic() + HELLO_SECONDS
        self._new = _New(pid, nonce, line, tell, until)
        self._children.others[pid] = partial(self._ended, pid)

    def _ended(self, pid: int, status: int) -> None:
        """A new process has. What it has said before comes first."""
        code = os.waitstatus_to_exitcode(status)
        how = f"exited with status {code}" if code >= 0 else f"was ended by {name_of(-code)}"
        if self._left is not None and self._left.pid == pid:
            self._left.ended(how, in_order=not code)
            return
        new = self._new
        if new is None or new.pid != pid:
            return
        self._hear()
        if self._new is new:
            self._fail(f"the new program {how}; see its messages", ended=True)

    def _forked(self) -> None:
        """In a child: the new program must see when this process has ended."""
        if self._new is not None:
            self._new.line.close()
        if self._left is not None:
            self._left.close()

    # ---- times -------------------------------------------------------------------------

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        found = list(self._unwanted.values())
        new = self._new
        if new is not None:
            found.append(new.lost or new.until)
        if self._giving is not None:
            found += self._giving.moments()
        if self._left is not None:
            found += self._left.moments()
        return found

    def go_on(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        self._kill_unwanted(now)
        if self._left is not None:
            self._left.go_on()
        new = self._new
        if new is None:
            return
        if self._state.draining:
            self._fail("this proxy stops")
        elif new.lost:
            if now >= new.lost:
                self._fail("the new program has hung up")
        elif new.phase is Phase.ENDING:
            self._end_admin(new, now)
        elif now >= new.until:
            self._late(new)
        elif self._giving is not None:
            self._giving.go_on()

    def _kill_unwanted(self, now: float) -> None:
        for pid, until in list(self._unwanted.items()):
            if pid not in self._children.others:
                del self._unwanted[pid]
            elif now >= until:
                os.kill(pid, signal.SIGKILL)
                self._unwanted[pid] = now + KILL_SECONDS

    def _end_admin(self, new: _New, now: float) -> None:
        """The new program has an admin process of its own when that of this one has ended."""
        admin = self._children.admin
        if admin is None or not admin.pid:
            self._leave()
        elif now >= new.until:
            os.kill(admin.pid, signal.SIGKILL)
            new.until = now + END_SECONDS

    def _late(self, new: _New) -> None:
        if new.phase is Phase.STARTING:
            self._fail(f"the new program has not said who it is within {HELLO_SECONDS:g} s")
        elif new.phase is Phase.LOADING:
            self._fail(f"the new program was not ready within {READY_SECONDS:g} s")
        else:
            assert new.giving is not None
            new.giving.give_up(GIVE_SECONDS)

    # ---- what it says ------------------------------------------------------------------

    def _hear(self) -> None:
        if self._left is not None:
            self._left.hear()
        while (new := self._new) is not None:
            try:
                parcel = new.line.receive()
            except Closed:
                if not new.lost:
                    # Its end is seen soon, and says more.
                    new.lost = time.monotonic() + LOST_SECONDS
                return
            if parcel is None:
                return
            close_all(parcel.fds)
            self._on_message(new, dict(parcel.head))

    def _on_message(self, new: _New, message: Message) -> None:
        if "refused" in message:
            self._fail(f"the new program refuses: {message['refused']}")
        elif new.phase is Phase.STARTING and "hello" in message:
            self._greet(new, message)
        elif new.phase is Phase.LOADING and "want" in message:
            self._hand_over(new, message["want"])
        elif new.phase is Phase.LOADING and "ready" in message:
            self._give(new)
        else:
            self._fail("the new program said what nobody understands")

    def _greet(self, new: _New, message: Message) -> None:
        if message["hello"] != PROTOCOL:
            self._fail(
                f"the new program, version {message.get('version', '?')}, takes over by protocol "
                f"{message['hello']}, and this one hands over by {PROTOCOL}: it has to be restarted"
            )
            return
        if not secrets.compare_digest(str(message.get("nonce", "")), new.nonce):
            self._fail("what has answered does not know what the new program was told")
            return
        if new.line.peer != new.pid:
            self._fail(
                f"process {new.line.peer} has answered, not the new program, {new.pid}; a script "
                "that starts it has to do so by exec"
            )
            return
        new.version = str(message.get("version", "?"))
        new.phase = Phase.LOADING
        new.until = time.monotonic() + READY_SECONDS
        self._say(
            {
                "welcome": os.getpid(),
                "version": __version__,
                "serial": self._children.serial,
                "generation": self._state.board.base[columns.GENERATION],
                "places": [place.told() for place in places(self._state)],
            }
        )

    def _hand_over(self, new: _New, wanted: object) -> None:
        """The sockets of one place, some at a time."""
        there = places(self._state)
        if not isinstance(wanted, int) or not 0 <= wanted < len(there):
            self._fail("the new program wants what there is not")
            return
        new.wanted.add(wanted)
        queues = there[wanted].queues
        for at in range(0, len(queues), FDS):
            some = [sock.fileno() for sock in queues[at : at + FDS]]
            if not self._say({"queues": wanted, "at": at}, some):
                return

    def _say(self, message: Message, fds: Iterable[int] = ()) -> bool:
        """To the new program, which reads what it is told or is given up; false: it is."""
        try:
            if self._process.line.send(message, b"", list(fds)):
                return True
            why = "it does not read what it is told"
        except Closed:
            return True  # its end will be seen
        except OSError as error:
            why = plain(error)
        self._fail(f"the new program cannot be told: {why}")
        return False

    # ---- giving ------------------------------------------------------------------------

    def _give(self, new: _New) -> None:
        """The new workers serve, and each of these gives to one of them."""
        new.phase = Phase.GIVING
        new.until = time.monotonic() + GIVE_SECONDS
        self._children.gives = True
        if new.reopens and not self._say({"reopen": True}):
            return
        if not self._say({"go": True}):
            return
        new.giving = HandingOver(self._state, self._children, self._say, new.wanted, self._given)
        new.giving.start()

    def _gave(self, slot: Slot, message: Message) -> bool:
        giving = self._giving
        return giving is not None and giving.gave(slot, message)

    def _kept(self, slot: Slot, message: Message) -> bool:
        giving = self._giving
        return giving is not None and giving.kept(slot, message)

    def _gone(self, slot: Slot) -> None:
        if self._giving is not None:
            self._giving.gone(slot)

    @property
    def _giving(self) -> HandingOver | None:
        """What the workers do just now; None: they do not give."""
        new = self._new
        return new.giving if new is not None and new.phase is Phase.GIVING else None

    def _given(self) -> None:
        """All that can move has: the new program is the main one, and this one drains."""
        new = self._process
        assert new.giving is not None
        moved = new.giving.moved
        new.phase = Phase.ENDING
        new.until = time.monotonic() + END_SECONDS
        log.info(
            "upgrade: process %d, version %s, goes on; tunnels moved: %d, clients moved: %d, "
            "connections left to drain: %d",
            new.pid,
            new.version,
            moved["tunnels"],
            moved["clients"],
            moved["left"],
        )
        new.tell(
            {
                "old": {"pid": os.getpid(), "version": __version__},
                "new": {"pid": new.pid, "version": new.version},
                "moved": moved,
            }
        )
        self._children.dismiss_admin()

    def _leave(self) -> None:
        new, self._new = self._process, None
        self._state.busy = "another program has taken over"
        for told in self.main_changes:
            told(new.pid)
        self._left = Left(self._state.board, self._reopening, new.pid, new.line)
        self._left.go_on()
        self._stopping.leave(f"process {new.pid} has taken over")

    def _reopen(self) -> None:
        """The log is opened anew; the new program is told as soon as its workers are there. When it
        is the main one it knows before this one."""
        new = self._new
        if new is not None and new.phase in (Phase.GIVING, Phase.ENDING):
            self._say({"reopen": True})
        elif new is not None:
            new.reopens = True

    def last_words(self) -> None:
        """No worker is left."""
        if self._left is not None:
            self._left.last_words()

    # ---- when it goes wrong ------------------------------------------------------------

    def _fail(self, why: str, *, ended: bool = False) -> None:
        """Everything is as it was."""
        new, self._new = self._process, None
        self._state.busy = ""
        log.error("no upgrade: %s", why)
        try:
            new.line.send({"cancelled": why})
        except (Closed, OSError):
            pass  # it has ended, or ends by the signal below
        new.line.close()
        if not ended and new.pid in self._children.others:
            os.kill(new.pid, signal.SIGTERM)
            self._unwanted[new.pid] = time.monotonic() + KILL_SECONDS
        if new.phase in (Phase.GIVING, Phase.ENDING):
            self._take_back()
        if new.phase is not Phase.ENDING:  # where it was answered already
            new.tell({"error": why})

    def _take_back(self) -> None:
        """The workers serve on, and get back what they have given, unless they are to end."""
        self._children.gives = False
        self._children.admin_wanted = True
        order = {"ask": "stay", "back": not self._state.draining}
        for slot in self._children.workers:
            self._children.control.tell(slot, order)
