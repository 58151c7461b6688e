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

from spliceproxy.config import Address, Config
from spliceproxy.messages import log, plain
from spliceproxy.observe.board import Board
from spliceproxy.processes import listeners, logs
from spliceproxy.processes.signals import LATER, STOPS, UNUSED, name_of, tell_unused
from spliceproxy.relay import columns
from spliceproxy.version import __version__

RunWorker = Callable[[Config, Sequence[socket.socket], int, int, Board], int]
"""``run(config, sockets, lifeline, index, board)``: the life of one worker, in its own process;
returns its exit status. STOPS and LATER (signals.py) are ignored when it
starts."""

UNUSABLE = 2
"""Exit status of a worker that cannot work with these settings and has said why. If one
of the first workers ends so, the proxy stops with the same status."""

HEALTHY = 5.0
"""A worker that has lived for so many seconds was healthy: its death counts as the first."""

BACKOFF_FIRST = 0.1
BACKOFF_LAST = 10.0
"""Seconds from a worker's death to its next start. There are none the first time. While it dies
young, they double between these two."""

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
    others = {signal.SIGCHLD, *LATER}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stops | others)
    # An ignored SIGCHLD, as some parents leave behind, would reap the workers unseen, and an
    # ignored SIGTERM would stop nothing. What is ignored cannot be waited for.
    for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    descriptors = _raise_descriptor_limit()
    try:
        listening = listeners.bind(config.listen, config.workers)
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
        gc.freeze()  # the workers share these pages as long as nobody writes to them
        gc.enable()  # __main__ has disabled it
        return Supervisor(config, run_worker, listening, board, stops, mask).run()
    finally:
        listening.close()
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


class _Slot:
    """A worker's place. ``pid`` is the process that runs there, 0 for none."""

    __slots__ = ("delay", "due", "index", "pid", "started", "starts")

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid = 0
        self.starts = 0
        self.started = 0.0
        self.due = 0.0  # when the next one starts, time.monotonic()
        self.delay = 0.0  # what the next young death will cost


class Supervisor:
    """The loop of :func:`run`: starts what is due, waits for a signal, acts on it."""

    def __init__(
        self,
        config: Config,
        run_worker: RunWorker,
        listening: listeners.Listeners,
        board: Board,
        stops: frozenset[signal.Signals],
        mask: set[signal.Signals | int],
    ) -> None:
        self._config = config
        self._run_worker = run_worker
        self._listening = listening
        self._stops = stops
        self._mask = mask  # of signals, for the workers
        self._board = board
        self._board.base[columns.GENERATION] = 1
        self._slots = [_Slot(index) for index in range(config.workers)]
        self._lifeline, self._held = os.pipe()
        self._stopping = False
        self._again = 0.0  # monotonic seconds, from when on a stop signal is a second one
        self._deadline = 0.0  # when workers that still drain are killed
        self._killed = False
        self._status = 0

    def run(self) -> int:
        """Returns the exit status when no worker is left."""
        while True:
            self._reap()
            if self._stopping:
                if not any(slot.pid for slot in self._slots):
                    os.close(self._lifeline)
                    log.info("stopped")
                    return self._status
                if time.monotonic() >= self._deadline and not self._killed:
                    log.error("workers did not end in time: killing them")
                    self._kill(1)
            else:
                self._start_due()
            number = self._wait()
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

    def _wait(self) -> int:
        """Waits for a signal or the next thing to do; returns the signal, 0 for none."""
        moment: float | None
        if self._killed:
            moment = None
        elif self._stopping:
            moment = self._deadline
        else:
            moment = min((slot.due for slot in self._slots if not slot.pid), default=None)
        if logs.waits():
            logs.flush()
            again = time.monotonic() + logs.RETRY_SECONDS
            moment = again if moment is None else min(moment, again)
        signals = {*self._stops, signal.SIGCHLD, *LATER}
        if moment is None:
            return signal.sigwaitinfo(signals).si_signo
        info = signal.sigtimedwait(signals, max(0.0, moment - time.monotonic()))
        return info.si_signo if info else 0

    # Starting

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if not slot.pid and slot.due <= now:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no process or memory to be had just now
            self._postpone(slot)
            log.error("worker %d: cannot start: %s", slot.index, error.strerror)
            return
        if pid == 0:
            self._be_worker(slot.index)
        slot.pid = pid
        slot.starts += 1
        slot.started = time.monotonic()

    def _be_worker(self, index: int) -> NoReturn:
        """The worker's process, from fork to exit."""
        status = 1
        try:
            for number in (*STOPS, *LATER):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            logs.in_worker(self._board.row(index))
            os.close(self._held)
            self._listening.keep(index)
            sockets = self._listening.of(index)
            status = self._run_worker(self._config, sockets, self._lifeline, index, self._board)
        except BaseException:
            log.exception("worker %d failed", index)
        finally:
            logs.finish()
            os._exit(status)  # nothing of the supervisor's may run here: no finally, no atexit

    # Deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._slots:
                if slot.pid == pid:
                    slot.pid = 0
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

    def _on_death(self, slot: _Slot, pid: int, status: int) -> None:
        """``status``: the exit status, or minus the signal."""
        how = f"exited with status {status}" if status >= 0 else f"ended by {name_of(-status)}"
        if status == UNUSABLE and slot.starts == 1:
            self._status = self._status or UNUSABLE
            if not self._stopping:
                self._stop()
            return
        if self._stopping:
            if status != 0 and not self._killed:
                log.error("worker %d (pid %d) %s", slot.index, pid, how)
                self._status = self._status or 1
            return
        self._board.base[columns.DEATHS] += 1
        if time.monotonic() - slot.started >= HEALTHY:
            slot.delay = 0.0
        wait = self._postpone(slot)
        again = f"in {wait:.1f} s" if wait else "at once"
        log.error("worker %d (pid %d) %s; starting another %s", slot.index, pid, how, again)

    def _postpone(self, slot: _Slot) -> float:
        """Sets the slot's next start; returns the seconds until then."""
        wait = slot.delay
        slot.due = time.monotonic() + wait
        slot.delay = min(max(2 * wait, BACKOFF_FIRST), BACKOFF_LAST)
        return wait

    # Stopping

    def _on_stop_signal(self, number: int) -> None:
        if not self._stopping:
            log.info("%s: draining for at most %g s", name_of(number), self._config.timeouts.drain)
            self._stop()
        elif time.monotonic() >= self._again:
            log.warning("%s: stopping at once", name_of(number))
            self._kill(128 + number)

    def _pass_on(self, number: int) -> None:
        """SIGUSR1, as logrotate(8) sends it to nginx or squid, and SIGQUIT."""
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _stop(self) -> None:
        self._stopping = True
        self._again = time.monotonic() + AGAIN
        self._deadline = time.monotonic() + self._config.timeouts.drain + GRACE
        os.close(self._held)
        # The workers' copies stay open until they have emptied their queues.
        self._listening.close()

    def _kill(self, status: int) -> None:
        self._killed = True
        self._status = status
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
