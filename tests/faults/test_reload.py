"""A reload: all workers go by the new settings, or nothing has changed; and nobody is dropped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    ProxyProcess,
    command,
    default_signals,
    descriptors,
    free_port,
    read_head,
    serving,
    stop,
    wait_for,
)

from spliceproxy.admin.client import Client
from spliceproxy.config import Address

RULE = '[[rule]]\nid = "{id}"\naction = "deny"\nhosts = ["{host}"]\n'


class Reloaded:
    """A proxy with a file of settings, an admin address, and ctl."""

    def __init__(self, folder: Path, workers: int = 2, settings: str = "", **kwargs: Any) -> None:
        self.folder = folder
        self.file = folder / "settings.toml"
        self.workers = workers
        self.socket = folder / "admin.sock"
        self.file.write_text(settings)
        self.proxy = ProxyProcess(
            folder / "proxy",
            "--config",
            str(self.file),
            "--admin",
            f"unix:{self.socket}",
            workers=workers,
            **kwargs,
        )

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return command("ctl", "--admin", f"unix:{self.socket}", *words)

    def reload(self, settings: str | None = None) -> subprocess.CompletedProcess[str]:
        if settings is not None:
            self.file.write_text(settings)
        return self.ctl("reload")

    def taken(self, settings: str | None = None) -> None:
        done = self.reload(settings)
        assert done.returncode == 0, done

    def refused(self, settings: str) -> str:
        done = self.reload(settings)
        assert done.returncode == 1, done
        assert "stays in force" in done.stdout
        return done.stderr

    def ask(self, path: str) -> Any:
        client = Client(Address(path=str(self.socket)), "")
        return client.ask("GET", path).text if path == "/metrics" else client.get(path)

    def each_worker(self) -> list[socket.socket]:
        """A connection to each worker, kept alive."""
        found: dict[int, socket.socket] = {}
        inodes = {pid: sockets_of(pid) for pid in self.proxy.workers()}
        while len(found) < len(inodes):
            s = self.proxy.connect()
            mine = s.getsockname()
            wait_for(lambda mine=mine: owner(mine) in _owned(inodes), "the accept")
            pid = _owned({pid: sockets_of(pid) for pid in inodes})[owner(mine)]
            if pid in found:
                s.close()
            else:
                found[pid] = s
        return list(found.values())


def sockets_of(pid: int) -> set[int]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
                if match:
                    found.add(int(match[1]))
    return found


def _owned(inodes: dict[int, set[int]]) -> dict[int, int]:
    fresh = {pid: sockets_of(pid) for pid in inodes}
    return {inode: pid for pid, each in fresh.items() for inode in each}


def owner(peer: tuple[str, int]) -> int:
    """The inode of the proxy's socket for a client at this address; 0 before it is accepted."""
    number = f"{peer[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f":{number}") and fields[9] != "0":
            return int(fields[9])
    return 0


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[..., Reloaded]]:
    started: list[Reloaded] = []

    def start(settings: str = "", **kwargs: Any) -> Reloaded:
        folder = tmp_path / f"p{len(started)}"
        folder.mkdir()
        started.append(Reloaded(folder, settings=settings, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.proxy.kill()


New = Callable[..., Reloaded]


def answer(connection: socket.socket) -> None:
    """An origin: 200 to every request, and the connection stays."""
    buffer = b""
    connection.settimeout(None)  # so may an idle connection
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            buffer += data
            while b"\r\n\r\n" in buffer:
                buffer = buffer.partition(b"\r\n\r\n")[2]
                connection.sendall(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok")


def echo(connection: socket.socket) -> None:
    connection.settimeout(None)  # a tunnel may rest for as long as a test takes
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def origin() -> Iterator[int]:
    with serving(answer, idle=True) as (_, port):
        yield port


@pytest.fixture
def echoing() -> Iterator[int]:
    with serving(echo) as (_, port):
        yield port


def get(s: socket.socket, port: int, host: str = "127.0.0.1") -> int:
    """The status of a request on a connection that stays."""
    s.sendall(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    head = read_head(s)
    size = re.search(rb"content-length: (\d+)", head.lower())
    left = int(size[1]) if size else 0
    while left:
        left -= len(s.recv(left))
    return int(head.split(b" ")[1])


# What changes


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_rule_holds_for_the_next_request_on_every_worker(
    new: New, origin: int, engine: str
) -> None:
    one = new(f'engine = "{engine}"\n')
    clients = one.each_worker()
    assert [get(s, origin) for s in clients] == [200, 200]
    done = one.reload(f'engine = "{engine}"\n' + RULE.format(id="no", host="127.0.0.1"))
    assert (done.returncode, done.stdout) == (0, "generation 2, before 1\n")
    assert [get(s, origin) for s in clients] == [403, 403]
    one.taken(f'engine = "{engine}"\n')
    assert [get(s, origin) for s in clients] == [200, 200]
    found = one.ask("/stats.json")
    assert found["proxy"]["generation"] == 3
    assert "spliceproxy_generation 3" in one.ask("/metrics")
    assert 'spliceproxy_reloads_total{result="done"} 2' in one.ask("/metrics")
    for s in clients:
        s.close()


def test_sighup_reloads(new: New, origin: int) -> None:
    one = new()
    one.file.write_text(RULE.format(id="no", host="127.0.0.1"))
    one.proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "generation 2 is in force (SIGHUP)" in one.proxy.stderr(), "the reload")
    with one.proxy.connect() as s:
        assert get(s, origin) == 403
    (entry,) = one.ask("/stats.json")["reloads"]
    assert (entry["result"], entry["who"], entry["generation"]) == ("done", "SIGHUP", 2)


def test_a_mistake_changes_nothing(new: New, origin: int, tmp_path: Path) -> None:
    one = new()
    # The admin process knows both, and has told them of what is refused: so they have their last
    # descriptors.
    wait_for(lambda: one.ask("/tunnels")["silent"] == [], "the workers")
    assert "no such key" in one.refused("what = 1\n")
    before = [descriptors(pid) for pid in one.proxy.workers()]
    with one.proxy.connect() as s:
        assert get(s, origin) == 200
        assert "not TOML" in one.refused("=")
        assert "does not exist" in one.refused('locked = "absent"\n')
        assert "does not exist" in one.refused('htpasswd = "absent"\n')
        policy = one.folder / "bad.py"
        policy.write_text("raise RuntimeError('not today')\n")
        assert "not today" in one.refused('policy = "bad.py"\n')
        assert "absent.py" in one.refused('policy = "absent.py"\nlog-level = "debug"\n')
        assert get(s, origin) == 200
    reloads = one.ask("/stats.json")["reloads"]
    assert [entry["result"] for entry in reloads] == ["refused"] * 6
    assert {entry["generation"] for entry in reloads} == {1}
    assert 'spliceproxy_reloads_total{result="refused"} 6' in one.ask("/metrics")
    assert "reload refused: " in one.proxy.stderr()

    def none_left() -> bool:
        now = [descriptors(pid) for pid in one.proxy.workers()]
        return all(here <= then for here, then in zip(now, before, strict=True))

    wait_for(none_left, "the descriptors")


def test_a_list_in_a_file_is_read_again(new: New, origin: int, tmp_path: Path) -> None:
    listed = tmp_path / "blocked.txt"
    listed.write_text("other.example\n")
    one = new(f'[[rule]]\nid = "listed"\naction = "deny"\nhosts = ["@{listed}"]\n')
    with one.proxy.connect() as s:
        assert get(s, origin) == 200
        listed.write_text("127.0.0.1\n")
        assert get(s, origin) == 200
        one.taken()
        assert get(s, origin) == 403
        listed.write_text("127.0.0.1\n\nhttp://x.example/\n")
        told = one.refused(one.file.read_text())
        assert f"rule 1 'listed': hosts: {listed}:3: 'http://x.example/': a URL" in told
        assert get(s, origin) == 403
        listed.write_text("")
        one.taken()
        assert get(s, origin) == 200


def test_what_cannot_change_is_kept_and_told(new: New, origin: int) -> None:
    one = new('engine = "copy"\n')
    done = one.reload('engine = "splice"\n' + RULE.format(id="no", host="127.0.0.1"))
    assert done.returncode == 0
    assert "engine: it stays copy until the proxy is started again" in done.stderr
    with one.proxy.connect() as s:
        assert get(s, origin) == 403  # the rest holds
    assert one.ask("/config?format=json")["engine"] == "copy"


def test_usage(new: New) -> None:
    one = new()
    done = one.ctl("reload", "now")
    assert done.returncode == 2
    assert "it takes no argument" in done.stderr


def test_json(new: New) -> None:
    one = new()
    done = one.ctl("--json", "reload")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["generation"], found["before"], found["result"]) == (2, 1, "done")
    one.file.write_text("x")
    done = one.ctl("--json", "reload")
    assert done.returncode == 1
    assert json.loads(done.stdout)["result"] == "refused"


def test_a_module_is_loaded_anew_with_those_beside_it(new: New, origin: int) -> None:
    """Within a second, and with the same size: no bytecode says otherwise."""
    one = new()
    folder = one.folder
    (folder / "policy.py").write_text(
        "import sys, os\n"
        "sys.path.insert(0, os.path.dirname(__file__))\n"
        "from spliceproxy import Allow, Deny\n"
        "import verdicts\n"
        "def authorize(request):\n"
        "    return Allow() if verdicts.SAYS == 'yes' else Deny('no')\n"
    )
    helper = folder / "verdicts.py"
    with one.proxy.connect() as s:
        for says, status in (("yes", 200), ("not", 403), ("yes", 200), ("not", 403)):
            helper.write_text(f"SAYS = '{says}'\n")
            os.utime(helper, (1_700_000_000, 1_700_000_000))
            one.taken('policy = "policy.py"\n')
            assert get(s, origin) == status, says


def test_the_old_module_hears_of_its_ends(new: New, origin: int, echoing: int) -> None:
    one = new()
    policy = one.folder / "policy.py"
    told = one.folder / "told"

    def write(name: str) -> None:
        policy.write_text(
            "from spliceproxy import Allow\n"
            "def authorize(request): return Allow()\n"
            "def on_close(record):\n"
            f"    with open({str(told)!r}, 'a') as file:\n"
            f"        print('{name}', record.generation, record.method, file=file, flush=True)\n"
        )

    write("first")
    one.taken('policy = "policy.py"\n')
    with one.proxy.tunnel("127.0.0.1", echoing):
        write("second")
        one.taken()
        with one.proxy.connect() as s:
            assert get(s, origin) == 200
        wait_for(lambda: told.exists() and told.read_text() == "second 3 GET\n", "the request")
    wait_for(lambda: told.read_text() == "second 3 GET\nfirst 2 CONNECT\n", "the tunnel's end")


def test_each_record_and_flow_has_its_generation(new: New, origin: int, echoing: int) -> None:
    one = new('log-format = "json"\n')
    with one.proxy.tunnel("127.0.0.1", echoing):
        one.taken()
        with one.proxy.tunnel("127.0.0.1", echoing):
            found = one.ask("/tunnels")["tunnels"]
            assert sorted(flow["generation"] for flow in found) == [1, 2]
        with one.proxy.connect() as s:
            assert get(s, origin) == 200
    lines = [json.loads(line) for line in one.proxy.wait_access(3)]
    assert sorted((line["method"], line["generation"]) for line in lines) == [
        ("CONNECT", 1),
        ("CONNECT", 2),
        ("GET", 2),
    ]


def test_the_log_changes_and_no_line_is_lost(new: New, echoing: int) -> None:
    one = new(workers=1)
    tunnels = []
    for form in ("json", "squid", "%ts %rm", "common", "native"):
        tunnels.append(one.proxy.tunnel("127.0.0.1", echoing))
        one.taken(f'log-format = "{form}"\n')
    for tunnel in tunnels:
        tunnel.close()
    assert len(one.proxy.wait_access(5)) == 5
    path = one.folder / "other"
    with one.proxy.tunnel("127.0.0.1", echoing):
        pass
    one.proxy.wait_access(6)
    one.taken(f'access-log = "{path}"\n')
    with one.proxy.tunnel("127.0.0.1", echoing):
        pass
    wait_for(lambda: path.read_text().count("\n") == 1, "the line in the other file")
    assert len(one.proxy.access()) == 6


def test_time_limits_hold_for_what_is_open(new: New, echoing: int) -> None:
    one = new()
    with one.proxy.tunnel("127.0.0.1", echoing) as tunnel, one.proxy.connect() as idle:
        one.taken("timeout-idle = 0.3\ntimeout-head = 0.3\n")
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionResetError):
            tunnel.recv(1)


# Listeners, workers, the admin address


def test_addresses_come_and_go(new: New, origin: int) -> None:
    one = new()
    first, second = free_port(), free_port()
    # The flags have an address of their own: the file's is another proxy's.
    folder = one.folder / "b"
    folder.mkdir()
    other = Reloaded(folder, settings=f'listen = ["127.0.0.1:{first}"]\n', listen=())
    try:
        with socket.create_connection(("127.0.0.1", first), 20) as s:
            assert get(s, origin) == 200
            other.taken(f'listen = ["127.0.0.1:{second}", "unix:{folder}/s"]\n')
            assert get(s, origin) == 200  # who was there stays
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first), 20)
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", second), 20) as s:
                assert get(s, origin) == 200
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{folder}/s")
            assert get(s, origin) == 200
        other.taken(f'listen = ["127.0.0.1:{first}"]\n')
        assert not (folder / "s").exists()
        reason = other.refused(f'listen = ["0.0.0.0:{first}"]\n')
        assert "which it would give up" in reason
        assert f"listening on http://127.0.0.1:{second}" in other.proxy.stderr()
    finally:
        other.proxy.kill()


