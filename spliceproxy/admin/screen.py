"""What ``spliceproxy top`` shows: the tunnels and running requests of a proxy, in a terminal.

It needs textual, which the extra ``top`` installs. Whatever comes from clients is shown as plain
text: no markup, and no character that a terminal could take for a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Label, Static

from spliceproxy.admin.filters import Flow, has_words
from spliceproxy.relay.leases import words

ROWS = 500
"""Rows that are shown at most: the first in the order that is chosen."""

SHARE = 10
"""It waits for so many times as long as the answers took: many tunnels are work for the workers."""

WIDE = 44
"""Characters of a target that are shown. The row at the cursor is shown in full below."""


class Client(Protocol):
    """Who asks the admin address. Every call may wait; OSError says why there is no answer."""

    def get(self, path: str) -> Any: ...
    def delete(self, path: str) -> Any: ...


# ---- texts -------------------------------------------------------------------------------------


def clean(text: object) -> str:
    """What could change the screen or the direction of text is written as ``\\x1b``."""
    return "".join(
        [
            each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
            for each in str(text)
        ]
    )


def size(number: float) -> str:
    """Bytes, in three digits and a unit."""
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.{0 if unit == 'B' or number >= 99.95 else 1}f} {unit}"


def rate(number: float) -> str:
    """Bytes a second; nothing for none."""
    return f"{size(number)}/s" if number else ""


def age(seconds: float | None) -> str:
    """In two units of time."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d}"


def milliseconds(microseconds: float | None) -> str:
    """Of a round trip; nothing where it is not known."""
    if microseconds is None:
        return ""
    if microseconds < 950:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1000:.{1 if microseconds < 99_950 else 0}f} ms"


# ---- columns -----------------------------------------------------------------------------------


class Column(NamedTuple):
    """``order`` is what rows are sorted by; ``text`` is what is shown. The largest number comes
    first, and the first word."""

    title: str
    order: Callable[[Flow], Any]
    text: Callable[[Flow], str]
    words: bool = False


def _words(title: str, name: str, most: int = 40) -> Column:
    def text(flow: Flow) -> str:
        found = clean(flow.get(name) or "")
        return found if len(found) <= most else found[: most - 1] + "…"

    return Column(title, lambda flow: str(flow.get(name) or ""), text, True)


def _number(title: str, value: Callable[[Flow], Any], show: Callable[[Any], str]) -> Column:
    return Column(title, lambda flow: value(flow) or 0, lambda flow: show(value(flow)))


def received(flow: Flow) -> int:
    """Bytes from the client."""
    return int(flow["in_copied"]) + int(flow["in_spliced"])


def sent(flow: Flow) -> int:
    """Bytes to the client."""
    return int(flow["out_copied"]) + int(flow["out_spliced"])


COLUMNS = (
    _words("id", "id", 14),
    _number("age", lambda flow: flow.get("age"), age),
    _words("client", "client", 39),
    _words("user", "user", 16),
    _words("method", "method", 8),
    _words("target", "target", WIDE),
    _number("in/s", lambda flow: flow.get("in_rate"), rate),
    _number("out/s", lambda flow: flow.get("out_rate"), rate),
    _number("in", received, size),
    _number("out", sent, size),
    _number("rtt", lambda flow: flow.get("client_rtt_us"), milliseconds),
    _words("path", "path"),
)

FIRST = 7
"""The column by which rows are ordered at first: bytes a second to clients."""


def chosen(flows: Sequence[Flow], words: str, column: Column, *, reverse: bool) -> list[Flow]:
    """Those that have each of the words, in their order."""
    wanted = words.lower().split()
    found = [flow for flow in flows if has_words(flow, wanted)]
    found.sort(key=lambda flow: str(flow["id"]))
    found.sort(key=column.order, reverse=reverse != (not column.words))
    return found


def heading(stats: Mapping[str, Any]) -> str:
    """The lines at the top, of ``GET /stats.json``."""
    proxy, rates, live = stats["proxy"], stats["rates"], stats["live"]
    workers = stats["workers"]
    up = sum(1 for worker in workers if worker["up"])
    silent = ", ".join(map(str, stats["silent"]))
    state = "draining" if proxy["draining"] else f"up {age(proxy['uptime'])}"
    first = [
        f"spliceproxy {proxy['version']}, {state}",
        f"workers {up}/{len(workers)}" + (f", silent: {silent}" if silent else ""),
        f"tunnels {live['tunnels']}",
        f"connections {live['connections']}",
        f"in {size(rates['bytes_from_clients'])}/s",
        f"out {size(rates['bytes_to_clients'])}/s",
    ]
    second = [f"{name} {rates[name]:.1f}/s" for name in ("requests", *RATED)]
    times = stats["latency"]["time_to_first_byte"]
    if times["p50"] is not None:
        second.append(f"first byte {estimate(times['p50'])}, 95 %: {estimate(times['p95'])}")
    lines = [first, second]
    limits = [clean(counted(one)) for one in stats["limits"][:LIMITS]]
    store = stats.get("limits_store")
    if limits or store is not None:
        shared = [] if store is None else [words(store["up"], store["machines"])]
        lines.append(["limits", *limits, *shared])
    return "\n".join("   ".join(line) for line in lines)


