"""What is in force stays so, whatever somebody writes into a file: a worker that takes the place of
one that has died goes by it. Where it cannot, the others serve its clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, read_all, read_head, serving, wait_for
from passlib.hash import apr_md5_crypt

CLIENTS = 24
"""So many that each of two workers would get some of them."""

New = Callable[..., ProxyProcess]


def ask(proxy: ProxyProcess, host: str = "127.0.0.1", auth: str = "") -> int:
    """The status of the answer to a request for port 1 of the host: where the policy allows it,
    nothing can be connected to (502)."""
    with proxy.connect() as s:
        field = f"Proxy-Authorization: Basic {auth}\r\n" if auth else ""
        s.sendall(f"CONNECT {host}:1 HTTP/1.1\r\nHost: {host}:1\r\n{field}\r\n".encode())
        return int(read_head(s).split()[1])


def statuses(proxy: ProxyProcess, host: str = "127.0.0.1", auth: str = "") -> set[int]:
    return {ask(proxy, host, auth) for _ in range(CLIENTS)}


def replaced(proxy: ProxyProcess) -> None:
    """One worker is killed, and there are two that serve again."""
    before = proxy.workers()
    os.kill(before[0], signal.SIGKILL)

    def is_back() -> bool:
        now = proxy.workers()
        return len(now) == len(before) and before[0] not in now

    wait_for(is_back, "another worker")
    assert statuses(proxy) <= {403, 407, 502}  # of each queue somebody is answered


def reload(proxy: ProxyProcess) -> None:
    """And it is done, or refused."""
    said = proxy.stderr().count(" in force (SIGHUP)")
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.stderr().count(" in force (SIGHUP)") > said, "the reload")


POLICY = """
import spliceproxy
def authorize(request):
    return spliceproxy.Allow() if request.host == "127.0.0.{allowed}" else spliceproxy.Deny('no')
