"""The supervisor: binds, starts the workers, replaces those that die, and stops them.

It has no event loop and no thread, and waits for no reader of its messages. Its signals are
blocked and taken one at a time with sigtimedwait(2), so nothing happens between two lines of
what it does.

SIGTERM and SIGINT mean: stop, but let the workers drain. A second one means: stop at once
(:mod:`spliceproxy.processes.stopping`). SIGHUP means: read the settings again
(:mod:`spliceproxy.processes.reloading`). But where it comes because the terminal is gone that the
proxy was started from, it is one that stops. SIGUSR1 makes the workers open their access logs anew,
and SIGQUIT makes them show their flows. SIGUSR2 starts the program anew, which takes over
(:mod:`spliceproxy.processes.upgrade`).

SIGIO says that somebody has sent a message (:mod:`spliceproxy.processes.control`). With --admin
there is one more child, the admin process, which answers what people ask. It stays until the last
worker has ended, and its own end disturbs nobody.

What has times of its own is a :class:`Part`: it is asked when it is due, and goes on then.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spliceproxy.admin.channel import Message, count_in
from spliceproxy.config import NOTIFY_VARIABLE, Config
from spliceproxy.kept import ANY
from spliceproxy.messages import log, plain
from spliceproxy.observe.board import Board
from spliceproxy.processes import logs, starting
from spliceproxy.processes.child import RunWorker
from spliceproxy.processes.children import ADMIN, Children
from spliceproxy.processes.listeners import ListenError
from spliceproxy.processes.orders import Orders, Tell
from spliceproxy.processes.reloading import Load, Reloading
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.sharing import Sharing
from spliceproxy.processes.signals import LATER, STOPS, name_of
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.processes.stopping import Stopping
from spliceproxy.processes.terminal import Terminal
from spliceproxy.relay import columns
from spliceproxy.seldom import Seldom

if TYPE_CHECKING:
    from spliceproxy.processes.pidfile import PidFile
    from spliceproxy.processes.succession import Predecessor

LOAD_SECONDS = 0.5
"""From the start until what is seldom needed is loaded."""

LOAD_AGAIN_SECONDS = 5.0
"""Until that is tried again, where there was no descriptor or memory."""


def cannot_load(config: Config) -> tuple[Config, list[str]]:
    """For settings that were read nowhere."""
    raise ValueError("the settings of this proxy have no source that could be read again")


def run(
    config: Config,
    run_worker: RunWorker | None = None,
    load: Load = cannot_load,
    predecessor: Predecessor | None = None,
) -> int:
    """Runs the proxy until it is told to stop; returns the exit status. ``load`` reads its settings
    again; ``predecessor`` is the program to take over from.

    0: every worker drained. 1: it could not start, or a worker had to be killed or
    failed while draining. UNUSABLE (child.py): see there. 128 + signal: ended at once by a
    second signal. The signals stay blocked: a late one must not change the exit status.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # splice(2) has no MSG_NOSIGNAL
    starting.take_name()
    logs.in_supervisor()
    stops = _stop_signals()
    terminal = Terminal(ignores=signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
    mask = _block(stops)
    descriptors = starting.raise_descriptor_limit()
    rights = starting.rights_of(config)
    try:
        listening, asked = starting.bind(config, predecessor, rights)
    except ListenError as error:
        log.error("%s", error)
        if predecessor is not None:
            predecessor.refuse(str(error))
        logs.finish()
        return 1
    state: State | None = None
    try:
        try:
            board = Board.create(config.workers)
            if config.policy.limits_store:
                board.meters.leases.hang_bell()
        except OSError as error:
            log.error("no memory for the counters that all workers share: %s", plain(error))
            return 1
        starting.announce(config, listening.addresses, descriptors)
        run_worker = run_worker or _real_worker(config)
        if asked is not None:
            starting.announce_admin(asked.addresses[0])
            # What it runs must not be of another version, if it is started again later.
            from spliceproxy.admin import process  # noqa: F401
        gc.freeze()  # the workers share these pages as long as nobody writes to them
        gc.enable()  # __main__ has disabled it
        confinement = starting.confinement_of(config)
        state = State(config, listening, asked, board, rights=rights, confinement=confinement)
        if asked is not None and config.admin.token_file is not None:
            # It was right a moment ago. In an upgrade the admin process begins much later.
            state.tokens.follow(config.admin.token_file, ANY)
        supervisor = Supervisor(state, run_worker, load, terminal, stops, mask)
        return supervisor.run() if supervisor.begin(predecessor) else 1
    finally:
        for one in (listening, asked) if state is None else (state.listening, state.asked):
            if one is not None:
                one.close()
        logs.finish()


def _stop_signals() -> frozenset[signal.Signals]:
    """The signals that stop the proxy. One that was ignored at the start stays so, as
    nohup(1) and background jobs of a shell script expect."""
    ignored = {signal.SIGINT} if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else set()
    return frozenset(STOPS) - ignored


def _block(stops: frozenset[signal.Signals]) -> set[signal.Signals | int]:
    """Blocks what is waited for; returns the mask from before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*stops, signal.SIGCHLD, signal.SIGIO, *LATER})
    # An ignored SIGCHLD, as some parents leave behind, would reap the workers unseen, and an
    # ignored SIGTERM would stop nothing. What is ignored cannot be waited for.
    for number in (
        signal.SIGCHLD,
        signal.SIGIO,
        signal.SIGUSR1,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):
        signal.signal(number, signal.SIG_DFL)
    return mask - {signal.SIGHUP}  # which __main__ has blocked


def _real_worker(config: Config) -> RunWorker:
    from spliceproxy.processes import worker

    worker.load()
    if config.policy.limits_store:
        import redis.asyncio  # noqa: F401 - for all workers, as all that they need
    return worker.run


def _nothing() -> None:
    """There is nothing to be said."""


class Part(Protocol):
    """Something that the supervisor does beside its children, with times of its own."""

    def moments(self) -> Iterable[float]:
        """When it is due, time.monotonic()."""

    def go_on(self) -> None:
        """Does what is due; called at every turn."""


class Supervisor:
    """The loop of :func:`run`: starts what is due, waits for a signal, acts on it. ``signals``
    says who is told of one."""

    def __init__(
        self,
        state: State,
        run_worker: RunWorker,
        load: Load,
        terminal: Terminal,
        stops: frozenset[signal.Signals],
        mask: set[signal.Signals | int],
    ) -> None:
        self._state = state
        self._terminal = terminal
        state.board.base[columns.GENERATION] = state.generation
        count_in(state.board.base)
        children = self._children = Children(state, run_worker, mask, self._unusable)
        self._control = children.control
        self._stopping = Stopping(state, children)
        self._orders = Orders(state, children, self._stopping)
        self._orders.saying("kept", self._on_kept)
        self._reloading = Reloading(state, children, self._orders, load)
        self._reopening = Reopening(state, children)
        sharing = Sharing(state, children, self._orders)
        self._reloading.ended.append(sharing.again)
        terminal.gone = partial(self._on_stop, signal.SIGHUP)
        self._parts: list[Part] = [self._stopping, self._reloading, sharing, terminal]
        self._orders.by_name["recycle"] = self._orders.by_name["upgrade"] = self._early
        self._pid_file: PidFile | None = None
        self._last_words: Callable[[], None] = _nothing
        self._becomes_main: list[Callable[[], None]] = []
        self._main_changes: list[Callable[[int], None]] = []
        self._seldom = Seldom(log)
        self._load_at = 0.0  # when what is needed later is loaded, monotonic seconds
        self._signals: dict[int, Callable[[int], None]] = {
            **dict.fromkeys(stops, self._on_stop),
            signal.SIGUSR1: self._reopening.on_signal,
            signal.SIGQUIT: children.signal_workers,
            signal.SIGHUP: self._on_hangup,
            signal.SIGUSR2: self._early_signal,
        }

    def _unusable(self) -> None:
        self._stopping.unusable()

    def _on_kept(self, slot: Slot, message: Message) -> bool:
        if slot.index == ADMIN:
            self._state.tokens.hear(message, ANY)
        else:
            self._state.shelf.hear(message, self._state.generation)
        return True

    def _load(self) -> str:
        """What is seldom needed. It is loaded soon, for later the files may be of another version;
        and not at once, for clients wait for the first worker. Returns why it cannot be loaded now,
        "" if it is; then it is tried again."""
        self._load_at = math.inf
        try:
            from spliceproxy.processes.program import Program
            from spliceproxy.processes.replacing import Replacing
            from spliceproxy.processes.upgrade import Upgrade
        except (ImportError, MemoryError, OSError) as error:
            importlib.invalidate_caches()  # a folder that could not be read passes for empty
            self._load_at = time.monotonic() + LOAD_AGAIN_SECONDS
            why = f"what it needs cannot be loaded: {plain(error)}"
            self._seldom.say("load", logging.ERROR, "recycle, upgrade: %s; it is tried again", why)
            return why

        self._parts.append(Replacing(self._state, self._children, self._orders))
        upgrade = Upgrade(
            self._state,
            self._children,
            self._orders,
            self._stopping,
            self._reopening,
            Program(ignores_hangup=self._terminal.ignores),
        )
        upgrade.main_changes += self._main_changes
        self._parts.append(upgrade)
        self._signals[signal.SIGUSR2] = upgrade.on_signal
        self._last_words = upgrade.last_words
        return ""

    def begin(self, predecessor: Predecessor | None) -> bool:
        """Tells those who have to know that it runs. ``predecessor``: this program is to take the
        place of another, and tells them when it has. False: it cannot be, and why has been told."""
        main = predecessor is None
        path = self._state.config.pid_file
        if path is not None and not self._keep_pid_file(path, main=main):
            return False
        if NOTIFY_VARIABLE in os.environ:
            self._serve_manager(main=main)
        if predecessor is not None:
            self._take_over(predecessor)
        return True

    def _keep_pid_file(self, path: Path, *, main: bool) -> bool:
        """False if it cannot be had."""
        from spliceproxy.processes.pidfile import PidFile, PidFileError

        kept = self._pid_file = PidFile(path)
        self._children.forked.append(kept.close)
        if not main:
            self._becomes_main.append(kept.take_over)
            return True
        try:
            kept.claim()
        except PidFileError as error:
            log.error("%s", error)
            return False
        return True

    def _serve_manager(self, *, main: bool) -> None:
        """A service manager that has started the proxy hears what becomes of it."""
        from spliceproxy.processes import service

        found = service.of_environment(
            self._state, self._children, self._orders, self._reloading, main=main
        )
        if found is not None:
            self._parts.append(found)
            self._becomes_main.append(found.become_main)
            self._main_changes.append(found.main_changes)

    def _take_over(self, predecessor: Predecessor) -> None:
        from spliceproxy.processes.taking_over import TakingOver

        self._load_at = math.inf
        self._parts.append(
            TakingOver(
                self._state,
                self._children,
                self._orders,
                self._stopping,
                self._reopening,
                predecessor,
                self._become_main,
            )
        )

    def _become_main(self) -> None:
        for told in self._becomes_main:
            told()
        self._load()

    def _early(self, message: Message, tell: Tell) -> Message | None:
        """Somebody asks for what is not loaded yet."""
        if self._state.busy:
            return {"error": self._state.busy}
        why = self._load()
        if why:
            return {"error": why}
        return self._orders.by_name[str(message["ask"])](message, tell)

    def _early_signal(self, number: int) -> None:
        """The same by a signal."""
        why = self._state.busy or self._load()
        if why:
            log.error("no upgrade: %s", why)
            return
        self._signals[number](number)

    def run(self) -> int:
        """Returns the exit status when no worker is left."""
        try:
            return self._run()
        finally:
            if self._pid_file is not None:
                self._pid_file.remove()

    def _run(self) -> int:
        while True:
            self._children.reap()
            for part in self._parts:
                part.go_on()
            if self._state.stopping and not self._children.work:
                self._last_words()
                self._children.close()
                log.info("stopped")
                return self._state.status
            self._children.start_due()
            if self._load_at == 0.0:
                self._load_at = time.monotonic() + LOAD_SECONDS
            elif time.monotonic() >= self._load_at:
                self._load()
            self._control.go_on()
            self._on_signal(self._wait())

    def _on_signal(self, number: int) -> None:
        """Acts on a signal, or on 0 because something is due."""
        told = self._signals.get(number)
        if told is not None:
            told(number)
        elif number == signal.SIGIO or self._control.more:
            self._orders.hear()

    def _on_stop(self, number: int) -> None:
        # Of two signals the kernel gives the lower number first, so a worker that died before the
        # stop may be found behind it, and would pass for one that failed while it drained.
        self._children.reap()
        self._stopping.on_signal(number)

    def _on_hangup(self, number: int) -> None:
        if self._terminal.hung_up():
            self._on_stop(number)
        elif not self._state.draining:  # systemd sends one behind SIGTERM (SendSIGHUP)
            self._reloading.ask(name_of(number))

    def _wait(self) -> int:
        """Waits for a signal or the next thing to do; returns the signal, 0 for none."""
        moments = [] if self._state.killed else self._moments()
        if logs.waits():
            logs.flush()
            moments.append(time.monotonic() + logs.RETRY_SECONDS)
        if (due := self._control.due) is not None:
            moments.append(due)
        if self._control.more:
            moments.append(0.0)
        signals = {*self._signals, signal.SIGCHLD, signal.SIGIO}
        if not moments:
            return signal.sigwaitinfo(signals).si_signo
        info = signal.sigtimedwait(signals, max(0.0, min(moments) - time.monotonic()))
        return info.si_signo if info else 0

    def _moments(self) -> list[float]:
        """When something is to be done, time.monotonic()."""
        moments = list(self._children.moments())
        if self._load_at < math.inf:
            moments.append(self._load_at)
        for part in self._parts:
            moments += part.moments()
        return moments
