"""An operator's day, by the commands of docs/operation.md: a service for three teams behind
HAProxy.

systemctl and pip stand for themselves in a few lines of Python: neither a service manager nor a
version to come is here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from balancers import Balancer, haproxy
from changing_proxy import MARK, all_ended, processes
from harness import free_port, need, read_exactly, read_head, serving, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "operation.md"

HOSTS = "git.example mirror.example a.sets.example www.example"
CLIENT = "127.0.0.5"
"""Another address of this machine, which HAProxy is to tell."""

SIZE = 8 << 20

SYSTEMCTL = """#!{python}
import os, pathlib, re, signal, subprocess, sys, time

folder = pathlib.Path({folder!r})
messages = folder / "messages"
alive = lambda pid: os.path.exists(f"/proc/{{pid}}")

def main():
    found = re.findall(r"has taken over, as process (\\d+)", messages.read_text())
    return int(found[-1]) if found else int((folder / "pid").read_text())

match sys.argv[1:]:
    case ["start", "spliceproxy"]:
        with messages.open("wb") as out:
            process = subprocess.Popen(
                ["spliceproxy", "--config", str(folder / "etc" / "proxy.toml")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        (folder / "pid").write_text(str(process.pid))
        while "event loop" not in messages.read_text() and process.poll() is None:
            time.sleep(0.01)
        sys.exit(process.poll() or 0)
    case ["stop", "spliceproxy"]:
        pid = main()
        os.kill(pid, signal.SIGTERM)
        while alive(pid) and "stopped" not in messages.read_text()[-200:]:
            time.sleep(0.01)
    case ["kill", "--kill-whom=main", "-s", name, "spliceproxy"]:
        os.kill(main(), getattr(signal, "SIG" + name))
    case _:
        sys.exit(f"not known: {{sys.argv}}")
"""


def blocks(text: str) -> list[str]:
    found = re.findall(r"(?m)(?:^ {4}.*\n|^\n(?= {4}))+", text)
    return ["\n".join(line[4:] for line in one.strip("\n").split("\n")) for one in found]


def day() -> str:
    return PAGE.read_text().partition("## What does an operator do all day?")[2]


def commands(heading: str) -> list[str]:
    """The commands of a recipe."""
    section = re.split(r"(?m)^#+ ", day().partition(f"### {heading}\n")[2])[0]
    found = [line for block in blocks(section) for line in block.split("\n")]
    assert 1 <= len(found) <= 3, (heading, found)
    return found


def file(first: str) -> str:
    """A file of the page, which begins with its path."""
    (found,) = [block for block in blocks(day()) if block.startswith(first)]
    return found + "\n"


class Service:
    """The files of the page in a folder of the test, and what goes by them."""

    def __init__(self, folder: Path, origin: int) -> None:
        self.folder = folder
        self.origin = origin
        self.inner, self.outer = free_port(), free_port()
        for name in ("etc", "log", "run", "bin"):
            (folder / name).mkdir()
        self.config = folder / "etc" / "proxy.toml"
        # The origin is on this machine, where clients of a balancer may not go by themselves.
        self.config.write_text(
            'guard-allow = ["127.0.0.0/8"]\n' + self._here(file("# /etc/spliceproxy/proxy.toml"))
        )
        (folder / "hosts").write_text(f"127.0.0.1 {HOSTS}\n")
        self._program("systemctl", SYSTEMCTL.format(python=sys.executable, folder=str(folder)))
        self._program("pip", "#!/bin/sh\nexit 0\n")
        self._program("openssl", f'#!/bin/sh\nexec {need("openssl")} "$@" "$PASSWORD"\n')

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def _here(self, text: str) -> str:
        for there, here in (
            ("/etc/spliceproxy", self.folder / "etc"),
            ("/var/log/spliceproxy", self.folder / "log"),
            ("/run/spliceproxy", self.folder / "run"),
            ("/opt/spliceproxy/bin/pip", self.folder / "bin" / "pip"),
            ("127.0.0.1:3127", f"127.0.0.1:{self.inner}"),
            ("bind :3128", f"bind 127.0.0.1:{self.outer}"),
        ):
            text = text.replace(there, str(here))
        return text

    def run(self, heading: str, *, of: slice = slice(None), user: str = "", status: int = 0) -> str:
        """The commands of a recipe, each of which succeeds but the last, which has a status; what
        they print. ``user``: another than the page's."""
        said = ""
        some = commands(heading)[of]
        for number, command in enumerate(some):
            if user:
                command = re.sub(r"\bann\b", user, command)
            path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                ["sh", "-c", self._here(command)],
                capture_output=True,
                text=True,
                timeout=60,
                env={
                    **os.environ, "PATH": path, MARK: str(self.folder), "PASSWORD": f"of-{user}",
                    "SPLICEPROXY_HOSTS_FILE": str(self.folder / "hosts"),
                },
            )  # fmt: skip
            last = number == len(some) - 1
            assert done.returncode == (status if last else 0), (command, done)
            said += done.stdout
        return said

    def balancer(self) -> Balancer:
        text = self._here(file("# /etc/haproxy/haproxy.cfg"))
        return haproxy(self.folder / "haproxy", text, self._is_up)

    def _is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.outer)) == 0

    # ---- clients -----------------------------------------------------------------------

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.outer), 40, (CLIENT, 0))

    def sends(self, client: socket.socket, host: str, user: str, path: str = "/") -> None:
        field = ""
        if user:
            pair = base64.b64encode(f"{user}:of-{user}".encode()).decode()
            field = f"Proxy-Authorization: Basic {pair}\r\n"
        where = f"{host}:{self.origin}"
        asked = f"GET http://{where}{path} HTTP/1.1\r\nHost: {where}\r\n{field}\r\n"
        client.sendall(asked.encode())

    def asks(self, host: str, user: str = "") -> int:
        """The status that a user gets for a host."""
        with self.connect() as client:
            self.sends(client, host, user)
            return int(read_head(client).split(b" ")[1])

    def lines(self, name: str = "access.json") -> list[dict[str, object]]:
        path = self.folder / "log" / name
        return [json.loads(line) for line in path.read_text().splitlines()]

    def messages(self) -> str:
        return (self.folder / "messages").read_text()