def test_the_number_of_workers(tmp_path: Path, origin: int, echoing: int) -> None:
    """The flag --workers would win over the file, so it is not given."""
    folder = tmp_path / "w"
    folder.mkdir()
    port = free_port()
    base = f'listen = ["127.0.0.1:{port}"]\nadmin = "unix:{folder}/admin.sock"\n'
    file = folder / "settings.toml"
    file.write_text(base + "workers = 2\n")
    errors = folder / "stderr"
    with errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "spliceproxy", "--config", str(file), "--access-log", "off"],
            stderr=err,
        )

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        return command("ctl", "--config", str(file), *words)

    def up() -> int:
        return sum(one["up"] for one in json.loads(ctl("--json", "workers").stdout))

    try:
        wait_for(lambda: "event loop" in errors.read_text(), "the start")
        wait_for(lambda: up() == 2, "two workers")
        tunnels = []
        for count in (3, 1, 4, 2):
            s = socket.create_connection(("127.0.0.1", port), 20)
            s.sendall(f"CONNECT 127.0.0.1:{echoing} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert read_head(s).startswith(b"HTTP/1.1 200 ")
            tunnels.append(s)
            file.write_text(base + f"workers = {count}\ntimeout-drain = 30\n")
            done = ctl("reload")
            assert done.returncode == 0, done
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), 20) as client:
                    assert get(client, origin) == 200
            for tunnel in tunnels:
                tunnel.sendall(b"x")
                assert tunnel.recv(1) == b"x"
        for tunnel in tunnels:
            tunnel.close()
        wait_for(lambda: up() == 2, "two workers")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 3, "the end of those that left")
        assert "ERROR" not in errors.read_text()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_the_admin_address(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    file = folder / "settings.toml"
    file.write_text("")
    proxy = ProxyProcess(folder / "proxy", "--config", str(file))

    def ctl(path: str, *words: str) -> subprocess.CompletedProcess[str]:
        return command("ctl", "--admin", f"unix:{folder}/{path}", *words)

    try:
        file.write_text(f'admin = "unix:{folder}/one"\n')
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ctl("one", "health").returncode == 0, "the admin address")
        file.write_text(f'admin = "unix:{folder}/two"\n')
        assert ctl("one", "reload").stdout == "generation 3, before 2\n"
        wait_for(lambda: ctl("two", "health").returncode == 0, "the other admin address")
        assert ctl("one", "health").returncode == 1
        client = Client(Address(path=str(folder / "two")), "")
        reloads = client.get("/stats.json")["reloads"]
        assert [one["generation"] for one in reloads] == [2, 3]
        file.write_text("")
        assert ctl("two", "reload").stdout == "generation 4, before 3\n"
        wait_for(lambda: len(proxy._children()) == 1, "the end of the admin process")
        assert not (folder / "two").exists()
    finally:
        proxy.kill()


