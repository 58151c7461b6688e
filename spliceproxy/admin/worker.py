"""A worker's side of the control channel: it answers questions about itself.

Each question has a name, and a function that answers it with one message, or with an iterator of
several. A part of an answer is made for each turn of the event loop, and only while whoever asks
has taken those before, so no question of a person's holds up a client.

    {"ask": NAME, "id": 7, ...}     a question; without an id nobody wants an answer
    {"more": 7}                     one more part of the answer may be sent
    {"cancel": 7}                   nobody wants the rest
    {"meet": "admin"} and a descriptor: the end of a channel to somebody else who will ask
    {"unmet": "admin"}              it came without one: this process may open no more just now
    {"re": 7, ...}                  a part of an answer; the last one has "end": true
    {"events": [{...}], "lost": 3}  what has happened; so many more were not told
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spliceproxy.admin.channel import Channel, Closed, Message, Troubled, close_all
from spliceproxy.admin.parts import PART
from spliceproxy.admin.reader import Reader
from spliceproxy.messages import log

Parts = Iterator[Mapping[str, Any] | None]
"""None: there is nothing to say yet, and it goes on at the next turn of the event loop. A part may
say that it is the last one, by ``"end": True``."""

Answer = Callable[[Message], Mapping[str, Any] | Parts]
"""Answers a question. ValueError: it makes no sense, and why."""

MOST_OPEN = 64
"""Answers of several parts that one peer may have open."""

PARTS = 4
"""Parts of an answer that may be on their way."""

MOST_EVENTS = 256
"""Events that wait until a peer reads. More are counted only."""

EVENTS = 64
"""Events of one message, if they are short."""

EVENT_TEXT = 512
"""Characters of a text in an event. One with ten of the longest fits into a message, whatever they
are: in JSON the longest character has 12 bytes."""

FINISH = 1.0
"""Seconds for answers that are on their way when the worker ends."""

_END = {"end": True}

AGAIN = 0.1
"""Seconds until a message is sent again that the kernel could not take."""


class Replies:
    """Of one worker. ``channel`` is its end of that to the supervisor; it is this object's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
        self.loop = loop
        self._answers: dict[str, Answer] = {}
        self._orders: dict[str, Answer] = {}
        self._peers: set[_Peer] = set()
        self._supervisor = _Peer(self, channel, orders=True)
        self._said: asyncio.Future[None] | None = None  # of whoever waits for the next word
        self.listened: list[Callable[[bool], None]] = []
        """Each is told when somebody begins to listen to events (true), and when nobody does any
        more."""
        self.register("events", self._listen)

    def register(self, name: str, answer: Answer) -> None:
        """``answer`` is asked what has this name."""
        self._answers[name] = answer

    def order(self, name: str, answer: Answer) -> None:
        """The same for what the supervisor alone may say. Descriptors that come along are in
        ``fds`` of the question, and are those of ``answer``."""
        self._orders[name] = answer

    def start(self) -> None:
        """Begins to answer."""
        self._peers.add(self._supervisor)
        self._supervisor.start()

    async def finish(self) -> None:
        """Until what has been asked is answered, within FINISH seconds: an answer may tell of what
        has ended the worker."""
        end = self.loop.time() + FINISH
        while any(peer.speaks for peer in self._peers) and (left := end - self.loop.time()) > 0:
            self._said = self.loop.create_future()
            await asyncio.wait((self._said,), timeout=left)
        self._said = None

    def stop(self) -> None:
        """Ends every channel. Idempotent."""
        for peer in list(self._peers):
            peer.close()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tells those who listen that something has happened."""
        for peer in self._peers:
            if peer.listens:
                peer.tell(event)

    def report(self, said: Mapping[str, Any]) -> None:
        """Tells the supervisor what it has not asked. Descriptors in ``fds`` are closed when they
        are sent."""
        self._supervisor.say(said)

    # What the peers call

    def answer(self, question: Message) -> Mapping[str, Any] | Parts:
        """The answer. ValueError."""
        name = str(question.get("ask"))
        found = self._orders.get(name) if "fds" in question else self._answers.get(name)
        if found is None:
            raise ValueError(f"there is no question {question.get('ask')!r}")
        return found(question)

    def meet(self, fds: list[int]) -> bool:
        """Somebody new will ask. False: who it is did not come along."""
        if len(fds) != 1:
            close_all(fds)
            return False
        self._add(Channel.of(fds[0]))
        return True

    def gone(self, peer: _Peer) -> None:
        """A peer has ended."""
        self._peers.discard(peer)
        self.said()
        self._hear()

    def said(self) -> None:
        """A peer may have nothing more to say."""
        if self._said is not None and not self._said.done():
            self._said.set_result(None)

    def takes(self, question: Message) -> bool:
        """Whether it is one of the supervisor's orders."""
        return str(question.get("ask")) in self._orders

    def _add(self, channel: Channel) -> None:
        peer = _Peer(self, channel, orders=False)
        self._peers.add(peer)
        peer.start()

    def _listen(self, question: Message) -> Mapping[str, Any]:
        # _Peer has done it, for it knows whose question this is.
        self._hear()
        return {}

    def _hear(self) -> None:
        wanted = any(peer.listens for peer in self._peers)
        for told in self.listened:
            told(wanted)