"""


def test_the_function_is_the_one_that_was_loaded(new_proxy: New, tmp_path: Path) -> None:
    file = tmp_path / "policy.py"
    file.write_text(POLICY.format(allowed=1))
    proxy = new_proxy("--policy", str(file), "--guard", "off", workers=2)
    file.write_text(POLICY.format(allowed=2))  # nobody has said that it is to be in force
    replaced(proxy)
    assert statuses(proxy) == {502}
    file.write_text("def (")
    replaced(proxy)
    assert statuses(proxy) == {502}
    assert "exited with status" not in proxy.stderr()
    file.write_text(POLICY.format(allowed=2))
    reload(proxy)
    assert statuses(proxy) == {403}
    file.unlink()
    replaced(proxy)
    assert (statuses(proxy), statuses(proxy, "127.0.0.2")) == ({403}, {502})
    file.write_text("authorize = 1\n")
    reload(proxy)  # is refused
    replaced(proxy)
    assert (statuses(proxy), statuses(proxy, "127.0.0.2")) == ({403}, {502})
    assert "exited with status" not in proxy.stderr()


def test_modules_beside_it_are_those_that_were_loaded(new_proxy: New, tmp_path: Path) -> None:
    package = tmp_path / "corp"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "names.py").write_text("ALLOWED = '127.0.0.1'\n")
    (package / "policy.py").write_text(
        "import spliceproxy\nfrom . import names\n"
        "def authorize(request):\n"
        "    yes = request.host == names.ALLOWED\n"
        "    return spliceproxy.Allow() if yes else spliceproxy.Deny('no')\n"
    )
    proxy = new_proxy(
        "--policy", "corp.policy", "--guard", "off", workers=2, env={"PYTHONPATH": str(tmp_path)}
    )
    (package / "names.py").write_text("ALLOWED = '127.0.0.2'\n")
    replaced(proxy)
    assert statuses(proxy) == {502}
    shutil.rmtree(package)
    replaced(proxy)
    assert statuses(proxy) == {502}
    assert "exited with status" not in proxy.stderr()


def test_destinations_are_those_that_were_read(new_proxy: New, tmp_path: Path) -> None:
    file = tmp_path / "locked.toml"
    rule = '[[rule]]\nid = "a"\naction = "allow"\nhosts = ["{}"]\nports = ["1"]\n'
    file.write_text(rule.format("127.0.0.1"))
    proxy = new_proxy("--locked", str(file), "--guard", "off", workers=2)
    file.write_text(rule.format("127.0.0.2"))
    replaced(proxy)
    assert statuses(proxy) == {502}
    file.write_text("[[")
    replaced(proxy)
    assert statuses(proxy) == {502}
    assert "exited with status" not in proxy.stderr()


ALICE, BOB = "YWxpY2U6c2VzYW1l", "Ym9iOnNlc2FtZQ=="  # alice:sesame, bob:sesame


def test_users_are_those_of_the_last_file_that_was_right(new_proxy: New, tmp_path: Path) -> None:
    file = tmp_path / "users"
    hashed = apr_md5_crypt.hash("sesame")
    file.write_text(f"alice:{hashed}\n")
    proxy = new_proxy("--htpasswd", str(file), "--guard", "off", workers=2)
    file.write_text("alice\n")
    replaced(proxy)
    assert statuses(proxy, auth=ALICE) == {502}
    said = proxy.stderr()
    assert f"{file}:1: not of the form user:hash; what the file said before stays" in said
    file.write_text(f"bob:{hashed}\n")  # it is followed without a reload
    wait_for(lambda: statuses(proxy, auth=ALICE) == {407}, "the end of a user")
    wait_for(lambda: statuses(proxy, auth=BOB) == {502}, "another user")
    file.write_text("bob\n")
    replaced(proxy)
    assert (statuses(proxy, auth=BOB), statuses(proxy, auth=ALICE)) == ({502}, {407})
    assert "exited with status" not in proxy.stderr()


@pytest.fixture
def web() -> Iterator[str]:
    def answer(connection: object) -> None:
        read_head(connection)  # type: ignore[arg-type]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]

    with serving(answer, idle=True) as (host, port):
        yield f"{host}:{port}"


def test_clients_of_a_worker_that_cannot_start(new_proxy: New, tmp_path: Path, web: str) -> None:
    """It has no log to write into any more. The others accept its clients until it can begin."""
    folder = tmp_path / "log"
    folder.mkdir()
    proxy = new_proxy("--access-log", str(folder / "access"), "--guard", "off", workers=2)

    def get() -> bytes:
        with proxy.connect() as s:
            s.sendall(f"GET http://{web}/ HTTP/1.1\r\nHost: {web}\r\n".encode())
            s.sendall(b"Connection: close\r\n\r\n")
            return read_all(s)[-2:]

    folder.rename(tmp_path / "away")
    before = proxy.workers()
    os.kill(before[0], signal.SIGKILL)
    assert [get() for _ in range(CLIENTS)] == [b"ok"] * CLIENTS
    text = "worker 0 has died again: the others accept its clients until it serves"
    wait_for(lambda: text in proxy.stderr(), "the message")
    assert [get() for _ in range(CLIENTS)] == [b"ok"] * CLIENTS
    reload(proxy)  # is refused, and changes nothing
    assert [get() for _ in range(CLIENTS)] == [b"ok"] * CLIENTS
    (tmp_path / "away").rename(folder)
    wait_for(lambda: len(proxy.workers()) == 2, "its place", seconds=30)
    assert [get() for _ in range(CLIENTS)] == [b"ok"] * CLIENTS
    port = f":{proxy.port}"

    def queues() -> list[int]:
        """The sockets that each worker listens with."""
        text = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in text.splitlines() if line.split()[3].endswith(port)]
        return [sum(f"pid={pid}," in line for line in lines) for pid in proxy.workers()]

    wait_for(lambda: queues() == [1, 1], f"a socket for each, not {queues()}")
    assert not re.search("Traceback", proxy.stderr())