class Origin:
    """Answers at once; a long download goes on when ``rest`` is set."""

    def __init__(self) -> None:
        self.begun, self.rest = threading.Event(), threading.Event()
        self.body = os.urandom(SIZE)

    def serve(self, connection: socket.socket) -> None:
        while head := read_head(connection):
            if b"/long" not in head:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            connection.sendall(self.body[: SIZE // 2])
            self.begun.set()
            assert self.rest.wait(60)
            connection.sendall(self.body[SIZE // 2 :])


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def service(tmp_path: Path, origin: Origin) -> Iterator[Service]:
    need("haproxy")
    with serving(origin.serve, idle=True) as (_, port), all_ended(str(tmp_path)):
        made = Service(tmp_path, port)
        for user in ("ann", "ben", "dan", "eve"):
            made.run("Somebody gets a password", user=user)
        made.run("The machine is to be restarted", of=slice(1, None))
        balancer = made.balancer()
        try:
            yield made
        finally:
            balancer.stop()


MAY = {("ann", "git.example"), ("dan", "a.sets.example"), ("eve", "www.example")}


def each_team_goes_where_it_may(service: Service) -> None:
    for user, _ in MAY:
        for _, host in MAY:
            assert service.asks(host, user) == (200 if (user, host) in MAY else 403)
    assert service.asks("git.example") == 407


def a_rule_changes(service: Service) -> None:
    """While a client is there that it concerns."""
    with service.connect() as stays:
        service.sends(stays, "mirror.example", "dan")
        assert read_head(stays).startswith(b"HTTP/1.1 403 ")
    text = service.config.read_text()
    changed = text.replace('[".sets.example"]', '[".sets.example", "mirror.example"]')
    service.config.write_text(changed)
    said = service.run("A rule changes")
    assert "=> rules    yes  rule data allows it" in said
    assert "10.0.8.3, brought by 127.0.0.1, may use the proxy" in said
    assert "generation 2, before 1" in said
    assert service.asks("mirror.example", "dan") == 200


def the_log_is_rotated(service: Service) -> None:
    before = len(service.lines())
    assert before
    service.run("The log is rotated")
    wait_for((service.folder / "log" / "access.json").exists, "the new log")
    assert service.asks("git.example", "ben") == 200
    wait_for(lambda: len(service.lines()) == 1, "a line of the new log")
    assert len(service.lines("access.json.1")) >= before


def a_worker_and_the_program_are_replaced(service: Service, origin: Origin) -> None:
    """In a long download."""
    with service.connect() as client:
        service.sends(client, "www.example", "eve", "/long")
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        assert origin.begun.wait(20)
        got = hashlib.sha256(read_exactly(client, 1000))
        assert re.search(r"(?m)^ *0 +up ", service.run("A worker has grown"))
        told = service.run("A new version comes")
        assert re.search(r"old +\d+ ", told)
        assert re.search(r"new +\d+ ", told)
        wait_for(lambda: "has taken over" in service.messages(), "the new program")
        origin.rest.set()
        got.update(read_exactly(client, SIZE - 1000))
        assert got.digest() == hashlib.sha256(origin.body).digest()


def it_is_stopped_and_started(service: Service) -> None:
    """Who comes meanwhile waits in HAProxy until it is started."""
    service.run("The machine is to be restarted", of=slice(0, 1))
    wait_for(lambda: not processes(str(service.folder)), "the end of all processes")
    status: list[int] = []
    waits = threading.Thread(target=lambda: status.append(service.asks("git.example", "ann")))
    waits.start()
    service.run("The machine is to be restarted", of=slice(1, None))
    waits.join(40)
    assert status == [200]


def test_an_operators_day(service: Service, origin: Origin) -> None:
    each_team_goes_where_it_may(service)
    a_rule_changes(service)
    the_log_is_rotated(service)
    a_worker_and_the_program_are_replaced(service, origin)
    each_team_goes_where_it_may(service)
    it_is_stopped_and_started(service)
    lines = [json.loads(line) for line in service.run("Who was that?").splitlines()]
    assert lines
    assert {(one["client"], one["via"]) for one in lines} == {(CLIENT, "127.0.0.1")}
    service.run("The machine is to be restarted", of=slice(0, 1))
    assert "Traceback" not in service.messages()


def test_each_recipe_is_run() -> None:
    """By the test above, and none has more than three commands."""
    text = Path(__file__).read_text()
    for heading in re.findall(r"(?m)^### (.*)$", day().partition("\n## ")[0]):
        assert f'"{heading}"' in text
        commands(heading)
