"""An operator's questions in docs/operation.md: each is answered by the commands that stand there,
over a proxy where it has an answer."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_rig import Admin, NewAdmin
from harness import read_all, read_exactly, read_head, refused_port, serving, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "operation.md"

CREDENTIALS = "Proxy-Authorization: Basic YWRhOndvcmQ=\r\n"  # ada:word
GRACE = "127.0.0.9"
"""The address by which she is known."""

SENT, GOT = 90_000, 40_000
"""Bytes of grace's upload, and of ada's download."""


def recipes() -> dict[str, list[str]]:
    """The commands for each question."""
    _, _, table = PAGE.read_text().partition("| question | command |")
    rows = re.findall(r"^\| ([^|]*\?) \| (.*) \|$", table.partition("\n\n")[0], re.M)
    return {
        question: [
            one for one in re.findall("`(.*?)`", text) if one.startswith(("spliceproxy ", "grep "))
        ]
        for question, text in rows
    }


class Site:
    """A proxy with something of everything: its answers to some words in the commands."""

    def __init__(self, admin: Admin, log: Path, origin: int, refused: int) -> None:
        self.admin = admin
        self.log = log
        self.origin = origin
        self.refused = refused

    def run(self, command: str, **words: str) -> tuple[int, str]:
        """The status of a command, and what it prints."""
        for word, value in words.items():
            command = re.sub(rf"\b{word}\b", value, command)
        clean = {name: value for name, value in os.environ.items() if "SPLICEPROXY" not in name}
        done = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **clean,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "SPLICEPROXY_ADMIN": f"unix:{self.admin.path}",
            },
        )
        assert "usage" not in done.stderr, done.stderr
        return done.returncode, done.stdout


@pytest.fixture
def site(new_admin: NewAdmin, tmp_path: Path) -> Iterator[Site]:
    log = tmp_path / "access.json"
    config = tmp_path / "proxy.toml"
    config.write_text(f'auth-networks = {{ "{GRACE}" = "grace" }}\n')
    admin = new_admin(
        "--config", str(config), "--auth", "ada:word", "--guard", "off", "--log-format",
        "json", "--access-log", str(log), unix=True, workers=2,
    )  # fmt: skip

    def answer(s: socket.socket) -> None:
        head = read_head(s)
        if b"/slow" in head:
            time.sleep(1.3)  # what is slow is so by itself: there is nothing to wait for
        if b"/in" in head:
            assert len(read_exactly(s, SENT)) == SENT
        body = b"x" * (GOT if b"/out" in head else 5)
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        s.sendall(b"Connection: close\r\n\r\n" + body)

    with serving(answer) as (host, origin), refused_port() as refused:

        def ask(
            port: int, path: str, fields: str = CREDENTIALS, body: bytes = b"", client: str = ""
        ) -> bytes:
            with socket.create_connection(
                ("127.0.0.1", admin.proxy.port), 20, (client or "127.0.0.1", 0)
            ) as s:
                method = "POST" if body else "GET"
                head = f"{method} http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
                head += f"{fields}Content-Length: {len(body)}\r\n" if body else fields
                s.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
                return read_all(s)

        assert b" 200 " in ask(origin, "/slow")
        assert b" 200 " in ask(origin, "/out")
        assert b" 200 " in ask(origin, "/in", "", b"x" * SENT, GRACE)
        assert b" 502 " in ask(refused, "/")
        assert b" 407 " in ask(origin, "/", "")
        yield Site(admin, log, origin, refused)


def commands(question: str) -> list[str]:
    (found,) = [each for name, each in recipes().items() if name.startswith(question)]
    assert 1 <= len(found) <= 2
    return found


def until(site: Site, command: str, words: list[str], **values: str) -> str:
    """What a command prints as soon as it has these words."""
    said = ""

    def seen() -> bool:
        nonlocal said
        said = site.run(command, **values)[1]
        return all(word in said for word in words)

    try:
        wait_for(seen, command)
    except TimeoutError:
        raise AssertionError(f"{command}: {said}") from None
    return said


def test_every_question_is_tried() -> None:
    tried = {
        *("what is going on", "who uses", "where does", "why was", "why is", "what failed", "is a"),
        "how do",
    }
    assert {name for name in recipes() if not name.startswith(tuple(tried))} == set()
    assert len(recipes()) == len(tried) + 1  # two begin with "is a"


def test_what_is_going_on_now_and_how_to_end_it(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin, site.admin.proxy.connect() as s:
        at = "{}:{}".format(*origin.getsockname())
        s.sendall(f"CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{CREDENTIALS}\r\n".encode())
        assert b" 200 " in read_head(s)
        said = until(site, commands("what is going on")[0], [at, "ada"])
        ident = next(line.split()[0] for line in said.splitlines() if at in line)
        assert site.run(commands("how do I end")[0], ID=ident)[0] == 0
        with pytest.raises(ConnectionResetError):
            s.recv(1)


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def test_who_uses_most_bandwidth(site: Site) -> None:
    """In both directions: she has sent most of it, and he has got most."""
    users, clients = commands("who uses")
    for command, grace, ada in ((users, "grace", "ada"), (clients, GRACE, "127.0.0.1")):
        head, first, second, *_ = rows(until(site, command, [grace, ada, " 90."]))
        assert head[1:4] == ["BYTES", "FROM CLIENT", "TO CLIENT"]
        assert (first[0], second[0]) == (grace, ada)
        assert first[2].startswith("90.")
        assert second[3].startswith("4")  # that and the other answers


def test_where_most_of_it_goes(site: Site) -> None:
    (destinations,) = commands("where does")
    said = rows(until(site, destinations, ["FROM CLIENT", "TO CLIENT", f"127.0.0.1:{site.origin}"]))
    assert said[1][0] == f"127.0.0.1:{site.origin}"


def test_why_was_this_denied(site: Site) -> None:
    denials, explain = commands("why was")
    until(site, denials, [f"GET http://127.0.0.1:{site.origin}/", "RULE", "REASON"])
    at = f"http://127.0.0.1:{site.origin}/"
    assert site.run(explain, METHOD="GET", TARGET=at)[1]


def test_why_is_this_slow(site: Site) -> None:
    grep, live = commands("why is")
    at = f"127.0.0.1:{site.origin}"
    said = until(site, grep, ["/slow"], HOST=at, LOG=str(site.log))
    (line,) = [json.loads(each) for each in said.splitlines() if "/slow" in each]
    assert line["stalled"] == "origin"
    assert line["first_byte_us"] > 1_000_000
    assert "tunnels" in json.loads(site.run(live, HOST="127.0.0.1")[1])


def test_what_failed_in_the_last_hour_and_where(site: Site) -> None:
    (command,) = commands("what failed")
    where = f"127.0.0.1:{site.refused}"
    until(site, command, ["connection_refused", where, "COUNT"])


def test_is_a_worker_sick(site: Site) -> None:
    health, workers = commands("is a worker sick")
    assert site.run(health)[0] == 0
    status, said = site.run(workers)
    assert status == 0
    assert [line.split()[1] for line in said.splitlines()] == ["STATE", "up", "up"]
    sick = site.admin.proxy.workers()[1]
    os.kill(sick, 19)  # SIGSTOP
    try:
        assert site.run(health)[0] == 1
    finally:
        os.kill(sick, 18)


def test_is_a_worker_too_large(site: Site) -> None:
    (recycle,) = commands("is a worker too large")
    before = set(site.admin.proxy.workers())
    status, said = site.run(recycle, WORKER="1")
    assert status == 0
    assert said.splitlines()[1].split()[0] == "1"
    wait_for(lambda: len(site.admin.proxy.workers()) == 2, "the end of the old worker")
    assert len(before & set(site.admin.proxy.workers())) == 1