# Tunnels that live


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_tunnels_go_on_or_are_judged_again(new: New, echoing: int, engine: str) -> None:
    base = f'engine = "{engine}"\nlog-format = "json"\n'
    one = new(base)
    deny = RULE.format(id="gone", host="127.0.0.1")
    with one.proxy.tunnel("127.0.0.1", echoing) as tunnel:
        one.taken(base + deny)
        tunnel.sendall(b"x")
        assert tunnel.recv(1) == b"x"
        one.taken(base + 'reload-tunnels = "recheck"\n')
        tunnel.sendall(b"y")
        assert tunnel.recv(1) == b"y"
        one.taken(base + 'reload-tunnels = "recheck"\n' + deny)
        with pytest.raises(ConnectionResetError):
            tunnel.recv(1)
    (line,) = one.proxy.wait_access(1)
    assert json.loads(line)["termination"] == "PD"
    assert "the new settings do not allow it (rule gone)" in one.proxy.stderr()


def test_a_tunnel_is_judged_as_its_user(new: New, echoing: int) -> None:
    user = 'auth = "ann:secret"\nreload-tunnels = "recheck"\n'
    one = new(user)
    s = one.proxy.connect()
    s.sendall(
        f"CONNECT 127.0.0.1:{echoing} HTTP/1.1\r\nHost: x\r\n"
        "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n\r\n".encode()
    )
    assert read_head(s).startswith(b"HTTP/1.1 200 ")
    one.taken(
        user.replace("secret", "other")
        + '[[rule]]\nid = "ann"\naction = "allow"\nusers = ["ann"]\n'
        + '[[rule]]\nid = "rest"\naction = "deny"\n'
    )
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    one.taken('auth = "bob:secret"\nreload-tunnels = "recheck"\n')
    with pytest.raises(ConnectionResetError):
        s.recv(1)
    s.close()


