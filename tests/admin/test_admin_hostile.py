"""Hostile hosts, users, methods, paths, fields and reasons, in every view but the page, which
test_admin_page.py looks at: each is shown as what it is, and makes no line, label, field or command
of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin
from harness import ProxyProcess, read_all, read_head, refused_port, serving, wait_for
from json_lines import LINE

from spliceproxy.observe.format_names import NAMES

USER = "[b]\"}'<i>\\ %0a\U0001f600\u00e9"
"""All that a user may be called: no colon, and no control character."""

PATH = "/\"},<script>alert(1)</script>&[red]\\'%0a%1b|\u202e\u00e9"
HOST = "!$&'()*+,;=_~-.evil.test"
METHOD = "EVIL!#$%&'*+-.^_`|~"
AGENT = 'User-Agent: "\\" - "[red]<i>%0a\u202e'
REASON = 'Because\r\nX: 1 \x1b[2J\x9b2J\x00<script>"},[red]\u2028\u202e\u00e9'
DENIALS = 6
"""Of requests()."""

TAGS = {'<t>"': '\x1b]0;title\x07"\n[red]'}

POLICY = f"""
from spliceproxy.policy import Allow, Deny

def authorize(request):
    if "denied" in request.path or request.host.endswith("evil.test"):
        return Deny({REASON!r}, rule={REASON!r} if "odd" in request.path else "an-id")
    return Allow(tags={TAGS!r})
