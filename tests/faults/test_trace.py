"""What ``--log-level debug`` tells of real requests: each step in order, by the number of its
connection, and nothing that is secret or could end a line."""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import (
    Reader,
    accept,
    connect_request,
    deaf_address,
    head,
    request,
    reset,
    response,
)
from harness import ProxyProcess, free_port, read_exactly, read_head, refused_port, wait_for

NewProxy = Callable[..., ProxyProcess]

ROOT = Path(__file__).parents[2]

ENGINES = pytest.mark.parametrize("engine", ["native", "copy"])

LINE = re.compile(r"\S+ \S+ \d+ DEBUG #(\d+) (\S.*)")

CONFIG = """
policy = "hook.py"
log-query = false
[[rule]]
id = "no-refused"
action = "deny"
hosts = ["refused.test"]
"""

HOOK = """
from spliceproxy.policy import Allow

def authorize(request):
    if request.host == "two.test":
        return Allow(addresses=("127.0.0.3", "127.0.0.1"))
    return Allow()
"""


def trace(proxy: ProxyProcess) -> dict[int, list[str]]:
    """The lines of each connection, with T for each time."""
    found: dict[int, list[str]] = defaultdict(list)
    for line in proxy.stderr().splitlines():
        if " DEBUG " in line:
            match = LINE.fullmatch(line)
            assert match is not None, line
            found[int(match[1])].append(re.sub(r"in \d+\.\d+ m?s$", "in T", match[2]))
    return found


def steps(proxy: ProxyProcess, number: int = 1) -> list[str]:
    """All lines of a connection, when it is over. What they begin with is the same for every
    engine but for one line."""

    def over() -> bool:
        lines = trace(proxy)[number]
        tunnel = any(line.startswith("handed over") for line in lines)
        return bool(lines) and lines[-1].startswith("end " if tunnel else "closed")

    wait_for(over, f"the end of connection {number}, of {proxy.stderr()}")
    lines = trace(proxy)[number]
    assert re.fullmatch(rf"accepted 127\.0\.0\.1:\d+ on 127\.0\.0\.1:{proxy.port}", lines[0])
    given_back = [line for line in lines if line.startswith("given back")]
    assert len(given_back) == ("engine native" in proxy.stderr())
    if given_back:
        assert re.fullmatch(r"given back: request, bytes received \d+", lines.pop(1))
    return lines[1:]


def test_the_page_explains_each_word() -> None:
    """And its example is made of them."""
    page = (ROOT / "docs" / "operation.md").read_text("utf-8")
    part = page.partition("## How do I follow one request?\n")[2].partition("\n## ")[0]
    source = (ROOT / "spliceproxy" / "observe" / "trace.py").read_text("utf-8")
    words = set(re.findall(r"\.say\(\s*f?\"(\w+(?: back| over)?)\b", source))
    assert len(words) == 10
    assert set(re.findall(r"^\| `(.+?)` \|", part, re.M)) == words
    example = re.findall(r"^    DEBUG #7 (\w+(?: back| over)?)\b", part, re.M)
    assert set(example) == words - {"reused", "closed"}


@pytest.fixture
def debug(new_proxy: NewProxy, tmp_path: Path) -> Callable[[str], ProxyProcess]:
    """Starts a proxy with CONFIG on this engine."""
    (tmp_path / "hook.py").write_text(HOOK)
    (tmp_path / "proxy.toml").write_text(CONFIG)

    def new(engine: str, *args: str) -> ProxyProcess:
        config = str(tmp_path / "proxy.toml")
        return new_proxy("--config", config, "--engine", engine, "--log-level", "debug", *args)

    return new


Debug = Callable[..., ProxyProcess]


@ENGINES
def test_a_tunnel(debug: Debug, origin: socket.socket, engine: str) -> None:
    proxy = debug(engine)
    where = "{}:{}".format(*origin.getsockname())
    ask = connect_request(origin.getsockname())
    with proxy.connect() as client:
        client.sendall(ask)
        answer = read_head(client)
        assert " 200 " in answer.decode()
        with accept(origin) as server:
            client.sendall(bytes(1000))
            assert len(read_exactly(server, 1000)) == 1000
            server.sendall(bytes(70_000))
            assert len(read_exactly(client, 70_000)) == 70_000
    assert steps(proxy) == [
        f"head CONNECT {where} HTTP/1.1",
        "verdict allowed: 127.0.0.1, in T",
        f"dial {where}, addresses 1",
        f"attempt {where}: connected, in T",
        "handed over to the relay as a tunnel",
        f"end 200 in={len(ask) + 1000} out={len(answer) + 70_000}, in T",
    ]