# Who is in the way


def test_a_worker_that_does_not_answer(new: New, origin: int) -> None:
    one = new()
    victim = one.proxy.workers()[0]
    stop(victim)
    try:
        reason = one.refused(RULE.format(id="no", host="127.0.0.1"))
    finally:
        os.kill(victim, signal.SIGCONT)
    assert f"(pid {victim}): no answer within 8 s" in reason
    for s in one.each_worker():
        assert get(s, origin) == 200
        s.close()
    one.taken()
    for s in one.each_worker():
        assert get(s, origin) == 403
        s.close()


def test_a_worker_that_dies_meanwhile(new: New, origin: int) -> None:
    """It dies of its module. The next one begins with what is in force."""
    one = new()
    (one.folder / "policy.py").write_text("import os\nos.abort()\n")
    reason = one.refused('policy = "policy.py"\n')
    assert "has ended meanwhile" in reason
    wait_for(lambda: len(one.proxy.workers()) == 2, "another worker")
    with one.proxy.connect() as s:
        assert get(s, origin) == 200
    (one.folder / "policy.py").unlink()
    one.taken(RULE.format(id="no", host="127.0.0.1"))
    os.kill(one.proxy.workers()[0], signal.SIGKILL)
    wait_for(lambda: one.ctl("workers").returncode == 0, "another worker")
    for s in one.each_worker():
        assert get(s, origin) == 403
        s.close()


