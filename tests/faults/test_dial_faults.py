"""Origins that cannot be reached: each reason has its status and its error token."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import (
    Address,
    Log,
    Reader,
    accept,
    at_rest,
    at_start,
    connect_request,
    deaf_address,
    head,
    request,
    response,
)
from harness import ProxyProcess, descriptors, free_port, refused_port, wait_for

NewProxy = Callable[..., ProxyProcess]

KINDS = pytest.mark.parametrize("make", [request, connect_request], ids=["GET", "CONNECT"])
Make = Callable[[Address], bytes]


def ask(proxy: ProxyProcess, data: bytes) -> tuple[int, str, str]:
    """Status, error token and the result in the access log of one request."""
    port = data.split(b"\r\n")[1].rpartition(b":")[2].decode()
    log = Log(proxy, f":{port}")
    with proxy.connect() as client:
        client.sendall(data)
        answer = Reader(client).answer()
    assert answer.whole
    assert answer.fields["content-type"].startswith("text/plain")
    return answer.status, answer.error, log.next()[0]


@KINDS
def test_refused(shared_proxy: ProxyProcess, make: Make) -> None:
    with refused_port() as port:
        got = ask(shared_proxy, make(("127.0.0.1", port)))
    assert got == (502, "connection_refused", "NONE/502")


@KINDS
def test_no_answer_to_syn(new_proxy: NewProxy, each_loop: bool, make: Make) -> None:
    proxy = new_proxy("--timeout-dial", "0.5", uvloop=each_loop)
    with deaf_address() as address:
        before = time.monotonic()
        got = ask(proxy, make(address))
        assert time.monotonic() - before >= 0.5
    assert got == (504, "connection_timeout", "NONE/504")


@KINDS
@pytest.mark.parametrize("host", ["255.255.255.255", "[ff02::1]"])
def test_unroutable(shared_proxy: ProxyProcess, host: str, make: Make) -> None:
    """Addresses that no connection can be made to."""
    status, error, result = ask(shared_proxy, make((host, 80)))
    assert (status, result) == (502, "NONE/502")
    assert error == "destination_ip_unroutable"


@KINDS
@pytest.mark.parametrize("name", ["a..b", "-", "x" * 64 + ".test"])
def test_no_name_at_all(shared_proxy: ProxyProcess, name: str, make: Make) -> None:
    """What no look-up can answer."""
    status, _, result = ask(shared_proxy, make((name, 80)))
    assert status in (400, 502)
    assert result == f"NONE/{status}"


@KINDS
@pytest.mark.parametrize("name", ["1.2.3.4.5", "0x7f.1"])
def test_an_address_in_disguise(shared_proxy: ProxyProcess, name: str, make: Make) -> None:
    """What some readers take for an address is denied as one."""
    status, _, result = ask(shared_proxy, make((name, 80)))
    assert (status, result) == (403, "TCP_DENIED/403")


def mounts(folder: Path, **files: str) -> list[str]:
    """A prefix under which files of /etc have other contents."""
    if os.getuid():
        pytest.skip("needs a mount namespace")
    commands = []
    for name, text in files.items():
        (folder / name).write_text(text)
        commands.append(f"mount --bind {folder / name} /etc/{name.replace('_', '.')}")
    return ["unshare", "-m", "sh", "-c", " && ".join([*commands, 'exec "$@"']), "sh"]


class NameServer:
    """A DNS server of which the test is the other half."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(20)

    @property
    def conf(self) -> str:
        return f"nameserver [127.0.0.1]:{self.sock.getsockname()[1]}\n"

    def deny(self) -> None:
        """Answers the next question with NXDOMAIN (RFC 1035 section 4.1.1)."""
        query, client = self.sock.recvfrom(512)
        question_end = query.index(b"\0", 12) + 5
        flags = b"\x81\x83"
        self.sock.sendto(query[:2] + flags + b"\0\1\0\0\0\0\0\0" + query[12:question_end], client)