@ENGINES
def test_a_tunnel_that_is_reset(debug: Debug, origin: socket.socket, engine: str) -> None:
    proxy = debug(engine)
    with proxy.tunnel(*origin.getsockname()) as client, accept(origin):
        reset(client)
        assert re.match(r"end 200 client-reset in=\d+ out=\d+, in T$", steps(proxy)[-1])


@ENGINES
def test_requests_on_one_connection(new_proxy: NewProxy, engine: str) -> None:
    """Each is traced, also those that the relay could have repeated by itself: the origin's port
    is none of those for outgoing connections."""
    proxy = new_proxy("--engine", engine, "--log-level", "debug")
    address = "127.0.0.1", free_port()
    where = "{}:{}".format(*address)
    ask, answer = request(address), response(b"hello")
    with socket.create_server(address) as origin, proxy.connect() as client:
        reader = Reader(client)
        for number in range(3):
            client.sendall(ask)
            if not number:
                server = accept(origin)
            head(server)
            server.sendall(answer)
            assert reader.answer().body == b"hello"
        server.close()
    lines = steps(proxy)
    ask_lines = [f"head GET http://{where}/ HTTP/1.1", "verdict allowed: 127.0.0.1, in T"]
    ends = [line for line in lines if line.startswith("end 200 ")]
    assert len(set(ends)) == 1
    assert f"in={len(ask)} " in ends[0]
    again = [*ask_lines, f"reused a connection to {where}", ends[0]]
    assert lines == [
        *ask_lines,
        f"dial {where}, addresses 1",
        f"attempt {where}: connected, in T",
        ends[0],
        *again,
        *again,
        "closed",
    ]
    assert set(trace(proxy)) == {1}


@ENGINES
@pytest.mark.parametrize(
    ("host", "verdict", "end"),
    [
        ("refused.test", "refused: 403 rule=no-refused", "end 403 rule=no-refused"),
        (f"{'a' * 64}.test", "failed: 502 error=dns_error", "end 502 error=dns_error"),
    ],
)
def test_a_request_that_is_refused(
    debug: Debug, engine: str, host: str, verdict: str, end: str
) -> None:
    proxy = debug(engine)
    with proxy.connect() as client:
        client.sendall(request((host, 80), "Connection: close"))
        Reader(client).rest()
    lines = steps(proxy)
    assert lines[:2] == [f"head GET http://{host}:80/ HTTP/1.1", f"verdict {verdict}, in T"]
    assert lines[2].startswith(end)
    assert lines[3:] == ["closed"]


@ENGINES
def test_attempts_that_fail(debug: Debug, engine: str) -> None:
    proxy = debug(engine)
    with refused_port() as port, proxy.connect() as client:
        client.sendall(connect_request(("two.test", port)))
        assert Reader(client).answer().status == 502
        lines = steps(proxy)
        end = lines.pop(5)
        assert lines == [
            f"head CONNECT two.test:{port} HTTP/1.1",
            "verdict allowed: 127.0.0.3, 127.0.0.1, in T",
            f"dial two.test:{port}, addresses 2",
            f"attempt 127.0.0.3:{port}: ECONNREFUSED, in T",
            f"attempt 127.0.0.1:{port}: ECONNREFUSED, in T",
            "closed",
        ]
        assert end.startswith(f"end 502 error=connection_refused,127.0.0.3:{port} in=")


@ENGINES
def test_an_attempt_that_takes_too_long(debug: Debug, engine: str) -> None:
    proxy = debug(engine, "--timeout-dial", "0.5")
    with deaf_address() as where, proxy.connect() as client:
        client.sendall(connect_request(where))
        assert Reader(client).answer().status == 504
        lines = steps(proxy)
    assert lines[3] == "attempt {}:{}: timed out, in T".format(*where)
    assert lines[4].startswith("end 504 error=connection_timeout,")


