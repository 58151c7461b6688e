"""A pytest plugin with one fixture: ``spliceproxy``, a proxy that all clients of a test use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from spliceproxy.embed.library import Proxy


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "spliceproxy(policy=None, config=None, environment=True, ...): the arguments of "
        "spliceproxy.run for the proxy of the fixture spliceproxy",
    )


@pytest.fixture
def spliceproxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A running proxy (``spliceproxy.Proxy``), for the time of the test; HTTP_PROXY and the
    like name it::

        def test_update(spliceproxy):
            update()
            spliceproxy.assert_only("github.com:443")

    The marker ``spliceproxy`` gives it the arguments of ``spliceproxy.run``.
    """
    from spliceproxy.embed.library import run  # pytest starts without it

    marker = request.node.get_closest_marker("spliceproxy")
    if marker is not None and marker.args:
        raise TypeError(f"spliceproxy{marker.args!r}: the marker's arguments have names")
    arguments = {"environment": True, **(marker.kwargs if marker is not None else {})}
    with run(**arguments) as proxy:
        yield proxy
