"""What ``spliceproxy top`` shows (admin/screen.py), over a client that answers by itself."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from spliceproxy.version import __version__

screen = pytest.importorskip("spliceproxy.admin.screen", reason="textual is not installed")

from textual.widgets import DataTable, Static  # noqa: E402

STATS = {
    "proxy": {"version": "9.9", "uptime": 90.0, "draining": False},
    "rates": {
        "requests": 1.0, "failed": 0.0, "denied": 0.0, "aborted": 0.5,
        "bytes_from_clients": 0.0, "bytes_to_clients": 2e6,
    },
    "live": {"tunnels": 3, "connections": 4},
    "latency": {"time_to_first_byte": {"p50": 0.0123, "p95": 2.5}},
    "limits": [],
    "silent": [1],
    "workers": [{"up": True}, {"up": False}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("used", "shown"),
    [
        ({}, "each ada: 3"),
        ({"refused": 2}, "each ada: 3 (2 refused)"),
        ({"bytes_today": 12_300_000, "refused": 2}, "each ada: 3, 12.3 MB today (2 refused)"),
        ({"key": "", "connections": 0, "bytes_today": 5}, "each: 0, 5 B today"),
    ],
)
def test_what_a_limit_counts(used: dict[str, Any], shown: str) -> None:
    one = {"limit": "each", "key": "ada", "connections": 3, "refused": 0, "bytes_today": 0}
    assert screen.counted({**one, **used}) == shown


def flow(ident: str, **values: Any) -> dict[str, Any]:
    return {
        "id": ident, "age": 5.0, "client": "10.0.0.1", "user": "", "method": "CONNECT",
        "target": "a.example:443", "peer": "192.0.2.1", "rule": "", "tags": {}, "kind": "tunnel",
        "state": "open", "in_copied": 1, "in_spliced": 2, "out_copied": 3, "out_spliced": 4,
        "in_rate": 0, "out_rate": 0, "path": "copied", "client_rtt_us": None, **values,
    }  # fmt: skip


class Stub:
    def __init__(self, *flows: dict[str, Any]) -> None:
        self.flows = list(flows)
        self.deleted: list[str] = []
        self.fault = ""
        self.asked = 0

    def get(self, path: str) -> Any:
        self.asked += 1
        if self.fault:
            raise OSError(self.fault)
        return STATS if "stats" in path else {"tunnels": self.flows, "silent": [], "why": []}

    def delete(self, path: str) -> Any:
        self.deleted.append(path)
        self.flows = [one for one in self.flows if one["id"] != path.rpartition("/")[2]]


FLOWS = (
    flow("0-1", out_rate=10, age=100.0, user="bob"),
    flow("0-2", out_rate=1000, age=1.0, target="b.example:443", client="10.0.0.2"),
    flow("1-3", out_rate=100, age=50.0, target="\x1b[31m\u202eevil[bold]x", user="[red]ann"),
)


def play(client: Stub, script: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        app = screen.Top(client, 0.05)
        async with app.run_test(size=(200, 40)) as pilot:
            await until(pilot, lambda: app.query_one(DataTable).row_count == len(client.flows))
            await script(app, pilot)

    asyncio.run(whole())


async def until(pilot: Any, condition: Callable[[], object]) -> None:
    for _ in range(400):
        if condition():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come to that")


def ids(app: Any) -> list[str]:
    table = app.query_one(DataTable)
    return [str(table.get_row_at(at)[0]) for at in range(table.row_count)]


def text(app: Any, where: str) -> str:
    return str(app.query_one(where, Static).render())


def test_rows_are_in_the_order_that_is_chosen() -> None:
    async def script(app: Any, pilot: Any) -> None:
        assert ids(app) == ["0-2", "1-3", "0-1"]  # by bytes a second to clients
        await pilot.press("r")
        assert ids(app) == ["0-1", "1-3", "0-2"]
        for _ in range(6):
            await pilot.press("less_than_sign")
        assert ids(app) == ["0-1", "1-3", "0-2"]  # by age
        await pilot.press("less_than_sign")
        assert ids(app) == ["0-1", "0-2", "1-3"]  # by id

    play(Stub(*FLOWS), script)


def test_what_comes_from_clients_is_text() -> None:
    async def script(app: Any, pilot: Any) -> None:
        table = app.query_one(DataTable)
        row = [str(cell) for cell in table.get_row_at(1)]
        assert "\\x1b[31m\\u202eevil[bold]x" in row
        assert "[red]ann" in row
        await pilot.press("down")
        assert "\\x1b[31m\\u202eevil[bold]x" in text(app, "#details")
        assert "([red]ann)" in text(app, "#details")

    play(Stub(*FLOWS), script)


def test_tunnels_without_an_id_are_rows_like_others() -> None:
    async def script(app: Any, pilot: Any) -> None:
        assert ids(app) == ["", ""]

    play(Stub(flow(""), flow("")), script)


def test_what_takes_long_is_asked_for_less_often() -> None:
    begun: list[float] = []
    took: list[float] = []

    class Slow(Stub):
        def get(self, path: str) -> Any:
            if "stats" in path:
                begun.append(time.monotonic())
                time.sleep(0.03)
                took.append(time.monotonic() - begun[-1])
            return super().get(path)

    async def script(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: len(begun) > 2)

    play(Slow(*FLOWS), script)
    pauses = [after - before for before, after in itertools.pairwise(begun)]
    assert all(pause >= 10 * one for pause, one in zip(pauses, took, strict=False))


def test_a_filter_shows_rows_that_have_its_words() -> None:
    async def script(app: Any, pilot: Any) -> None:
        await pilot.press("slash", *"10.0.0.2 B.EX")
        assert ids(app) == ["0-2"]
        assert "1 tunnel or request with '10.0.0.2 B.EX', of 3" in text(app, "#heading")
        await pilot.press("escape")
        assert len(ids(app)) == 3

    play(Stub(*FLOWS), script)


def test_an_end_needs_a_yes() -> None:
    client = Stub(*FLOWS)

    async def script(app: Any, pilot: Any) -> None:
        for key in ("n", "escape", "enter"):
            await pilot.press("k")
            assert isinstance(app.screen, screen.Sure)
            await pilot.press(key)
            assert not isinstance(app.screen, screen.Sure)
        assert client.deleted == []
        await pilot.press("k", "y")
        await until(pilot, lambda: ids(app) == ["1-3", "0-1"])
        assert client.deleted == ["/tunnels/0-2"]
        assert "0-2 was ended" in text(app, "#heading")

    play(client, script)


def test_a_cursor_that_was_not_moved_stays_at_the_top() -> None:
    client = Stub(*FLOWS)

    async def script(app: Any, pilot: Any) -> None:
        client.flows = [flow("2-9", out_rate=5000), *client.flows]
        await until(pilot, lambda: len(ids(app)) == 4)
        assert text(app, "#details").startswith("tunnel 2-9")

    play(client, script)


def test_the_cursor_stays_on_its_row() -> None:
    client = Stub(*FLOWS)

    async def script(app: Any, pilot: Any) -> None:
        await pilot.press("down", "down")
        client.flows = [flow("2-9", out_rate=5000), *client.flows]
        await until(pilot, lambda: len(ids(app)) == 4)
        await pilot.press("k", "y")
        await until(pilot, lambda: client.deleted)
        assert client.deleted == ["/tunnels/0-1"]

    play(client, script)


def test_a_pause_asks_nothing() -> None:
    client = Stub(*FLOWS)

    async def script(app: Any, pilot: Any) -> None:
        await pilot.press("space")
        await pilot.pause(0.2)
        asked = client.asked
        await pilot.pause(0.4)
        assert client.asked == asked
        assert "PAUSED" in text(app, "#heading")
        await pilot.press("space")
        await until(pilot, lambda: client.asked > asked)

    play(client, script)


def test_no_answer_is_told_and_it_goes_on() -> None:
    client = Stub(*FLOWS)

    async def script(app: Any, pilot: Any) -> None:
        said = text(app, "#heading")
        assert "spliceproxy 9.9, up 1 min 30   workers 1/2, silent: 1   tunnels 3" in said
        assert "aborted 0.5/s   first byte ≈ 12 ms, 95 %: ≈ 2.5 s" in said
        client.fault = "refused\x1b"
        await until(pilot, lambda: "no answer: refused\\x1b" in text(app, "#heading"))
        assert len(ids(app)) == 3
        client.fault = ""
        await until(pilot, lambda: "no answer" not in text(app, "#heading"))

    play(client, script)


def test_of_many_rows_the_first_are_shown() -> None:
    many = [flow(f"0-{n}", out_rate=n) for n in range(2000)]
    found = screen.chosen(many, "", screen.COLUMNS[screen.FIRST], reverse=False)
    assert [one["id"] for one in found[:2]] == ["0-1999", "0-1998"]
    client = Stub(*many[:10])

    async def script(app: Any, pilot: Any) -> None:
        client.flows = many
        table = app.query_one(DataTable)
        await until(pilot, lambda: table.row_count == screen.ROWS)
        assert "500 of 2000 tunnels and requests" in text(app, "#heading")

    play(client, script)


def test_the_example_in_the_docs_is_of_this_program() -> None:
    page = Path(__file__).parents[2] / "docs" / "monitoring.md"
    _, _, rest = page.read_text().partition("     spliceproxy ")
    first, second, _, titles, *rows = f"spliceproxy {rest}".partition("\n\n")[0].splitlines()
    assert first.startswith(f"spliceproxy {__version__}, up ")
    words = re.compile(r"[a-z][a-z ]*(?= )")

    def names(text: str) -> list[str]:
        return [found[0] for part in text.strip().split("   ") if (found := words.match(part))]

    stats = {**STATS, "silent": []}
    assert [names(first), names(second)] == [
        names(line) for line in screen.heading(stats).split("\n")
    ]
    assert titles.replace(" ▼", "").split() == [column.title for column in screen.COLUMNS]
    assert rows
    for row in rows:
        assert re.match(r" +[0-9]+-[0-9]+ ", row), row


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [(None, ""), (43, "43 µs"), (949, "949 µs"), (1449, "1.4 ms"), (99_960, "100 ms")],
)
def test_round_trips(microseconds: float | None, shown: str) -> None:
    assert screen.milliseconds(microseconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (999_600, "1.0 MB"),
     (123_456_789, "123 MB"), (5e15, "5000 TB")],
)  # fmt: skip
def test_sizes(number: float, shown: str) -> None:
    assert screen.size(number) == shown
