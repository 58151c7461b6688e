"""Processes that give to each other what lives in them (``moving_worker.py``)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import preloaded
from harness import wait_for

WORKER = Path(__file__).with_name("moving_worker.py")
PATIENCE = 30.0


class Worker:
    """One of them."""

    def __init__(
        self, engine: str, listener: int, channel: socket.socket, log: Path, **options: Any
    ) -> None:
        told = [f"{name}={json.dumps(value)}" for name, value in options.items()]
        orders, self._orders = os.pipe()
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, encoding="utf-8")
        args = [engine, str(3 if listener >= 0 else -1), str(4 if listener >= 0 else 3), str(log)]
        kept = [fd for fd in (listener, channel.fileno()) if fd >= 0]
        process = preloaded.start(
            [str(WORKER)], [*args, *told], {**os.environ}, orders, theirs, 2, *kept
        )
        assert process is not None
        self._process = process
        for fd in (orders, theirs):
            os.close(fd)
        channel.close()
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"dead": True}
        return answer

    def ask(self, order: str) -> dict[str, Any]:
        """The answer to an order of ``moving_worker.py``."""
        os.write(self._orders, order.encode() + b"\n")
        return self._answer()

    def end(self) -> None:
        """It drains, unless it is dead."""
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                assert self.ask("end") in ({"ended": True}, {"dead": True})
        self._process.wait(PATIENCE)
        self._answers.close()
        os.close(self._orders)

    def dead(self) -> bool:
        """Whether it has died as it was told to."""
        return self._process.wait(PATIENCE) == 9


class Workers:
    """Two that know each other. The first one listens."""

    def __init__(self, engines: tuple[str, str], log: Path, **options: Any) -> None:
        self.engines, self.log = engines, log
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        listener.setblocking(False)
        self.address = listener.getsockname()
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.here = Worker(engines[0], listener.fileno(), ends[0], log, **options)
        self.there = Worker(engines[1], -1, ends[1], log, **options)
        listener.close()

    def close(self) -> None:
        self.here.end()
        self.there.end()

    def lines(self, count: int) -> list[dict[str, Any]]:
        """Those of the log in the order of their times, when there are so many: each of the two
        writes its own when it has a moment."""
        wait_for(lambda: len(self.log.read_bytes().splitlines()) >= count, "the log")
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return sorted(lines, key=lambda line: str(line["time"]))


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes."""
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        assert part, f"FIN after {len(got)} of {size} bytes"
        got += part
    return bytes(got)
