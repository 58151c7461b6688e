"""What a worker can say of all that is over (observe/tally.py), and how the answers of several
become one (admin/tallies.py)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from spliceproxy.admin import tallies, tally_parts
from spliceproxy.admin.channel import MAX_MESSAGE
from spliceproxy.observe import tally as module
from spliceproxy.observe.record import Record
from spliceproxy.observe.tally import DENIALS, FAILURES, SLICE, Failure, Tally, place
from spliceproxy.observe.top import KINDS
from spliceproxy.relay import interface
from spliceproxy.relay.lane import Sum


def record(**values: Any) -> Record:
    made = Record("10.0.0.1")
    made.method, made.target, made.host, made.port = "GET", "http://o/", "o", 80
    made.status, made.bytes_in, made.bytes_out = 200, 10, 100
    for name, value in values.items():
        setattr(made, name, value)
    made.ended_at = made.ended_at or 1000.0
    return made


@pytest.fixture
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def keys(tally: Tally, kind: str, measure: str = "bytes") -> dict[str, tuple[int, int]]:
    rows = tally.rankings("all", 99)[1][kind, measure].rows
    return {row.key: (row.requests, row.total) for row in rows}


def test_a_record_counts_for_each_list(loop: Any) -> None:
    tally = Tally(loop)
    tally.see(record(user="ann"))
    tally.see(record(client="", host="2001:db8::1"))
    tally.see(record(host=""))  # the proxy itself was asked
    assert keys(tally, "destinations") == {"o:80": (1, 110), "[2001:db8::1]:80": (1, 110)}
    assert keys(tally, "clients") == {"10.0.0.1": (2, 220), "unix": (1, 110)}
    assert keys(tally, "users") == {"ann": (1, 110)}


def test_a_denial_is_kept_and_is_no_destination_and_no_failure(loop: Any) -> None:
    tally = Tally(loop)
    tally.see(record(error="http_request_denied", rule="r1", why="No.", status=403))
    (denial,) = tally.denials()
    assert denial == (1000.0, "10.0.0.1", "", "GET", "http://o/", "r1", "No.")
    assert keys(tally, "destinations") == {}
    assert keys(tally, "clients") == {"10.0.0.1": (1, 110)}
    assert tally.failures() == []
    for number in range(2 * DENIALS):
        tally.see(record(error="destination_ip_prohibited", rule=str(number)))
    assert [one.rule for one in tally.denials()] == [str(n) for n in range(DENIALS, 2 * DENIALS)]


def test_a_denial_without_a_rule_says_what_the_client_was_told(loop: Any) -> None:
    tally = Tally(loop)
    tally.see(record(error="http_request_denied", status=407, detail="a password is needed"))
    assert tally.denials()[0].reason == "a password is needed"


def test_a_query_is_not_kept_where_the_log_does_not(loop: Any) -> None:
    tally = Tally(loop, query=False)
    tally.see(record(error="http_request_denied", target="http://o/a?secret"))
    assert tally.denials()[0].target == "http://o/a?"


def test_failures_are_counted_by_kind_and_place(loop: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    tally = Tally(loop)
    refused = {"error": "connection_refused", "failed": "192.0.2.1:80"}
    tally.see(record(**refused))
    tally.see(record(**refused, client="10.0.0.2"))
    tally.see(record(reason=interface.ORIGIN_RESET, peer="192.0.2.2"))
    tally.see(record(reason=interface.CLIENT_RESET))
    last, first = tally.failures()
    assert (last.kind, last.where, last.address) == ("origin-reset", "o:80", "192.0.2.2")
    assert (first.kind, first.total, first.client) == ("connection_refused", 2, "10.0.0.2")
    assert first.address == "192.0.2.1:80"


def test_failures_are_bounded_and_the_oldest_goes(loop: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    tally = Tally(loop)
    for number in range(FAILURES + 1):
        tally.see(record(error="dns_error", host=f"h{number}"))
        tally.see(record(error="dns_error", host="h0"))
    found = {one.where for one in tally.failures()}
    assert len(found) == FAILURES
    assert "h0:80" in found
    assert "h1:80" not in found


def test_failures_of_the_last_hour() -> None:
    failure = Failure("dns_error", "o:80")
    failure.add(1000.0, 2)
    failure.add(1000.0 + 6 * SLICE, 1)
    assert failure.in_hour(1000.0 + 6 * SLICE) == 3
    assert failure.in_hour(1000.0 + 12 * SLICE) == 1
    assert failure.in_hour(1000.0 + 40 * SLICE) == 0
    failure.add(1000.0, 1)  # a clock that was set back
    assert failure.total == 4


class Relay:
    """The relay's side: sums that wait, of slots that take three calls to be looked at."""

    def __init__(self, *sums: Sum) -> None:
        self.sums = list(sums)
        self.looked: list[int] = []

    def take_log(self) -> tuple[bytes, int]:
        return b"", 0

    def sum_live(self, slot: int) -> int:
        self.looked.append(slot)
        return slot + 10 if slot < 20 else -1

    def take_sums(self) -> tuple[list[Sum], int]:
        found, self.sums = self.sums, []
        return found, 1 if found else 0


