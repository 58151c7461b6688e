"""Faults of the proxy's own are answered and told: only a client's socket says that it left."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import Reader, accept, at_start, head, request, reset
from harness import ProxyProcess, descriptors, refused_port, wait_for

NewProxy = Callable[..., ProxyProcess]

CLIENTS = 200

# bcrypt of "secret", of the lowest cost.
USERS = "alice:$2b$04$aOjgytpP8qwdW9jAAzn4/Ozyezkbf4DTQwCWLK6VtO5575J2KVPeO\n"


def credentials(pair: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(pair.encode()).decode()


def statuses(proxy: ProxyProcess, sent: bytes) -> Counter[int]:
    """The statuses of so many clients at once that each send this and then wait for an
    answer, once they have all descriptors; 0 for one that was closed without a byte. One that
    has its answer leaves."""
    found: Counter[int] = Counter()
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(CLIENTS)]
        wait_for(lambda: descriptors(proxy.worker) == 64, "every descriptor in use")
        for client in clients:
            client.sendall(sent)
            selector.register(client, selectors.EVENT_READ)
        end = time.monotonic() + 60
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(1):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                selector.unregister(client)
                try:
                    found[Reader(client).answer().status] += 1
                except ConnectionError:
                    found[0] += 1
                client.close()
    return found


def test_no_descriptor_to_check_a_password(tmp_path: Path, each_loop: bool) -> None:
    """The worker has none left for what it does with a request. Each client gets an answer
    in the end, and none is taken for one that has left."""
    users = tmp_path / "users"
    users.write_text(USERS)
    proxy = ProxyProcess(
        tmp_path / "proxy",
        "--htpasswd",
        str(users),
        uvloop=each_loop,
        prefix=["prlimit", "--nofile=64:64"],
    )
    try:
        with refused_port() as port:
            asked = request(("127.0.0.1", port), credentials("alice:secret"))
            found = statuses(proxy, asked)
        assert found[0] == 0
        assert found.total() == CLIENTS
        assert "Too many open files" in proxy.stderr()
        lines = proxy.wait_access(CLIENTS)
        assert not [line for line in lines if "/000 " in line]
    finally:
        proxy.kill()


FAULTY = """
import errno, os
from spliceproxy.policy.auth import basic

def fail(pair):
    raise {fault}

basic.split = fail

def authorize(request):
    raise AssertionError
