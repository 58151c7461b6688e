"""A reload: the supervisor's part. All workers switch to another configuration, or none does.

1. The configuration is read from where it was read at the start: the same flags and environment,
   and the file as it is now. What is wrong with it is the reason for which the reload is refused.
   What cannot change while the proxy runs (``fixed`` in settings/table.py) stays as it is, with a
   warning.
2. What is new to listen on is bound. Where workers are confined and the configuration names a
   folder that they cannot open, each is replaced before that by one which can (replacing.py): it
   goes by the configuration that is in force, and may open what both need.
3. Each worker prepares: it loads what the configuration names, the module of --policy among it,
   and says that it is ready, or why it cannot be. Meanwhile no worker is started. One that dies, or
   does not answer within PREPARE_SECONDS, is a reason to refuse; the one that is started in its
   place begins with what is in force.
4. When all are ready, the configuration is in force: workers that start begin with it, and the
   others are told to switch. Whoever asked for the reload gets an answer when all have done so. One
   that does not say so within SWITCH_SECONDS is named in the answer: it is stopped, or hangs, and
   does it within a turn of its event loop when it goes on. One that dies is replaced by one that
   begins with the new configuration.

Workers that leave already, and drain what they have, are asked as well, and go by it for what they
have yet. But none of them is a reason to refuse: whoever does not go by it is named in a warning.

There is one reload at a time. Those who ask meanwhile get the next one, which reads the file anew.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial

from spliceproxy.admin import level
from spliceproxy.admin.channel import MAX_FDS, Message
from spliceproxy.admin.settings import hand
from spliceproxy.config import Config
from spliceproxy.messages import log, plain
from spliceproxy.processes import starting
from spliceproxy.processes.children import Children
from spliceproxy.processes.history import cut
from spliceproxy.processes.listeners import ListenError, Listeners, inode
from spliceproxy.processes.orders import Orders, Tell
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.relay import columns

PREPARE_SECONDS = 8.0
"""For a worker to load a configuration. Two reloads in a row are within what ctl waits for."""

SWITCH_SECONDS = 4.0
"""For a worker to say that it has switched, which takes it some milliseconds."""

RELOADS = "a reload is under way"
"""Why nothing else can be changed meanwhile."""

Load = Callable[[Config], tuple[Config, list[str]]]
"""``load(config)``: the settings as they are to be now, and warnings of what stays as it is in the
one that is in force. ValueError: what is wrong, a line for each mistake."""


class Refused(Exception):
    """The reload is refused; the text says why."""


class _Reload:
    """One that is under way. Sockets and ``settings`` (a descriptor) are this object's until it is
    in force. ``waiting``: those who have to answer before it goes on."""

    def __init__(self, who: str, config: Config, warnings: list[str]) -> None:
        self.who = who
        self.config = config
        self.warnings = warnings
        self.began = time.monotonic()
        self.listening: Listeners | None = None
        self.asked: Listeners | None = None
        self.settings = -1
        self.waiting: dict[int, Slot] = {}  # by the number of the question
        self.ready: list[Slot] = []
        self.leaving: set[Slot] = set()  # of those who are asked, who drain and go
        self.deadline = 0.0
        self.switching = False
        self.mode = config.admin.mode  # before
        self.silent: list[int] = []  # who has not said that it has switched
        self.why: list[str] = []  # a line about each

    def sockets(self, place: int) -> list[socket.socket]:
        """Those of a worker; none for one that leaves, because others have its queues."""
        assert self.listening is not None
        return self.listening.of(place) if place < self.config.workers else []

    def name(self, why: str) -> None:
        """Tells of those who have yet to answer, and waits for them no longer."""
        for slot in self.waiting.values():
            self.why.append(f"{self.named(slot)} {why}")
        self.waiting.clear()

    def named(self, slot: Slot) -> str:
        """Which one that is."""
        drains = ", which drains," if slot in self.leaving else ""
        return f"{slot.name} (pid {slot.pid}){drains}"

    @property
    def decisive(self) -> list[Slot]:
        """Who has yet to answer, and without whom nothing goes on."""
        return [slot for slot in self.waiting.values() if slot not in self.leaving]

    def undo(self) -> None:
        """It is refused."""
        for one in (self.listening, self.asked):
            if one is not None:
                one.undo()
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self.settings >= 0:
            os.close(self.settings)
            self.settings = -1


class Reloading:
    """Of one supervisor, and a part of it. ``load`` reads the settings anew. Those of ``begins``
    are called before that, and those of ``ended`` with why it was refused, "" if it was not."""

    def __init__(self, state: State, children: Children, orders: Orders, load: Load) -> None:
        self._state = state
        self._children = children
        self._load = load
        self._numbers = 0
        self._reload: _Reload | None = None
        self._askers: list[Tell] = []  # of the reload that is under way
        self._next: list[tuple[str, Tell | None]] = []  # who want the one behind it
        self.begins: list[Callable[[], None]] = []
        self.ended: list[Callable[[str], None]] = []
        children.gone.append(self._gone)
        children.forked.append(self._in_child)
        self._orders = orders
        orders.by_name["reload"] = self._order
        orders.said["re"] = self._answered

    # ---- who asks ----------------------------------------------------------------------

    def ask(self, who: str, tell: Tell | None = None) -> None:
        """Somebody wants a reload, and to hear of its result."""
        self._next.append((who, tell))
        if self._reload is None:
            self._begin()

    def _in_child(self) -> None:
        """In a process that was forked."""
        if self._reload is not None:
            self._reload.close()

    def _order(self, message: Message, tell: Tell) -> None:
        self.ask("an operator", tell)

    # ---- a part of the supervisor ------------------------------------------------------

    def moments(self) -> Iterable[float]:
        """When somebody has not answered in time."""
        reload = self._reload
        return [] if reload is None or reload.deadline == math.inf else [reload.deadline]

    def go_on(self) -> None:
        """Looks at the time, and at who wants the next one."""
        reload = self._reload
        if reload is None:
            return
        if not reload.switching and self._state.draining:
            self._refuse("the proxy is told to stop")
        elif time.monotonic() >= reload.deadline:
            self._late(reload)

    def _late(self, reload: _Reload) -> None:
        if reload.switching:
            reload.silent = [slot.index for slot in reload.waiting.values()]
            self._end(reload, "has not said that it goes by it")
        elif reload.decisive:
            names = [f"{slot.name} (pid {slot.pid})" for slot in reload.decisive]
            self._refuse(f"{', '.join(names)}: no answer within {PREPARE_SECONDS:g} s")
        else:
            for slot in reload.waiting.values():
                self._children.control.order(slot, {"ask": "forget"}, [])
            reload.name("does not go by it, for it has not answered")
            self._switch(reload)

    # ---- it begins ---------------------------------------------------------------------

    def _begin(self) -> None:
        while self._next and self._reload is None:
            askers, self._next = self._next, []
            who = ", ".join(dict.fromkeys(name for name, _ in askers))
            self._askers = [tell for _, tell in askers if tell is not None]
            self._try(who)

    def _try(self, who: str) -> None:
        reload = self._reload = _Reload(who, self._state.config, [])
        for told in self.begins:
            told()
        self._step(reload, self._read)

    def _step(self, reload: _Reload, step: Callable[[_Reload], None]) -> None:
        """What goes wrong in it is why the reload is refused."""
        try:
            step(reload)
        except (Refused, ValueError, ListenError) as refused:
            self._refuse(str(refused))
        except OSError as error:
            self._refuse(plain(error))
        except Exception as error:  # a fault of ours must not stop the proxy
            log.exception("a reload has failed")
            self._refuse(f"a fault of the proxy's own: {error!r}")

    def _read(self, reload: _Reload) -> None:
        if self._state.draining:
            raise Refused("the proxy is told to stop")
        if self._state.busy:
            raise Refused(self._state.busy)
        reload.config, reload.warnings = self._load(self._state.config)
        confinement = self._state.confinement
        if confinement is None or not self._children.confines(
            reload.config, self._children.workers
        ):
            self._make(reload)
            return
        log.info("reload: it names a folder that the workers cannot open, so they are replaced")
        reload.deadline = math.inf
        confinement.coming = reload.config
        answer = self._orders.by_name["recycle"]({"ask": "recycle"}, partial(self._widened, reload))
        if answer is not None:
            raise Refused(str(answer.get("error")))

    def _widened(self, reload: _Reload, answer: Message) -> None:
        """The workers can open what the configuration names, or could not be replaced."""
        if self._reload is not reload:
            return
        if "error" in answer:
            self._refuse(f"it names a folder that the workers cannot open, and {answer['error']}")
        else:
            self._step(reload, self._make)

    def _make(self, reload: _Reload) -> None:
        """What it needs, and what the workers have to say to it."""
        self._state.busy = RELOADS
        self._bind(reload)
        reload.settings = hand(reload.config)
        self._prepare(reload)

    def _bind(self, reload: _Reload) -> None:
        """ListenError."""
        state, config = self._state, reload.config
        if not self._children.has_room(config.workers):
            raise ListenError(
                f"workers {config.workers}: there is room for {state.board.room} in this program, "
                "those that drain included; an upgrade makes more"
            )
        reload.listening = state.listening.changed(config.places, config.workers)
        place = [] if config.admin.address is None else [config.admin.address]
        owner = None if state.rights is None else state.rights.owner
        before = state.asked or Listeners(1, owner)
        reload.asked = before.changed(place, 1, config.admin.mode)
        if state.rights is not None:
            state.rights.make_log(config.access_log)

    def _prepare(self, reload: _Reload) -> None:
        """Asks the workers, also those that will leave: they go by it until then. Refused."""
        reload.deadline = time.monotonic() + PREPARE_SECONDS
        generation = self._state.generation + 1
        self._children.hold = True
        reload.leaving = {slot for slot in self._children.leaving if slot.pid}
        for slot in reload.leaving:
            question = {"ask": "prepare", "generation": generation, "sockets": 0}
            if not self._ask(reload, slot, question, [reload.settings]):
                reload.why.append(f"{reload.named(slot)} does not read what it is told")
        for place, slot in enumerate(self._children.workers):
            if not slot.pid:  # it is started later
                continue
            sockets = reload.sockets(place)
            known = set(self._state.listening.of(place))
            fresh = [sock.fileno() for sock in sockets if sock not in known]
            if len(fresh) >= MAX_FDS:
                raise Refused(f"more than {MAX_FDS - 1} new addresses at once")
            question = {"ask": "prepare", "generation": generation, "sockets": len(fresh)}
            if not self._ask(reload, slot, question, [reload.settings, *fresh]):
                raise Refused(f"{slot.name} does not read what it is told")
        if not reload.waiting:
            self._switch(reload)

    def _ask(self, reload: _Reload, slot: Slot, question: Message, fds: list[int]) -> bool:
        self._numbers += 1
        if not self._children.control.order(slot, {**question, "id": self._numbers}, fds):
            return False
        reload.waiting[self._numbers] = slot
        return True

    # ---- what workers say --------------------------------------------------------------

    def _answered(self, slot: Slot, message: Message) -> None:
        reload = self._reload
        if reload is None or reload.waiting.pop(message["re"], None) is None:
            return  # of one that was refused meanwhile
        if "error" in message:
            if reload.switching:
                log.error("%s did not switch: %s", slot.name, message["error"])
            elif slot in reload.leaving:
                reload.why.append(f"{reload.named(slot)} does not go by it: {message['error']}")
            else:
                self._refuse(f"{slot.name}: {message['error']}")
                return
        elif not reload.switching:
            reload.ready.append(slot)
        self._if_all(reload)

    def _gone(self, slot: Slot) -> None:
        """A worker has ended, whoever it was."""
        reload = self._reload
        if reload is None:
            return
        if not reload.switching and slot not in reload.leaving:
            if slot in (*reload.waiting.values(), *reload.ready):
                self._refuse(f"{slot.name} has ended meanwhile")
            return
        reload.waiting = {n: one for n, one in reload.waiting.items() if one is not slot}
        reload.ready = [one for one in reload.ready if one is not slot]
        self._if_all(reload)

    def _if_all(self, reload: _Reload) -> None:
        if reload.waiting:
            return
        if reload.switching:
            self._end(reload)
        else:
            self._switch(reload)

    # ---- it ends -----------------------------------------------------------------------

    def _switch(self, reload: _Reload) -> None:
        """All are ready: from here on it is in force."""
        state, children = self._state, self._children
        assert reload.listening is not None
        try:
            reload.listening.open()
        except ListenError as error:
            self._refuse(str(error))
            return
        before, state.config = state.config, reload.config
        reload.mode = before.admin.mode
        state.generation += 1
        state.board.base[columns.GENERATION] = state.generation
        assert reload.asked is not None
        listening, state.listening = state.listening, reload.listening
        known = set(map(str, listening.addresses))
        listening.leave(state.listening)
        for address in state.listening.addresses:
            if str(address) not in known:
                starting.announce_listening(address)
        if reload.config.log_level != before.log_level:
            level.set_to(reload.config.log_level)
        reload.switching = True
        reload.deadline = time.monotonic() + SWITCH_SECONDS
        children.hold = False
        for place, slot in enumerate(children.workers):
            if slot in reload.ready:
                self._ask_to_switch(reload, slot, reload.sockets(place))
        for slot in reload.leaving.intersection(reload.ready):
            self._ask_to_switch(reload, slot, [])
        children.resize(state.config.workers)
        self._switch_admin(reload)
        if not reload.waiting:
            self._end(reload)

    def _ask_to_switch(self, reload: _Reload, slot: Slot, sockets: list[socket.socket]) -> None:
        wanted = [inode(sock) for sock in sockets]
        if not self._ask(reload, slot, {"ask": "switch", "listen": wanted}, []):
            log.error("%s does not read that it is to switch: killing it", slot.name)
            os.kill(slot.pid, signal.SIGKILL)  # the next one goes by it

    def _switch_admin(self, reload: _Reload) -> None:
        """The admin process gets the settings, and another socket if its address is another."""
        state = self._state
        asked = reload.asked
        assert asked is not None
        before, after = state.asked, asked if asked.addresses else None
        old = before.addresses if before is not None else []
        if before is not None:
            before.leave(asked)
        state.asked = after
        mode = self._state.config.admin.mode
        if after is not None and after.addresses[0].path and mode != reload.mode:
            with contextlib.suppress(OSError):  # somebody has taken its file away
                os.chmod(after.addresses[0].path, mode)
        fresh = [] if after is None or after.addresses == old else [after.of(0)[0].fileno()]
        if after is not None and fresh:
            starting.announce_admin(after.addresses[0])
        self._children.tell_settings(reload.settings, fresh)

    def _end(self, reload: _Reload, late: str = "") -> None:
        """It is done; ``late`` says what those have not done who were waited for."""
        reload.name(late)
        for line in (*reload.warnings, *reload.why):
            log.warning("reload: %s", line)
        log.info("reload: generation %d is in force (%s)", self._state.generation, reload.who)
        self._close(reload, "")

    def _refuse(self, reason: str) -> None:
        """Nothing has changed."""
        reload = self._reload
        assert reload is not None
        for slot in (*reload.waiting.values(), *reload.ready):
            self._children.control.order(slot, {"ask": "forget"}, [])
        lines = reason.split("\n")
        for line in lines[:-1]:
            log.error("reload: %s", line)
        log.error(
            "reload refused: %s; generation %d stays in force (%s)",
            lines[-1],
            self._state.generation,
            reload.who,
        )
        reload.undo()
        self._close(reload, reason)

    def _close(self, reload: _Reload, reason: str) -> None:
        state, children = self._state, self._children
        children.hold = False
        if state.busy == RELOADS:
            state.busy = ""
        if state.confinement is not None:
            state.confinement.coming = None
        reload.close()
        self._reload = None
        result = "refused" if reason else "done"
        state.board.base[columns.FAMILIES["reloads"].column(result)] += 1
        seconds = time.monotonic() - reload.began
        entry = state.history.add(state.generation, reason, reload.who, reload.warnings, seconds)
        children.control.tell_admin({"reloaded": entry})
        before = state.generation - (not reason)
        for tell in self._askers:
            tell({**entry, "before": before, "silent": reload.silent, "why": cut(reload.why)})
        self._askers = []
        for told in self.ended:
            told(reason)
        children.end_former_admin()
        children.renew_admin(state.config)
        self._begin()