@KINDS
def test_no_such_name(new_proxy: NewProxy, tmp_path: Path, make: Make) -> None:
    server = NameServer()
    with server.sock:
        proxy = new_proxy(prefix=mounts(tmp_path, resolv_conf=server.conf))
        with proxy.connect() as client:
            client.sendall(make(("nowhere.test", 80)))
            while server.sock in select.select([server.sock, client], [], [], 20)[0]:
                server.deny()  # A, AAAA, and maybe once more
            answer = Reader(client).answer()
        assert (answer.status, answer.error) == (502, "dns_error")
        assert proxy.wait_access(1)[0].split()[3] == "NONE/502"


@KINDS
def test_no_answer_to_a_query(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket, make: Make
) -> None:
    server = NameServer()
    with server.sock:
        proxy = new_proxy("--timeout-dns", "1", prefix=mounts(tmp_path, resolv_conf=server.conf))
        before = at_start(proxy, origin)
        assert ask(proxy, make(("slow.test", 80))) == (504, "dns_timeout", "NONE/504")
        at_rest(proxy, before + 1)


class Families:
    """A DNS server that knows the same of every name: for each type of question an address, and
    the seconds after which it is said (None: never)."""

    def __init__(self, **answers: tuple[str, float | None]) -> None:
        self.answers = {{"a": 1, "aaaa": 28}[name]: answer for name, answer in answers.items()}
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.asked: list[int] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Families:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread: a name server that is closed while it is read from blocks for good.
        self.sock.sendto(b"", self.sock.getsockname())
        self.thread.join()
        self.sock.close()

    @property
    def conf(self) -> str:
        return f"nameserver [127.0.0.1]:{self.sock.getsockname()[1]}\n"

    def _serve(self) -> None:
        while True:
            query, client = self.sock.recvfrom(512)
            if not query:
                return
            end = query.index(b"\0", 12) + 5
            kind = int.from_bytes(query[end - 4 : end - 2], "big")
            self.asked.append(kind)
            address, delay = self.answers.get(kind, ("", 0.0))
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            data = socket.inet_pton(family, address) if address else b""
            record = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
            head = b"\x81\x80\0\1" + (b"\0\1" if address else b"\0\0") + b"\0\0\0\0"
            message = query[:2] + head + query[12:end] + (record if address else b"")
            if delay is not None:
                threading.Timer(delay, self._send, (message, client)).start()

    def _send(self, message: bytes, client: Address) -> None:
        with contextlib.suppress(OSError):  # the test is over
            self.sock.sendto(message, client)


def reaches(proxy: ProxyProcess, data: bytes, origin: socket.socket) -> str:
    """Makes a request that the origin answers; the address dialled, by the access log."""
    with proxy.connect() as client:
        client.sendall(data)
        with accept(origin) as server:
            if data.startswith(b"GET"):
                head(server)
                server.sendall(response(b"here"))
                assert Reader(client).answer().body == b"here"
            else:
                assert Reader(client).answer("HEAD").status == 200
    return proxy.wait_access(1)[0].split()[8]


@KINDS
@pytest.mark.parametrize(
    "answers",
    [{"a": ("127.0.0.1", 0.0), "aaaa": ("", None)}, {"a": ("", None), "aaaa": ("::1", 0.0)}],
    ids=["no AAAA", "no A"],
)
def test_one_family_does_not_come(
    new_proxy: NewProxy, tmp_path: Path, make: Make, answers: dict[str, tuple[str, float | None]]
) -> None:
    """RFC 8305 section 3: what is there is dialled."""
    with (
        Families(**answers) as server,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as origin,
    ):
        origin.settimeout(20)
        times = ("--timeout-dns", "25", "--timeout-dial", "30")
        proxy = new_proxy(*times, prefix=mounts(tmp_path, resolv_conf=server.conf))
        before = time.monotonic()
        reaches(proxy, make(("half.test", origin.getsockname()[1])), origin)
        assert time.monotonic() - before < 4.5  # it was a fifth of --timeout-dns, or all of it


