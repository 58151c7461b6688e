"""A scripted exchange in which one allocation after another is refused. Run as a program:

    no_memory.py python everything    # Python's allocations, by _testcapi.set_nomemory
    no_memory.py malloc moves         # those of the compiled relay, with refuse_malloc.c in
                                      # LD_PRELOAD; the script has what moves to another process

The script is run anew for each call of the relay, and each allocation in this call. Afterwards
the relay must go on: it serves a next request, no descriptor is left, and none has been closed
twice. Prints how many allocations were refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import socket
import sys
import weakref
from collections.abc import Callable
from functools import partial
from operator import setitem
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain_oracle import HOST, OK, OK_GOT, Plain

from spliceproxy.relay import columns
from spliceproxy.relay.interface import CLIENT_RESET

GET = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
ASK = b"GET http://q/ HTTP/1.1\r\nHost: q\r\n\r\n"
ODD = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: 0\r\n\r\n"
POST = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: 1000000\r\n\r\n"
CONNECT = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
SOCKS = b"\5\1\0\5\1\0\3\1o\0\1"
CHUNKED = b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000


CALLS = 2000
"""CPython 3.10 gives a function a cache at its 1,024th call, which needs memory. The one that ends
the refusals must be through that before there are any."""

T = TypeVar("T")


class Refusal:
    """Refuses allocations ``first`` up to ``last`` (0: all further ones) of one call of the
    relay in a script, number ``call``. ``reached``: there were so many."""

    def __init__(self, call: int, first: int, width: int) -> None:
        self._call = call
        self._first = first
        self._last = first + width if width else 0
        self.calls = 0
        self.reached = False
        self.canaries: list[int] = []

    def __call__(self, work: Callable[..., T], *args: object) -> T:
        self.calls += 1
        if self.calls != self._call:
            return work(*args)
        self.arm()
        try:
            return work(*args)
        finally:
            self.disarm()
            # They take the lowest free numbers: whoever closes one twice closes these.
            self.canaries += [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]

    def arm(self) -> None:
        raise NotImplementedError

    def disarm(self) -> None:
        raise NotImplementedError

    def check_canaries(self) -> None:
        null = os.stat("/dev/null").st_rdev
        for fd in self.canaries:
            assert os.fstat(fd).st_rdev == null
            os.close(fd)


class OfMalloc(Refusal):
    """By the shim (refuse_malloc.c)."""

    shim = ctypes.CDLL(None)

    def arm(self) -> None:
        self.shim.refuse_arm(self._first, self._last)

    def disarm(self) -> None:
        self.reached = bool(self.shim.refuse_disarm())


class OfPython(Refusal):
    def __init__(self, call: int, first: int, width: int) -> None:
        import _testcapi

        self._testcapi = _testcapi
        super().__init__(call, first, width)

    def arm(self) -> None:
        self._testcapi.set_nomemory(self._first, self._last)

    def disarm(self) -> None:
        # What is left of the refusals is ours: with an end, they were all used up where there
        # is none; without one, they had begun where there is.
        left = False
        try:
            for _ in range(self._first + 2 if self._last else 1):
                bytearray(1000)
        except MemoryError:
            left = True
        self.reached = left != bool(self._last)
        self._testcapi.remove_mem_hooks()


class Note:
    """A token of exchanges."""


class Owner(Plain):
    def __init__(self) -> None:
        super().__init__(log=True, watched=True, asks="G")
        self.lost_clients = 0
        self.lines_taken = 0
        self.tokens: weakref.WeakSet[Note] = weakref.WeakSet()

    def lost(self, count: int) -> None:
        self.lost_clients += count

    def not_accepted(self, error: int) -> None:
        pass

    def run(self, refusing: Callable[..., Any], *, reads: bool = False) -> None:
        """Steps until there is no more to do, whatever a step says; ``reads``: as an event loop
        does it."""
        said: list[Any] = [()]
        # Whoever is told needs no memory either.
        read = self.relay.reader(partial(setitem, said, 0), int)
        for _ in range(100):
            ends, said[0] = (), ()
            try:
                ends = refusing(read if reads else self.relay.step) or said[0]
            except MemoryError:
                continue
            for token, end in ends:
                token(end)  # type: ignore[operator]
            if not self.dialling and self.relay.next_wake() == 0.0:
                continue
            if not select.select([self.relay.fileno()], [], [], 0)[0]:
                return
        raise AssertionError("the relay spins")


def pair(keep: list[socket.socket]) -> tuple[socket.socket, socket.socket]:
    outer, inner = socket.socketpair()
    outer.setblocking(False)
    inner.setblocking(False)
    keep.append(outer)
    return outer, inner


class Script:
    """Everything once."""

    def __init__(self, owner: Owner, refusing: Refusal) -> None:
        self._owner = owner
        self._native = owner.lane._native
        self._refusing = refusing
        self._mine: list[socket.socket] = []

    def play(self) -> None:
        self._route("G", b"o", b"o")
        self._route("C", b"o:1", b"c")
        self._requests()
        for data in (CHUNKED, LARGE, OK[:-1], b""):
            self._answer(data)
        # Nobody has left by now.
        assert CLIENT_RESET not in {record.reason for record in self._owner.records}
        for seconds in (0.0, 60.0):
            self._ask(seconds)
        self._leave()
        self._route("M", b"POST o", b"o")
        for data in (CHUNKED, OK, b""):
            self._upload(data)
        self._connect(CONNECT + b"early")
        self._connect(SOCKS + b"early", "mixed")
        self._connect(SOCKS[:4], "mixed")
        self._flow(self._owner.relay.tunnel, b"to origin", b"to client")
        self._flow(self._owner.relay.transfer, 100_000)
        self._put(b"o")
        taken = self._tried(self._native.take, b"o", {HOST})
        if isinstance(taken, tuple):
            os.close(taken[0])
        taken = self._tried(self._native.take_log)
        if isinstance(taken, tuple):
            self._owner.lines_taken += taken[1]
        for sock in self._mine:
            sock.close()
        self._step()

    def play_moves(self) -> None:
        """What moves to another process, and comes from one."""
        self._route("G", b"o", b"o")
        self._route("C", b"o:1", b"c")
        self._move()
        for sock in self._mine:
            sock.close()
        self._step()

    # ---- the relay's methods, each of which may be refused -----------------------------

    def _step(self, *, reads: bool = False) -> None:
        self._owner.run(self._refusing, reads=reads)

    def _tried(self, work: Callable[..., object], *args: object) -> object:
        """None where it was refused."""
        try:
            return self._refusing(work, *args)
        except (MemoryError, OSError):
            return None

    def _adopt(self, data: bytes, spoken: str = "http") -> socket.socket:
        outer, inner = pair(self._mine)
        try:
            self._refusing(self._native.hand_over, inner.fileno(), "", data, 0, "", spoken)
        except (MemoryError, OSError):
            inner.close()  # it is still ours
        else:
            inner.detach()
            if is_closed(outer):
                assert self._owner.row[columns.LOST], "a client was closed and not counted"
        return outer

    def _put(self, key: bytes) -> socket.socket:
        outer, inner = pair(self._mine)
        self._tried(self._native.put, key, inner.detach(), HOST)  # or closes it
        return outer

    def _route(self, kind: str, authority: bytes, key: bytes) -> None:
        far = *self._owner.lane.dialled, "", "alice"
        token = Note()
        self._owner.tokens.add(token)
        self._tried(
            self._native.add_route, kind, "", b"", authority, key, authority, 60.0, *far, token
        )
        self._tried(self._native.add_client, "", "")

    # ---- the parts ---------------------------------------------------------------------

    def _requests(self) -> None:
        """On a route, pipelined in pieces, and one that Python must read."""
        kept = self._put(b"o")
        client = self._adopt(GET)
        for data in (GET + GET[:20], GET[20:] + GET * 3, ODD, b"", b"", b"", b""):
            send(client, data)
            self._step()
            send(kept, OK)
            self._step()

    def _answer(self, data: bytes) -> None:
        """Chunks, with which its origin comes along; a large one that is not read; one that
        is cut short; none."""
        origin = self._put(b"o")
        self._adopt(GET)
        self._step()
        send(origin, data)
        self._step()
        origin.close()
        self._step()

    def _ask(self, seconds: float) -> None:
        """A request that the owner is asked about, and one that comes when that is answered."""
        origin = self._put(b"q")
        client = self._adopt(ASK)
        self._step()
        far = self._owner.lane.dialled
        for question in self._owner.questions:
            token = Note()
            self._owner.tokens.add(token)
            how = *far, seconds, "bob", token, "", 0.0
            if not self._tried(self._native.answer, question, "", b"q", b"q", *how):
                self._tried(self._native.hand_back, question, token)
        self._owner.questions.clear()
        self._step()
        send(origin, OK)
        self._step()
        client.close()
        origin.close()
        self._step()

    def _leave(self) -> None:
        """A client that leaves while its question is open: its owner is told once that there is no
        need to answer, and has one record of it."""
        owner = self._owner
        client = self._adopt(ASK.replace(b"q", b"r"))
        self._step()
        questions = list(owner.questions)
        owner.questions.clear()
        for question in questions:
            token = Note()
            owner.tokens.add(token)
            self._tried(self._native.wait, question, token, lambda question: b"a note")
        client.close()
        self._step(reads=True)
        for question in questions:
            assert not question.waits
            assert owner.gone.count(question.ident) == 1
            assert [record.token for record in owner.records].count(question) == 1
        owner.gone.clear()

    def _upload(self, answer: bytes) -> None:
        """A body, of which a part waits for its origin when that answers, or ends. It goes on the
        client's own connection."""
        origin = self._put(b"o")
        client = self._adopt(GET)
        self._step()
        send(origin, OK)
        self._step()
        for data in (POST, *[b"x" * 100_000] * 5):
            send(client, data)
            self._step()
        if answer:
            with contextlib.suppress(OSError):
                origin.send(answer)
        else:
            origin.close()
        self._step()
        client.close()
        self._step()
        origin.close()
        self._step()

    def _connect(self, data: bytes, spoken: str = "http") -> None:
        """A tunnel that the relay makes, if it is all of a request."""
        client = self._adopt(data, spoken)
        self._step()
        if self._owner.dialling:
            self._mine.append(self._owner._listener.accept()[0])
        self._step()
        client.close()
        self._step()

    def _move(self) -> None:
        """A tunnel of the lane's, one of Python's with bytes that wait, and a request that has been
        sent. Each is stopped, and goes on in what is made of it, or here."""
        self._adopt(CONNECT)
        self._step()
        if self._owner.dialling:
            self._mine.append(self._owner._listener.accept()[0])
        self._step()
        first, one = pair(self._mine)
        second, other = pair(self._mine)
        made = self._tried(
            self._owner.relay.tunnel, one.fileno(), other.fileno(), b"held", b"", list().append
        )
        if made is not None:
            one.detach()
            other.detach()
        for _ in range(3):
            send(first, b"x" * 300_000)
            self._step()
        self._put(b"o")
        self._adopt(GET)
        self._step()
        for ident in self._owner.relay.movable():
            self._move_one(ident)
        self._step()
        for sock in (first, second, one, other):
            sock.close()
        self._step()

    def _move_one(self, ident: int) -> None:
        frozen: Any = self._tried(self._owner.relay.freeze, ident)
        if frozen is None:
            return
        there = None
        if hasattr(frozen, "state"):
            fds = [os.dup(fd) for fd in frozen.fds]
            there = self._tried(self._owner.relay.adopt, frozen.state, fds, list().append)
            if there is None:
                for fd in fds:
                    os.close(fd)
        if there is not None:
            self._concluded(self._owner.relay.release, ident)
            if frozen.lane is not None:
                self._owner.lines_taken += 1  # whoever knows of it writes its line
        self._concluded(self._owner.relay.thaw, ident if there is None else there)

    def _concluded(self, work: Callable[..., object], ident: object) -> None:
        """Whatever is refused, it is done, or can be done again."""
        if self._tried(work, ident) is None:
            work(ident)

    def _flow(self, make: Callable[..., int], *how: object) -> None:
        """A tunnel of Python's, or a transfer that is cancelled."""
        ended: list[object] = []
        first, one = pair(self._mine)
        second, other = pair(self._mine)
        ident = self._tried(make, one.fileno(), other.fileno(), *how, ended.append)
        send(first, b"x" * 1000)
        self._step()
        if make == self._owner.relay.transfer:
            self._tried(self._owner.relay.cancel, ident or 0)
        elif ident is not None:
            one.detach()
            other.detach()
            first.close()
            second.close()
        self._step()
        one.close()
        other.close()