"""

OWN = '%>a %rm %ru %un %err_detail "%{User-Agent}>h" "%{reason}json" "%{<t>"}note" end'
TEXT = r'"(?:[^"\\]|\\.)*"'

LINES = {
    "native": r"\S+ +\d+ \S+ [A-Z_]+/\d{3} \d+( \S+){3} [A-Z_]+/\S+ \S+( (rule|error)=\S+)? in=\d+",
    "squid": r"\S+ +\d+ \S+ [A-Z_]+/\d{3} \d+( \S+){3} [A-Z_]+/\S+ \S+",
    "common": r'\S+ - \S+ \[[^]]+\] "\S+ \S+ HTTP/1\.[01]" \d+ \d+',
    "combined": rf'\S+ - \S+ \[[^]]+\] "\S+ \S+ HTTP/1\.[01]" \d+ \d+ {TEXT} {TEXT}',
    "json": r"\{.*\}",
    OWN: rf"\S+ \S+ \S+ \S+ \S+ {TEXT} {TEXT} {TEXT} end",
}
"""What a line of each format is, whatever a client has sent."""


def requests(at: str, refused: int) -> Iterator[bytes]:
    """Each is sent on a connection of its own. The first ones are allowed, and the lane has the
    second of each two."""
    user = base64.b64encode(f"{USER}:secret".encode()).decode()
    known = f"Proxy-Authorization: Basic {user}"
    path = f"http://{at}{PATH}"
    for first, host, credentials in (
        (f"GET {path}", at, known),
        (f"{METHOD} {path}", at, known),
        (f"GET {path}denied", at, known),
        (f"GET {path}denied-odd", at, known),
        (f"GET {path}", at, "Proxy-Authorization: Basic \"'<i>[red]"),
        ("GET http://[red]<i>.evil.test/", "x", known),
        ("GET http://\"'%0a.evil.test/", "x", known),
        ("CONNECT <i>.evil.test:1", "<i>.evil.test:1", known),
        (f"CONNECT {HOST}:1", f"{HOST}:1", known),
        (f"GET http://{HOST}/", HOST, known),
        (f"GET http://127.0.0.1:{refused}{PATH}", f"127.0.0.1:{refused}", known),
        (f"{PATH} {PATH}", PATH, known),
    ):
        lines = [f"{first} HTTP/1.1", f"Host: {host}", AGENT, credentials, "Connection: close"]
        for _ in range(2):
            yield "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    yield b"\x1b[2J\x00\xff\r\n\r\n"
    yield b"GET http://a.test/\x1b[2J HTTP/1.1\r\nHost: a.test\r\n\r\n"


@contextlib.contextmanager
def origin() -> Iterator[str]:
    """Answers all, but holds those for /held."""

    def answer(connection: Any) -> None:
        head = read_head(connection)
        if b"held" in head or not head:
            with contextlib.suppress(OSError):
                connection.recv(1)
            return
        connection.sendall(
            b'HTTP/1.1 200 OK\r\nContent-Type: "<i>\xe9\x85[red]\r\nContent-Length: 2\r\n\r\nok'
        )

    with serving(answer) as (host, port):
        yield f"{host}:{port}"


def options(folder: Path) -> tuple[str, ...]:
    (folder / "policy.py").write_text(POLICY)
    return "--policy", str(folder / "policy.py"), "--auth", f"{USER}:secret", "--guard", "off"


def attack(proxy: ProxyProcess, at: str) -> int:
    """Sends all of them; how many."""
    count = 0
    with refused_port() as refused:
        for sent in requests(at, refused):
            with proxy.connect() as client, contextlib.suppress(ConnectionResetError):
                client.sendall(sent)
                read_all(client)
            count += 1
    return count


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize("form", [*NAMES, OWN], ids=[*NAMES, "own"])
def test_the_access_log(new_proxy: Any, tmp_path: Path, engine: str, form: str) -> None:
    proxy = new_proxy(*options(tmp_path), "--engine", engine, "--log-format", form)
    with origin() as at:
        count = attack(proxy, at)
    lines = proxy.wait_access(count)
    assert proxy.access_path.read_bytes().count(b"\n") == len(lines) == count
    for line in lines:
        assert line.isascii(), line
        assert line.isprintable(), line
        assert len(line) < 4096
        assert re.fullmatch(LINES[form], line), line
        if form == "json":
            LINE.validate(json.loads(line))
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert [line["user"] for line in found[:8]] == [USER] * 8
        assert {line["method"] for line in found} >= {METHOD, "GET", "CONNECT"}
        assert sum(line["reason"] == REASON for line in found) == 4
        assert found[0]["tags"] == TAGS
    # Nor of the messages.
    for line in proxy.stderr().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d ", line), line
        assert line.isprintable() or "\u202e" in line, line


@pytest.fixture
def attacked(new_admin: NewAdmin, tmp_path: Path) -> Iterator[tuple[Admin, list[dict[str, Any]]]]:
    """A proxy that was attacked, and whose /events somebody has followed meanwhile. A tunnel and a
    request go on."""
    admin = new_admin(*options(tmp_path), unix=True, workers=2)
    wait_for(lambda: "answer: 2" in admin.ask("/healthz").text, "both workers")
    credentials = base64.b64encode(f"{USER}:secret".encode()).decode()
    fields = f"Proxy-Authorization: Basic {credentials}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(origin())
        connection = admin.connection()
        stack.callback(connection.close)
        connection.request("GET", "/events")
        listening = connection.getresponse()
        assert listening.readline() == b": spliceproxy\n"
        # Both workers tell from the moment when they have heard that somebody listens.
        wait_for(lambda: "answer: 2" in admin.ask("/healthz").text, "both workers")
        attack(admin.proxy, at)
        tunnel = stack.enter_context(admin.proxy.connect())
        tunnel.sendall(f"CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{fields}".encode())
        assert b" 200 " in read_head(tunnel)
        held = stack.enter_context(admin.proxy.connect())
        held.sendall(f"{METHOD} http://{at}/held{PATH} HTTP/1.1\r\nHost: {at}\r\n{fields}".encode())
        wait_for(lambda: len(admin.get("/tunnels")["tunnels"]) == 2, "both")
        yield admin, list(_events(admin, listening))
        tunnel.close()
        held.close()


def _events(admin: Admin, listening: Any) -> Iterator[dict[str, Any]]:
    """Up to one that is the last."""
    assert admin.ask("/log-level?level=info", "POST").status == 200
    kind = ""
    while line := listening.readline().decode():
        assert line.endswith("\n")
        if line == "\n":
            continue
        name, _, value = line.rstrip("\n").partition(": ")
        assert name in ("event", "data", "id", ""), line
        if name == "event":
            assert value in ("denied", "failed", "log-level", "lost"), line
            kind = value
        elif name == "data":
            assert value.isascii()
            yield json.loads(value)
            if kind == "log-level":
                return


def labels(text: str) -> set[str]:
    """Every sample of /metrics without its number."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_what_programs_read(
    attacked: tuple[Admin, list[dict[str, Any]]], new_admin: NewAdmin
) -> None:
    admin, events = attacked
    told = [event for event in events if "rule" in event]
    assert {event["user"] for event in told} <= {USER, ""}
    assert {event["why"] for event in told if event["rule"] == "an-id"} == {REASON}
    assert any(event["method"] == METHOD for event in told) is False  # that went well
    # Of the ids that the function has made up one is an id, and the other one is none.
    fresh = new_admin(unix=True, workers=2)
    unlike = {line for line in labels(admin.ask("/metrics").text) if "_info" not in line}
    unlike -= labels(fresh.ask("/metrics").text)
    assert unlike == {'spliceproxy_decisions_total{action="deny",rule="an-id"}'}

    def users() -> list[str]:
        rows = admin.get("/stats.json")["top"]["all"]["users"]["bytes"]["rows"]
        return [row["key"] for row in rows]

    wait_for(lambda: users() == [USER], "the only user")  # a worker may be late with its part
    stats = admin.get("/stats.json")
    assert {one["reason"] for one in stats["denials"] if one["rule"] == "an-id"} == {REASON}
    flows = admin.get("/tunnels")["tunnels"]
    assert {flow["user"] for flow in flows} == {USER}
    assert {flow["method"] for flow in flows} == {"CONNECT", METHOD}
    assert all(flow["tags"] == TAGS for flow in flows)


