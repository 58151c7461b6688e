"""The control channel: messages, descriptors, and answers that hold up nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from harness import wait_for

from spliceproxy.admin import channel
from spliceproxy.admin.channel import MAX_MESSAGE, Channel, Closed, Troubled, pair
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.happenings import event
from spliceproxy.admin.links import Link, Refused, Unanswered
from spliceproxy.admin.worker import MOST_EVENTS, MOST_OPEN, PARTS, Replies
from spliceproxy.config import Config
from spliceproxy.errors import ErrorType
from spliceproxy.observe.board import Board
from spliceproxy.observe.record import Record
from spliceproxy.processes.children import ADMIN, Children
from spliceproxy.processes.control import KEPT, Control
from spliceproxy.processes.orders import Orders, Tell
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.processes.stopping import Stopping
from spliceproxy.relay import columns
from spliceproxy.relay.interface import REASONS


def test_messages_come_whole_and_in_order() -> None:
    one, other = pair()
    with one, other:
        assert other.receive() is None
        assert one.send({"a": "\udcff\u20ac\x00\n", "n": 1 << 60})
        assert one.send({"b": []})
        assert other.receive() == ({"a": "\udcff\u20ac\x00\n", "n": 1 << 60}, [])
        assert other.receive() == ({"b": []}, [])
        with pytest.raises(ValueError, match="a message of"):
            one.send({"a": "x" * MAX_MESSAGE})
        one.close()
        with pytest.raises(Closed):
            other.receive()
        with pytest.raises(Closed):
            other.send({})


def test_descriptors_come_along() -> None:
    one, other = pair()
    reader, writer = os.pipe()
    with one, other:
        assert one.send({"here": 1}, [writer])
        os.close(writer)
        found = other.receive()
        assert found is not None
        message, (fd,) = found
        assert message == {"here": 1}
        assert not os.get_inheritable(fd)
        os.write(fd, b"x")
        os.close(fd)
        assert os.read(reader, 2) == b"x"
        os.close(reader)


def test_a_full_channel_refuses() -> None:
    one, other = pair()
    with one, other:
        sent = 0
        while one.send({"n": sent, "text": "x" * 1000}):
            sent += 1
        assert sent > 10
        assert other.receive() is not None
        assert one.send({})


def test_what_the_kernel_cannot_pass_on_ends_no_channel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = columns.private()
    monkeypatch.setattr(channel, "_told", set())
    channel.count_in(row)
    one, other = pair()
    with one, other:
        for _ in range(3):
            with pytest.raises(Troubled, match="Bad file descriptor"):
                one.send({"here": 1}, [1 << 20])
        assert row[columns.CHANNEL_ERRORS] == channel.errors == 3
        assert [one.message for one in caplog.records] == [
            "a control channel: Bad file descriptor; it is tried again, and counted from now on"
        ]
        assert one.send({"a": 1})
        assert other.receive() == ({"a": 1}, [])
    channel.count_in(columns.private())


HEARS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
from spliceproxy.processes.control import Control
own, other = Control.open()
assert signal.sigtimedwait({signal.SIGIO}, 0) is None
pid = os.fork()
if pid == 0:
    own.close()
    other.send({"from": "a child"})
    signal.pause()
other.close()
assert signal.sigtimedwait({signal.SIGIO}, 20)
assert own.receive() == ({"from": "a child"}, [])
assert own.receive() is None
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


def test_the_supervisor_hears_of_messages_by_a_signal() -> None:
    """In a process that has no other thread, which might take the signal."""
    subprocess.run([sys.executable, "-c", HEARS], check=True, timeout=60)


class Rig:
    """A worker's side and the admin process's on one event loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        supervisor, self.held = pair()
        one, other = pair()
        self.replies = Replies(loop, supervisor)
        self.told: list[dict[str, Any]] = []
        self.more = asyncio.Event()
        self.channel = other
        with one:
            assert self.held.send({"meet": "admin"}, [one.fileno()])
        self.replies.start()
        self.link = Link("the worker", other, self._told, lambda: None)

    def _told(self, message: dict[str, Any], fds: list[int]) -> None:
        self.told.append(message)
        self.more.set()

    async def has_told(self, events: int) -> list[dict[str, Any]]:
        """So many events, as soon as there are."""
        while len(found := [event for one in self.told for event in one["events"]]) < events:
            self.more.clear()
            await self.more.wait()
        return found

    def close(self) -> None:
        self.link.close()
        self.replies.stop()
        self.held.close()