def is_closed(peer: socket.socket) -> bool:
    """Whether the relay has closed its end, and nothing is there to be read."""
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def send(peer: socket.socket, data: bytes) -> None:
    """And takes what there is."""
    with contextlib.suppress(OSError):
        peer.recv(1 << 16)
    with contextlib.suppress(OSError):
        peer.send(data)


def plainly(work: Callable[..., T], *args: object) -> T:
    return work(*args)


def check_served(owner: Owner) -> None:
    """A request from end to end, with nothing refused any more."""
    native = owner.lane._native
    owner.run(plainly)
    native.close_idle()
    far = *owner.lane.dialled, "", ""
    token = Note()
    owner.tokens.add(token)
    native.add_route("G", "", b"", b"o", b"o", b"o", 60.0, *far, token)
    native.add_client("", "")
    mine: list[socket.socket] = []
    origin, inner = pair(mine)
    native.put(b"o", inner.detach(), HOST)
    client, inner = pair(mine)
    native.hand_over(inner.detach(), "", GET, 0)
    owner.run(plainly)
    assert origin.recv(1000).startswith(b"GET / ")
    origin.send(OK)
    owner.run(plainly)
    assert client.recv(1000) == OK_GOT
    for sock in mine:
        sock.close()
    owner.run(plainly)
    assert owner.records[-1].status == 200
    kinds = {type(record.token).__name__ for record in owner.records}
    assert kinds <= {"Note", "Question", "Known"}, kinds
    assert (owner.relay.clients, owner.relay.tunnels) == (0, 0)
    assert owner.relay.stats().transfers == 0
    lines, count = native.take_log()
    methods = [line.split()[5] for line in lines.splitlines()]
    assert len(methods) == count > 0
    assert {*methods} <= {b"GET", b"POST", b"CONNECT"}
    check_counted(owner, owner.lines_taken + count)