@KINDS
@pytest.mark.parametrize("dead", ["refuses", "deaf"])
def test_the_family_that_came_is_dead(
    new_proxy: NewProxy,
    tmp_path: Path,
    each_loop: bool,
    make: Make,
    dead: str,
) -> None:
    """The second comes late, is judged, too, and dialled."""
    port = free_port()  # of both families
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        origin.settimeout(20)
        if dead == "deaf":
            deaf = stack.enter_context(socket.socket(socket.AF_INET6))
            deaf.bind(("::1", port))
            deaf.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket(socket.AF_INET6))
                filler.setblocking(False)
                filler.connect_ex(("::1", port))
        server = stack.enter_context(Families(aaaa=("::1", 0.0), a=("127.0.0.1", 1.0)))
        proxy = new_proxy(uvloop=each_loop, prefix=mounts(tmp_path, resolv_conf=server.conf))
        before = descriptors(proxy.worker)
        assert reaches(proxy, make(("half.test", port)), origin) == "HIER_DIRECT/127.0.0.1"
        # c-ares may still have its sockets and threads.
        wait_for(lambda: descriptors(proxy.worker) <= before + 12, "lost attempts")


@KINDS
def test_a_late_address_is_judged(
    new_proxy: NewProxy, tmp_path: Path, make: Make, origin: socket.socket
) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('[[rule]]\nid = "late"\naction = "deny"\nnetworks = ["127.0.0.1"]\n')
    port = origin.getsockname()[1]
    with Families(aaaa=("::1", 0.0), a=("127.0.0.1", 0.5)) as server:
        proxy = new_proxy("--config", str(config), prefix=mounts(tmp_path, resolv_conf=server.conf))
        got = ask(proxy, make(("half.test", port)))
        assert got == (502, "connection_refused", "NONE/502")
        origin.settimeout(0)
        with pytest.raises(BlockingIOError):
            origin.accept()


@KINDS
def test_a_request_that_is_judged_again_is_reported_once(
    new_proxy: NewProxy, tmp_path: Path, make: Make, origin: socket.socket
) -> None:
    """And so is the next one."""
    config = tmp_path / "proxy.toml"
    config.write_text(
        '[[rule]]\nid = "no"\naction = "deny"\nhosts = ["*.test"]\nreport-only = true\n'
    )
    told = "rule no (report only) would deny"
    port = origin.getsockname()[1]
    with Families(aaaa=("::1", 0.0), a=("127.0.0.1", 0.5)) as server:
        proxy = new_proxy("--config", str(config), prefix=mounts(tmp_path, resolv_conf=server.conf))
        for number, name in enumerate(["half.test", "other.test"], 1):
            assert reaches(proxy, make((name, port)), origin) == "HIER_DIRECT/127.0.0.1"
            # A thread writes the messages.
            wait_for(lambda number=number: proxy.stderr().count(told) >= number, "the message")
            assert proxy.stderr().count(told) == number


@KINDS
def test_the_second_family_comes_before_the_first_is_dialled(
    new_proxy: NewProxy, tmp_path: Path, make: Make, origin: socket.socket
) -> None:
    """A function thinks about the first meanwhile."""
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import asyncio\n"
        "from spliceproxy.policy import Allow\n"
        "async def authorize(request):\n"
        "    if request.addresses == ('::1',):\n"
        "        await asyncio.sleep(0.8)\n"
        "    return Allow()\n"
        "authorize.wants_addresses = True\n"
    )
    port = origin.getsockname()[1]
    with Families(aaaa=("::1", 0.0), a=("127.0.0.1", 0.4)) as server:
        proxy = new_proxy("--policy", str(hook), prefix=mounts(tmp_path, resolv_conf=server.conf))
        assert reaches(proxy, make(("half.test", port)), origin) == "HIER_DIRECT/127.0.0.1"


@KINDS
def test_looking_up_is_a_part_of_dialling(
    new_proxy: NewProxy, tmp_path: Path, each_loop: bool, make: Make
) -> None:
    with Families(a=("127.0.0.1", 1.5)) as server, deaf_address() as (_, port):
        proxy = new_proxy(
            "--timeout-dial",
            "3",
            uvloop=each_loop,
            prefix=mounts(tmp_path, resolv_conf=server.conf),
        )
        before = time.monotonic()
        with proxy.connect() as client:
            client.sendall(make(("slow.test", port)))
            answer = Reader(client).answer()
        assert 3 <= time.monotonic() - before < 4.4
    assert (answer.status, answer.error) == (504, "connection_timeout")
    assert "no connection within 3 s" in answer.fields["proxy-status"]


