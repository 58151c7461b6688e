"""A worker that gives what lives in it to another such process, or takes it over, when it is told
to: its own small protocol, so that each message can be the last.

    python moving_worker.py ENGINE LISTENER CHANNEL LOG [OPTION=VALUE ...]

LISTENER is a listening socket (-1: none), CHANNEL one end of a SOCK_SEQPACKET pair, and LOG the
access log. Orders come on the standard input, a line each, and a line of JSON answers each.

    give          gives all that can move; answers how many the other has now
    die N WHEN    ends the process when the Nth message of the next giver comes: "before" it is
                  looked at, or "after" what came with it was adopted
    refuse N      says no to the Nth message
    know          answers what it has
    end           drains, and ends
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from spliceproxy.config import Address, Config
from spliceproxy.forward.moving import Frozen, Moving
from spliceproxy.observe.counts import Counts
from spliceproxy.policy.engine import Policy
from spliceproxy.processes.instance import Instance
from spliceproxy.relay import columns
from spliceproxy.relay.choice import choose
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.moving import Unmovable
from spliceproxy.upstream.resolver import Resolver

MOST = 64 * 1024  # bytes of a message; what is longer goes in a file
IN_A_FILE = b"in a file"


class Gone(Exception):
    """The other process is."""


class Mover:
    def __init__(self, instance: Instance, row: memoryview, channel: socket.socket) -> None:
        server = instance.server
        self._moving = Moving(instance.services, server.given_back, server.running)
        self._relay = instance.services.relay
        self._counted = lambda: instance.services.tunnels
        self._row = row
        self._channel = channel
        self._adopted: list[int] = []
        self._messages = 0
        self.last = 0, ""  # the message to die at, and when
        self.refused = 0
        asyncio.get_running_loop().add_reader(channel.fileno(), self._take)

    # ---- giving ------------------------------------------------------------------------

    def give(self) -> dict[str, Any]:
        """All or nothing: what was given is the other's when it has confirmed the last of it."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.setblocking(True)
        given: list[int] = []
        kept = 0
        try:
            for ident in self._moving.movable():
                frozen = self._moving.freeze(ident)
                if frozen is None:
                    continue
                given.append(ident)
                self._send(frozen)
                if self._receive() == b"no":
                    self._moving.thaw(given.pop())
                    kept += 1
            for ident in given:
                self._moving.release(ident)
            self._channel.send(b"go")
        except (Gone, OSError) as error:
            for ident in given:
                self._moving.thaw(ident)
            return {"gave": 0, "why": repr(error)}
        finally:
            self._channel.setblocking(False)
            asyncio.get_running_loop().add_reader(self._channel.fileno(), self._take)
        return {"gave": len(given), "kept": kept}

    def _send(self, frozen: Frozen) -> None:
        state, fds = frozen.state, list(frozen.fds)
        with tempfile.TemporaryFile() as file:
            if len(state) > MOST:
                file.write(state)
                file.flush()
                state = IN_A_FILE
                fds.append(file.fileno())
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            self._channel.sendmsg([state], rights)

    def _receive(self) -> bytes:
        word = self._channel.recv(16)
        if not word:
            raise Gone
        return word

    # ---- taking ------------------------------------------------------------------------

    def _take(self) -> None:
        room = socket.CMSG_SPACE(7 * array.array("i").itemsize)
        try:
            data, rights, flags, _ = self._channel.recvmsg(2 * MOST, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        if not data:  # the other has ended
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            return
        if data == b"go":
            for ident in self._adopted:
                self._moving.thaw(ident)
            self._adopted.clear()
            self._messages = 0
            return
        fds = array.array("i")
        for _, _, given in rights:
            fds.frombytes(given)
        self._channel.send(self._adopt(data, fds.tolist()))

    def _adopt(self, data: bytes, fds: list[int]) -> bytes:
        self._messages += 1
        if self.last == (self._messages, "before"):
            os._exit(9)
        if data == IN_A_FILE:
            with open(fds.pop(), "rb") as file:
                file.seek(0)
                data = file.read()
        if self._messages == self.refused:
            data = data.replace(b"spliceproxy-flow/1", b"spliceproxy-flow/2", 1)
        try:
            self._adopted.append(self._moving.adopt(data, fds))
        except Unmovable:
            for fd in fds:
                os.close(fd)
            return b"no"
        if self.last == (self._messages, "after"):
            os._exit(9)
        return b"ok"

    # ---- orders ------------------------------------------------------------------------

    def know(self) -> dict[str, Any]:
        row = self._row
        return {
            "tunnels": self._relay.tunnels,
            "begun": row[columns.TUNNELS_BEGUN],
            "descriptors": len(os.listdir("/proc/self/fd")),
            "live": row[columns.TUNNELS],
            "counted": sum(self._counted().values()),
        }


async def main(engine: str, listener: int, channel: int, log: str, options: dict[str, Any]) -> None:
    config = Config(listen=(Address("127.0.0.1", 0),), access_log=log, **options)
    counts = Counts.private()
    relay, _ = choose(engine, RelayOptions.of(config, counts.row))
    resolver = Resolver(config.timeouts.lookup)
    policy = Policy(config, resolver, row=counts.row, report=counts.report)
    sockets = [socket.socket(fileno=listener)] if listener >= 0 else []
    instance = Instance(config, sockets, relay, resolver, policy, counts)
    instance.start()
    mover = Mover(instance, counts.row, socket.socket(fileno=channel))
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        order = (await orders.readline()).decode().split()
        answer: dict[str, Any] = {}
        if not order or order[0] == "end":
            break
        if order[0] == "give":
            answer = mover.give()
        elif order[0] == "die":
            mover.last = int(order[1]), order[2]
        elif order[0] == "refuse":
            mover.refused = int(order[1])
        elif order[0] == "know":
            answer = mover.know()
        print(json.dumps(answer), flush=True)
    await instance.stop()
    print(json.dumps({"ended": True}), flush=True)


if __name__ == "__main__":
    name, first, second, path, *rest = sys.argv[1:]
    try:
        import uvloop

        make = uvloop.new_event_loop
    except ImportError:
        make = asyncio.new_event_loop
    made = make()
    told = {key: json.loads(value) for key, _, value in (one.partition("=") for one in rest)}
    made.run_until_complete(main(name, int(first), int(second), str(Path(path)), told))