"""
"""A hook that makes the check of a password fail, as what Python loads late may: the first
thing a worker does with a new user."""


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("OSError(errno.EMFILE, os.strerror(errno.EMFILE), 'x.py')", 503, "Too many open files"),
        ("OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))", 503, "Cannot allocate memory"),
        ("MemoryError()", 503, "no memory"),
        ("OSError(errno.EIO, os.strerror(errno.EIO))", 500, "Input/output error"),
        ("ConnectionResetError(errno.ECONNRESET, 'of another socket')", 500, "another socket"),
        ("RuntimeError('nobody foresaw it')", 500, "nobody foresaw it"),
    ],
    ids=["EMFILE", "ENOMEM", "MemoryError", "EIO", "ECONNRESET", "RuntimeError"],
)
def test_a_fault_of_our_own(
    tmp_path: Path, each_loop: bool, fault: str, status: int, told: str
) -> None:
    """The client has an answer that keeps to itself what has failed; the log has its line,
    and the messages have one for any number of them."""
    users = tmp_path / "users"
    users.write_text(USERS)
    hook = tmp_path / "hook.py"
    hook.write_text(FAULTY.format(fault=fault))
    proxy = ProxyProcess(
        tmp_path / "proxy", "--htpasswd", str(users), "--policy", str(hook), uvloop=each_loop
    )
    try:
        for method in ("GET", "HEAD", "POST"):
            with proxy.connect() as client:
                user = credentials("alice:secret")
                client.sendall(request(("192.0.2.1", 80), user, method=method))
                reader = Reader(client)
                answer = reader.answer(method)
                assert (answer.status, answer.error) == (status, "proxy_internal_error")
                assert answer.fields["connection"] == "close"
                assert told not in str(answer)
                assert reader.rest() == b""
                assert reader.end == "fin"
        lines = proxy.wait_access(3)
        assert [line.split()[3] for line in lines] == [f"NONE/{status}"] * 3
        assert told in proxy.stderr()
        assert proxy.stderr().count("could not be served") == 1
        assert ("Traceback" in proxy.stderr()) == (told == "nobody foresaw it")
    finally:
        proxy.kill()


def test_a_file_that_becomes_shorter(new_proxy: NewProxy, each_loop: bool, tmp_path: Path) -> None:
    """The answer has begun: it is cut where the file ends, and the messages say so."""
    www = tmp_path / "www"
    www.mkdir()
    size = 64 << 20
    with (www / "big").open("wb") as file:
        file.truncate(size)
    proxy = new_proxy("--serve", str(www), uvloop=each_loop)
    with proxy.connect() as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n")
        reader = Reader(client)
        reader.more()
        os.truncate(www / "big", size // 2)
        answer = reader.answer()
        assert (answer.status, answer.whole) == (200, False)
        assert len(answer.body) < size
    (line,) = proxy.wait_access(1)
    assert line.split()[3] == "TCP_HIT_ABORTED/200"
    wait_for(lambda: "a file ended" in proxy.stderr(), "the message")


def test_no_descriptor_to_look_up_a_name(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """c-ares cannot ask any server then. That is not the name's fault, so it is not told so,
    and the next request asks again."""
    proxy = new_proxy(uvloop=each_loop, prefix=["prlimit", "--nofile=64:64"])
    before = at_start(proxy, origin)
    asked = b"GET http://name.invalid/ HTTP/1.1\r\nHost: name.invalid\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(64 - before)]
        wait_for(lambda: descriptors(proxy.worker) == 64, "every descriptor in use")
        clients[0].sendall(asked)
        answer = Reader(clients[0]).answer()
        assert (answer.status, answer.error) == (503, "connection_limit_reached")
        for client in clients[1:]:
            client.close()
        wait_for(lambda: descriptors(proxy.worker) < 50, "free descriptors")
        clients[0].sendall(asked)
        assert Reader(clients[0]).answer().error in ("dns_error", "dns_timeout")


def test_no_descriptor_to_open_a_file(new_proxy: NewProxy, each_loop: bool, tmp_path: Path) -> None:
    """Each client is told, whoever runs the proxy once a minute."""
    www = tmp_path / "www"
    www.mkdir()
    (www / "file").write_text("content")
    limited = ["prlimit", "--nofile=64:64"]
    proxy = new_proxy("--serve", str(www), uvloop=each_loop, prefix=limited)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(100)]
        wait_for(lambda: descriptors(proxy.worker) == 64, "every descriptor in use")
        for client in clients[:2]:
            client.sendall(b"GET /file HTTP/1.1\r\nHost: a.test\r\n\r\n")
        for client in clients[:2]:
            answer = Reader(client).answer()
            assert (answer.status, answer.error) == (503, "proxy_internal_error")
            assert answer.fields["retry-after"] == "1"
    lines = proxy.wait_access(2)
    assert [line.split()[3] for line in lines[:2]] == ["NONE/503"] * 2
    assert all("error=proxy_internal_error" in line for line in lines[:2])
    assert len(re.findall("could not be served: .*: Too many open files", proxy.stderr())) == 1


def test_not_even_the_answer_can_be_made(
    new_proxy: NewProxy, each_loop: bool, tmp_path: Path
) -> None:
    """There is no memory for it: what needs none is sent. Another connection is not touched."""
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import spliceproxy.forward.refusing as refusing\n"
        "make = refusing.error_page\n"
        "def error_page(status, *args, **more):\n"
        "    if status == 400:\n"
        "        raise MemoryError\n"
        "    return make(status, *args, **more)\n"
        "refusing.error_page = error_page\n"
        "def authorize(request):\n"
        "    raise AssertionError\n"
    )
    proxy = new_proxy("--policy", str(hook), "--auth", "alice:secret", uvloop=each_loop)
    other = request(("a.test", 80))
    with proxy.connect() as kept, proxy.connect() as client:
        kept.sendall(other)
        reader = Reader(kept)
        assert reader.answer().status == 407
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        failed = Reader(client)
        answer = failed.answer()
        assert (answer.status, answer.error) == (503, "proxy_internal_error")
        assert failed.rest() == b""
        assert failed.end == "fin"
        kept.sendall(other)
        assert reader.answer().status == 407
    told = "could not be served: no memory"
    wait_for(lambda: told in proxy.stderr(), "the message")  # a thread writes it
    assert proxy.stderr().count(told) == 1


def test_a_cut_answer_whose_record_cannot_be_written(
    new_proxy: NewProxy, each_loop: bool, tmp_path: Path, origin: socket.socket
) -> None:
    """It must not look whole for that: only a reset tells it from one that has ended."""
    hook = tmp_path / "hook.py"
    hook.write_text(
        "from spliceproxy.observe.records import Records\n"
        "def write(self, record):\n"
        "    raise MemoryError\n"
        "Records.write = write\n"
        "def on_close(record):\n"
        "    pass\n"
    )
    proxy = new_proxy("--policy", str(hook), uvloop=each_loop)
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 200 OK\r\n\r\npart of it")
            reader = Reader(client)
            while not reader.data.endswith(b"part of it"):
                assert reader.more()
            reset(server)
        reader.rest()
    assert reader.end == "reset"