def check_counted(owner: Owner, lines: int) -> None:
    """What is in the log, or would be with more memory for it, is in the count of requests: nobody
    waits for an answer any more."""
    requests = columns.FAMILIES["requests"]
    counted = sum(owner.row[requests.first : requests.first + len(requests.values)])
    lost = columns.FAMILIES["log_lines_lost"].column("access", "memory")
    assert counted == lines + owner.row[lost], (counted, lines, owner.row[lost])
    assert owner.lost_clients == owner.row[columns.LOST]


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: what for name, what in found.items() if "/proc/" not in what}


PLAYS: dict[str, Callable[[Script], None]] = {
    "everything": Script.play,
    "moves": Script.play_moves,
}


def play(refusing: Refusal, name: str) -> None:
    before = descriptors()
    owner = Owner()
    try:
        PLAYS[name](Script(owner, refusing))
        check_served(owner)
    finally:
        for handoff in owner.handoffs:
            handoff.close()
        owner.close()
    owner.records.clear()
    owner.handoffs.clear()  # what was decided goes along with them
    assert not owner.tokens, "a token is left"
    refusing.check_canaries()
    assert descriptors() == before, (before, descriptors())


def main(kind: type[Refusal], name: str) -> int:
    play(kind(0, 0, 0), name)  # what is loaded late
    for _ in range(CALLS):
        kind(0, 0, 0).disarm()
    total = 0
    # What moves passes handlers of Python code, which CPython 3.11 tries to enter for ever where it
    # never gets memory again.
    widths = (1, 4) if kind is OfPython and name == "moves" else (1, 4, 0)
    for width in widths:
        call = 1
        while True:
            first = 0
            while True:
                refusing = kind(call, first, width)
                try:
                    play(refusing, name)
                except BaseException:
                    print(f"call {call}, allocation {first}, width {width}", file=sys.stderr)
                    raise
                if not refusing.reached:
                    break
                total += 1
                first += 1
            if refusing.calls < call:
                break
            call += 1
    return total


if __name__ == "__main__":
    gc.disable()
    print(main({"python": OfPython, "malloc": OfMalloc}[sys.argv[1]], sys.argv[2]))