def counted(one: Mapping[str, Any]) -> str:
    """What a limit counts."""
    whose = f"{one['limit']} {one['key']}".strip()
    today = f", {size(one['bytes_today'])} today" if one["bytes_today"] else ""
    refused = f" ({one['refused']} refused)" if one["refused"] else ""
    return f"{whose}: {one['connections']}{today}{refused}"


LIMITS = 3
"""What limits count, the busiest."""


RATED = ("failed", "denied", "aborted")
"""Outcomes whose rates are shown."""


def estimate(seconds: float) -> str:
    """Of a time that is known to lie in a bucket."""
    factor, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1.0, "s")
    return f"≈ {float(f'{seconds * factor:.2g}'):g} {unit}"


def details(flow: Flow) -> str:
    """All of one row."""
    tags = " ".join(f"{name}={value}" for name, value in flow.get("tags", {}).items())
    parts = [
        f"{flow.get('kind', '')} {flow['id']}",
        str(flow.get("state") or "") if flow.get("state") != flow.get("kind") else "",
        f"{flow['client']}{' (' + flow['user'] + ')' if flow.get('user') else ''}",
        f"via {flow['via']}" if flow.get("via") else "",
        f"{flow['method']} {flow['target']}",
        f"to {flow['peer']}" if flow.get("peer") else "",
        f"rule {flow['rule']}" if flow.get("rule") else "",
        tags,
    ]
    return clean("   ".join(part for part in parts if part))


# ---- the screens -------------------------------------------------------------------------------


class Sure(ModalScreen[bool]):
    """Asks whether a tunnel is to be ended."""

    DEFAULT_CSS = """
    Sure { align: center middle; }
    Sure Label { width: 100%; }
    Sure > Vertical { width: 76; max-width: 95%; height: auto; border: round $error; padding: 1 2; }
    """
    BINDINGS: ClassVar = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q,enter", "answer(False)", "No"),
    ]

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(Text("End this with a reset?"))
            yield Label(Text(details(self._flow)))
            yield Label(Text("y: end it   n: leave it alone"))

    def action_answer(self, sure: bool) -> None:
        self.dismiss(sure)


