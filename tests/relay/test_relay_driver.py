"""When a driver steps its relay, and what it says of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextvars import ContextVar

import pytest
from plain_oracle import Plain
from relay_rig import native_relay, payload, tcp_pair, unix_pair

from spliceproxy.config import Timeouts
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import Relay, TunnelEnd


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


SEEN: ContextVar[str] = ContextVar("SEEN", default="nobody's")


@pytest.mark.parametrize("how", ["step", "timer"])
def test_a_step_belongs_to_no_task(
    new_loop: Callable[[], asyncio.AbstractEventLoop], new_relay: Callable[..., Relay], how: str
) -> None:
    """Whoever is told or asked sees neither the task nor the context variables of the one that
    has ordered the step, or set the timer."""
    relay = new_relay(idle=0.05 if how == "timer" else 60.0)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(relay, loop)
        loop.remove_reader(relay.fileno())
        told: asyncio.Future[tuple[object, str]] = loop.create_future()

        def done(end: TunnelEnd) -> None:
            told.set_result((asyncio.current_task(), SEEN.get()))

        async def order() -> None:
            SEEN.set("the order's")
            ident = driver.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", done)
            if how == "step":
                relay.abort(ident)
                await driver.step()
                assert told.done()

        client, inner_client = unix_pair()
        origin, inner_origin = unix_pair()
        with client, origin:
            await asyncio.create_task(order())
            assert await told == (None, "nobody's")
        driver.close()

    loop = new_loop()
    loop.run_until_complete(asyncio.wait_for(work(), 30))
    loop.close()


@pytest.mark.parametrize("fault", [RuntimeError, GeneratorExit])
def test_the_timer_outlives_a_step_that_raises(
    new_loop: Callable[[], asyncio.AbstractEventLoop], fault: type[BaseException]
) -> None:
    """Whoever is asked raises: others have time limits, and are told of their ends."""
    native_relay()
    plain = Plain(asks="G", timeouts=Timeouts(head=0.1))

    def asked(questions: object) -> None:
        raise fault("a fault of who is asked")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(plain.relay, loop)
        loop.remove_reader(plain.relay.fileno())  # from here on the timer is all that there is
        plain.lane._news.asked = asked
        asks, inner = socket.socketpair()
        quiet, other = socket.socketpair()
        for sock in (asks, inner, quiet, other):
            sock.setblocking(False)
        with asks, quiet:
            plain.lane._native.hand_over(other.detach(), "", b"", 0)
            data = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
            plain.lane._native.hand_over(inner.detach(), "", data, 0)
            driver.wake()
            assert driver._timer is not None
            driver._timer.cancel()
            with pytest.raises(fault):
                driver._fire()
            assert await loop.sock_recv(quiet, 1) == b""
            while not plain.handoffs:  # noqa: ASYNC110 - of the timer there is nothing else to see
                await asyncio.sleep(0)
        driver.close()

    loop = new_loop()
    loop.run_until_complete(asyncio.wait_for(work(), 30))
    loop.close()
    (handoff,) = plain.handoffs
    handoff.close()
    plain.close()


def test_ends_behind_a_ctrl_c_are_told(
    new_loop: Callable[[], asyncio.AbstractEventLoop], new_relay: Callable[..., Relay]
) -> None:
    relay = new_relay()
    told: list[object] = []

    def stops(end: object) -> None:
        raise KeyboardInterrupt

    async def work() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(relay, loop)
        waits = loop.create_future()
        with pytest.raises(KeyboardInterrupt):
            driver._report([(stops, "first"), (told.append, "second"), (waits, "third")])
        assert told == ["second"]
        assert await waits == "third"
        driver.close()

    loop = new_loop()
    loop.run_until_complete(asyncio.wait_for(work(), 30))
    loop.close()