VERBS = ("tunnels", "denials", "failures", "top-users", "top-clients", "top-destinations",
         "workers", "config", "health")  # fmt: skip


def test_ctl(attacked: tuple[Admin, list[dict[str, Any]]]) -> None:
    """A line for each row, and nothing that a terminal obeys."""
    admin, _ = attacked
    stats: dict[str, Any] = {}

    def seen() -> bool:  # the lists are a second old at most
        stats.update(admin.get("/stats.json"))
        return len(stats["denials"]) == DENIALS and bool(stats["top"]["all"]["users"]["bytes"])

    wait_for(seen, "all denials")
    rows = {
        "tunnels": 2,
        "denials": len(stats["denials"]),
        "failures": len(stats["failures"]),
        "top-users": 1,
        "top-clients": 1,
        "workers": 2,
    }
    clean = {name: value for name, value in os.environ.items() if "SPLICEPROXY" not in name}
    for verb in VERBS:
        done = subprocess.run(
            [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{admin.path}", verb],
            capture_output=True, timeout=60, env={**clean, "PYTHONUTF8": "1"}, check=True,
        )  # fmt: skip
        text = done.stdout.decode()
        lines = text.split("\n")
        assert all(line.isprintable() for line in lines), (verb, text)
        if verb in rows:
            assert len(lines) == 1 + rows[verb] + 1, (verb, text)
        assert done.stderr == b""


def test_top(attacked: tuple[Admin, list[dict[str, Any]]]) -> None:
    pytest.importorskip("textual")
    from textual.widgets import DataTable, Static

    from spliceproxy.admin.client import find
    from spliceproxy.admin.screen import Top

    admin, _ = attacked

    async def look() -> None:
        app = Top(find(f"unix:{admin.path}", None, None), 0.1)
        async with app.run_test(size=(180, 30)) as pilot:
            table = app.query_one(DataTable)
            for _ in range(400):
                if table.row_count == 2:
                    break
                await pilot.pause(0.05)
            for at in range(2):
                cells = list(map(str, table.get_row_at(at)))
                assert all(cell.isprintable() for cell in cells), cells
                assert any(cell.startswith("[b]\"}'<i>") for cell in cells), cells
                await pilot.press("down")
                await pilot.press("k")  # the question shows the row, too
                await pilot.press("n")
            for text in app.query(Static):
                assert "\x1b" not in str(text.render())
                assert "\u202e" not in str(text.render())

    asyncio.run(look())
