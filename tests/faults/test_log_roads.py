"""The access log of the lane and that of Python, of the same requests and in each format: line for
line the same, but for times and what the kernel measures."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from counting_load import board_of
from fault_peers import reset
from harness import ProxyProcess, read_all, read_head, refused_port, serving

from spliceproxy.observe.custom_line import CODES
from spliceproxy.observe.format_names import NAMES

TIMES = ("ts", "tu", "tl", "tg", "tr", "dt")
ARGUMENTS = {
    ">h": ('"%{User-Agent}>h"', "%{Referer}>h", '"%{none}>h"'),
    "note": ("%{team}note", '"%{team}note"', "%{none}note"),
    "json": ("%{event}json", "%{termination}json", "%{rule}json", "%{reason}json", "%{tags}json",
             "%{route}json", "%{type}json", '"%{user}json"'),
}  # fmt: skip
SAME = " ".join(
    text
    for code in CODES
    if code not in TIMES
    for text in ARGUMENTS.get(code, (f"%{code}", f"%-24.12{code}"))
)
OWN = f"{' '.join(f'%{code}' for code in TIMES)} | {SAME}"
"""Of all codes; those that say when come first."""

FORMS = (*NAMES, OWN)

POLICY = """
from spliceproxy.policy import Allow, Deny

def authorize(request):
    if request.host == "denied.test":
        return Deny('Not "this" <one>.', rule="no-such")
    return Allow(tags={"team": 'w\\u00e9b "x"'})
"""

USER = "a b%'\"é"
AGENT = 'User-Agent: Mozilla/5.0 "x" \\ é\t(y)'
DATE = b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
BIG = 1 << 20


def web(connection: socket.socket) -> None:
    """An origin that answers by the path of the request."""
    while head := read_head(connection):
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is not None:
            left = int(length[1])
            while left:
                left -= len(connection.recv(left))
        path = head.split(b" ", 2)[1].rpartition(b"/")[2]
        if path == b"cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: 9\r\n\r\nfive!" % DATE)
            return
        if path == b"nothing":
            return
        if path == b"chunks":
            answer = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        elif path == b"big":
            answer = b"Content-Length: %d\r\n\r\n" % BIG + bytes(BIG)
        else:
            answer = b"Content-Type: text/x-%b\xe9; q\r\nContent-Length: 2\r\n\r\nok" % path[:9]
        status = b"404 No" if path == b"missing" else b"200 OK"
        connection.sendall(b"HTTP/1.1 %b\r\n%b%b" % (status, DATE, answer))


def echo(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while got := connection.recv(1 << 16):
            connection.sendall(got)


class Asking:
    """Asks a proxy; ``count`` is how many lines there are to be."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.count = 0

    @contextmanager
    def one(self) -> Iterator[socket.socket]:
        with self.proxy.connect() as client:
            yield client
        self.count += 1

    def ask(self, first: str, *fields: str, body: bytes = b"", credentials: str = "") -> None:
        """On a connection that the proxy closes."""
        host = re.match(r"\S+ (?:http://)?([^/ ]*)", first)
        named = f"Host: {host[1] if host else ''}"  # else the lane would not have it
        lines = [first, named, AGENT, *fields, "Connection: close", credentials]
        head = "".join(f"{line}\r\n" for line in lines if line)
        with self.one() as client:
            client.sendall(f"{head}\r\n".encode() + body)
            read_all(client)


