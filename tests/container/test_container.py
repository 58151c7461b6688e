"""The image: what its file says, and containers of it, which serve, drain, and say how they are."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container_rig import Container, build, environment, stages, the
from harness import free_port, serving, stop, wait_for

Start = Callable[..., "Running"]


class Running(Container):
    """A container whose proxy listens on ``port`` of this machine."""

    def __init__(self, folder: Path, built: Path, *args: str) -> None:
        self.port = free_port()
        variables = {
            "SPLICEPROXY_LISTEN": f"127.0.0.1:{self.port}",
            "SPLICEPROXY_WORKERS": "1",
        }
        super().__init__(folder, built, *args, **variables)

    def tunnel(self, host: str, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return client

    def refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 20).close()
        except ConnectionRefusedError:
            return True
        return False

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("spliceproxy", "ctl", *words)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture
def start(built: Path, tmp_path: Path) -> Iterator[Start]:
    made: list[Running] = []

    def new(*args: str) -> Running:
        made.append(Running(tmp_path / f"container{len(made)}", built, *args))
        return made[-1]

    yield new
    for one in made:
        one.end()
        assert "Traceback" not in one.messages()


def echo(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := peer.recv(65536):
            peer.sendall(data)


# ---- what the file says ----------------------------------------------------------------------


def test_the_compiler_stays_behind() -> None:
    first, last = stages()
    assert first[0].value.endswith(" AS build")
    assert last[0].value.endswith("-slim")
    (copied,) = [step.value for step in last if step.word == "COPY"]
    assert copied == "--from=build /opt/spliceproxy /opt/spliceproxy"


def test_it_is_nobody_and_needs_no_shell() -> None:
    uid, gid = the("USER").value.split(":")
    assert int(uid) > 1000
    assert int(gid) > 1000
    assert the("STOPSIGNAL").value == "SIGTERM"
    program = the("ENTRYPOINT").words
    assert the("HEALTHCHECK").words == [*program, "ctl", "health"]
    assert environment()["PATH"].startswith(f"{Path(program[0]).parent}:")


# ---- what a container does -------------------------------------------------------------------


def test_it_serves_as_nobody_with_a_root_that_cannot_be_written_to(start: Start) -> None:
    container = start()
    with serving(echo) as origin, container.tunnel(*origin) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    status = Path(f"/proc/{container.first}/status").read_text()
    assert status.split("Uid:")[1].split()[0] == the("USER").value.split(":")[0]
    assert int(status.split("CapEff:")[1].split()[0], 16) == 0
    assert status.split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
    for place in ("/", "/opt/spliceproxy", "/etc"):
        done = container.run("touch", f"{place}/new")
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
    made = container.run("sh", "-c", "! touch /new 2>&1").stdout
    assert made.endswith("Read-only file system\n")


def test_it_says_how_it_is(start: Start) -> None:
    container = start()
    check = the("HEALTHCHECK").words
    well = container.run(*check)
    assert (well.returncode, well.stderr) == (0, "")
    children = Path(f"/proc/{container.first}/task/{container.first}/children")
    worker = int(children.read_text().split()[0])
    stop(worker)
    wait_for(lambda: container.run(*check).returncode == 1, "that it is not well")


def test_it_drains(start: Start) -> None:
    container = start()
    with serving(echo) as origin, container.tunnel(*origin) as client:
        os.kill(container.first, 15)
        wait_for(lambda: "draining" in container.messages(), "the message")
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        wait_for(container.refuses, "that new clients are refused")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert container.process.wait(20) == 0


def test_it_is_stopped_by_the_signal_of_the_image(start: Start) -> None:
    assert start().stop() == 0


def test_no_upgrade_of_the_first_process(start: Start) -> None:
    done = start().ctl("upgrade")
    assert done.returncode == 1
    assert "process 1 of its container" in done.stderr


def test_whoever_is_left_behind_is_reaped(start: Start) -> None:
    """The first process of a container gets the children of those that have ended."""
    container = start()
    container.run("sh", "-c", "sleep 0.1 & exec true")

    def others() -> list[str]:
        found = container.run("sh", "-c", "cat /proc/[0-9]*/stat").stdout.splitlines()
        return [line for line in found if "(sleep)" in line]

    wait_for(lambda: not others(), "the end of it")
    assert container.process.poll() is None
