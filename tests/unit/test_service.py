"""When a service manager gets its sign of life, and of whom."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spliceproxy.admin.channel import Channel, pair
from spliceproxy.config import Config
from spliceproxy.observe.board import Board
from spliceproxy.processes import notify
from spliceproxy.processes.control import Control
from spliceproxy.processes.service import Service
from spliceproxy.processes.slot import Slot
from spliceproxy.relay import columns


class Workers:
    """Two that serve, and what they are asked. A process of another age may take a place."""

    def __init__(self) -> None:
        self.ends: dict[int, Channel] = {}
        self.slots = [self.new(index, 1000 + index) for index in range(2)]
        self.control = Control(self.slots, None)
        self.heard: list[Any] = []

    def new(self, index: int, pid: int, *, age: float = 0.0) -> Slot:
        slot = Slot(f"worker {index}", index)
        own, self.ends[pid] = pair()
        slot.begin(pid, own)
        slot.started = time.monotonic() - age
        return slot

    def answer(self, slot: Slot) -> bool:
        """Whether it was asked; then it says that it lives."""
        found = self.ends[slot.pid].receive()
        if found is not None:
            self.heard[0](slot, {"re": found[0]["id"], "end": True})
        return found is not None

    def close(self) -> None:
        for slot in self.slots:
            slot.end()
        for end in self.ends.values():
            end.close()


def service_of(workers: Workers, address: str) -> Service:
    board = Board.create(2)
    for index in range(2):
        board.row(index)[columns.UP] = 1
    state: Any = SimpleNamespace(
        board=board, config=Config(listen=()), draining=False, generation=1
    )
    children: Any = SimpleNamespace(
        workers=workers.slots, each_worker=workers.slots, control=workers.control, forked=[]
    )
    orders: Any = SimpleNamespace(saying=lambda key, said: workers.heard.append(said))
    reloading: Any = SimpleNamespace(begins=[], ended=[])
    return Service(state, children, orders, reloading, notify.Sender(address), main=True)


def test_a_worker_that_gets_a_place_is_asked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been started long ago, and has answered nothing yet: the sign of life would wait
    for the next question to all."""
    monkeypatch.setenv("WATCHDOG_USEC", str(3600 * 10**6))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    workers = Workers()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(tmp_path / "notify"))
        manager.setblocking(False)
        service = service_of(workers, os.fspath(tmp_path / "notify"))
        service.go_on()
        assert all([workers.answer(slot) for slot in workers.slots])
        service.go_on()
        assert manager.recv(1000).startswith(b"READY=1\n")
        assert workers.answer(workers.slots[0])
        service.go_on()
        with pytest.raises(BlockingIOError):
            manager.recv(1000)
        workers.slots[1].end()
        workers.slots[1] = workers.new(1, 1002, age=60.0)
        service.go_on()
        assert workers.answer(workers.slots[1])
        service.go_on()
        assert manager.recv(1000) == b"WATCHDOG=1"
        service._sender.close()
    workers.close()