def script(asking: Asking, at: str, tunnels: str, refused: int) -> None:
    """Some of everything, so that each way to end has its line."""
    user = "Proxy-Authorization: Basic YSBiJSci6jp4"
    for path in ("", "p?q=1?2", "a'b\"<>|\\^`", "%41%0a", "x" * 3500, "missing", "chunks"):
        asking.ask(f"GET http://{at}/{path} HTTP/1.1")
        asking.ask(f"HEAD http://{at}/{path} HTTP/1.1")
    for method in ("POST", "PUT"):
        asking.ask(f"{method} http://{at}/in HTTP/1.1", "Content-Length: 5", body=b"12345")
    asking.ask(f"!#$'*|~ http://{at}/odd HTTP/1.1", 'Referer: "r" é')
    asking.ask(f"GET http://{at}/user HTTP/1.1", credentials=user)
    asking.ask(f"GET http://{at}/big HTTP/1.1")
    asking.ask(f"GET http://{at}/cut HTTP/1.1")
    asking.ask(f"POST http://{at}/nothing HTTP/1.1", "Content-Length: 1", body=b"1")
    asking.ask("GET http://denied.test/ HTTP/1.1")
    asking.ask("CONNECT denied.test:443 HTTP/1.1")
    asking.ask("GET http://169.254.169.254/ HTTP/1.1")
    asking.ask(f"GET http://127.0.0.1:{refused}/ HTTP/1.1")
    asking.ask(f"CONNECT 127.0.0.1:{refused} HTTP/1.1")
    asking.ask(f"GET http://{at}/ HTTP/1.0")
    asking.ask("GET / HTTP/1.1")
    asking.ask("BAD")
    for _ in range(2):
        with asking.one() as client:
            head = f"CONNECT {tunnels} HTTP/1.1\r\nHost: {tunnels}\r\n{AGENT}\r\n\r\n"
            client.sendall(head.encode())
            assert b" 200 " in read_head(client)
            client.sendall(b"12345")
            assert client.recv(5, socket.MSG_WAITALL) == b"12345"
            client.shutdown(socket.SHUT_WR)
            read_all(client)
    with asking.one() as client:
        client.sendall(f"CONNECT {tunnels} HTTP/1.1\r\nHost: {tunnels}\r\n\r\n".encode())
        assert b" 200 " in read_head(client)
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        reset(client)


Mask = Callable[[str], object]


def _masked_json(line: str) -> object:
    """What is measured is a number or null on both sides. Only one of them splices."""
    found = json.loads(line)
    for way in ("in", "out"):
        found[way] = found.pop(f"{way}_copied") + found.pop(f"{way}_spliced")
    for name in found:
        if name.endswith("_us") or name in ("time", "id"):
            found[name] = type(found[name]).__name__
        elif name.endswith("_tcp"):
            found[name] = None if found[name] is None else sorted(found[name])
    return found


MASKS: dict[str, Mask] = {
    "native": lambda line: line.split()[2:],
    "squid": lambda line: line.split()[2:],
    "common": lambda line: re.sub(r"\[.*?\]", "[]", line, count=1),
    "combined": lambda line: re.sub(r"\[.*?\]", "[]", line, count=1),
    "json": _masked_json,
    OWN: lambda line: (len(line.partition(" | ")[0].split()), line.partition(" | ")[2]),
}


@pytest.mark.parametrize("form", FORMS, ids=[*NAMES, "own"])
def test_both_roads_write_the_same(tmp_path: Path, form: str) -> None:
    (tmp_path / "policy.py").write_text(POLICY)
    found: dict[str, list[object]] = {}
    served: dict[str, int] = {}
    with (
        serving(web, idle=True) as (host, port),
        serving(echo) as (_, other),
        refused_port() as refused,
    ):
        for engine in ("native", "copy"):
            proxy = ProxyProcess(
                tmp_path / engine, "--engine", engine, "--log-format", form,
                "--policy", str(tmp_path / "policy.py"), "--auth", "a b%'\"\u00ea:x",
                env={"SPLICEPROXY_AUTH_REQUIRED": "false", "SPLICEPROXY_POLICY_CACHE": "60"},
            )  # fmt: skip
            try:
                asking = Asking(proxy)
                for _ in range(2):
                    script(asking, f"{host}:{port}", f"{host}:{other}", refused)
                # Lines of two roads have no order among them.
                lines = map(MASKS[form], proxy.wait_access(asking.count))
                found[engine] = sorted(lines, key=str)
                served[engine] = board_of(proxy.process.pid).totals()["lane_requests"][()]
            finally:
                proxy.kill()
            assert "Traceback" not in proxy.stderr()
            assert len(found[engine]) == asking.count
    assert served["copy"] == 0
    assert served["native"] > len(found["native"]) // 2
    for native, copy in zip(found["native"], found["copy"], strict=True):
        assert native == copy


def test_each_code_is_compared() -> None:
    """But for those that say when."""
    for code in CODES:
        assert f"%{code}" in OWN or f"}}{code}" in OWN