@pytest.fixture
def made() -> list[int]:
    return []


def count_to(most: int, made: list[int]) -> Iterator[dict[str, int]]:
    for number in range(most):
        made.append(number)
        yield {"number": number}


def run(test: Any) -> None:
    async def main() -> None:
        rig = Rig()
        try:
            await asyncio.wait_for(test(rig), 30)
        finally:
            rig.close()

    asyncio.run(main())


def test_questions_are_answered_by_their_name() -> None:
    async def test(rig: Rig) -> None:
        rig.replies.register("double", lambda question: {"is": 2 * question["of"]})
        assert await rig.link.ask("double", 20, of=4) == {"is": 8}
        with pytest.raises(Refused, match="there is no question 'other'"):
            await rig.link.ask("other", 20)

    run(test)


def test_a_fault_of_one_answer_is_no_other_ones(caplog: pytest.LogCaptureFixture) -> None:
    def later(question: object) -> Iterator[dict[str, int]]:
        yield {"number": 1}
        raise RuntimeError("a fault")

    def fault(question: object) -> dict[str, Any]:
        raise RuntimeError("a fault")

    async def test(rig: Rig) -> None:
        rig.replies.register("fault", fault)
        rig.replies.register("later", later)
        rig.replies.register("ping", lambda _: {"ok": True})
        with pytest.raises(Refused, match="a fault of the proxy's own"):
            await rig.link.ask("fault", 20)
        parts = rig.link.parts("later", 20)
        assert await anext(parts) == {"number": 1}
        with pytest.raises(Refused, match="a fault of the proxy's own"):
            await anext(parts)
        assert await rig.link.ask("ping", 20) == {"ok": True}

    run(test)
    assert "RuntimeError: a fault" in caplog.text


def test_a_long_answer_waits_for_its_reader(made: list[int]) -> None:
    async def test(rig: Rig) -> None:
        rig.replies.register("count", lambda _: count_to(100, made))
        rig.replies.register("ping", lambda _: {"ok": True})
        parts = rig.link.parts("count", 20)
        assert await anext(parts) == {"number": 0}
        assert await rig.link.ask("ping", 20) == {"ok": True}  # it is held up by no other answer
        await asyncio.sleep(0.05)
        assert len(made) == PARTS
        rest = [part["number"] async for part in parts if part]
        assert rest == list(range(1, 100))

    run(test)


def test_what_takes_turns_is_answered_in_one_message() -> None:
    """A look at the worker costs it as few messages as can be, and others have their turns."""

    async def test(rig: Rig) -> None:
        pinged: list[dict[str, Any]] = []

        def slow(question: object) -> Iterator[dict[str, Any] | None]:
            while not pinged:
                yield None
            yield {"is": 3, "end": True}

        rig.replies.register("slow", slow)
        rig.replies.register("ping", lambda _: {"ok": True})
        assert rig.held.send({"ask": "slow", "id": 1})
        pinged.append(await rig.link.ask("ping", 20))
        assert await rig.link.ask("slow", 20) == {"is": 3}
        assert drain(rig.held) == [{"re": 1, "is": 3, "end": True}]

    run(test)


def test_an_answer_that_nobody_wants_ends(made: list[int]) -> None:
    async def test(rig: Rig) -> None:
        rig.replies.register("count", lambda _: count_to(100, made))
        rig.replies.register("ping", lambda _: {"ok": True})
        parts = rig.link.parts("count", 20)
        assert await anext(parts) == {"number": 0}
        await parts.aclose()  # type: ignore[attr-defined]
        for _ in range(10):
            assert await rig.link.ask("ping", 20) == {"ok": True}
        assert len(made) < 10

    run(test)


@pytest.mark.parametrize("parts", [1, 3, 3 * PARTS])
def test_an_answer_that_has_ended_the_worker_is_given(made: list[int], parts: int) -> None:
    """As that to whoever ends the last tunnel of one that drains."""

    async def test(rig: Rig) -> None:
        ended = asyncio.Event()

        def last(question: object) -> Iterator[dict[str, int]]:
            ended.set()
            yield from count_to(parts, made)

        rig.replies.register("last", last)
        asked = asyncio.ensure_future(answered(rig.link))
        await ended.wait()
        await rig.replies.finish()
        rig.replies.stop()
        assert await asked == list(range(parts))

    async def answered(link: Link) -> list[int]:
        return [part["number"] async for part in link.parts("last", 20) if part]

    run(test)


