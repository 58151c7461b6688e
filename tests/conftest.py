"""Fixtures that start real proxies and origins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import freshness
import pytest
import share
import skipping
from harness import Nginx, ProxyProcess
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    skipping.register(config)
    # No test of values depends on speed: by default an example fails that takes 0.2 s.
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")
    stale = freshness.newer_source(ROOT)
    if stale is not None:
        raise pytest.UsageError(
            f"{stale} has changed since the compiled module was built: pip install -q -e ."
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share.select(config, items)


@pytest.fixture
def new_proxy(tmp_path: Path) -> Iterator[Callable[..., ProxyProcess]]:
    """Starts proxies (arguments: ProxyProcess's, without the folder); ends them."""
    proxies: list[ProxyProcess] = []

    def new(*args: str, **kwargs: Any) -> ProxyProcess:
        proxies.append(ProxyProcess(tmp_path / f"proxy{len(proxies)}", *args, **kwargs))
        return proxies[-1]

    yield new
    for proxy in proxies:
        proxy.kill()
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


@pytest.fixture
def proxy(new_proxy: Callable[..., ProxyProcess]) -> ProxyProcess:
    """One proxy with default settings and one worker."""
    return new_proxy()


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def each_loop(request: pytest.FixtureRequest) -> bool:
    """Whether the proxy may import uvloop: both."""
    return bool(request.param)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx that serves its ``www`` folder."""
    server = Nginx(tmp_path / "nginx")
    yield server
    server.stop()
