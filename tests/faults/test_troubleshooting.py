"""docs/troubleshooting.md quotes what the proxy says: each symptom is provoked, and looked for on
the page."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_peers import deaf_address
from harness import ProxyProcess, read_head, refused_port, serving, wait_for

from spliceproxy.config import Timeouts
from spliceproxy.errors import STATUS, reasons
from spliceproxy.upstream.answers import WHY

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"

New = Callable[..., ProxyProcess]


@pytest.fixture(scope="module")
def page() -> str:
    """In one line."""
    if not PAGE.exists():
        pytest.skip("not in a source tree")
    return " ".join(PAGE.read_text().split())


def ask(proxy: ProxyProcess, target: str, *fields: str, half_close: bool = False) -> str:
    """A GET; the whole answer."""
    lines = "".join(f"{field}\r\n" for field in fields)
    with proxy.connect() as s:
        s.sendall(f"GET {target} HTTP/1.0\r\nHost: x\r\n{lines}\r\n".encode())
        if half_close:
            s.shutdown(socket.SHUT_WR)
        answer = b""
        while got := s.recv(65536):
            answer += got
    return answer.decode()


def quoted(answer: str, page: str) -> None:
    """The status line of the answer is on the page, without its version."""
    line = answer.partition("\r\n")[0]
    assert "Proxy-Status: spliceproxy; " in answer
    assert line.partition(" ")[2] in page, line


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 400),
        ("https://a.test/", 400),
        ("http://169.254.169.254/", 403),
        ("http://0x7f.1/", 403),
    ],
)
def test_refusals_by_default(proxy: ProxyProcess, page: str, target: str, status: int) -> None:
    answer = ask(proxy, target)
    assert f" {status} " in answer[:14]
    quoted(answer, page)


def test_tls_to_the_proxy(proxy: ProxyProcess, page: str) -> None:
    with proxy.connect() as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(16) + b"\r\n\r\n")
        answer = s.recv(65536).decode()
    quoted(answer, page)
    assert "TLS was received" in answer
    assert "TLS was received" in page


def test_a_client_that_may_not_use_the_proxy(new_proxy: New, page: str) -> None:
    proxy = new_proxy("--allow-clients", "192.0.2.0/24")
    answer = ask(proxy, "http://a.test/")
    quoted(answer, page)
    assert "This proxy does not serve clients from your network." in page
    assert "This proxy does not serve clients from your network." in answer


def test_the_origin_is_not_to_be_reached(proxy: ProxyProcess, page: str) -> None:
    with refused_port() as port:
        quoted(ask(proxy, f"http://127.0.0.1:{port}/"), page)
    quoted(ask(proxy, f"{proxy.url}/"), page)
    quoted(ask(proxy, "http://a.test/", "Via: 1.1 spliceproxy"), page)
    with serving(read_head) as (host, port):
        quoted(ask(proxy, f"http://{host}:{port}/"), page)


def test_limits_of_time(new_proxy: New, page: str) -> None:
    proxy = new_proxy("--timeout-dial", "0.5", "--timeout-idle", "0.5")
    with deaf_address() as (host, port):
        answer = ask(proxy, f"http://{host}:{port}/")
        quoted(answer.replace("within 0.5 s", "within 9 s", 1), page)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = ask(proxy, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        quoted(answer.replace("within 0.5 s", "within 3600 s", 1), page)


def test_names(page: str) -> None:
    """As the resolver says it; tests/policy asks real name servers."""
    said = reasons(Timeouts())
    assert f"{STATUS['dns_timeout']} Gateway Timeout: {said['dns_timeout']}" in page
    for why in (*filter(None, WHY.values()), "DNS has failed"):
        assert f"{STATUS['dns_error']} Bad Gateway: {why}" in page


def test_passwords(new_proxy: New, page: str) -> None:
    proxy = new_proxy(env={"SPLICEPROXY_AUTH": "alice:secret"})

    def credentials(name: str) -> str:
        pair = base64.b64encode(f"{name}:wrong".encode()).decode()
        return f"Proxy-Authorization: Basic {pair}"

    quoted(ask(proxy, "http://a.test/"), page)
    quoted(ask(proxy, "http://a.test/", "Proxy-Authorization: Bearer x"), page)
    quoted(ask(proxy, "http://a.test/", credentials("alice")), page)
    told = "client 127.0.0.1, user alice, wrong password"
    wait_for(lambda: told in proxy.stderr(), told)  # a thread writes it
    assert "`user alice, wrong password`" in page

    def guess(number: int) -> str:
        return ask(proxy, "http://a.test/", credentials(f"guess{number}"))

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(guess, range(40)))
    late = [answer for answer in answers if " 429 " in answer[:14]]
    assert late
    quoted(late[0], page)
    assert "authentication failed: client" in page
    assert "authentication failed: client" in proxy.stderr()


def test_no_room_for_more_clients(new_proxy: New, page: str) -> None:
    proxy = new_proxy("--max-connections", "1")
    with proxy.connect() as first:
        first.sendall(b"GET ")
        quoted(ask(proxy, "http://127.0.0.1:9/"), page)


def test_no_descriptor_for_more_clients(new_proxy: New, page: str) -> None:
    proxy = new_proxy(prefix=("prlimit", "--nofile=40:40"))
    assert "descriptors per worker: 40" in proxy.stderr()
    clients = [proxy.connect() for _ in range(40)]
    try:
        told = "no new clients are accepted for a while: accept: Too many open files"
        wait_for(lambda: told in proxy.stderr(), told)
        assert told in page
        assert "`descriptors per worker: " in page
    finally:
        for client in clients:
            client.close()


def test_parents(new_proxy: New, page: str) -> None:
    with refused_port() as gone:
        proxy = new_proxy("--proxy", f"http://127.0.0.1:{gone}")
        answers = [ask(proxy, "http://a.test/") for _ in range(4)]
    assert [answer.split()[1] for answer in answers] == ["502"] * 3 + ["503"]
    for answer in answers:
        quoted(answer, page)

    def refuses(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 401 No\r\n\r\n")

    with serving(refuses) as (_, port):
        proxy = new_proxy("--proxy", f"http://127.0.0.1:{port}")
        with proxy.connect() as client:
            client.sendall(b"CONNECT a.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            quoted(read_head(client).decode(), page)


def test_a_client_that_half_closes(proxy: ProxyProcess, page: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert ask(proxy, target, half_close=True) == ""
    (line,) = proxy.wait_access(1)
    assert line.split()[3] in page


def test_a_function_that_fails(tmp_path: Path, page: str) -> None:
    (tmp_path / "hook.py").write_text(
        "import asyncio\n"
        "async def authorize(request):\n"
        "    if request.host == 'late.test':\n"
        "        await asyncio.sleep(60)\n"
    )
    (tmp_path / "proxy.toml").write_text("policy = 'hook.py'\npolicy-timeout = 0.2\n")
    proxy = ProxyProcess(tmp_path / "proxy", "--config", str(tmp_path / "proxy.toml"))
    try:
        quoted(ask(proxy, "http://a.test/"), page)
        quoted(ask(proxy, "http://late.test/"), page)
        assert "Traceback" in proxy.stderr()
    finally:
        proxy.kill()


@pytest.fixture
def without_native(tmp_path: Path) -> dict[str, str]:
    """An environment in which the engine is not built."""
    hide = "import sys; sys.modules['spliceproxy.relay._native'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    return {"PYTHONPATH": str(tmp_path)}


def test_without_the_native_engine(
    new_proxy: New, without_native: dict[str, str], page: str
) -> None:
    proxy = new_proxy(env=without_native)
    (told,) = re.findall(r"WARNING (.* engine .*)", proxy.stderr())
    assert told in page
