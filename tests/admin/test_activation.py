"""Sockets that systemd opens: by the program that it has to try this, systemd-socket-activate."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from changing_proxy import MARK
from harness import alive, free_port, need, wait_for
from moving_load import Load, Origin, ask_once
from service_rig import Managed

from spliceproxy.config import Address
from spliceproxy.processes.activation import Activation, Passed
from spliceproxy.processes.listeners import ListenError, Listeners


def activated(*sockets: str, names: str = "") -> list[str]:
    """systemd-socket-activate(1) starts a program when the first client comes, which is here the
    one that has started it."""
    named = [f"--fdname={names}"] if names else []
    passed = [f"--setenv={name}" for name in os.environ]
    return [need("systemd-socket-activate"), *map("--listen={}".format, sockets), *named, *passed]


class Activated(Managed):
    """``knock`` is where the first client comes."""

    def __init__(
        self, folder: Path, knock: Any, prefix: list[str], *args: str, **more: Any
    ) -> None:
        self._knock = knock
        env = {MARK: str(folder)}
        prefix = [*prefix, f"--setenv={MARK}"]
        super().__init__(folder, None, *args, prefix=prefix, env=env, **more)

    def _is_up(self) -> bool:
        if self._knock is not None:
            family = socket.AF_UNIX if isinstance(self._knock, str) else socket.AF_INET
            with socket.socket(family) as s:
                if s.connect_ex(self._knock) == 0:
                    self._knock = None
        return super()._is_up()


def inodes(pid: int) -> set[str]:
    """The sockets of a process."""
    found = (os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir())
    return {one for one in found if one.startswith("socket:")}


@pytest.mark.parametrize("how", ["address", "name"])
def test_one_queue_for_several_workers(
    folder: Path, origin: Origin, address: tuple[str, int], how: str
) -> None:
    """Also over a reload, the replacement of workers, and an upgrade."""
    port = free_port()
    where = f"127.0.0.1:{port}"
    listen = where if how == "address" else "systemd:web"
    prefix = activated(where, names="web")
    proxy = Activated(folder, ("127.0.0.1", port), prefix, listen=[listen], workers=2)
    assert proxy.port == port
    one, two = map(inodes, proxy.workers())
    assert len(one & two) >= 1
    load = Load(proxy, origin, address)
    assert proxy.admin.ask("/reload", "POST").status == 200, proxy.stderr()
    assert proxy.admin.ask("/recycle", "POST").status == 200, proxy.stderr()
    load.goes_on()
    answer = proxy.admin.ask("/upgrade", "POST")
    assert answer.status == 200, proxy.stderr()
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    load.goes_on()
    load.end()
    proxy.end()


def test_a_unix_socket_stays_systemds(folder: Path, address: tuple[str, int]) -> None:
    path = folder / "sock"
    prefix = activated(str(path))
    proxy = Activated(folder, str(path), prefix, listen=[f"unix:{path}", "127.0.0.1:0"])
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        ask_once(s, address)
    proxy.end()
    assert path.exists()


def test_a_reload_leaves_it_alone(folder: Path) -> None:
    """Nobody would accept from it any more, and clients would wait there."""
    port = free_port()
    prefix = activated(f"127.0.0.1:{port}", names="web")
    (folder / "proxy.toml").write_text('listen = ["systemd:web"]\n')
    proxy = Activated(folder, ("127.0.0.1", port), prefix, listen=())
    proxy.settings.write_text('listen = ["127.0.0.1:0"]\n')
    answer = proxy.admin.ask("/reload", "POST")
    assert answer.status != 200
    assert "systemd:web: systemd has opened this socket, so it stays as it is" in answer.text
    upgrade = proxy.admin.ask("/upgrade", "POST")
    assert upgrade.status != 200
    assert "which no setting names any more; allowed: with it, or stop and start" in upgrade.text
    proxy.settings.write_text('listen = ["systemd:web", "127.0.0.1:0", "systemd:more"]\n')
    answer = proxy.admin.ask("/reload", "POST")
    assert "cannot listen on systemd:more: systemd has passed no socket" in answer.text
    proxy.settings.write_text('listen = ["systemd:web", "127.0.0.1:0"]\nworkers = 3\n')
    assert proxy.admin.ask("/reload", "POST").status == 200
    proxy.end()


LAUNCHER = """
import os, sys
fds, names, program = eval(sys.argv[1]), sys.argv[2], sys.argv[3:]
high = [os.dup2(fd, 100 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""


def refused(folder: Path, names: str, passed: list[socket.socket], *args: str) -> str:
    """What a proxy says that does not start with these sockets."""
    fds = [one.fileno() for one in passed]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, repr(fds), names, sys.executable, "-m", "spliceproxy",
         *args],
        capture_output=True,
        text=True,
        pass_fds=fds,
        timeout=20,
        env={**os.environ, MARK: str(folder)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    return done.stderr


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_what_nobody_names(folder: Path) -> None:
    with listening() as one, listening() as two:
        first, second = (f"127.0.0.1:{s.getsockname()[1]}" for s in (one, two))
        told = refused(folder, "web:more", [one, two], "--listen", "systemd:web")
        assert (
            f"systemd has passed the socket 'more' with the address {second}, which no setting "
            f"names; allowed: --listen systemd:more, or --listen {second}"
        ) in told
        told = refused(folder, "web:web", [one, two], "--listen", "systemd:web")
        assert f"several addresses for it, {', '.join(sorted([first, second]))}" in told
        args = ("--listen", first, "--listen", second, "--listen", "systemd:x")
        told = refused(folder, "", [one, two], *args)
        assert "cannot listen on systemd:x: systemd has passed no socket of this name" in told


def test_what_is_no_listening_socket(folder: Path) -> None:
    with socket.socket() as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for sock in (one, two):
            told = refused(folder, "web", [sock], "--listen", "systemd:web")
            assert "'web', which is no listening stream socket; allowed: ListenStream=" in told


def test_without_systemd_there_is_no_such_socket(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--listen", "systemd:web"],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, MARK: str(folder), "LISTEN_PID": "1", "LISTEN_FDS": "1"},
        check=False,
    )
    assert done.returncode == 1
    assert "cannot listen on systemd:web: systemd has passed no socket of this name" in done.stderr


@pytest.mark.parametrize(
    ("bound", "asked", "yes"),
    [
        (("0.0.0.0", 0), "", True),
        (("127.0.0.1", 0), "", False),
        (("127.0.0.1", 0), "127.0.0.1", True),
        (("127.0.0.1", 0), "127.0.0.2", False),
        (("127.0.0.1", 0), "::1", False),
    ],
)
def test_which_address_a_socket_has(bound: tuple[str, int], asked: str, yes: bool) -> None:
    with socket.create_server(bound) as sock:
        port = sock.getsockname()[1]
        found = Listeners(2)
        activation = Activation([Passed("x", sock)])
        activation.give(found, [Address(asked, port), Address(asked, port + 1)])
        assert [one.port for one in found.addresses] == ([port] if yes else [])
        if not yes:
            with pytest.raises(ListenError, match="which no setting names"):
                activation.finish()
        else:
            activation.finish()
            assert found.of(0) == found.of(1) == [sock]