@ENGINES
def test_an_attempt_that_another_has_overtaken(debug: Debug, engine: str) -> None:
    """127.0.0.3 is silent at this port, 127.0.0.1 is not."""
    proxy = debug(engine)
    port = free_port()  # of both addresses
    with socket.socket() as deaf, socket.socket() as origin, proxy.connect() as client:
        deaf.bind(("127.0.0.3", port))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.3", port))
        origin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        origin.bind(("127.0.0.1", port))
        origin.listen()
        client.sendall(connect_request(("two.test", port)))
        assert b" 200 " in read_head(client)
        for filler in fillers:
            filler.close()
        reset(client)
        lines = steps(proxy)
    assert lines[3:5] == [
        f"attempt 127.0.0.1:{port}: connected, in T",
        f"attempt 127.0.0.3:{port}: not needed, in T",
    ]


@ENGINES
def test_answers_of_our_own_and_a_malformed_head(debug: Debug, engine: str) -> None:
    proxy = debug(engine)
    with proxy.connect() as client:
        reader = Reader(client)
        client.sendall(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reader.answer().status == 200
        client.sendall(b"MALFORMED\r\n\r\n")
        reader.rest()
    first, verdict, end, malformed, closed = steps(proxy)
    assert (first, verdict) == (
        "head OPTIONS * HTTP/1.1",
        "verdict allowed: an answer of the proxy's own, in T",
    )
    assert end.startswith("end 200 in=31 ")
    assert malformed.startswith("end 400 error=http_request_error in=13 ")
    assert closed == "closed"


@ENGINES
def test_two_connections_at_once(debug: Debug, origin: socket.socket, engine: str) -> None:
    """Their lines are mixed, and can be told apart."""
    proxy = debug(engine)
    where = "{}:{}".format(*origin.getsockname())
    with proxy.connect() as one, proxy.connect() as two:
        for client, path in ((one, "one"), (two, "two")):
            client.sendall(f"GET http://{where}/{path} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        with accept(origin) as first, accept(origin) as second:
            for server in (second, first):
                head(server)
                server.sendall(response())
            for client in (two, one):
                assert Reader(client).answer().status == 200
    lines = {steps(proxy, number)[0]: len(steps(proxy, number)) for number in (1, 2)}
    assert lines == {f"head GET http://{where}/{path} HTTP/1.1": 6 for path in ("one", "two")}
    numbers = re.findall(r"DEBUG #(\d)", proxy.stderr())
    assert numbers.index("2") < len(numbers) - 1 - numbers[::-1].index("1")


@ENGINES
def test_nothing_secret_and_no_line_of_the_clients(
    debug: Debug, origin: socket.socket, engine: str
) -> None:
    proxy = debug(engine)
    where = "{}:{}".format(*origin.getsockname())
    with proxy.connect() as client:
        reader = Reader(client)
        client.sendall(
            f"POST http://{where}/a\x85\u20ac'{'x' * 5000}?SECRET HTTP/1.1\r\nHost: a\r\n"
            "Proxy-Authorization: Basic SECRET\r\nCookie: SECRET\r\n"
            "Content-Length: 6\r\n\r\nSECRET".encode()
        )
        with accept(origin) as server:
            head(server)
            server.sendall(response(b"SECRET", "Set-Cookie: SECRET"))
            assert reader.answer().status == 200
        client.sendall(f"GET http://{where}/\x1b[31m?SECRET HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert reader.answer().status == 400
    lines = steps(proxy)
    text = proxy.stderr()
    assert re.match(rf"head POST http://{where}/a%C2%85%E2%82%AC%27x+ HTTP/1.1$", lines[0])
    assert lines[-2].startswith("end 400 error=http_request_error ")
    assert "SECRET" not in text
    assert not re.search(r"[^\n\x20-\x7e]", text)
    assert max(len(line) for line in text.splitlines()) < 1200


@ENGINES
def test_at_info_there_is_none(new_proxy: NewProxy, origin: socket.socket, engine: str) -> None:
    proxy = new_proxy("--engine", engine)
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname(), "Connection: close"))
        with accept(origin) as server:
            head(server)
            server.sendall(response())
        assert Reader(client).answer().status == 200
    proxy.wait_access(1)
    assert proxy.stop() == 0
    assert "DEBUG" not in proxy.stderr()
    assert "traced" not in proxy.stderr()