@KINDS
def test_the_look_up_takes_no_longer_than_dialling(
    new_proxy: NewProxy, tmp_path: Path, make: Make
) -> None:
    with Families(a=("", None), aaaa=("", None)) as server:
        conf = mounts(tmp_path, resolv_conf=server.conf)
        proxy = new_proxy("--timeout-dial", "0.5", prefix=conf)
        with proxy.connect() as client:
            client.sendall(make(("slow.test", 80)))
            answer = Reader(client).answer()
    assert (answer.status, answer.error) == (504, "dns_timeout")
    assert "no answer within 0.5 s" in answer.fields["proxy-status"]


@KINDS
def test_the_first_address_is_dead(
    new_proxy: NewProxy, tmp_path: Path, each_loop: bool, origin: socket.socket, make: Make
) -> None:
    """A name with several addresses: some refuse, one is deaf, the last one works."""
    port = origin.getsockname()[1]
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.3", port))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.3", port))
        hosts = "".join(f"127.0.0.{n} many.test\n" for n in (2, 3, 4, 1))
        proxy = new_proxy(uvloop=each_loop, prefix=mounts(tmp_path, hosts=hosts))
        before = descriptors(proxy.worker)
        with proxy.connect() as client:
            client.sendall(make(("many.test", port)))
            with accept(origin) as server:
                if make is request:
                    head(server)
                    server.sendall(response(b"here"))
                    assert Reader(client).answer().body == b"here"
                else:
                    assert Reader(client).answer("HEAD").status == 200
                    server.sendall(b"here")
                    assert client.recv(4) == b"here"
                # The attempts that lost are closed: client and origin are left.
                wait_for(lambda: descriptors(proxy.worker) <= before + 2, "lost attempts")
        assert proxy.wait_access(1)[0].split()[8] == "HIER_DIRECT/127.0.0.1"
        for filler in fillers:
            filler.close()


@KINDS
def test_every_address_is_dead(new_proxy: NewProxy, tmp_path: Path, make: Make) -> None:
    hosts = "".join(f"127.0.0.{n} many.test\n::1 many.test\n" for n in (2, 3, 4))
    proxy = new_proxy(prefix=mounts(tmp_path, hosts=hosts))
    with refused_port() as port:
        got = ask(proxy, make(("many.test", port)))
    assert got == (502, "connection_refused", "NONE/502")


EVERYWHERE = """
from spliceproxy import Allow

def authorize(request):
    return Allow(addresses=("127.0.0.11", "255.255.255.255", "127.0.0.12"))
"""


@KINDS
def test_the_answer_is_the_same_whoever_has_dialled(
    new_proxy: NewProxy, tmp_path: Path, make: Make
) -> None:
    """The relay, or Python."""
    (tmp_path / "everywhere.py").write_text(EVERYWHERE)
    answers = []
    with refused_port() as port:
        for engine in ("native", "copy"):
            policy = f"{tmp_path / 'everywhere.py'}:authorize"
            proxy = new_proxy("--engine", engine, "--policy", policy)
            with proxy.connect() as client:
                client.sendall(make(("many.test", port)))
                answer = Reader(client).answer()
            fields = {name: value for name, value in answer.fields.items() if name != "date"}
            answers.append((answer.status, fields, answer.body))
    native, copy = answers
    assert native == copy
    assert "(3 addresses tried)" in copy[2].decode() + copy[1]["proxy-status"]


@KINDS
def test_own_address_is_a_loop(shared_proxy: ProxyProcess, make: Make) -> None:
    status, error, _ = ask(shared_proxy, make(("127.0.0.1", shared_proxy.port)))
    assert (status, error) == (502, "proxy_loop_detected")
