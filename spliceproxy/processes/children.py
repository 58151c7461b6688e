"""The children of the supervisor: started, replaced when they die, and killed.

They are the workers and, with --admin, the admin process. A worker learns that it has to drain from
its *lifeline*, a pipe whose write end only the supervisor holds. End of file on it means "drain",
whether the supervisor closed it or died. No signal is forwarded, because a worker may have got the
same signal itself: Ctrl-C goes to the whole foreground process group, and systemd signals a whole
control group. A worker must not take one request to stop for two. One that has to leave because
there will be fewer is told so by its control channel.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from spliceproxy.admin.channel import Channel, count_in
from spliceproxy.config import Config
from spliceproxy.messages import log
from spliceproxy.observe import losses
from spliceproxy.observe.board import Board
from spliceproxy.processes import logs
from spliceproxy.processes.control import Control
from spliceproxy.processes.signals import LATER, STOPS, name_of
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.relay import columns

RunWorker = Callable[[Config, Sequence[socket.socket], int, int, Board, Channel], int]
"""``run(config, sockets, lifeline, index, board, control)``: the life of one worker, in its own
process; returns its exit status. ``control`` is its channel to the supervisor. STOPS and LATER
(signals.py) are ignored when it starts."""

UNUSABLE = 2
"""Exit status of a worker that cannot work with these settings and has said why. If one
of the first workers ends so, the proxy stops with the same status."""

HEALTHY = 5.0
"""A child that has lived for so many seconds was healthy: its death counts as the first."""

ADMIN = -1
"""Stands for the index of the admin process."""

LEAVE_SECONDS = 1.0
"""What the admin process has to end by itself, when there is no worker left."""

GRACE = 5.0
"""Seconds beyond the drain timeout that a worker has to end by itself."""


class Children:
    """Of one supervisor. ``mask`` is that of signals, for the children. ``unusable`` is called
    where one of the first workers cannot work with these settings. Those of ``gone`` are told of
    each worker that has ended, and those of ``forked`` are called in each child. With ``hold``
    nobody is started for a moment. Other children are ``others``: by its process id, what is told
    the status of its end (as ``os.waitpid`` has it)."""

    def __init__(
        self,
        state: State,
        run_worker: RunWorker,
        mask: set[signal.Signals | int],
        unusable: Callable[[], None],
    ) -> None:
        self._state = state
        self._run_worker = run_worker
        self._mask = mask
        self._unusable = unusable
        count = state.config.workers
        self.workers = [Slot(f"worker {index}", index) for index in range(count)]
        self.admin = None if state.asked is None else Slot("admin process", ADMIN)
        self.control = Control(self.workers, self.admin)
        self.gone: list[Callable[[Slot], None]] = []
        self.forked: list[Callable[[], None]] = []
        self.hold = False
        self.others: dict[int, Callable[[int], None]] = {}
        self._leaving: dict[Slot, float] = {}  # that drain alone, and when they are killed
        self.control.leaving = self._leaving
        self._former_admin: Slot | None = None  # that is to end, for it has no address any more
        self._lifeline, self._held = os.pipe()

    @property
    def all(self) -> list[Slot]:
        """Workers, and the admin process."""
        others = (self.admin, self._former_admin)
        return [*self.workers, *self._leaving, *(one for one in others if one is not None)]

    @property
    def work(self) -> bool:
        """Whether there is a worker."""
        return any(slot.pid for slot in (*self.workers, *self._leaving))

    # Starting

    def moments(self) -> Iterable[float]:
        """When one is to be started or killed, time.monotonic()."""
        due = [slot.due for slot in self._startable if not slot.pid]
        return [*due, *self._leaving.values()]

    @property
    def _startable(self) -> list[Slot]:
        """Who is started again: while the workers drain, the admin process alone."""
        if self._state.killed or self.hold:
            return []
        admin = [] if self.admin is None else [self.admin]
        return admin if self._state.stopping else [*self.workers, *admin]

    def start_due(self) -> None:
        """Starts those whose time has come, and kills those whose time is over."""
        now = time.monotonic()
        for slot, deadline in self._leaving.items():
            if now >= deadline and slot.pid:
                log.error("%s did not end in time: killing it", slot.name)
                self._leaving[slot] = math.inf
                os.kill(slot.pid, signal.SIGKILL)
        for slot in self._startable:
            if not slot.pid and slot.due <= now:
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        try:
            own, other = Control.open()
            try:
                pid = os.fork()
            except OSError:
                own.close()
                other.close()
                raise
        except OSError as error:  # no process, memory or descriptor to be had just now
            slot.postpone()
            log.error("%s: cannot start: %s", slot.name, error.strerror)
            return
        if pid == 0:
            own.close()
            self._be_child(slot, other)
        other.close()
        slot.begin(pid, own)
        self.control.is_new(slot)

    def _be_child(self, slot: Slot, channel: Channel) -> NoReturn:
        """The process of a child, from fork to exit."""
        status = 1
        try:
            for number in (*STOPS, *LATER):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            row = self._row(slot)
            logs.in_worker(row)
            count_in(row)
            self.control.close()
            for told in self.forked:
                told()
            if not self._state.stopping:
                os.close(self._held)
            status = self._be_admin(channel) if slot is self.admin else self._be(slot, channel)
        except BaseException:
            log.exception("%s failed", slot.name)
        finally:
            logs.finish()
            os._exit(status)  # nothing of the supervisor's may run here: no finally, no atexit

    def _be(self, slot: Slot, channel: Channel) -> int:
        state = self._state
        place = self.workers.index(slot)
        state.listening.keep(place)
        if state.asked is not None:
            state.asked.close()
        sockets = state.listening.of(place)
        return self._run_worker(
            state.config, sockets, self._lifeline, slot.index, state.board, channel
        )

    def _row(self, slot: Slot) -> memoryview:
        """Where a child counts. The admin process serves nobody, and has no row."""
        board = self._state.board
        return Board.private().row(0) if slot is self.admin else board.row(slot.index)

    def _be_admin(self, channel: Channel) -> int:
        from spliceproxy.admin import process

        state = self._state
        assert state.asked is not None
        state.listening.close()
        os.close(self._lifeline)
        (sock,) = state.asked.of(0)
        reloads = state.history.all()
        return process.run(
            state.config, sock, channel, state.board, draining=state.draining, reloads=reloads
        )

    # Deaths

    def reap(self) -> None:
        """Looks who has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.others:
                self.others.pop(pid)(status)
            for slot in self.all:
                if slot.pid == pid:
                    slot.end()
                    self._on_end(slot, pid, os.waitstatus_to_exitcode(status))

    def _on_end(self, slot: Slot, pid: int, status: int) -> None:
        if slot is self._former_admin:
            self._former_admin = None
            return
        if slot is not self.admin:
            self._fold(slot.index)
        self._on_death(slot, pid, status)
        if self._leaving.pop(slot, None) is not None:
            self._use_board()
            self.control.tell_admin(
                {"gone": slot.index, "pid": pid, "how": "has left", "left": True}
            )
        if slot is not self.admin:
            for told in self.gone:
                told(slot)

    def _fold(self, index: int) -> None:
        """What a worker has counted stays on the board, and what it has not written is told."""
        board = self._state.board
        messages, lines = losses.settle(board.row(index), board.base)
        board.fold(index)
        logs.count(messages, lines)

    def _on_death(self, slot: Slot, pid: int, status: int) -> None:
        """``status``: the exit status, or minus the signal."""
        how = f"exited with status {status}" if status >= 0 else f"ended by {name_of(-status)}"
        state = self._state
        if slot is self.admin:
            if not state.killed:
                self._replace(slot, pid, how)
            return
        if status == UNUSABLE and slot.starts == 1 and state.generation == 1:
            self._unusable()
            return
        if state.stopping or slot in self._leaving:
            if status != 0 and not state.killed:
                log.error("%s (pid %d) %s", slot.name, pid, how)
                if state.stopping:
                    state.fail(1)
            return
        state.board.base[columns.DEATHS] += 1
        self._replace(slot, pid, how)

    def _replace(self, slot: Slot, pid: int, how: str) -> None:
        """Another is started in its place."""
        if time.monotonic() - slot.started >= HEALTHY:
            slot.delay = 0.0
        wait = slot.postpone()
        again = f"in {wait:.1f} s" if wait else "at once"
        log.error("%s (pid %d) %s; starting another %s", slot.name, pid, how, again)
        self.control.tell_admin({"gone": slot.index, "pid": pid, "how": how})

    # Another configuration

    def resize(self, count: int) -> None:
        """There are to be so many workers. Those that leave drain, and others have their queues."""
        while len(self.workers) > count:
            slot = self.workers.pop()
            if slot.pid:
                self._leaving[slot] = time.monotonic() + self._state.config.timeouts.drain + GRACE
                self.control.order(slot, {"ask": "leave"}, [])
        while len(self.workers) < count:
            used = {slot.index for slot in (*self.workers, *self._leaving)}
            index = next(index for index in itertools.count() if index not in used)
            self.workers.append(Slot(f"worker {index}", index))
        self._use_board()

    def has_room(self, count: int) -> bool:
        """Whether the board has a row for each of so many workers, and for those that leave."""
        return count + len(self._leaving) + max(len(self.workers) - count, 0) <= (
            self._state.board.room
        )

    def _use_board(self) -> None:
        leaving = [slot.index for slot in self._leaving]
        self._state.board.use([slot.index for slot in self.workers], leaving)

    def tell_settings(self, settings: int, fresh: Sequence[int]) -> None:
        """The admin process gets the settings, a descriptor, and a ``fresh`` socket if its address
        is another one. It is started, or ends, where there was none, or is to be none."""
        wanted = self._state.asked is not None
        if self.admin is not None and not wanted:
            self._former_admin, self.admin = self.admin, None
        elif self.admin is None and wanted:
            self.admin = Slot("admin process", ADMIN)
        elif self.admin is not None and self.admin.pid:
            told = {"settings": self._state.generation, "sockets": len(fresh)}
            if not self.control.order(self.admin, told, [settings, *fresh]):
                self.admin.hang_up()  # it ends, and the next one begins with them
        self.control.has_admin(self.admin)

    def end_former_admin(self) -> None:
        """It has been told all."""
        if self._former_admin is not None:
            if self._former_admin.pid:
                self._former_admin.hang_up()
            else:
                self._former_admin = None

    # The end

    def signal_workers(self, number: int) -> None:
        """Passes on what is for them."""
        for slot in (*self.workers, *self._leaving):
            if slot.pid:
                os.kill(slot.pid, number)

    def drain(self) -> None:
        """The workers drain, and end; none is started any more."""
        os.close(self._held)
        # The workers' copies stay open until they have emptied their queues.
        self._state.listening.close()

    def kill(self) -> None:
        """Ends all of them at once."""
        for slot in self.all:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)

    def close(self) -> None:
        """No worker is left. The admin process ends when its channel does, or is killed."""
        os.close(self._lifeline)
        if self.admin is None or not self.admin.pid:
            return
        self._state.killed = True  # nobody is started any more
        self.admin.hang_up()
        end = time.monotonic() + LEAVE_SECONDS
        while self.admin.pid and time.monotonic() < end:
            signal.sigtimedwait({signal.SIGCHLD}, max(0.0, end - time.monotonic()))
            self.reap()
        if self.admin.pid:
            os.kill(self.admin.pid, signal.SIGKILL)
            os.waitpid(self.admin.pid, 0)