def test_many_at_once(new: New) -> None:
    one = new()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{one.socket}", "reload"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    said = [job.communicate(timeout=60)[0] for job in jobs]
    assert all(job.returncode == 0 for job in jobs), said
    generation = one.ask("/stats.json")["proxy"]["generation"]
    assert 2 <= generation <= 6
    assert max(int(text.split()[1].rstrip(",")) for text in said) == generation


def test_not_while_it_stops(new: New, echoing: int) -> None:
    one = new()
    with one.proxy.tunnel("127.0.0.1", echoing):
        one.proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in one.proxy.stderr(), "the drain")
        one.proxy.process.send_signal(signal.SIGHUP)
        done = one.ctl("reload")
        assert done.returncode == 1
        assert "told to stop" in done.stderr
    assert one.proxy.process.wait(20) == 0


def test_no_request_is_decided_by_the_old_generation(new: New, origin: int) -> None:
    """Clients ask all the time. One whose request begins behind the answer of ctl gets what the
    new settings say, whatever was known before."""
    one = new()
    faults: list[str] = []
    done = threading.Event()
    state: tuple[int, float] = (200, 0.0)  # what is said since when
    changing = threading.Event()

    def client() -> None:
        with one.proxy.connect() as s:
            while not done.is_set():
                was, moving = state, changing.is_set()
                status = get(s, origin)
                if not moving and was is state and not changing.is_set() and status != was[0]:
                    faults.append(f"{status} where {was[0]} is in force")

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    deny = RULE.format(id="no", host="127.0.0.1")
    try:
        for number in range(10):
            changing.set()
            one.taken(deny if number % 2 == 0 else "")
            state = (403 if number % 2 == 0 else 200, time.monotonic())
            changing.clear()
            time.sleep(0.05)  # for requests in the new state: what is asked is seen there
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults, faults[:5]