def test_the_end_waits_for_nobody_who_does_not_read(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spliceproxy.admin.worker.FINISH", 0.01)

    async def test(rig: Rig) -> None:
        rig.replies.register("count", lambda _: count_to(100, made))
        parts = rig.link.parts("count", 20)
        assert await anext(parts) == {"number": 0}
        await rig.replies.finish()
        rig.replies.stop()
        await parts.aclose()  # type: ignore[attr-defined]

    run(test)


def test_a_sign_of_life_is_given_however_much_is_asked(made: list[int]) -> None:
    async def test(rig: Rig) -> None:
        rig.replies.register("count", lambda _: count_to(100, made))
        rig.replies.register("ping", lambda _: {"ok": True})
        answers = [rig.link.parts("count", 20) for _ in range(MOST_OPEN)]
        for one in answers:
            assert await anext(one) == {"number": 0}
        with pytest.raises(Refused, match="too many questions at the same time"):
            await rig.link.ask("count", 20)
        assert await rig.link.ask("ping", 20) == {"ok": True}
        for one in answers:
            await one.aclose()
        assert await rig.link.ask("count", 20) == {"number": 0}

    run(test)


def tell_on(link: Link) -> None:
    while True:
        link.tell({"text": "x" * 1000})


def test_nobody_waits_for_a_worker_that_is_silent() -> None:
    async def test(rig: Rig) -> None:
        rig.replies.register("count", lambda _: iter(()))
        rig.replies.stop()
        with pytest.raises(Unanswered, match="the worker has ended"):
            await rig.link.ask("count", 20)

    run(test)

    async def silent() -> None:
        one, other = pair()
        with one:
            link = Link("the worker", other, lambda *_: None, lambda: None)
            with pytest.raises(Unanswered, match="the worker does not answer"):
                await link.ask("ping", 0.01)
            with pytest.raises(Unanswered, match="does not read"):
                tell_on(link)
            link.close()

    asyncio.run(silent())


def test_events_that_nobody_reads_are_counted() -> None:
    async def test(rig: Rig) -> None:
        heard: list[bool] = []
        deaf = asyncio.Event()
        rig.replies.listened += [heard.append, lambda on: None if on else deaf.set()]
        rig.replies.tell({"kind": "unheard"})
        await rig.link.ask("events", 20, on=True)
        assert heard[-1]
        for number in range(MOST_EVENTS + 10):
            rig.replies.tell({"kind": "test", "number": number})
        told = await rig.has_told(MOST_EVENTS)
        assert [event["number"] for event in told] == list(range(MOST_EVENTS))
        assert sum(one["lost"] for one in rig.told) == 10
        rig.link.close()
        await deaf.wait()

    run(test)


@pytest.mark.parametrize("character", ["x", "é", "\uffff", "\U0001f600", "\udcff"])
def test_the_longest_events_fit(character: str) -> None:
    """In JSON a character has up to twelve bytes."""
    record = Record("192.0.2.7", 0.0)
    for name in ("user", "method", "target", "peer", "rule", "why", "failed"):
        setattr(record, name, character * 10_000)
    record.error = max(get_args(ErrorType), key=len)
    record.reason = max(REASONS, key=len)

    async def test(rig: Rig) -> None:
        await rig.link.ask("events", 20, on=True)
        for _ in range(50):
            rig.replies.tell(event(record))
        told = await rig.has_told(50)
        assert {one["target"] for one in told} == {character * 512}
        assert sum(one["lost"] for one in rig.told) == 0

    run(test)


def fill(end: Channel) -> int:
    """Until there is no more room; how many messages that took."""
    sent = 0
    while end.send({"fill": "x" * 1000}):
        sent += 1
    return sent


def drain(end: Channel) -> list[dict[str, Any]]:
    """What has come, but for that."""
    found = []
    while (got := end.receive()) is not None:
        found.append(got[0])
    return [one for one in found if "fill" not in one]


def test_what_a_child_is_told_waits_until_it_reads() -> None:
    slot = Slot("worker 0", 0)
    own, other = pair()
    with other:
        slot.begin(os.getpid(), own)
        control = Control([slot], None)
        control.tell(slot, {"before": 1})
        fill(own)
        for number in range(2 * KEPT):
            control.tell(slot, {"level": number})
        control.go_on()
        assert control.due is not None
        assert drain(other) == [{"before": 1}]
        control.go_on()
        assert control.due is None
        # Of too many the first are lost: the last ones say what holds.
        assert drain(other) == [{"level": number} for number in range(KEPT, 2 * KEPT)]
        control.tell(slot, {"after": 1})
        assert drain(other) == [{"after": 1}]
        # What was for one that has ended is not for the next.
        fill(own)
        control.tell(slot, {"late": 1})
        slot.end()
        own, another = pair()
        with another:
            slot.begin(os.getpid(), own)
            control.begins(slot)
            control.is_new(slot)
            assert control.due is None
            assert drain(another) == []
            slot.end()


def test_no_order_overtakes_what_waits() -> None:
    """Two workers of one place, each with what is for it."""
    old, new = Slot("worker 0", 0), Slot("worker 0", 0, 1)
    own, other = pair()
    own_of_new, other_of_new = pair()
    with other, other_of_new:
        old.begin(os.getpid(), own)
        new.begin(os.getpid(), own_of_new)
        control = Control([old], None)
        fill(own_of_new)
        control.tell(new, {"ask": "serve"})
        control.tell(old, {"ask": "stay"})
        assert drain(other) == [{"ask": "stay"}]
        assert not control.order(new, {"ask": "give"}, [])
        drain(other_of_new)
        assert control.order(new, {"ask": "give"}, [])
        assert drain(other_of_new) == [{"ask": "serve"}, {"ask": "give"}]
        assert control.due is None
        for slot in (old, new):
            slot.end()


def test_an_answer_is_for_the_process_that_has_asked() -> None:
    """The admin process that comes next numbers its questions from 1 again."""
    slot = Slot("admin process", ADMIN)
    control = Control([], slot)
    parts = SimpleNamespace(control=control, admin=slot)
    orders = Orders(cast("State", None), cast("Children", parts), cast("Stopping", None))
    tells: list[Tell] = []
    orders.by_name["slow"] = lambda message, tell: tells.append(tell)
    for _ in range(2):
        slot.end()
        own, other = pair()
        slot.begin(os.getpid(), own)
        control.begins(slot)
        other.send({"ask": "slow", "id": 1})
        orders.hear()
    for number, tell in enumerate(tells):
        tell({"answer": number})
    with other:
        assert drain(other) == [{"answer": 1, "re": 1, "end": True}]
    slot.end()


def test_whoever_listens_is_told_of_later_where_there_is_no_room() -> None:
    async def main() -> None:
        board = Board.private()
        supervisor, own = pair()
        worker, met = pair()
        with supervisor, worker:
            desk = Desk(Config(listen=()), own, board, draining=False)
            supervisor.send(
                {"meet": "worker", "index": 0, "row": 0, "pid": 7, "leaves": False}, [met.fileno()]
            )
            met.close()
            while not desk.workers:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.001)
            (one,) = desk.workers.values()
            drain(worker)
            for on in (True, False):
                desk.events._listeners = {object()} if on else set()  # type: ignore[arg-type]
                fill(one.link._channel)
                desk.listen(on=on)
                assert [said for said in drain(worker) if said.get("ask") == "events"] == []
                desk.settle()
                asked = [said for said in drain(worker) if said.get("ask") == "events"]
                assert asked == [{"ask": "events", "on": on}]
                desk.settle()
                assert [said for said in drain(worker) if said.get("ask") == "events"] == []

    asyncio.run(main())


def test_whoever_is_met_without_a_descriptor_is_nobody() -> None:
    async def test(rig: Rig) -> None:
        rig.held.send({"meet": "admin"})
        with socket.socket() as s:
            rig.held.send({"meet": "admin"}, [s.fileno(), s.fileno()])
        rig.replies.register("ping", lambda _: {"ok": True})
        assert await rig.link.ask("ping", 20) == {"ok": True}

    before = len(os.listdir("/proc/self/fd"))
    run(test)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) == before, "no descriptor is left")


def test_no_message_ends_the_channel() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Channel(one) as channel, other:
        other.send(b"[]")
        with pytest.raises(Closed, match="no message"):
            channel.receive()
