"""Every test here runs over each engine, and where a loop matters over both loops."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from relay_rig import Rig, native_relay, open_fds
from sanitizer import quick

from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.relay.portable.engine import CopyRelay, SpliceRelay


@pytest.fixture(params=quick(["native", "splice", "copy"], "native"))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=quick(["asyncio", "uvloop"], "uvloop"))
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_relay(engine: str) -> Iterator[Callable[..., Relay]]:
    """Makes relays of the engine; closes them, and then no descriptor may be left."""
    make = {"native": native_relay, "splice": lambda: SpliceRelay, "copy": lambda: CopyRelay}[
        engine
    ]()
    gc.collect()  # what other tests have left must not go meanwhile
    before = open_fds()
    relays: list[Relay] = []

    def new(**options: Any) -> Relay:
        relays.append(make(RelayOptions(**options)))
        return relays[-1]

    yield new
    for relay in relays:
        relay.close()
    assert open_fds() <= before


@pytest.fixture
def new_loop(loop_name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop_name == "asyncio":
        return asyncio.new_event_loop
    new = pytest.importorskip("uvloop").new_event_loop
    new().close()  # libuv opens a pipe for itself, once per process
    return new  # type: ignore[no-any-return]


@pytest.fixture
def new_rig(
    new_loop: Callable[[], asyncio.AbstractEventLoop], new_relay: Callable[..., Relay]
) -> Iterator[Callable[..., Rig]]:
    """Makes rigs: ``new_rig(idle=..., half_close=..., max_pipes=...)``."""
    rigs: list[Rig] = []

    def new(**options: Any) -> Rig:
        rigs.append(Rig(new_relay(**options), new_loop))
        return rigs[-1]

    yield new
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(new_rig: Callable[..., Rig]) -> Rig:
    return new_rig()
