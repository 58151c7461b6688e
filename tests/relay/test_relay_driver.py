"""What the driver says of its relay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from relay_rig import payload, tcp_pair

from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import Relay


@pytest.mark.parametrize("engine", ["native", "splice"], indirect=True)
def test_that_no_pipe_is_left_is_said_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    new_relay: Callable[..., Relay],
    caplog: pytest.LogCaptureFixture,
) -> None:
    relay = new_relay(max_pipes=0)
    size = 1 << 20

    async def work() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(relay, loop)
        for _ in range(2):
            sender, source = tcp_pair()
            sink, target = tcp_pair()
            with sender, source, sink, target:
                sender.setblocking(False)
                sink.setblocking(False)
                moved = loop.create_task(driver.transfer(source.fileno(), target.fileno(), size))
                sent = loop.create_task(loop.sock_sendall(sender, payload(size)))
                left = size
                while left:
                    left -= len(await loop.sock_recv(sink, 1 << 18))
                await sent
                assert (await moved).copied == size
            driver._fire()
        driver.close()

    loop = new_loop()
    with caplog.at_level(logging.WARNING):
        loop.run_until_complete(asyncio.wait_for(work(), 30))
    loop.close()
    said = [record.message for record in caplog.records if "no pipe is left" in record.message]
    assert len(said) == 1
    assert relay.stats().pipe_starved > 0
