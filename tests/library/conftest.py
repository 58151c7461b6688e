"""An origin that answers every request, and the engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import serving
from library_rig import answer


@pytest.fixture
def origin() -> Iterator[str]:
    """Its ``host:port``."""
    with serving(answer) as (host, port):
        yield f"{host}:{port}"


@pytest.fixture(params=["native", "copy"])
def engine(request: pytest.FixtureRequest) -> str:
    """With the lane, and without."""
    if request.param == "native":
        pytest.importorskip("spliceproxy.relay._native")
    return str(request.param)
