"""A process that the supervisor has forked: a worker, or the admin process, from fork to exit."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from spliceproxy.admin.channel import Channel, count_in
from spliceproxy.config import Config
from spliceproxy.kept import ANY
from spliceproxy.messages import log, plain
from spliceproxy.observe.board import Board
from spliceproxy.processes import logs
from spliceproxy.processes.signals import LATER, STOPS
from spliceproxy.processes.slot import Place
from spliceproxy.processes.state import State

if TYPE_CHECKING:
    from spliceproxy.processes.landlock import Domain

RunWorker = Callable[[Config, Sequence[socket.socket], int, Place, Board, Channel], int]
"""``run(config, sockets, lifeline, place, board, control)``: the life of one worker, in its own
process; returns its exit status. ``control`` is its channel to the supervisor. STOPS and LATER
(signals.py) are ignored when it starts."""

UNUSABLE = 2
"""Exit status of a worker that cannot work with these settings and has said why. If one
of the first workers ends so, the proxy stops with the same status."""


class Child:
    """Each of one supervisor's. ``mask`` is that of signals. ``lifeline`` is the end of the pipe
    that workers read, and ``held`` the other one."""

    def __init__(
        self,
        state: State,
        run_worker: RunWorker,
        mask: set[signal.Signals | int],
        lifeline: int,
        held: int,
    ) -> None:
        self._state = state
        self._run_worker = run_worker
        self._mask = mask
        self._lifeline = lifeline
        self._held = held

    def be(
        self,
        name: str,
        place: Place | None,
        channel: Channel,
        domain: Domain | None,
        leave: Iterable[Callable[[], None]],
    ) -> NoReturn:
        """Is a worker with this ``place``, or without one the admin process. ``leave`` closes what
        is the supervisor's alone."""
        status = 1
        try:
            for number in (*STOPS, *LATER):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            # The admin process serves nobody, and has no row.
            row = Board.private().row(0) if place is None else self._state.board.row(place.row)
            logs.in_worker(row)
            count_in(row)
            for told in leave:
                told()
            if not self._state.stopping:
                os.close(self._held)
            if not self._gives_up_rights(name, domain):
                status = UNUSABLE
            elif place is None:
                status = self._be_admin(channel)
            else:
                status = self._be_worker(place, channel)
        except BaseException:
            log.exception("%s failed", name)
        finally:
            logs.finish()
            os._exit(status)  # nothing of the supervisor's may run here: no finally, no atexit

    def _gives_up_rights(self, name: str, domain: Domain | None) -> bool:
        """Whether it has only those that it is to have."""
        try:
            if self._state.rights is not None:
                self._state.rights.take()
            if domain is not None:
                from spliceproxy.processes import landlock

                landlock.enforce(domain)
        except OSError as error:
            log.error("%s: it cannot give up rights: %s", name, plain(error))
            return False
        return True

    def _be_worker(self, place: Place, channel: Channel) -> int:
        state = self._state
        state.listening.keep(place.queue)
        if state.asked is not None:
            state.asked.close()
        sockets = state.listening.of(place.queue)
        place = place._replace(kept=state.shelf.texts(state.generation))
        state.shelf.close()
        state.tokens.close()
        return self._run_worker(state.config, sockets, self._lifeline, place, state.board, channel)

    def _be_admin(self, channel: Channel) -> int:
        from spliceproxy.admin import process

        state = self._state
        assert state.asked is not None
        kept = state.tokens.texts(ANY)
        state.tokens.close()
        state.shelf.close()
        state.listening.close()
        os.close(self._lifeline)
        (sock,) = state.asked.of(0)
        known = state.config, sock, channel, state.board
        reloads = state.history.all()
        return process.run(*known, draining=state.draining, reloads=reloads, kept=kept)