class _Peer:
    """Somebody who asks."""

    def __init__(self, replies: Replies, channel: Channel, *, orders: bool) -> None:
        self._replies = replies
        self._orders = orders
        self._channel = channel
        self._loop = replies.loop
        self._reader = Reader(self._loop, channel, self._heard, self.close)
        self._open: dict[int, _Open] = {}
        self._ready: deque[int] = deque()  # of these, whose next part may be made
        self._unsent: deque[Mapping[str, Any]] = deque()
        self._events: deque[Mapping[str, Any]] = deque()
        self._lost = 0  # events
        self._blocked = False
        self._due = False
        self._closed = False
        self.listens = False

    def start(self) -> None:
        self._reader.start()

    @property
    def speaks(self) -> bool:
        """Whether it is owed the rest of an answer."""
        return bool(self._unsent or self._open)

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._reader.stop()
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        for said in self._unsent:
            close_all(said.get("fds", ()))
        self._unsent.clear()
        self._open.clear()
        self._replies.gone(self)

    def say(self, said: Mapping[str, Any]) -> None:
        if self._closed:
            close_all(said.get("fds", ()))
            return
        self._unsent.append(said)
        self._go_on()

    def tell(self, event: Mapping[str, Any]) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._lost += 1
            return
        self._events.append(event)
        self._go_on()

    # Reading

    def _heard(self, message: Message, fds: list[int]) -> None:
        if "meet" not in message:
            message.pop("fds", None)
            if self._orders and self._replies.takes(message):
                message["fds"] = fds
            else:
                close_all(fds)
            self._take(message)
        elif not self._replies.meet(fds):
            self._unsent.append({"unmet": message["meet"]})
            self._go_on()

    def _take(self, message: Message) -> None:
        if "more" in message:
            running = self._open.get(message["more"])
            if running is not None:
                running.parts += 1
                if running.parts == 1:
                    self._ready.append(running.ident)
                    self._go_on()
        elif "cancel" in message:
            self._open.pop(message["cancel"], None)
            self._replies.said()
        else:
            self._begin(message)

    def _begin(self, question: Message) -> None:
        ident = question.get("id")
        if question.get("ask") == "events":
            self.listens = bool(question.get("on"))
        try:
            answer = self._replies.answer(question)
            if len(self._open) >= MOST_OPEN and not isinstance(answer, Mapping):
                raise ValueError("too many questions at the same time")
        except ValueError as error:
            self._say(ident, {"error": str(error), "end": True})
        except Exception:
            log.exception("a question of an operator's could not be answered")
            self._say(ident, {"error": "a fault of the proxy's own; see its messages", "end": True})
        else:
            if isinstance(answer, Mapping):
                self._say(ident, {**answer, "end": True})
            elif ident is not None:
                self._open[ident] = _Open(ident, answer)
                self._ready.append(ident)
                self._go_on()

    # Writing

    def _say(self, ident: int | None, part: Mapping[str, Any]) -> None:
        if ident is not None:
            self._unsent.append({"re": ident, **part})
            self._go_on()

    def _end(self, part: Mapping[str, Any]) -> None:
        """In the place of this part the answer ends, by an error; events in it are lost."""
        ident = part.get("re")
        if isinstance(ident, int):
            self._open.pop(ident, None)
            self._unsent[0] = {"re": ident, "error": "a part of it is too long", "end": True}
        else:
            self._unsent.popleft()
            self._lost += len(part.get("events", ())) + part.get("lost", 0)
        self._go_on()

    def _go_on(self) -> None:
        if not (self._due or self._blocked or self._closed):
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One message, and the next one at the next turn of the event loop."""
        self._due = False
        if self._closed:
            return
        if not self._unsent:
            self._make()
        if self._unsent:
            try:
                said = dict(self._unsent[0])
                fds = said.pop("fds", ())
                if not self._channel.send(said, fds):
                    self._blocked = True
                    self._loop.add_writer(self._channel.fileno(), self._unblock)
                    return
            except Closed:
                self.close()
                return
            except Troubled:
                self._blocked = True
                self._loop.call_later(AGAIN, self._unblock)
                return
            except ValueError:
                log.exception("an answer to an operator was too long, and ends there")
                self._end(self._unsent[0])
                return
            self._unsent.popleft()
            close_all(fds)
        if not self.speaks:
            self._replies.said()
        if self._unsent or self._events or self._lost or self._ready:
            self._go_on()

    def _unblock(self) -> None:
        self._blocked = False
        if not self._closed:
            self._loop.remove_writer(self._channel.fileno())
            self._go_on()

    def _make(self) -> None:
        """The next thing to say, if there is any: an event, or a part of an answer."""
        if self._events or self._lost:
            lost, self._lost = self._lost, 0
            self._unsent.append({"events": self._some_events(), "lost": lost})
            return
        if not self._ready:
            return
        running = self._open.get(self._ready.popleft())
        if running is None:  # cancelled
            return
        try:
            part = next(running.rest, _END)
        except Exception:
            log.exception("a question of an operator's could not be answered")
            part = {"error": "a fault of the proxy's own; see its messages", **_END}
        if part is None:
            self._ready.append(running.ident)
            return
        running.parts -= 1
        if "end" in part:
            del self._open[running.ident]
        elif running.parts:
            self._ready.append(running.ident)
        self._unsent.append({"re": running.ident, **part})

    def _some_events(self) -> list[Mapping[str, Any]]:
        """Those that come next, as many as a message is to have."""
        import json  # late: most proxies have nobody who asks

        some: list[Mapping[str, Any]] = []
        size = 0
        while self._events and len(some) < EVENTS:
            size += len(json.dumps(self._events[0]))  # ASCII: characters are bytes
            if some and size > PART:
                break
            some.append(self._events.popleft())
        return some


class _Open:
    """A question whose answer has several parts. ``parts`` may be sent now."""

    __slots__ = ("ident", "parts", "rest")

    def __init__(self, ident: int, rest: Parts) -> None:
        self.ident = ident
        self.rest = rest
        self.parts = PARTS
