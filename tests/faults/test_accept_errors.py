"""Errors of accept(2) that neither a client nor a want of descriptors explains."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from spliceproxy import Config, Proxy, Timeouts


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_listening_socket_that_is_shut_down(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """accept(2) says EINVAL from then on, and epoll that it is readable: the proxy says so, looks
    again now and then, and can still be left."""
    if engine == "native":
        pytest.importorskip("spliceproxy.relay._native")
    said: list[str] = []

    async def main() -> None:
        config = Config(listen=(), engine=engine, access_log="off", timeouts=Timeouts(drain=0.1))
        async with Proxy(config=config) as proxy:
            assert proxy._listening is not None
            (sock,) = proxy._listening.of(0)
            sock.shutdown(socket.SHUT_RDWR)
            end = asyncio.get_running_loop().time() + 20
            while not any("accepted" in record.message for record in caplog.records):
                assert asyncio.get_running_loop().time() < end, "nothing was said"
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.25)  # longer than a pause
            said.extend(record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert said == ["no new clients are accepted for a while: accept: Invalid argument"]
