"""Whose fault an error of a socket is, where a stream only watches its peer."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from spliceproxy.net.stream import Stream


class Failing(socket.socket):
    """A socket whose receive fails with ``fault``, once it is set."""

    fault = 0

    def recv(self, *args: int) -> bytes:
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        return super().recv(*args)


@pytest.mark.parametrize(
    ("fault", "left"),
    [(errno.ECONNRESET, True), (errno.ETIMEDOUT, True), (errno.ENOMEM, False)],
    ids=["ECONNRESET", "ETIMEDOUT", "ENOMEM"],
)
def test_a_fault_of_our_own_is_no_peer_that_left(fault: int, left: bool) -> None:
    """Whoever receives next is told of it; what the peer has sent is still there."""

    async def main() -> None:
        inner, outer = socket.socketpair()
        sock = Failing(fileno=inner.detach())
        sock.setblocking(False)
        stream = Stream(sock, asyncio.get_running_loop())
        gone: list[bool] = []
        stream.watch(lambda: gone.append(True))
        sock.fault = fault
        outer.send(b"x")
        for _ in range(20):  # turns of the loop, in which what has come is served
            await asyncio.sleep(0)
        assert gone == [True] * left
        assert not stream.is_quiet()
        if not left:
            with pytest.raises(OSError, match="memory"):
                await stream.fill()
            sock.fault = 0
            assert await stream.fill() == 1
        stream.close()
        outer.close()

    asyncio.run(main())
