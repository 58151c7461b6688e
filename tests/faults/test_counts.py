"""What the board says after a load is what its clients have counted, whichever road each request
took and whichever worker served it; and no counter ever goes back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting_load import Account, Client, board_of, load, origins
from harness import ProxyProcess, refused_port, wait_for

from spliceproxy.observe.board import Board
from spliceproxy.relay.columns import COUNTER, FAMILIES, HISTOGRAM

Totals = dict[str, dict[tuple[str, ...], int]]

RULES = """
[[rule]]
id = "ads"
action = "deny"
hosts = ["ads.example"]

[[rule]]
id = "here"
action = "allow"
hosts = ["127.0.0.1"]
"""


@pytest.fixture
def proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ProxyProcess]:
    workers, *flags = request.param
    config = tmp_path / "proxy.toml"
    config.write_text(RULES)
    process = ProxyProcess(tmp_path / "proxy", "--config", str(config), *flags, workers=workers)
    yield process
    process.stop()


def counters(totals: Totals) -> dict[tuple[str, tuple[str, ...]], int]:
    return {
        (name, values): number
        for name, numbers in totals.items()
        if FAMILIES[name].kind in (COUNTER, HISTOGRAM)
        for values, number in numbers.items()
    }


def some(numbers: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    return {values: number for values, number in numbers.items() if number}


def at_rest(board: Board, account: Account) -> Totals:
    """What the board says when all that was asked is over."""

    def over() -> bool:
        totals = board.totals()
        return (
            sum(totals["requests"].values()) >= sum(account.requests.values())
            and sum(totals["tunnels_ended"].values()) >= account.tunnels
            and not any(totals["connections"].values())
        )

    wait_for(over, "the end of all requests")
    return board.totals()


@pytest.mark.parametrize(
    ("proxy", "path"),
    [
        ((1, "--access-log", "off"), "spliced"),
        ((2,), "spliced"),
        ((4, "--access-log", "off"), "spliced"),
        ((2, "--engine", "splice"), "spliced"),
        ((2, "--engine", "copy"), "copied"),
    ],
    indirect=["proxy"],
    ids=["1-native", "2-native-log", "4-native", "2-splice", "2-copy"],
)
def test_counters_equal_the_truth(proxy: ProxyProcess, path: str) -> None:
    account = Account()
    clients, rounds = 4, 2
    with origins() as (web, echoes), refused_port() as closed:
        refused = f"127.0.0.1:{closed}"
        load(proxy.port, account, web, echoes, refused, clients=clients, rounds=rounds)
        board = board_of(proxy.process.pid)
        totals = at_rest(board, account)
    asked = sum(account.requests.values())
    assert some(totals["requests"]) == dict(account.requests)
    moved = totals["bytes"]
    assert moved["in", "copied"] + moved["in", "spliced"] == account.sent
    assert moved["out", "copied"] + moved["out", "spliced"] == account.received
    assert bool(moved["in", "spliced"]) == bool(moved["out", "spliced"]) == (path == "spliced")
    assert totals["tunnels_begun"][()] == account.tunnels
    assert some(totals["tunnels_ended"]) == {("done",): account.tunnels}
    assert totals["tunnels"][()] == totals["transfers"][()] == 0
    refusals = clients * rounds
    assert some(totals["decisions"]) == {
        ("deny", "ads"): account.denied["ads"],
        ("deny", "guard"): account.denied["guard"],
        # All others but those without a head that can be read.
        ("allow", "here"): asked - sum(account.denied.values()) - refusals,
    }
    assert some(totals["errors"]) == {
        ("http_request_denied",): account.denied["ads"],
        ("destination_ip_prohibited",): account.denied["guard"],
        ("connection_refused",): refusals,
        ("http_request_error",): refusals,
    }
    assert some(totals["dial_errors"]) == {("connection_refused",): refusals}
    assert totals["worker_up"][()] == board.workers
    assert not any(totals["log_lines_lost"].values())


def kill_one(board: Board, worker: int) -> None:
    """Kills a worker, and waits until there is another and the numbers of the first are saved."""
    pid = board.read().worker(worker)["worker_pid"][()]
    os.kill(pid, signal.SIGKILL)

    def another() -> bool:
        row = board.read().worker(worker)
        return row["worker_up"][()] == 1 and row["worker_pid"][()] != pid

    wait_for(another, "another worker")


class Watcher:
    """Looks at the board all the while; ``back`` are the counters that it has seen going back."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stop = threading.Event()
        self.back: list[object] = []
        self.looks = 0
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        before = counters(self._board.totals())
        while not self._stop.is_set():
            now = counters(self._board.totals())
            self.back += [key for key, number in before.items() if now[key] < number]
            before = now
            self.looks += 1

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("proxy", [(2, "--access-log", "off")], indirect=True)
def test_what_a_killed_worker_has_counted_stays(proxy: ProxyProcess) -> None:
    account = Account()
    with origins() as (web, echoes), refused_port() as closed:
        board = board_of(proxy.process.pid)
        for _ in range(2):
            load(proxy.port, account, web, echoes, f"127.0.0.1:{closed}", clients=3, rounds=1)
            before = at_rest(board, account)
            for worker in range(2):
                kill_one(board, worker)
            after = board.totals()
            for key, number in counters(before).items():
                if key[0] not in ("relay_steps", "relay_events"):  # which go on at rest
                    assert counters(after)[key] == number + (key[0] == "worker_deaths") * 2, key
    assert some(after["requests"]) == dict(account.requests)
    assert after["tunnels_begun"][()] == account.tunnels
    assert after["worker_deaths"][()] == 4


@pytest.mark.parametrize("proxy", [(2, "--access-log", "off")], indirect=True)
def test_no_counter_goes_back_while_workers_die_under_load(proxy: ProxyProcess) -> None:
    account = Account()
    stop = threading.Event()
    kills, clients = 6, 4

    def one(web: str, echoes: str) -> None:
        while not stop.is_set():
            with (
                contextlib.suppress(OSError, EOFError, IndexError),
                Client(proxy.port, account) as client,
            ):
                while not stop.is_set():
                    client.request("GET", f"http://{web}/size-330")
                    client.request("GET", f"http://{web}/chunked")
                    with Client(proxy.port, account) as other:
                        other.request("CONNECT", echoes)
                        other.send(b"x")
                        other.receive(1)

    with origins() as (web, echoes):
        board = board_of(proxy.process.pid)
        threads = [threading.Thread(target=one, args=(web, echoes)) for _ in range(clients)]
        with Watcher(board) as watcher:
            for thread in threads:
                thread.start()
            for n in range(kills):
                enough = sum(account.requests.values()) + 50
                wait_for(lambda: sum(account.requests.values()) > enough, "some load")  # noqa: B023
                kill_one(board, n % 2)
            stop.set()
            for thread in threads:
                thread.join(60)
        wait_for(lambda: not any(board.totals()["connections"].values()), "the end")
    assert watcher.back == []
    assert watcher.looks > 100
    counted = board.totals()["requests"]
    # What was on its way when a worker died is counted or not.
    open_ones = account.begun - sum(account.requests.values())
    assert open_ones <= 2 * clients * kills
    for method in ("GET", "CONNECT"):
        answered = account.requests[method, "2xx"]
        assert answered - 2 * clients * kills <= counted[method, "2xx"] <= answered + open_ones
    assert sum(counted.values()) <= account.begun
    assert board.totals()["worker_deaths"][()] == kills