def summed(kind: str, key: bytes, requests: int = 1, **values: Any) -> Sum:
    given = {"received": 1, "sent": 2, "reason": "", "last": 0.0, "client": "", "peer": ""}
    return Sum(kind, key, requests, **{**given, **values})


def test_sums_of_the_relay_are_taken_a_few_at_a_time(loop: Any) -> None:
    many = [summed("destinations", b"%d.example:1" % n) for n in range(1000)]
    relay = Relay(
        *many,
        summed("clients", b"192.0.2.1", 5),
        summed("clients", b""),
        summed("users", "jürgen".encode()),
        summed(
            "failures", b"80  o", 3, reason="source-eof", last=900.0, client="c", peer="192.0.2.9"
        ),
    )
    tally = Tally(loop)

    async def play() -> int:
        tally.follow(relay)
        turns = 0
        for _ in tally.catch_up():
            await asyncio.sleep(0)
            turns += 1
        tally.stop()
        return turns

    assert loop.run_until_complete(play()) >= 4
    assert relay.looked == [0, 10, 20]
    assert tally.missed == 1
    assert keys(tally, "clients") == {"192.0.2.1": (5, 3), "unix": (1, 3)}
    assert keys(tally, "users") == {"jürgen": (1, 3)}
    assert sum(count for _, count in keys(tally, "destinations").values()) <= 3000
    (failure,) = tally._failures.values()
    assert (failure.kind, failure.where, failure.total) == ("source-eof", "o:80", 3)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b"Example.COM:443", "example.com:443"),
        (b"[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
        (b"80  o", "o:80"),
        (b"8080 192.0.2.1 o.example", "o.example:8080"),
        (b"443  2001:db8::1", "[2001:db8::1]:443"),
        (b"cut" * 100, "cut" * 100),
        (b"", ""),
    ],
)
def test_where_a_key_of_the_relay_leads(key: bytes, text: str) -> None:
    assert place(key) == text


def test_several_answers_are_one(loop: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    workers = [Tally(loop), Tally(loop)]
    for number, tally in enumerate(workers):
        tally.see(record(user="ann"))
        tally.see(record(user=f"u{number}", error="http_request_denied", ended_at=1000.0 - number))
        tally.see(record(error="dns_error", ended_at=990.0 + number, client=f"c{number}"))
    answers = [json.loads(json.dumps(list(tally_parts.answer(tally, "copy")))) for tally in workers]
    found = tallies.together(answers, 9)
    assert found.engine == "copy"
    rows = found.rankings["all", "users", "requests"].rows
    assert [(row.key, row.total) for row in rows] == [("ann", 2), ("u0", 1), ("u1", 1)]
    assert [one["user"] for one in found.denials] == ["u1", "u0"]
    (failure,) = found.failures
    assert (failure["hour"], failure["total"], failure["client"]) == (2, 2, "c1")
    assert set(found.rankings) == {
        (span, kind, measure)
        for span in ("recent", "all")
        for kind in KINDS
        for measure in ("bytes", "requests")
    }
    assert tallies.together([], 9).rankings["all", "users", "bytes"].rows == []


def test_no_part_is_too_large_whatever_is_in_it(loop: Any) -> None:
    tally = Tally(loop)
    for number in range(200):
        text = f"{number}" + "\U0001f600" * 5000
        tally.see(record(user=text, client=text, host=text, error="dns_error", failed=text))
        tally.see(record(user=text, target=text, method=text, error="http_request_denied"))
    for part in tally_parts.answer(tally, "native"):
        assert len(json.dumps(part)) < MAX_MESSAGE - 100
