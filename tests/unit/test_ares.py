"""A channel of c-ares that the event loop runs."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from spliceproxy.upstream.ares import Channel

AGAIN = 5.2
"""Seconds after which c-ares asks a server again that has failed (ares_init_options(3))."""

PATIENCE = 20.0


def reply(query: bytes) -> bytes:
    """One address (RFC 1035 section 4.1)."""
    question = query[12 : query.index(0, 12) + 5]
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + b"\x7f\0\0\1"
    return query[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0) + question + record


def server(heard: Callable[[bytes, Any], None]) -> tuple[socket.socket, str]:
    """A name server of this event loop, and where it is."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    asyncio.get_running_loop().add_reader(sock, lambda: heard(*sock.recvfrom(2000)))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_question_that_cannot_be_asked_is_not_open() -> None:
    """A channel with an open question would tick for ever."""

    async def main() -> None:
        channel = Channel(0.3, 1, ["127.0.0.1:9"])
        with pytest.raises(TypeError):
            channel.ask("a.example.", None, print)  # type: ignore[arg-type]
        assert channel._open == 0
        await channel.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_what_is_asked_behind_an_answer_ends(kind: str) -> None:
    """Of a server that has failed before, c-ares asks the question once more by itself. The
    channel lives until that is over, also when nobody holds it any more."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        silent: list[bytes] = []
        dead, first = server(lambda query, peer: silent.append(query))
        live, second = server(lambda query, peer: live.sendto(reply(query), peer) and None)
        held = [Channel(0.3, 2, [first, second])]

        async def ask(name: str) -> None:
            done = loop.create_future()
            held[0].ask(name, socket.AF_INET, lambda *what: done.set_result(what))
            assert (await asyncio.wait_for(done, PATIENCE))[1] is None

        before = set(os.listdir("/proc/self/fd"))
        await ask("a.example.")
        await asyncio.sleep(AGAIN)  # c-ares does not say when
        failed = len(silent)
        for number in range(500):  # one of ten, by chance
            await ask(f"a{number}.example.")
            await asyncio.sleep(0.002)
            if len(silent) > failed:
                break
        assert len(silent) > failed
        held.clear()
        gc.collect()
        end = loop.time() + PATIENCE
        while set(os.listdir("/proc/self/fd")) - before:
            assert loop.time() < end, "a socket of c-ares is left"
            await asyncio.sleep(0.05)
        for sock in (dead, live):
            loop.remove_reader(sock)
            sock.close()

    if kind == "uvloop":
        pytest.importorskip("uvloop").run(main())
    else:
        asyncio.run(main())
