"""Fixtures for hostile peers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from harness import ProxyProcess


@pytest.fixture
def origin() -> Iterator[socket.socket]:
    """A listening socket; the test itself is the origin."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.settimeout(20)
        yield listener


@pytest.fixture(scope="module", params=[True, False], ids=["uvloop", "asyncio"])
def shared_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """One proxy with default settings for the module's tests, per event loop."""
    proxy = ProxyProcess(tmp_path_factory.mktemp("shared"), uvloop=request.param)
    yield proxy
    proxy.kill()
    assert "Traceback" not in proxy.stderr(), proxy.stderr()
