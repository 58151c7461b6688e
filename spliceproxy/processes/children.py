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
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.config import Config
from spliceproxy.messages import log
from spliceproxy.observe import losses
from spliceproxy.processes import logs
from spliceproxy.processes.child import UNUSABLE, Child, RunWorker
from spliceproxy.processes.control import Control
from spliceproxy.processes.signals import name_of
from spliceproxy.processes.slot import Place, Slot
from spliceproxy.processes.state import State
from spliceproxy.relay import columns

if TYPE_CHECKING:
    from spliceproxy.processes.landlock import Domain


class Coming(NamedTuple):
    """A worker that is to take the place of ``old``. ``ended`` is told how it has ended."""

    old: Slot
    ended: Callable[[str], None]


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
    nobody is started for a moment, and with ``gives`` no worker in the place of one that dies: they
    give what they serve to another program. Other children are ``others``: by its process id, what
    is told the status of its end (as ``os.waitpid`` has it).

    ``coming`` are workers that are to take the place of another one, and wait until they are told
    to serve. ``succeeded`` says whether one that has died has a successor there already, and
    ``is_shared`` whether others accept its clients.
    ``waiting``: all workers wait so. ``admin_wanted``: the admin process is started whenever there
    is none."""

    def __init__(
        self,
        state: State,
        run_worker: RunWorker,
        mask: set[signal.Signals | int],
        unusable: Callable[[], None],
    ) -> None:
        self._state = state
        self.mask = mask
        self._unusable = unusable
        count = state.config.workers
        self.workers = [Slot(f"worker {index}", index) for index in range(count)]
        self.admin = None if state.asked is None else Slot("admin process", ADMIN)
        self.control = Control(self.workers, self.admin)
        self.gone: list[Callable[[Slot], None]] = []
        self.forked: list[Callable[[], None]] = []
        self.hold = self.gives = False
        self.others: dict[int, Callable[[int], None]] = {}
        self.coming: dict[Slot, Coming] = {}
        self.leaving: dict[Slot, float] = {}  # that drain alone, and when they are killed
        self.waiting = False
        self.admin_wanted = True
        self.serial = 0
        self.succeeded: Callable[[Slot], bool] = lambda slot: False
        self.is_shared: Callable[[Slot], bool] = lambda slot: False
        self._domains: dict[int, Domain] = {}  # by process id, what it may open
        self._former_admin: Slot | None = None  # that is to end, for it has no address any more
        self.control.others = (self.coming, self.leaving)
        self.control.leaving = self.leaving
        self._lifeline, self._held = os.pipe()
        self._child = Child(state, run_worker, mask, self._lifeline, self._held)

    @property
    def all(self) -> list[Slot]:
        """Workers, and the admin process."""
        others = (self.admin, self._former_admin)
        return [*self.each_worker, *(one for one in others if one is not None)]

    @property
    def each_worker(self) -> list[Slot]:
        """Also those without a place."""
        return [*self.workers, *self.coming, *self.leaving]

    @property
    def work(self) -> bool:
        """Whether there is a worker."""
        return any(slot.pid for slot in self.each_worker)

    # Starting

    def moments(self) -> Iterable[float]:
        """When one is to be started or killed, time.monotonic()."""
        due = [slot.due for slot in self._startable if not slot.pid]
        return [*due, *self.leaving.values()]

    @property
    def _startable(self) -> list[Slot]:
        """Who is started again: while the workers drain, the admin process alone."""
        if self._state.killed or self.hold:
            return []
        admin = [self.admin] if self.admin is not None and self.admin_wanted else []
        return admin if self._state.stopping or self.gives else [*self.workers, *admin]

    def start_due(self) -> None:
        """Starts those whose time has come, and kills those whose time is over."""
        now = time.monotonic()
        for slot, deadline in self.leaving.items():
            if now >= deadline and slot.pid:
                log.error("%s did not end in time: killing it", slot.name)
                self.leaving[slot] = math.inf
                os.kill(slot.pid, signal.SIGKILL)
        for slot in self._startable:
            if not slot.pid and slot.due <= now and self._start(slot, waits=self.waiting):
                self.control.is_new(slot)

    def start_successor(self, old: Slot, ended: Callable[[str], None]) -> Slot | None:
        """Starts a worker that is to take the place of ``old``, and waits until it is told to
        serve. ``ended`` is told how it has, if it does before :meth:`succeed`. None: it cannot be
        started."""
        (row,) = {old.index, old.index + self._state.board.room} - {old.row}
        slot = Slot(old.name, old.index, row)
        self.coming[slot] = Coming(old, ended)
        if self._start(slot, waits=True):
            return slot
        del self.coming[slot]
        return None

    def succeed(self, new: Slot) -> None:
        """A worker takes the place that it was started for; the one before drains."""
        old = self.coming.pop(new).old
        self.workers[self.workers.index(old)] = new
        if old.pid:
            self.dismiss(old)
        self.control.is_new(new)

    def give_up(self, new: Slot) -> None:
        """A worker that was started for a place does not get it, and drains what it has."""
        del self.coming[new]
        self.dismiss(new)
        self.control.is_new(new)

    def dismiss(self, slot: Slot) -> None:
        """A worker that has no place any more drains what it has."""
        self.leaving[slot] = time.monotonic() + self._state.config.timeouts.drain + GRACE
        self.control.tell(slot, {"ask": "leave"})

    def confines(self, config: Config, slots: Iterable[Slot]) -> bool:
        """Whether one of these cannot open all that this configuration needs: a domain is never
        widened."""
        confinement = self._state.confinement
        if confinement is None:
            return False
        domain = confinement.domain(config)
        return any(slot.pid and not domain <= self._domains[slot.pid] for slot in slots)

    def renew_admin(self, config: Config) -> None:
        """Another admin process is started if this one cannot open what the configuration needs,
        when it has given its last answers."""
        if self.admin is not None and self.confines(config, [self.admin]):
            self.admin.renewed = True
            self.control.tell_admin({"state": "leaving"})

    def _start(self, slot: Slot, *, waits: bool) -> bool:
        confinement = self._state.confinement
        domain = None if confinement is None else confinement.domain(self._state.config)
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
            return False
        if pid == 0:
            own.close()
            leave = [self.control.close, *self.forked]
            self._child.be(slot.name, self._place(slot, waits=waits), other, domain, leave)
        other.close()
        slot.begin(pid, own)
        self.control.begins(slot)
        if domain is not None:
            self._domains[pid] = domain
        if slot is not self.admin:
            self.serial += 1
        return True

    def _place(self, slot: Slot, *, waits: bool) -> Place | None:
        """None for the admin process."""
        if slot is self.admin:
            return None
        of = self.coming[slot].old if slot in self.coming else slot
        queue = self.workers.index(of)
        again, shared = slot.starts > 0 or slot in self.coming, self.is_shared(slot)
        return Place(slot.index, queue, slot.row, self.serial, waits, again, shared)

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
            self._domains.pop(pid, None)
            for slot in self.all:
                if slot.pid == pid:
                    slot.end()
                    self._on_end(slot, pid, os.waitstatus_to_exitcode(status))

    def _on_end(self, slot: Slot, pid: int, status: int) -> None:
        if slot is self._former_admin:
            self._former_admin = None
            return
        if slot is not self.admin:
            self._fold(slot.row)
        if slot in self.coming:
            self.coming.pop(slot).ended(_how(status))
            return
        self._on_death(slot, pid, status)
        if self.leaving.pop(slot, None) is not None:
            self._use_board()
            if slot.index not in {one.index for one in self.workers}:
                self.control.tell_admin(
                    {"gone": slot.index, "pid": pid, "how": "has left", "left": True}
                )
        if slot is not self.admin:
            for told in self.gone:
                told(slot)

    def _fold(self, number: int) -> None:
        """What a worker has counted stays on the board, and what it has not written is told."""
        board = self._state.board
        messages, lines = losses.settle(board.row(number), board.base)
        board.fold(number)
        logs.count(messages, lines)

    def _on_death(self, slot: Slot, pid: int, status: int) -> None:
        """``status``: the exit status, or minus the signal."""
        how = _how(status)
        state = self._state
        if slot is self.admin and slot.renewed:
            slot.renewed = False  # as it was to: another is started at once
            return
        if slot is self.admin:
            if not state.killed and self.admin_wanted:
                self._replace(slot, pid, how)
            return
        first = self.waiting or state.generation == 1
        if status == UNUSABLE and slot.starts == 1 and first:
            self._unusable()
            return
        if state.stopping or slot in self.leaving:
            if status != 0 and not state.killed:
                log.error("%s (pid %d) %s", slot.name, pid, how)
                if state.stopping:
                    state.fail(1)
            return
        state.board.base[columns.DEATHS] += 1
        if self.succeeded(slot):
            log.error("%s (pid %d) %s; another has its place already", slot.name, pid, how)
            return
        self._replace(slot, pid, how)

    def _replace(self, slot: Slot, pid: int, how: str) -> None:
        """Another is started in its place."""
        if time.monotonic() - slot.started >= HEALTHY:
            slot.delay = 0.0
        wait = slot.postpone()
        again = f"in {wait:.1f} s" if wait else "at once"
        if self.gives and slot is not self.admin:
            again = "if the upgrade fails"
        log.error("%s (pid %d) %s; starting another %s", slot.name, pid, how, again)
        self.control.tell_admin({"gone": slot.index, "pid": pid, "how": how})

    # Another configuration

    def resize(self, count: int) -> None:
        """There are to be so many workers. Those that leave drain, and others have their queues."""
        while len(self.workers) > count:
            slot = self.workers.pop()
            if slot.pid:
                self.dismiss(slot)
        while len(self.workers) < count:
            used = {slot.index for slot in (*self.workers, *self.leaving)}
            index = next(index for index in itertools.count() if index not in used)
            self.workers.append(Slot(f"worker {index}", index))
        self._use_board()

    def has_room(self, count: int) -> bool:
        """Whether the board has a row for each of so many workers, and for those that leave. One
        that leaves may share its place on the board with the one that has replaced it."""
        used = {slot.index for slot in (*self.workers, *self.leaving)}
        return len(used) + max(count - len(self.workers), 0) <= self._state.board.room

    def _use_board(self) -> None:
        leaving = [slot.index for slot in self.leaving]
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
        for slot in self.each_worker:
            if slot.pid:
                os.kill(slot.pid, number)

    def dismiss_admin(self) -> None:
        """It ends when it has given its last answers, and no other is started."""
        self.admin_wanted = False
        self.control.tell_admin({"state": "leaving"})

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


def _how(status: int) -> str:
    """``status``: the exit status, or minus the signal."""
    return f"exited with status {status}" if status >= 0 else f"ended by {name_of(-status)}"
