"""Allocations that are refused, one after another, in a scripted exchange."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import need
from relay_rig import Rig, native_relay, open_fds, tcp_pair
from sanitizer import release_only

from spliceproxy.net.stream import Stream
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import REQUEST, Handoff
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.portable.engine import CopyRelay

SCRIPT = Path(__file__).with_name("no_memory.py")


plays = pytest.mark.parametrize("play", ["everything", "moves"])


def played(which: str, play: str, **env: str) -> int:
    """How many allocations were refused; the script checks what comes of each."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), which, play],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def alone(function: Callable[..., None], *args: int) -> None:
    """Calls it in a process of its own. Allocations are refused to every thread of a process,
    and this one may have servers of other tests in threads, which would die of it."""
    pytest.importorskip("_testcapi")  # Debian: libpython3-testsuite
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *args).result(120)


@plays
def test_of_python(play: str) -> None:
    native_relay()
    pytest.importorskip("_testcapi")  # Debian: libpython3-testsuite
    assert played("python", play) > 50


@plays
@release_only("malloc(3) is theirs")
def test_of_the_compiled_relay(tmp_path: Path, play: str) -> None:
    native_relay()
    shim = tmp_path / "refuse.so"
    source = SCRIPT.with_name("refuse_malloc.c")
    subprocess.run(
        [need("gcc"), "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True
    )
    assert played("malloc", play, LD_PRELOAD=str(shim)) > (50 if play == "everything" else 5)


FIRST = 0 if sys.version_info >= (3, 11) else -1
"""The first allocation that is refused; -1: there is a round before in which none is. CPython 3.10
needs memory to call a function for the first time, and this is about what the function does."""


def descriptor_given_away() -> None:
    import _testcapi as refuse

    async def main() -> None:
        for first in range(FIRST, 30):
            inner, outer = socket.socketpair()
            with inner, outer:
                stream = Stream(inner, asyncio.get_running_loop())
                fd = stream.fd
                if first >= 0:
                    refuse.set_nomemory(first, first + 1)
                try:
                    given = stream.detach()
                finally:
                    refuse.remove_mem_hooks()
                assert (given, inner.fileno()) == (fd, -1), first
            os.close(fd)

    asyncio.run(main())


def test_a_descriptor_that_is_given_away_is_let_go() -> None:
    """Whoever has it would find it closed, when the socket object is."""
    alone(descriptor_given_away)


# ---- the driver ----------------------------------------------------------------------------


class Refusing(CopyRelay):
    """Has no memory for its next ``refusals`` reports, nor for its time limits."""

    refusals = 0

    def step(self) -> list[tuple[object, object]]:
        if self.refusals:
            self.refusals -= 1
            raise MemoryError
        return super().step()

    def next_wake(self) -> float | None:
        if self.refusals:
            self.refusals -= 1
            raise MemoryError
        return super().next_wake()


def test_a_tunnel_that_has_begun_is_not_given_back(
    new_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sockets are the relay's then, whatever the timer has to say."""
    rig: Rig = new_rig()
    calls = 0
    set_timer = RelayDriver._set_timer

    def refused(driver: RelayDriver) -> None:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise MemoryError
        set_timer(driver)

    monkeypatch.setattr(RelayDriver, "_set_timer", refused)
    tunnel = rig.tunnel()
    tunnel.client.sendall(b"x")
    assert tunnel.origin.recv(1) == b"x"
    assert calls >= 5


def test_a_hand_off_that_nobody_takes_is_closed(
    new_rig: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Others that come with it are not lost."""
    rig: Rig = new_rig()
    outer, inner = tcp_pair()
    rig.keep(outer)
    told: list[object] = []

    def not_taken(handoff: Handoff) -> None:
        raise RuntimeError("not taken")

    handoff = Handoff(REQUEST, inner.detach(), "", 0, b"", -1, b"", "", False, 0.0)
    rig.call(rig.driver._dispatch, [(not_taken, handoff), (told.append, "next")])
    assert outer.recv(1) == b""
    assert told == ["next"]
    assert "not taken" in caplog.text


def hand_offs_not_taken(width: int) -> None:
    import _testcapi as refuse

    none_left = MemoryError()

    async def main() -> None:
        driver = RelayDriver(CopyRelay(RelayOptions()), asyncio.get_running_loop())
        for first in range(FIRST, 30):
            none_left.__traceback__ = None  # it keeps what it went through, which 3.10 needs again

            def not_taken(handoff: Handoff, first: int = first) -> None:
                if first >= 0:
                    refuse.set_nomemory(first, first + width)
                raise none_left

            pairs = [socket.socketpair() for _ in range(4)]
            fds = [inner.detach() for _, inner in pairs]
            ends: list[tuple[object, object]] = [
                (not_taken, Handoff(REQUEST, client, "", 0, b"", origin, b"", "", False, 0.0))
                for client, origin in (fds[:2], fds[2:])
            ]
            try:
                driver._dispatch(ends)
            finally:
                refuse.remove_mem_hooks()
            for outer, _ in pairs:
                with outer:
                    outer.settimeout(20)
                    assert outer.recv(1) == b"", first
        driver.close()

    asyncio.run(main())


@pytest.mark.parametrize("width", [1, 4, 16])
def test_hand_offs_that_nobody_takes_are_closed_without_memory(width: int) -> None:
    """Whatever is refused from the fault of the first one on, the next is closed, too."""
    alone(hand_offs_not_taken, width)


def ends_told(width: int) -> None:
    import _testcapi as refuse

    async def main() -> None:
        driver = RelayDriver(CopyRelay(RelayOptions()), asyncio.get_running_loop())
        for first in range(FIRST, 10):
            told: deque[object] = deque()  # it has room for all of them
            ends: list[tuple[object, object]] = [(told.append, f"end {n}") for n in range(20)]
            if first >= 0:
                refuse.set_nomemory(first, first + width)
            try:
                driver._dispatch(ends)
            finally:
                refuse.remove_mem_hooks()
            assert list(told) == [end for _, end in ends], first
        driver.close()

    asyncio.run(main())


@pytest.mark.parametrize("width", [1, 4, 16])
def test_no_end_is_lost_without_memory_to_tell_of_it(width: int) -> None:
    """Whatever is refused first while a driver hands out what a relay has said."""
    alone(ends_told, width)


def test_a_reader_without_memory_says_that_it_is_stuck() -> None:
    """And says what has ended when it is called again."""
    relay = Refusing(RelayOptions())
    pairs = [socket.socketpair() for _ in range(2)]
    ident = relay.tunnel(*(inner.detach() for _, inner in pairs), b"", b"", "token")
    said: list[object] = []
    read = relay.reader(said.append, lambda: said.append("stuck"))
    relay.abort(ident)
    relay.refusals = 1
    read()
    assert said == ["stuck"]
    read()
    ((token, _),) = said[1]  # type: ignore[misc]
    assert token == "token"
    relay.close()
    for outer, _ in pairs:
        outer.close()


def timer_set(width: int) -> None:
    import _testcapi as refuse

    async def main() -> None:
        driver = RelayDriver(CopyRelay(RelayOptions()), asyncio.get_running_loop())
        pairs = [socket.socketpair() for _ in range(2)]
        driver.tunnel(*(inner.detach() for _, inner in pairs), b"", b"", lambda end: None)
        for first in range(20):
            assert driver._timer is not None
            driver._timer.cancel()
            driver._timer = None
            refuse.set_nomemory(first, first + width)
            try:
                driver._arm()
            finally:
                refuse.remove_mem_hooks()
        driver.close()
        for outer, _ in pairs:
            outer.close()

    asyncio.run(main())


@pytest.mark.parametrize("width", [1, 4, 16])
def test_a_timer_is_set_in_the_end(width: int) -> None:
    """Whatever is refused first while it is set."""
    alone(timer_set, width)


def test_half_a_hand_off_that_is_taken_is_not_closed_twice(new_rig: Any) -> None:
    rig: Rig = new_rig()
    before = open_fds()
    outer, inner = tcp_pair()
    origin_outer, origin = tcp_pair()
    rig.keep(outer, origin_outer)
    taken: list[socket.socket] = []

    def half(handoff: Handoff) -> None:
        taken.append(socket.socket(fileno=handoff.take_client()))
        raise RuntimeError("no more")

    fds = inner.detach(), origin.detach()
    handoff = Handoff(REQUEST, fds[0], "", 0, b"", fds[1], b"", "", False, 0.0)
    rig.call(rig.driver._dispatch, [(half, handoff)])
    assert origin_outer.recv(1) == b""
    (client,) = taken
    with client:
        outer.sendall(b"x")
        assert client.recv(1) == b"x"
    assert open_fds() == before + 2


def test_who_cannot_say_what_has_ended_ends() -> None:
    """A worker does: whoever waits for a transfer would wait for ever."""

    async def main() -> bool:
        relay = Refusing(RelayOptions())
        driver = RelayDriver(relay, asyncio.get_running_loop())
        stuck = asyncio.Event()
        driver.on_stuck = stuck.set
        relay.refusals = 1
        await driver.step()
        await asyncio.wait_for(stuck.wait(), 20)
        driver.close()
        return stuck.is_set()

    assert asyncio.run(main())
