"""What the supervisor is asked by the admin process, which passes on what operators want."""

from __future__ import annotations

from collections.abc import Callable

from spliceproxy.admin import level
from spliceproxy.admin.channel import Message
from spliceproxy.messages import log
from spliceproxy.processes.children import Children
from spliceproxy.processes.control import Control
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.processes.stopping import Stopping

Tell = Callable[[Message], None]
"""Gives the answer, once."""

Order = Callable[[Message, Tell], Message | None]
"""Does what a message of the admin process asks for; returns the answer, or None if it comes later,
by the function that it is given."""

Saying = Callable[[Slot, Message], object]
"""Is told what a worker has said; whether that was for it."""


class Orders:
    """Of one supervisor. ``by_name`` are those of the admin process, by what they ``ask``.
    ``said``: by a key that it has, who is told of a worker's message. ``heard``: who looks whether
    somebody else has said something."""

    def __init__(self, state: State, children: Children, stopping: Stopping) -> None:
        self._state = state
        self._children = children
        self._stopping = stopping
        self.by_name: dict[str, Order] = {"drain": self._drain, "log-level": self._set_level}
        self.said: dict[str, Saying] = {}
        self.heard: list[Callable[[], None]] = []

    @property
    def _control(self) -> Control:
        return self._children.control

    def hear(self) -> None:
        """Looks at what has been said to the supervisor."""
        for heard in self.heard:
            heard()
        for slot, message in self._control.hear():
            if slot is self._children.admin and "kept" not in message:
                self._on_order(slot, message)
            else:
                self._on_saying(slot, message)

    def saying(self, key: str, said: Saying) -> None:
        """``said`` is told of messages of workers that have this key, before whoever was until
        now, who is told of those that are not for it."""
        before = self.said.get(key)

        def both(slot: Slot, message: Message) -> object:
            return said(slot, message) or (before is not None and before(slot, message))

        self.said[key] = both

    def _on_order(self, slot: Slot, message: Message) -> None:
        asked, ident, asker = message.get("ask"), message.get("id"), slot.starts

        def tell(answer: Message) -> None:
            # One that was started since has questions of its own, by the same numbers.
            if slot.starts == asker:
                self._control.tell(slot, {**answer, "re": ident, "end": True})

        order = self.by_name.get(str(asked))
        if order is None:
            log.warning("%s said what nobody understands", slot.name)
            tell({"error": f"there is no question {asked!r}"})
            return
        answer = order(message, tell)
        if answer is not None:
            tell(answer)

    def _on_saying(self, slot: Slot, message: Message) -> None:
        for key, said in self.said.items():
            if key in message:
                said(slot, message)
                return
        log.warning("%s said what nobody understands", slot.name)

    def _drain(self, message: Message, tell: Tell) -> Message:
        before = self._state.draining
        if not before:
            self._stopping.drain("an operator")
        return {"draining": True, "before": before}

    def _set_level(self, message: Message, tell: Tell) -> Message:
        """For this process, those that it will fork, and those that it has."""
        wanted = message.get("level")
        try:
            before = level.set_to(wanted)
        except ValueError as error:
            return {"error": str(error)}
        log.log(level.number(), "messages are written from level %s on: an operator", wanted)
        self._control.tell_workers({"ask": "log-level", "level": wanted})
        return {"before": before}
