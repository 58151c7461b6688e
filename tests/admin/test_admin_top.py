"""``spliceproxy top`` over a proxy with live tunnels: it shows them, and ends the one that is asked
for; and what the command says where it cannot begin."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin

textual = pytest.importorskip("textual")

from textual.widgets import DataTable  # noqa: E402

from spliceproxy.admin.client import find  # noqa: E402
from spliceproxy.admin.screen import Top  # noqa: E402

WITHOUT_TEXTUAL = (
    "import sys; sys.modules['textual'] = None; "
    "from spliceproxy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def tunnel(admin: Admin, port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", admin.proxy.port), 20)
    at = f"127.0.0.1:{port}".encode()
    client.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (at, at))
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return client


def test_a_tunnel_is_shown_and_ended(new_admin: NewAdmin) -> None:
    admin = new_admin("--guard", "off", unix=True, workers=2)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [server.getsockname()[1] for server in (one, two)]
        tunnels = {port: tunnel(admin, port) for port in ports}
        asyncio.run(_look(admin, ports))
        with tunnels[ports[1]] as ended, tunnels[ports[0]] as other:
            with pytest.raises(ConnectionResetError):
                ended.recv(1)
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(1)


async def _look(admin: Admin, ports: list[int]) -> None:
    """Ends the tunnel to the second port."""
    app = Top(find(f"unix:{admin.path}", None, None), 0.1)
    async with app.run_test(size=(180, 30)) as pilot:
        table = app.query_one(DataTable)

        def targets() -> list[str]:
            return [str(table.get_row_at(at)[5]) for at in range(table.row_count)]

        await _until(pilot, lambda: sorted(targets()) == sorted(f"127.0.0.1:{p}" for p in ports))
        await pilot.press("slash", *str(ports[1]), "enter")
        assert targets() == [f"127.0.0.1:{ports[1]}"]
        await pilot.press("k", "n", "k", "y", "escape")
        await _until(pilot, lambda: targets() == [f"127.0.0.1:{ports[0]}"])


async def _until(pilot: Any, condition: Callable[[], object]) -> None:
    for _ in range(400):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("it did not come to that")


def command(*args: str, program: tuple[str, ...] = ("-m", "spliceproxy")) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *program, "top", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if "SPLICEPROXY" not in name},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_without_textual_it_says_what_to_install() -> None:
    status, said = command("--admin", "unix:/none", program=("-c", WITHOUT_TEXTUAL))
    assert (status, said) == (
        2,
        "spliceproxy top: textual is needed for this; install it with: "
        "pip install 'spliceproxy[top]'\n",
    )


def test_without_a_proxy_it_says_so(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "spliceproxy", "top", "--admin", f"unix:{tmp_path}/none.sock"],
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(terminal)
    assert done.returncode == 1
    assert f"unix:{tmp_path}/none.sock" in done.stderr
    assert "No such file" in done.stderr


@pytest.mark.parametrize("missing", ["input", "output"])
def test_without_a_terminal_it_says_what_to_use(missing: str) -> None:
    master, terminal = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "spliceproxy", "top", "--admin", "unix:/none"],
            stdin=subprocess.DEVNULL if missing == "input" else terminal,
            stdout=subprocess.DEVNULL if missing == "output" else terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(terminal)
    assert (done.returncode, done.stderr) == (
        2,
        f"spliceproxy top: standard {missing} is no terminal; spliceproxy ctl tunnels prints the "
        "list once\n",
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "4000"])
def test_a_wrong_time_is_named(seconds: str) -> None:
    status, said = command("--admin", "unix:/none", f"--seconds={seconds}")
    assert status == 2
    assert f"--seconds: '{seconds}'; allowed: 0.2 to 3600" in said


def test_without_an_address_it_says_what_to_give() -> None:
    status, said = command()
    assert status == 2
    assert "--admin" in said
