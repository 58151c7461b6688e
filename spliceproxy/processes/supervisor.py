"""The supervisor: binds, starts the workers, replaces those that die, and stops them.

It has no event loop and no thread, and waits for no reader of its messages. Its signals are
blocked and taken one at a time with sigtimedwait(2), so nothing happens between two lines of
this file.

SIGTERM, SIGINT and SIGHUP mean: stop, but let the workers drain. A second one means: stop at
once. The workers learn of it from their *lifeline*, a pipe whose write end only the supervisor
holds. End of file on it means "drain", whether the supervisor closed it or died. No signal is
forwarded, because a worker may have got the same signal itself: Ctrl-C goes to the whole
foreground process group, and systemd signals a whole control group. A worker must not take one
request to stop for two. SIGUSR1 makes the workers open their access logs anew, and SIGQUIT makes
them show their flows. SIGUSR2 means nothing yet, and is told.

SIGIO says that somebody has sent a message (:mod:`spliceproxy.processes.control`). With --admin
there is one more child, the admin process, which answers what people ask. It stays until the last
worker has ended, and its own end disturbs nobody.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from spliceproxy.admin import level
from spliceproxy.admin.channel import Channel, Message
from spliceproxy.config import Address, Config
from spliceproxy.messages import log, plain
from spliceproxy.observe.board import Board
from spliceproxy.processes import listeners, logs
from spliceproxy.processes.control import AGAIN as TELL_AGAIN
from spliceproxy.processes.control import Control
from spliceproxy.processes.signals import LATER, STOPS, UNUSED, name_of, tell_unused
from spliceproxy.processes.slot import Slot
from spliceproxy.relay import columns
from spliceproxy.version import __version__

RunWorker = Callable[[Config, Sequence[socket.socket], int, int, Board, Channel], int]
"""``run(config, sockets, lifeline, index, board, control)``: the life of one worker, in its own
process; returns its exit status. ``control`` is its channel to the supervisor. STOPS and LATER
(signals.py) are ignored when it starts."""

UNUSABLE = 2
"""Exit status of a worker that cannot work with these settings and has said why. If one
of the first workers ends so, the proxy stops with the same status."""

HEALTHY = 5.0
"""A child that has lived for so many seconds was healthy: its death counts as the first."""

LEAVE_SECONDS = 1.0
"""What the admin process has to end by itself, when there is no worker left."""

GRACE = 5.0
"""Seconds beyond the drain timeout that a worker has to end by itself."""

AGAIN = 0.25
"""Seconds after a stop signal within which another one counts as the same. timeout(1) sends one to
its child and one to the group, and systemd sends SIGHUP right after SIGTERM (SendSIGHUP)."""


def run(config: Config, run_worker: RunWorker | None = None) -> int:
    """Runs the proxy until it is told to stop; returns the exit status.

    0: every worker drained. 1: it could not start, or a worker had to be killed or
    failed while draining. UNUSABLE: see there. 128 + signal: ended at once by a second
    signal. The signals stay blocked: a late one must not change the exit status.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # splice(2) has no MSG_NOSIGNAL
    logs.in_supervisor()
    stops = _stop_signals()
    others = {signal.SIGCHLD, signal.SIGIO, *LATER}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stops | others)
    # An ignored SIGCHLD, as some parents leave behind, would reap the workers unseen, and an
    # ignored SIGTERM would stop nothing. What is ignored cannot be waited for.
    for number in (
        signal.SIGCHLD,
        signal.SIGIO,
        signal.SIGUSR1,
        signal.SIGQUIT,
        signal.SIGTERM,
    ):
        signal.signal(number, signal.SIG_DFL)
    descriptors = _raise_descriptor_limit()
    asked: listeners.Listeners | None = None  # where operators ask
    try:
        listening = listeners.bind(config.listen, config.workers)
        if config.admin.address is not None:
            try:
                asked = listeners.bind([config.admin.address], 1, config.admin.mode)
            except BaseException:
                listening.close()
                raise
    except listeners.ListenError as error:
        log.error("%s", error)
        logs.finish()
        return 1
    try:
        try:
            board = Board.create(config.workers)
        except OSError as error:
            log.error("no memory for the counters that all workers share: %s", plain(error))
            return 1
        _announce(config, listening.addresses, descriptors)
        if run_worker is None:
            from spliceproxy.processes import worker

            worker.load()
            run_worker = worker.run
        if asked is not None:
            _announce_admin(asked.addresses[0])
            # What it runs must not be of another version, if it is started again later.
            from spliceproxy.admin import process  # noqa: F401
        gc.freeze()  # the workers share these pages as long as nobody writes to them
        gc.enable()  # __main__ has disabled it
        return Supervisor(config, run_worker, listening, asked, board, stops, mask).run()
    finally:
        listening.close()
        if asked is not None:
            asked.close()
        logs.finish()


