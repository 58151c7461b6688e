"""A worker is replaced while it serves: nobody notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, all_ended
from harness import alive, descriptors, read_all, read_head, stop, wait_for
from moving_load import Load, Origin, ask_once, echo


@pytest.fixture(params=["native", "splice", "copy"])
def proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ChangingProxy]:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, "--engine", request.param, workers=2)
        yield proxy
        assert proxy.stop() == 0, proxy.stderr()
        assert "Traceback" not in proxy.stderr()


def test_nobody_notices(proxy: ChangingProxy, origin: Origin, address: tuple[str, int]) -> None:
    before = set(proxy.workers())
    load = Load(proxy, origin, address)
    for _ in range(2):
        replaced = proxy.recycle()
        assert [one["worker"] for one in replaced] == [0, 1]
        load.goes_on()
        wait_for(lambda: len(proxy.workers()) == 2, "the end of those that were replaced")
    assert not before & set(proxy.workers())
    load.end()
    assert proxy.stderr().count("is replaced") == 4

    def tunnels() -> list[str]:
        return [line for line in proxy.access() if "CONNECT" in line]

    wait_for(lambda: len(tunnels()) >= 12, "a line of each tunnel")
    proxy.stop()
    assert len(tunnels()) == 12


def test_descriptors_are_back_at_the_start(
    tmp_path: Path, origin: Origin, address: tuple[str, int]
) -> None:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path)
        s = proxy.connect()
        ask_once(s, address)
        s.close()
        proxy.recycle()
        wait_for(lambda: len(proxy.workers()) == 1, "the end of the old worker")
        supervisor, worker = descriptors(proxy.process.pid), proxy.worker
        at_rest = descriptors(worker)
        load = Load(proxy, origin, address)
        for _ in range(3):
            proxy.recycle()
            wait_for(lambda: len(proxy.workers()) == 1, "the end of the old worker")
        load.end()
        wait_for(lambda: descriptors(proxy.worker) <= at_rest + 2, "its descriptors")
        assert descriptors(proxy.process.pid) == supervisor
        assert proxy.stop() == 0


def test_one_worker_alone(proxy: ChangingProxy) -> None:
    before = proxy.workers()
    (replaced,) = proxy.recycle(1)
    assert replaced["worker"] == 1
    wait_for(lambda: len(proxy.workers()) == 2, "the end of the old worker")
    assert len(set(before) & set(proxy.workers())) == 1


def test_counters_never_go_back(proxy: ChangingProxy, address: tuple[str, int]) -> None:
    with proxy.connect() as s:
        for number in range(1, 4):
            ask_once(s, address)
            proxy.recycle()

            def served() -> int:
                text = proxy.admin.ask("/metrics").text
                return sum(
                    int(float(line.rpartition(" ")[2]))
                    for line in text.splitlines()
                    if line.startswith("spliceproxy_requests_total{") and 'method="GET"' in line
                )

            wait_for(lambda number=number: served() == number, "the requests")
            wait_for(lambda: len(proxy.workers()) == 2, "the end of the old workers")


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("worker=7", 400, "there is no 7; allowed: 0, 1"),
        ("worker=", 400, "'' is no number"),
        ("w=0", 400, "w: no such parameter; allowed: worker"),
        ("worker=x", 400, "'x' is no number"),
        (f"worker={'7' * 5000}", 400, "7' is no number"),
        ("worker=%C2%B2", 400, "'²' is no number"),
    ],
)
def test_a_worker_that_there_is_not(
    proxy: ChangingProxy, query: str, status: int, text: str
) -> None:
    answer = proxy.admin.ask(f"/recycle?{query}", "POST")
    assert answer.status == status
    assert text in answer.text


def test_a_new_worker_that_dies_changes_nothing(
    tmp_path: Path, origin: Origin, address: tuple[str, int]
) -> None:
    policy = tmp_path / "policy.py"
    more = tmp_path / "more"  # the module stays as it was when it came into force; this does not
    more.touch()
    policy.write_text(
        "from pathlib import Path\nfrom spliceproxy import Allow\n"
        f"exec(Path({str(more)!r}).read_text())\ndef decide(request):\n    return Allow()\n"
    )
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, "--policy", f"{policy}:decide")
        worker = proxy.worker
        load = Load(proxy, origin, address)
        more.write_text("import os\nos._exit(7)\n")
        answer = proxy.admin.ask("/recycle", "POST")
        assert answer.status == 409
        assert "worker 0 is not replaced: the new one exited with status 7" in answer.text
        more.write_text("raise ValueError('of no use')\n")
        answer = proxy.admin.ask("/recycle", "POST")
        assert "worker 0 is not replaced: the new one exited with status 2" in answer.text
        assert proxy.worker == worker
        load.goes_on()
        load.end()
        assert proxy.stop() == 0


def test_an_old_worker_that_is_stopped_is_not_waited_for_by_others(tmp_path: Path) -> None:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, workers=2)
        victim = proxy.workers()[0]
        stop(victim)
        asked = proxy.admin.socket()
        asked.sendall(b"POST /recycle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        wait_for(lambda: len(proxy.workers()) == 3, "another worker")
        # Meanwhile no second order is taken, and the proxy stops as always.
        answer = proxy.admin.ask("/recycle", "POST")
        assert "a worker is being replaced" in answer.text
        os.kill(victim, signal.SIGCONT)
        assert asked.recv(1000).startswith(b"HTTP/1.1 200 ")
        asked.close()
        assert proxy.stop() == 0


def test_a_stop_meanwhile(tmp_path: Path) -> None:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path)
        victim = proxy.worker
        stop(victim)
        with proxy.admin.socket() as asked:
            asked.sendall(b"POST /recycle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            wait_for(lambda: len(proxy.workers()) == 2, "another worker")
            proxy.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "draining" in proxy.stderr(), "the drain")
            os.kill(victim, signal.SIGCONT)
        assert proxy.process.wait(20) == 0
        assert not alive(victim)


def test_an_old_worker_that_dies_meanwhile(tmp_path: Path, address: tuple[str, int]) -> None:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path)
        victim = proxy.worker
        stop(victim)
        with proxy.admin.socket() as asked:
            asked.sendall(b"POST /recycle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            # The new one serves as soon as it is ready.
            with socket.create_connection(("127.0.0.1", proxy.port), 20) as s:
                ask_once(s, address)
            os.kill(victim, signal.SIGKILL)
            assert asked.recv(1000).startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: "another has its place already" in proxy.stderr(), "the message")
        assert proxy.worker != victim
        assert proxy.stop() == 0


def test_a_response_by_way_of_a_parent(tmp_path: Path) -> None:
    """It is the parent's connection that moves, as often as it has to."""
    with all_ended(str(tmp_path)), socket.create_server(("127.0.0.1", 0)) as parent:
        url = f"http://127.0.0.1:{parent.getsockname()[1]}"
        proxy = ChangingProxy(tmp_path, "--proxy", url)
        client = proxy.connect()
        client.sendall(b"GET http://192.0.2.1/ HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
        origin, _ = parent.accept()
        assert read_head(origin).startswith(b"GET http://192.0.2.1/ ")
        origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe")
        assert b" 200 " in read_head(client)
        for sent in (b"the", b"end"):
            assert client.recv(3, socket.MSG_WAITALL) == b"the"
            proxy.recycle()
            wait_for(lambda: len(proxy.workers()) == 1, "the end of the old worker")
            origin.sendall(sent)
        assert client.recv(3, socket.MSG_WAITALL) == b"end"
        client.close()
        origin.close()
        wait_for(proxy.access, "its line")
        (line,) = proxy.access()
        assert "TCP_MISS/200 106 " in line, line
        assert "FIRSTUP_PARENT/127.0.0.1 - in=51 route=proxy by=address" in line, line
        assert proxy.stop() == 0, proxy.stderr()


# ---- when connections have moved already -----------------------------------------------------

SERVED = """
import errno, os, time
from spliceproxy.processes import giving, replacing, taking
serve = taking.Taker._serve
def served(self, ident):
    found = ident in self._held
    serve(self, ident)
    if found:
        os.write(2, b"SERVED\\n")
taking.Taker._serve = served
"""
"""A taker says what has moved to it."""

NEVER_DONE = """
start = giving.Giver.start
def begin(self):
    self._told = True
    start(self)
giving.Giver.start = begin
"""
"""A giver that does not say that it has given all."""

STUCK = """
giving.CONFIRM_SECONDS = 0.2
giving.WINDOW = 1
replacing.PAUSES = (0.05, 0.05)
read = taking.Taker._read
def read_once(self):
    read(self)
    while self.taken["tunnels"] and not os.path.exists({file!r}):
        time.sleep(0.01)
taking.Taker._read = read_once
"""
"""A worker that stands still when it has taken something, until a file is there."""


def begin(proxy: ChangingProxy) -> socket.socket:
    asked = proxy.admin.socket()
    asked.sendall(
        b"POST /recycle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    return asked


def test_a_stop_when_tunnels_have_moved(tmp_path: Path, address: tuple[str, int]) -> None:
    """Both workers drain."""
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, "--timeout-drain", "60", patch=SERVED + NEVER_DONE)
        tunnels = [proxy.tunnel(*address) for _ in range(5)]
        echo(tunnels)
        with begin(proxy) as asked:
            wait_for(lambda: proxy.stderr().count("SERVED") == 5, "the new worker")
            proxy.process.send_signal(signal.SIGTERM)
            assert b"the proxy drains" in read_all(asked)
        echo(tunnels)
        for one in tunnels:
            one.close()
        assert proxy.process.wait(20) == 0
        assert "killing" not in proxy.stderr()
        assert len(proxy.wait_access(5)) == 5


def test_a_new_worker_that_confirms_nothing_more_gives_back(
    tmp_path: Path, address: tuple[str, int]
) -> None:
    file = tmp_path / "go on"
    with all_ended(str(tmp_path)):
        patch = SERVED + STUCK.format(file=str(file))
        proxy = ChangingProxy(tmp_path, "--timeout-drain", "60", patch=patch)
        old = proxy.worker
        tunnels = [proxy.tunnel(*address) for _ in range(5)]
        echo(tunnels)
        with begin(proxy) as asked:
            answer = read_all(asked)
        assert b"worker 0 is not replaced: the other worker has not confirmed" in answer
        assert "SERVED" in proxy.stderr()
        file.touch()
        echo(tunnels)
        wait_for(lambda: proxy.workers() == [old], "the end of the new worker")
        echo(tunnels)
        (replaced,) = proxy.recycle()
        assert replaced["tunnels"] == 5
        echo(tunnels)
        for one in tunnels:
            one.close()
        assert proxy.stop() == 0
        assert len(proxy.access()) == 5


NO_PAIR = """
make = replacing.pair
left = [1, 2]
def pair():
    if left:
        left.pop()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return make()
replacing.pair = pair
"""


def test_no_descriptor_for_a_moment(tmp_path: Path, address: tuple[str, int]) -> None:
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, patch=SERVED + NO_PAIR)
        tunnels = [proxy.tunnel(*address) for _ in range(3)]
        echo(tunnels)
        (replaced,) = proxy.recycle()
        assert replaced["tunnels"] == 3
        echo(tunnels)
        for one in tunnels:
            one.close()
        assert proxy.stop() == 0