class Top(App[None]):
    """The whole of it. ``seconds`` between two looks at least."""

    TITLE = "spliceproxy top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #heading { height: auto; background: $boost; padding: 0 1; }
    #table { height: 1fr; }
    #details { height: auto; max-height: 3; padding: 0 1; color: $text-muted; }
    #filter { display: none; height: 3; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar = [
        Binding("q", "quit", "Quit"),
        Binding("space", "pause", "Pause"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("less_than_sign", "order(-1)", "Order by", key_display="<"),
        Binding("greater_than_sign", "order(1)", "Order by", key_display=">"),
        Binding("r", "reverse", "Reverse"),
        Binding("k", "kill", "Kill"),
        Binding("escape", "clear", "Clear filter", show=False),
    ]

    def __init__(self, client: Client, seconds: float = 2.0) -> None:
        super().__init__()
        self._client = client
        self._seconds = seconds
        self._flows: list[Flow] = []
        self._shown: list[Flow] = []
        self._heading = "asking"
        self._fault = ""
        self._paused = False
        self._column = FIRST
        self._reverse = False
        self._said = ""  # what became of the last order

        # Kept, for a query looks at the screen on top only.
        self._top = Static(id="heading", markup=False)
        self._table: DataTable[Text] = DataTable(id="table", cursor_type="row", zebra_stripes=True)
        self._details = Static(id="details", markup=False)
        self._filter = Input(
            id="filter", placeholder="words that a row must have: client, user, target"
        )

    def compose(self) -> ComposeResult:
        yield self._top
        yield self._table
        yield self._details
        yield self._filter
        yield Footer()

    async def on_mount(self) -> None:
        self._name_columns()
        self._table.focus()
        self.run_worker(self._look_on(), name="look")

    # ---- what is asked -----------------------------------------------------------------

    async def _look_on(self) -> None:
        while True:
            begun = time.monotonic()
            if not self._paused:
                await self._look()
            await asyncio.sleep(max(self._seconds, SHARE * (time.monotonic() - begun)))

    async def _look(self) -> None:
        try:
            stats, found = await asyncio.gather(
                asyncio.to_thread(self._client.get, "/stats.json?since=1e12"),
                asyncio.to_thread(self._client.get, "/tunnels"),
            )
        except OSError as error:
            self._fault = str(error)
        else:
            self._fault = "; ".join(found.get("why", ()))
            self._heading = heading(stats)
            self._flows = found["tunnels"]
        self._show()

    # ---- what is shown -----------------------------------------------------------------

    def _name_columns(self) -> None:
        table = self._table
        table.clear(columns=True)
        for at, column in enumerate(COLUMNS):
            mark = (" ▲" if self._reverse else " ▼") if at == self._column else ""
            table.add_column(f"{column.title}{mark}", key=column.title)

    def _show(self) -> None:
        """Draws everything again; the cursor stays on its row."""
        table = self._table
        if not table.is_attached:  # the user has left
            return
        words = self._filter.value
        found = chosen(self._flows, words, COLUMNS[self._column], reverse=self._reverse)
        # A cursor that nobody has moved stays at the top.
        at = self._at_cursor() if table.cursor_row > 0 else None
        self._shown = found[:ROWS]
        scrolled = table.scroll_y
        table.clear()
        for flow in self._shown:
            cells = [
                Text(column.text(flow), justify="left" if column.words else "right")
                for column in COLUMNS
            ]
            table.add_row(*cells)
        rows = [str(flow["id"]) for flow in self._shown]
        if at is not None and at["id"] in rows:
            table.cursor_coordinate = Coordinate(rows.index(at["id"]), 0)
        table.scroll_to(y=scrolled, animate=False)
        self._show_texts(len(found), words)

    def _show_texts(self, found: int, words: str) -> None:
        lines = [self._heading]
        shown = f"{len(self._shown)} of " if len(self._shown) < found else ""
        line = "1 tunnel or request" if found == 1 else f"{shown}{found} tunnels and requests"
        if words:
            line += f" with {clean(words)!r}, of {len(self._flows)}"
        if self._paused:
            line += "   PAUSED"
        if self._said:
            line += f"   {self._said}"
        lines.append(line)
        if self._fault:
            lines.append(f"no answer: {clean(self._fault)}")
        self._top.update("\n".join(lines))
        at = self._at_cursor()
        self._details.update("" if at is None else details(at))

    def _at_cursor(self) -> Flow | None:
        row = self._table.cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def on_data_table_row_highlighted(self) -> None:
        at = self._at_cursor()
        self._details.update("" if at is None else details(at))

    # ---- what people do ----------------------------------------------------------------

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        same = event.column_index == self._column
        self._reverse = same and not self._reverse
        self._order_by(event.column_index)

    def action_order(self, step: int) -> None:
        self._reverse = False
        self._order_by((self._column + step) % len(COLUMNS))

    def action_reverse(self) -> None:
        self._reverse = not self._reverse
        self._order_by(self._column)

    def _order_by(self, column: int) -> None:
        at = self._at_cursor()
        self._column = column
        self._name_columns()
        self._show()
        rows = [flow["id"] for flow in self._shown]
        if at is not None and at["id"] in rows:
            self._table.cursor_coordinate = Coordinate(rows.index(at["id"]), 0)

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._show()

    def action_filter(self) -> None:
        field = self._filter
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        field = self._filter
        field.value = ""
        field.remove_class("shown")
        self._table.focus()
        self._show()

    def on_input_changed(self) -> None:
        self._show()

    def on_input_submitted(self) -> None:
        self._table.focus()

    def action_kill(self) -> None:
        flow = self._at_cursor()
        if flow is not None:
            self.push_screen(Sure(flow), lambda sure: self._killing(flow, sure))

    def _killing(self, flow: Flow, sure: bool | None) -> None:
        if sure:
            self.run_worker(self._kill(flow), name="kill")

    async def _kill(self, flow: Flow) -> None:
        ident = str(flow["id"])
        try:
            await asyncio.to_thread(self._client.delete, f"/tunnels/{ident}")
        except OSError as error:
            self._said = f"{ident}: {clean(error)}"
        else:
            self._said = f"{ident} was ended"
        await self._look()


def run(client: Client, seconds: float) -> None:
    """Shows it until the user has seen enough. OSError: there is no answer even once."""
    client.get("/stats.json?since=1e12")
    with contextlib.suppress(KeyboardInterrupt):
        Top(client, seconds).run()
