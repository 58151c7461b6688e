"""A proxy with an admin address; and what a load that moves needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin, token_file
from changing_proxy import all_ended
from harness import ProxyProcess, serving
from moving_load import Origin


@contextlib.contextmanager
def _admins(place: Path) -> Iterator[NewAdmin]:
    started: list[ProxyProcess] = []

    def start(*args: str, unix: bool = False, **kwargs: Any) -> Admin:
        folder = place / f"proxy{len(started)}"
        folder.mkdir()
        path = str(folder / "admin.sock") if unix else ""
        if unix:
            args = ("--admin", f"unix:{path}", *args)
        else:
            args = ("--admin", "127.0.0.1:0", "--admin-token-file", str(token_file(folder)), *args)
        proxy = ProxyProcess(folder, *args, **kwargs)
        started.append(proxy)
        return Admin(proxy, path)

    yield start
    for proxy in started:
        proxy.kill()
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


@pytest.fixture
def new_admin(tmp_path: Path) -> Iterator[NewAdmin]:
    """Starts a proxy with --admin on TCP, or with ``unix=True`` on a Unix socket."""
    with _admins(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def shared_admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """One for the tests of a module that change nothing of it."""
    with _admins(tmp_path_factory.mktemp("shared")) as start:
        yield start()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a proxy is of which nothing may be left."""
    with all_ended(str(tmp_path)):
        yield tmp_path


@pytest.fixture
def origin() -> Origin:
    """The origin of a load that moves."""
    return Origin()


@pytest.fixture
def address(origin: Origin) -> Iterator[tuple[str, int]]:
    """Where that is."""
    with serving(origin.serve) as found:
        try:
            yield found
        finally:
            origin.release.set()
