"""What a worker needs is loaded at its start or soon after: later there may be no descriptor."""

from __future__ import annotations

import base64
import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fault_peers import Reader
from harness import free_port, read_exactly, read_head, serving, wait_for
from passlib.hash import apr_md5_crypt, bcrypt, sha512_crypt

RUN = """
import os, sys
from spliceproxy.processes.rest import Rest

load = Rest._load

def hook(event, arguments):
    if event == "import":
        os.write(2, f"LATE {{arguments[0]}}\\n".encode())
    elif event == "open" and arguments[0] and str(arguments[0]).endswith((".pyc", ".so")):
        os.write(2, f"LATE open {{arguments[0]}}\\n".encode())

def load_and_tell(self):
    load(self)
    if not self._left:
        os.write(2, b"all is loaded\\n")
        sys.addaudithook(hook)

Rest._load = load_and_tell
if {asyncio}:
    sys.modules["uvloop"] = None
from spliceproxy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

HOOK = """
from spliceproxy.policy import Allow, Deny

async def authorize(request):
    if request.host == "raises.example":
        raise RuntimeError("a traceback")
    if request.host == "denied.example":
        return Deny("no")
    return Allow(tags={"a": "b"})

def on_close(record):
    if record.status == 404:
        raise RuntimeError("another traceback")
"""


@pytest.mark.parametrize("engine", ["auto", "copy"])
def test_nothing_is_loaded_late(tmp_path: Path, each_loop: bool, engine: str) -> None:
    users = tmp_path / "users"
    users.write_text(
        f"alice:{bcrypt.using(rounds=4).hash('secret')}\n"
        f"bob:{sha512_crypt.using(rounds=1000).hash('secret')}\n"
        f"carol:{apr_md5_crypt.hash('secret')}\n"
    )
    (tmp_path / "hook.py").write_text(HOOK)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("hello")
    (site / "proxy.pac").write_text("function")
    port = free_port()
    config = tmp_path / "proxy.toml"
    config.write_text(
        'policy = "hook.py"\nserve = "site"\nlearn = "learned"\nhtpasswd = "users"\n'
        'auth-file = "map"\naccess-log = "access"\nworkers = 1\ntimeout-drain = 0.2\n'
        f'engine = "{engine}"\nlisten = ["127.0.0.1:{port}"]\n'
        '[[rule]]\nid = "regex"\naction = "deny"\nhosts = ["/.*zzz.*/"]\n'
        '[[rule]]\nid = "late"\naction = "deny"\nusers = ["carol"]\ntimes = ["00:00-24:00"]\n'
    )
    (tmp_path / "map").write_text("10.0.0.0/8 lab\n")
    errors = tmp_path / "stderr"
    with errors.open("wb") as err, serving(one_answer) as origin:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN.format(asyncio=not each_loop), "--config", str(config)],
            stderr=err,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: "all is loaded" in errors.read_text(), "the proxy's start")
            exercise(port, origin[1], tmp_path)
            process.send_signal(signal.SIGUSR1)
            wait_for((tmp_path / "learned").exists, "the file of --learn")
        finally:
            process.terminate()
            status = process.wait(20)
    text = errors.read_text()
    assert status == 0, text
    assert text.count("Traceback") == 2, text
    late = [line for line in text.splitlines() if line.startswith("LATE ")]
    assert not late


def one_answer(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while (head := read_head(connection)) and b"\r\n\r\n" in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def exercise(port: int, origin: int, folder: Path) -> None:
    """Each kind of thing that a worker does."""
    url = f"http://127.0.0.1:{origin}/"
    for user, password, fields, line in (
        ("alice", "secret", "", f"GET {url}"),
        ("bob", "secret", "", f"GET {url}"),
        ("carol", "secret", "", f"GET {url}"),
        ("alice", "wrong", "", f"GET {url}"),
        ("nobody", "wrong", "", f"GET {url}"),
        ("alice", "secret", "", "GET http://b%C3%BCcher.example/"),
        ("alice", "secret", "", "GET http://raises.example/"),
        ("alice", "secret", "", "GET http://denied.example/"),
        ("alice", "secret", "Accept: text/html", "GET http://denied.example/"),
        ("alice", "secret", "Accept: application/problem+json", "GET http://denied.example/"),
        ("alice", "secret", "Accept: text/html", "GET http://no-such-name.invalid/"),
        ("alice", "secret", "", "GET http://127.0.0.1:9/"),
        ("alice", "secret", "", "GET /"),
        ("alice", "secret", "Range: bytes=1-2", "GET /proxy.pac"),
        ("alice", "secret", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "GET /proxy.pac"),
        ("alice", "secret", "", "GET /none"),
        ("alice", "secret", "Max-Forwards: 0", f"OPTIONS {url}"),
        ("alice", "secret", "Max-Forwards: 0", f"TRACE {url}"),
        ("alice", "secret", "", "GET http://zzz.example/"),
        ("alice", "secret", "Bad field", "GET /"),
    ):
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        with socket.create_connection(("127.0.0.1", port), 20) as s:
            s.sendall(
                f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Proxy-Authorization: Basic {token}\r\n{fields}".rstrip("\r\n").encode()
                + b"\r\n\r\n"
            )
            Reader(s).answer()
    token = base64.b64encode(b"alice:secret").decode()
    with socket.create_connection(("127.0.0.1", port), 20) as s:
        s.sendall(
            f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\nHost: x\r\n"
            f"Proxy-Authorization: Basic {token}\r\n\r\n".encode()
        )
        assert b" 200 " in read_head(s)
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in read_head(s)
    for host, code in ((b"127.0.0.1", 0), (b"denied.example", 2), (b"no-such-name.invalid", 4)):
        request = b"\5\1\0\3%c%s%s" % (len(host), host, origin.to_bytes(2, "big"))
        with socket.create_connection(("127.0.0.1", port), 20) as s:
            s.sendall(b"\5\1\2\1\5alice\6secret" + request)
            assert read_exactly(s, 14)[:6] == b"\5\2\1\0\5" + bytes((code,))
    (folder / "map").write_text("10.0.0.0/8 lab\nroot admin\n")