def _stop_signals() -> frozenset[signal.Signals]:
    """The signals that stop the proxy. One that was ignored at the start stays so, as
    nohup(1) and background jobs of a shell script expect."""
    ignored = {
        number
        for number in (signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    }
    return frozenset(STOPS) - ignored


def _raise_descriptor_limit() -> int:
    """Raises RLIMIT_NOFILE to the hard limit; returns what it then is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # fs.nr_open was lowered below it
        log.warning("the limit of open files stays at %d: %s", soft, plain(error))
        return soft
    return hard


def _announce(config: Config, addresses: Sequence[Address], descriptors: int) -> None:
    log.info(
        "spliceproxy %s, Python %s, workers: %d (%s), descriptors per worker: %d",
        __version__,
        sys.version.split()[0],
        config.workers,
        config.workers_why,
        descriptors,
    )
    for address in addresses:
        if address.path:
            log.info("listening on %s", address)
        elif address.host:
            log.info("listening on http://%s", address)
        else:
            log.info("listening on http://*:%d (every address)", address.port)


def _announce_admin(address: Address) -> None:
    if address.path:
        log.info("the admin address is %s", address)
    else:
        log.info("the admin address is http://%s", address if address.host else f"*:{address.port}")


class Supervisor:
    """The loop of :func:`run`: starts what is due, waits for a signal, acts on it."""

    def __init__(
        self,
        config: Config,
        run_worker: RunWorker,
        listening: listeners.Listeners,
        asked: listeners.Listeners | None,
        board: Board,
        stops: frozenset[signal.Signals],
        mask: set[signal.Signals | int],
    ) -> None:
        self._config = config
        self._run_worker = run_worker
        self._listening = listening
        self._asked = asked  # the socket of the admin process
        self._stops = stops
        self._mask = mask  # of signals, for the children
        self._board = board
        self._board.base[columns.GENERATION] = 1
        self._slots = [Slot(f"worker {index}", index) for index in range(config.workers)]
        self._admin = None if asked is None else Slot("admin process", config.workers)
        self._control = Control(self._slots, self._admin)
        self._lifeline, self._held = os.pipe()
        self._draining = False  # told to stop; clients are accepted until _stop_at
        self._stop_at = 0.0
        self._stopping = False
        self._again = 0.0  # monotonic seconds, from when on a stop signal is a second one
        self._deadline = 0.0  # when workers that still drain are killed
        self._killed = False
        self._status = 0

    @property
    def _children(self) -> list[Slot]:
        return self._slots if self._admin is None else [*self._slots, self._admin]

    def run(self) -> int:
        """Returns the exit status when no worker is left."""
        while True:
            self._reap()
            if self._draining and not self._stopping and time.monotonic() >= self._stop_at:
                self._stop()
            if self._stopping:
                if not any(slot.pid for slot in self._slots):
                    self._end_admin()
                    os.close(self._lifeline)
                    log.info("stopped")
                    return self._status
                if time.monotonic() >= self._deadline and not self._killed:
                    log.error("workers did not end in time: killing them")
                    self._kill(1)
            self._start_due()
            self._control.introduce()
            self._on_signal(self._wait())

    def _on_signal(self, number: int) -> None:
        """Acts on a signal, or on 0 because something is due."""
        if number in self._stops:
            # Of two signals the kernel gives the lower number first, so a worker that died
            # before the stop may be found behind it, and would pass for one that failed
            # while it drained.
            self._reap()
            self._on_stop_signal(number)
        elif number in (signal.SIGUSR1, signal.SIGQUIT):
            self._pass_on(number)
        elif number in UNUSED:
            tell_unused(number)
        elif number == signal.SIGIO or self._control.more:
            for slot, message in self._control.hear():
                self._on_message(slot, message)

    def _wait(self) -> int:
        """Waits for a signal or the next thing to do; returns the signal, 0 for none."""
        moments = [] if self._killed else self._moments()
        if logs.waits():
            logs.flush()
            moments.append(time.monotonic() + logs.RETRY_SECONDS)
        if self._control.waits:
            moments.append(time.monotonic() + TELL_AGAIN)
        if self._control.more:
            moments.append(0.0)
        signals = {*self._stops, signal.SIGCHLD, signal.SIGIO, *LATER}
        if not moments:
            return signal.sigwaitinfo(signals).si_signo
        info = signal.sigtimedwait(signals, max(0.0, min(moments) - time.monotonic()))
        return info.si_signo if info else 0

    def _moments(self) -> list[float]:
        """When something is to be done, time.monotonic()."""
        moments = [slot.due for slot in self._startable if not slot.pid]
        if self._stopping:
            moments.append(self._deadline)
        elif self._draining:
            moments.append(self._stop_at)
        return moments

    # Starting

    @property
    def _startable(self) -> list[Slot]:
        """Who is started again: while the workers drain, the admin process alone."""
        if self._killed:
            return []
        if not self._stopping:
            return self._children
        return [] if self._admin is None else [self._admin]

    def _start_due(self) -> None:
        now = time.monotonic()
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
        self._control.is_new(slot)

    def _be_child(self, slot: Slot, channel: Channel) -> NoReturn:
        """The process of a child, from fork to exit."""
        status = 1
        try:
            for number in (*STOPS, *LATER):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            logs.in_worker(self._row(slot))
            self._control.close()
            if not self._stopping:
                os.close(self._held)
            status = self._be_admin(channel) if slot is self._admin else self._be(slot, channel)
        except BaseException:
            log.exception("%s failed", slot.name)
        finally:
            logs.finish()
            os._exit(status)  # nothing of the supervisor's may run here: no finally, no atexit

    def _be(self, slot: Slot, channel: Channel) -> int:
        self._listening.keep(slot.index)
        if self._asked is not None:
            self._asked.close()
        sockets = self._listening.of(slot.index)
        return self._run_worker(
            self._config, sockets, self._lifeline, slot.index, self._board, channel
        )

    def _row(self, slot: Slot) -> memoryview:
        """Where a child counts. The admin process serves nobody, and has no row."""
        return Board.private().row(0) if slot is self._admin else self._board.row(slot.index)

    def _be_admin(self, channel: Channel) -> int:
        from spliceproxy.admin import process

        assert self._asked is not None
        self._listening.close()
        os.close(self._lifeline)
        (sock,) = self._asked.of(0)
        return process.run(self._config, sock, channel, self._board, draining=self._draining)

    # Deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._children:
                if slot.pid == pid:
                    slot.end()
                    if slot is not self._admin:
                        self._fold(slot.index)
                    self._on_death(slot, pid, os.waitstatus_to_exitcode(status))

    def _fold(self, index: int) -> None:
        """What a worker has counted stays on the board, and what it has not written is told."""
        row, base = self._board.row(index), self._board.base
        lines, messages = row[columns.LINES_WAITING], row[columns.MESSAGES_WAITING]
        base[columns.ACCESS_AT_END] += lines
        base[columns.MESSAGES_AT_END] += messages
        self._board.fold(index)
        logs.count(messages, lines)

    def _on_death(self, slot: Slot, pid: int, status: int) -> None:
        """``status``: the exit status, or minus the signal."""
        how = f"exited with status {status}" if status >= 0 else f"ended by {name_of(-status)}"
        if slot is self._admin:
            if not self._killed:
                self._replace(slot, pid, how)
            return
        if status == UNUSABLE and slot.starts == 1:
            self._status = self._status or UNUSABLE
            if not self._stopping:
                self._stop()
            return
        if self._stopping:
            if status != 0 and not self._killed:
                log.error("%s (pid %d) %s", slot.name, pid, how)
                self._status = self._status or 1
            return
        self._board.base[columns.DEATHS] += 1
        self._replace(slot, pid, how)

    def _replace(self, slot: Slot, pid: int, how: str) -> None:
        """Another is started in its place."""
        if time.monotonic() - slot.started >= HEALTHY:
            slot.delay = 0.0
        wait = slot.postpone()
        again = f"in {wait:.1f} s" if wait else "at once"
        log.error("%s (pid %d) %s; starting another %s", slot.name, pid, how, again)
        self._control.tell_admin({"gone": slot.index, "pid": pid, "how": how})

    # Messages

    def _on_message(self, slot: Slot, message: Message) -> None:
        """From the admin process, which waits for an answer."""
        asked = message.get("ask") if slot is self._admin else None
        answer: Message
        if asked == "drain":
            answer = {"draining": True, "before": self._draining}
            if not self._draining:
                self._drain("an operator")
        elif asked == "log-level":
            answer = self._set_level(message.get("level"))
        else:
            log.warning("%s said what nobody understands", slot.name)
            answer = {"error": f"there is no question {asked!r}"}
        self._control.tell(slot, {**answer, "re": message.get("id"), "end": True})

    def _set_level(self, wanted: object) -> Message:
        """For this process, those that it will fork, and those that it has."""
        try:
            before = level.set_to(wanted)
        except ValueError as error:
            return {"error": str(error)}
        log.log(level.number(), "messages are written from level %s on: an operator", wanted)
        self._control.tell_workers({"ask": "log-level", "level": wanted})
        return {"before": before}

    # Stopping

    def _on_stop_signal(self, number: int) -> None:
        if not self._draining:
            self._drain(name_of(number))
        elif time.monotonic() >= self._again:
            log.warning("%s: stopping at once", name_of(number))
            self._kill(128 + number)

    def _drain(self, why: str) -> None:
        """Stops, but lets balancers notice before, and requests and tunnels end."""
        times = self._config.timeouts
        if times.drain_delay:
            log.info("%s: draining in %g s, for at most %g s", why, times.drain_delay, times.drain)
        else:
            log.info("%s: draining for at most %g s", why, times.drain)
        self._draining = True
        self._again = time.monotonic() + AGAIN
        self._stop_at = time.monotonic() + times.drain_delay
        self._control.tell_admin({"state": "draining"})

    def _pass_on(self, number: int) -> None:
        """SIGUSR1, as logrotate(8) sends it to nginx or squid, and SIGQUIT."""
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _stop(self) -> None:
        """No new clients."""
        if not self._draining:
            self._again = time.monotonic() + AGAIN
        self._draining = self._stopping = True
        self._deadline = time.monotonic() + self._config.timeouts.drain + GRACE
        os.close(self._held)
        # The workers' copies stay open until they have emptied their queues.
        self._listening.close()

    def _end_admin(self) -> None:
        """It ends when its channel does, or is killed."""
        if self._admin is None or not self._admin.pid:
            return
        self._killed = True  # nobody is started any more
        self._admin.hang_up()
        end = time.monotonic() + LEAVE_SECONDS
        while self._admin.pid and time.monotonic() < end:
            signal.sigtimedwait({signal.SIGCHLD}, max(0.0, end - time.monotonic()))
            self._reap()
        if self._admin.pid:
            os.kill(self._admin.pid, signal.SIGKILL)
            os.waitpid(self._admin.pid, 0)

    def _kill(self, status: int) -> None:
        self._stopping = self._killed = True
        self._status = status
        for slot in self._children:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