class Load:
    """Clients of a proxy that ask, and tunnels whose bytes are compared; ``failed`` is what went
    wrong."""

    def __init__(self, proxy: ProxyProcess, origin: int, echoing: int) -> None:
        self.proxy = proxy
        self.origin = origin
        self.echoing = echoing
        self.requests = 0
        self.failed: list[object] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(self._ask,)) for _ in range(4)]
        self._threads += [
            threading.Thread(target=self._run, args=(self._tunnel, seed)) for seed in range(4)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 - it is what a test is about
            self.failed.append(error)

    def _ask(self) -> None:
        while not self._done.is_set():
            with self.proxy.connect() as s:
                for _ in range(20):
                    assert get(s, self.origin) == 200
                    self.requests += 1

    def _tunnel(self, seed: int) -> None:
        source, sent, got = random.Random(seed), hashlib.sha256(), hashlib.sha256()
        with self.proxy.tunnel("127.0.0.1", self.echoing) as s:
            while not self._done.is_set():
                data = source.randbytes(source.randrange(1, 200_000))
                sent.update(data)
                sender = threading.Thread(target=s.sendall, args=(data,))
                sender.start()
                left = len(data)
                while left:
                    part = s.recv(min(left, 65536))
                    assert part, "cut"
                    got.update(part)
                    left -= len(part)
                sender.join()
        assert sent.digest() == got.digest()


def test_twenty_reloads_under_load(new: New, origin: int, echoing: int) -> None:
    """Five are refused. No request fails, no tunnel is cut, and every byte arrives."""
    one = new()
    workers = one.proxy.workers()
    for s in one.each_worker():
        assert get(s, origin) == 200
        s.close()
    before = {pid: descriptors(pid) for pid in (*workers, one.proxy.process.pid)}
    idle = [one.proxy.tunnel("127.0.0.1", echoing) for _ in range(10)]
    load = Load(one.proxy, origin, echoing)
    try:
        for number in range(20):
            if number % 4 == 3:
                one.refused("bad = 1\n")
            else:
                one.taken(RULE.format(id=f"r{number}", host=f"{number}.example"))
    finally:
        load.end()
    assert not load.failed, load.failed[:5]
    assert load.requests
    for s in idle:
        s.sendall(b"still here")
        assert s.recv(20) == b"still here"
        s.close()
    assert one.proxy.workers() == workers
    assert one.ask("/stats.json")["proxy"]["generation"] == 16
    # What is left are idle connections to the origin, of which there were none at first.
    wait_for(
        lambda: all(descriptors(pid) <= count + 8 for pid, count in before.items()),
        f"the descriptors: {before}",
    )


# A terminal


def test_the_end_of_the_terminal_stops_it(tmp_path: Path) -> None:
    """And before that SIGHUP reloads."""
    file = tmp_path / "settings.toml"
    file.write_text("")
    errors = tmp_path / "stderr"
    master, slave = os.openpty()
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "from spliceproxy.__main__ import main; sys.exit(main())"
    )
    with errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--config", str(file), "--listen", "127.0.0.1:0"],
            stdin=slave,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
            preexec_fn=default_signals,
        )
    try:
        wait_for(lambda: "event loop" in errors.read_text(), "the start")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "generation 2 is in force" in errors.read_text(), "the reload")
        os.close(slave)
        os.close(master)
        assert process.wait(20) == 0
        assert "SIGHUP: draining" in errors.read_text()
    finally:
        process.kill()
        process.wait()
