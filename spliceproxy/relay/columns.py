"""What is counted: one table of columns, by which every number has its place in a row.

A *row* is a memoryview of WIDTH unsigned 64-bit numbers, and has one writer, who adds plainly. That
of a worker is in memory that all processes share (``observe.board``). Whoever has no such memory
counts into a row of its own (:func:`private`), so that nobody has to ask.

A *family* is what the numbers of some columns have in common; its labels tell them apart. The
columns of a family lie side by side, in the order of its label values. The relay in C has the same
order (``native/core/counts.pxd``, ``native/lane/counts.pxd``), and is compared with this table when
it is imported.

Behind the columns of the table are those whose labels are known only while the proxy runs: the ids
of rules (``observe.names``).

No label has a value that a client chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from spliceproxy.errors import STATUS
from spliceproxy.relay import checking
from spliceproxy.relay.handoff import CAUSES
from spliceproxy.relay.interface import REASONS

COUNTER = "counter"  # only grows; a dead worker's is added to what all before it have counted
GAUGE = "gauge"  # of now; it ends with its worker
HISTOGRAM = "histogram"  # its columns are one for each bound, one beyond them, and the sum
WORKER = "worker"  # of one worker; a sum over workers would mean nothing

METHODS = ("GET", "HEAD", "CONNECT", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other")

STATUSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "other")
"""By the first digit of the status; "none": the client was sent no status."""

BOUNDS = (
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
)
"""Microseconds: the upper bounds of the histograms' buckets, inclusive."""

DIAL_ERRORS = (
    "connection_limit_reached",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_ip_prohibited",
    "destination_unavailable",
    "destination_ip_unroutable",
)
"""The Proxy Error Types (RFC 9209 section 2.3) that an attempt to connect can end with."""

ERRORS = tuple(STATUS)

ENDED_BY = {
    "C": "client",
    "S": "origin",
    "c": "client-idle",
    "s": "origin-idle",
    "P": "proxy",
    "K": "operator",
    "D": "drain",
    "L": "limit",
}
"""Who may end a request before it is over, by the first letter of its termination
(``observe.termination``), in the order of ``cut_column`` of native/lane/counts.pxd."""

UNIDENTIFIED = ("missing", "malformed", "wrong", "throttled")
"""Why a client was asked for credentials, or to come later."""

FOUND = ("match", "host-mismatch", "no-name", "ech", "not-tls", "malformed", "late")
"""What the name in the first bytes of a client can be."""

HEADERS = (
    # What it was. Neither "local" (as of a health check) nor "unknown" names a client.
    "v1",
    "v2",
    "local",
    "unknown",
    # Why the connection was closed. "outside": whoever has connected may not send one; "closed": it
    # has left before all of its header was there.
    "outside",
    "missing",
    "malformed",
    "too_long",
    "checksum",
    "timeout",
    "closed",
)

ALLOW = "allow"
DENY = "deny"
REPORT = "report"  # a rule that only reports would have decided otherwise
OTHER = "other"

DECISIONS = (
    (ALLOW, "default"),  # no rule has matched
    (DENY, "default"),
    (DENY, "clients"),
    (DENY, "guard"),
    (DENY, "locked"),
    (DENY, "targets"),
    (DENY, "tls-name"),
    (DENY, "function"),  # of --policy, without an id
    # Rules that found no room among the names.
    (ALLOW, OTHER),
    (DENY, OTHER),
    (REPORT, OTHER),
)

PARENT_EVENTS = ("sent", "granted", "failed", "down", "up")
"""Of a parent: a request was sent to it; it has granted a tunnel; it was at fault; it was put
aside; it was there again."""

DYNAMIC = 1024
"""Columns whose labels are known only while the proxy runs."""

LINE = 16
"""A row ends at a multiple of so many numbers: two lines of the cache, which are fetched together,
so that no two writers ever have one in common."""


class Family(NamedTuple):
    """``first`` is its first column, and ``values`` are the label values of each. A time is in
    microseconds here, whatever the name of the family says."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    first: int

    def column(self, *values: str) -> int:
        """That of some label values. ValueError for others."""
        return self.first + self.values.index(values)


FAMILIES: dict[str, Family] = {}
"""Of the table, by name, in its order."""


def _family(
    name: str, kind: str, help: str, values: Sequence[tuple[str, ...]] = ((),), *labels: str
) -> int:
    first = sum(len(family.values) for family in FAMILIES.values())
    FAMILIES[name] = Family(name, kind, help, labels, tuple(values), first)
    return first


def _each(*labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(product(*labels))


def _histogram(name: str, help: str) -> int:
    buckets = [(f"{bound / 1e6:g}",) for bound in BOUNDS]
    return _family(name, HISTOGRAM, help, [*buckets, ("+Inf",), ("sum",)], "le")


# ---- of the relay: native/core/counts.pxd ------------------------------------------------------

BYTES = _family(
    "bytes",
    COUNTER,
    "Bytes of requests and tunnels from clients (in) and to clients (out), heads included.",
    _each(("in", "out"), ("copied", "spliced")),
    "direction",
    "path",
)
IN_COPIED, IN_SPLICED, OUT_COPIED, OUT_SPLICED = range(BYTES, BYTES + 4)
TUNNELS_BEGUN = _family("tunnels_begun", COUNTER, "Tunnels that have begun.")
TUNNELS_ENDED = _family(
    "tunnels_ended", COUNTER, "Tunnels that have ended, by how.", _each(REASONS[1:]), "reason"
)
SPLICE_FALLBACKS = _family(
    "splice_fallbacks", COUNTER, "Directions that gave up splicing, and copy for good."
)
URGENT = _family("urgent_stalls", COUNTER, "Of these, those behind an urgent byte.")
PIPE_STARVED = _family(
    "pipe_shortages", COUNTER, "Turns that wanted a pipe and copied, for there was none."
)
RELAY_EVENTS = _family("relay_events", COUNTER, "Events that the relay has served.")
RELAY_GUESSES = _family("relay_guesses", COUNTER, "Of these, those that epoll was not asked for.")
RELAY_STEPS = _family("relay_steps", COUNTER, "Wake-ups of the relay.")
TLS_NAMES = _family(
    "tls_names",
    COUNTER,
    "Tunnels whose client was asked for the name inside TLS, by what was found of it.",
    _each(checking.FOUND[1:], (checking.PASSED, checking.REFUSED)),
    "result",
    "action",
)
TUNNELS = _family("tunnels", GAUGE, "Tunnels that are open.")
TRANSFERS = _family("transfers", GAUGE, "Bodies that the relay moves for Python.")
PIPES = _family("pipes", GAUGE, "Pipes that are open.", _each(("lent", "idle")), "state")

# ---- of the lane: native/lane/counts.pxd -------------------------------------------------------

REQUESTS = _family(
    "requests",
    COUNTER,
    "Requests that are over, and tunnels that have begun.",
    _each(METHODS, STATUSES),
    "method",
    "status",
)
LANE_REQUESTS = _family("lane_requests", COUNTER, "Of these, those answered in the lane.")
REQUESTS_CUT = _family(
    "requests_cut",
    COUNTER,
    "Requests that were ended early, without an answer of the proxy's own, by who has done it.",
    _each(tuple(ENDED_BY.values())),
    "by",
)
GIVEN_BACK = _family(
    "given_back", COUNTER, "Clients that the lane gave back to Python.", _each(CAUSES[1:]), "cause"
)
LOST = _family("clients_lost", COUNTER, "Clients that were closed, for want of memory.")
CONNECTIONS_BEGUN = _family("connections_begun", COUNTER, "Connections of clients accepted.")
ROUTE_HITS = _family("route_hits", COUNTER, "Requests whose route was known: nobody was asked.")
QUESTIONS = _family("questions", COUNTER, "Requests that Python was asked about.")
REUSES = _family("origin_reuses", COUNTER, "Requests that were sent on an idle connection.")
DIALS = _family("dials", COUNTER, "Connections to origins that were made.")
DIAL_FAILURES = _family(
    "dial_errors",
    COUNTER,
    "Attempts to connect that have failed, by Proxy Error Type.",
    _each(DIAL_ERRORS),
    "error",
)
DIAL_SECONDS = _histogram(
    "dial_seconds", "Time until an origin was connected to, the look-up of its name included."
)
FIRST_BYTE_SECONDS = _histogram(
    "time_to_first_byte_seconds",
    "Time from a request's whole head to the first byte of its response, all between included.",
)
LINES_LOST = _family(
    "log_lines_lost",
    COUNTER,
    "Lines of the access log, and messages, that were not written.",
    [
        ("access", "memory"),
        ("access", "slow"),
        ("access", "failed"),
        ("access", "ended"),
        ("messages", "slow"),
        ("messages", "failed"),
        ("messages", "ended"),
    ],
    "log",
    "cause",
)
(
    ACCESS_WITHOUT_MEMORY,
    ACCESS_TOO_SLOW,
    ACCESS_FAILED,
    ACCESS_AT_END,
    MESSAGES_TOO_SLOW,
    MESSAGES_FAILED,
    MESSAGES_AT_END,
) = range(LINES_LOST, LINES_LOST + 7)
LINES_MADE = _family("log_lines", COUNTER, "Lines of the access log that were made.")
PROXY_HEADERS = _family(
    "proxy_headers",
    COUNTER,
    "Connections to addresses that expect the PROXY protocol, by what became of their header.",
    _each(HEADERS),
    "result",
)
SOCKS_REQUESTS = _family(
    "socks_requests",
    COUNTER,
    "Of the requests that are over and the tunnels that have begun, those by SOCKS.",
    _each(("4", "5")),
    "version",
)
CLIENTS = _family(
    "connections",
    GAUGE,
    "Connections of clients that are open, tunnels not counted.",
    _each(("lane", "python")),
    "by",
)
QUESTIONS_OPEN = _family("questions_open", GAUGE, "Requests that wait for Python's answer.")
ORIGINS_IDLE = _family("origin_connections_idle", GAUGE, "Connections kept between two requests.")

# ---- of Python ---------------------------------------------------------------------------------

DECIDED = _family(
    "decisions", COUNTER, "Requests by what was decided, and by which rule.", DECISIONS,
    "action", "rule",
)  # fmt: skip
LIMITED = _family(
    "limit_refusals", COUNTER, "Requests refused because they did not fit into a limit.",
    _each((OTHER,)), "limit",
)  # fmt: skip
PARENTS = _family(
    "parents", COUNTER, "What has happened with other proxies that requests go through.",
    _each(PARENT_EVENTS, (OTHER,)), "event", "parent",
)  # fmt: skip
UNIDENTIFIED_CLIENTS = _family(
    "authentication_failures", COUNTER, "Requests without right credentials.",
    _each(UNIDENTIFIED), "reason",
)  # fmt: skip
FAILURES = _family(
    "errors", COUNTER, "Requests that failed here, by Proxy Error Type.", _each(ERRORS), "error"
)
CLIENT_NAMES = _family(
    "client_names", COUNTER,
    "Connections that the kernel has led here, by what was found of the name in their first bytes.",
    _each(FOUND), "result",
)  # fmt: skip
LOOKUPS = _family("lookups", COUNTER, "Names that the DNS was asked for.")
NAMES_CACHED = _family("names_cached", GAUGE, "Names whose addresses are kept.")
NAMES_STALE = _family(
    "names_stale", COUNTER, "Old answers of the DNS that have stood in for new ones."
)
NAMES_ASKED = _family("names_asked", GAUGE, "Names that the DNS is being asked for.")
FUNCTION_FAILURES = _family(
    "function_failures", COUNTER, "Calls of authorize of --policy that failed."
)
CLOSINGS_DROPPED = _family(
    "on_close_dropped", COUNTER, "Calls of on_close of --policy that were not made."
)
LINES_WAITING = _family(
    "log_lines_waiting", GAUGE, "Lines and messages that are not written yet.",
    _each(("access", "messages")), "log",
)  # fmt: skip
MESSAGES_WAITING = LINES_WAITING + 1
LINES_UNTOLD = _family(
    "log_lines_untold", WORKER, "Those that are lost, and that no message has told of.",
    _each(("access", "messages")), "log",
)  # fmt: skip
MESSAGES_UNTOLD = LINES_UNTOLD + 1
LINES_WRITTEN = _family("log_lines_written", COUNTER, "Lines of the access log that were written.")
CHANNEL_ERRORS = _family(
    "channel_errors", COUNTER, "Messages between processes that the kernel could not pass on."
)
UP = _family("worker_up", GAUGE, "Whether the worker serves clients, or drains.")
DRAINING = _family("worker_draining", WORKER, "Whether the worker drains what it has.")
PID = _family("worker_pid", WORKER, "The process of the worker.")
STARTED = _family("worker_started", WORKER, "When it was started: Unix time, in microseconds.")

# ---- of the supervisor, in the base row --------------------------------------------------------

DEATHS = _family("worker_deaths", COUNTER, "Workers that have ended without being told to.")
GENERATION = _family("generation", GAUGE, "Configurations that were in force, this one included.")
RELOADS = _family(
    "reloads", COUNTER, "Changes of the configuration.", _each(("done", "refused")), "result"
)

FIXED = sum(len(family.values) for family in FAMILIES.values())
"""Columns of the table; behind them are the DYNAMIC ones."""

WIDTH = -(-(FIXED + DYNAMIC) // LINE) * LINE
"""Numbers in a row."""

KEPT: tuple[int, ...] = tuple(
    family.first + at
    for family in FAMILIES.values()
    if family.kind in (COUNTER, HISTOGRAM)
    for at in range(len(family.values))
)
"""The columns of the table that outlive a worker."""

HEADER_COLUMNS: Mapping[str, int] = {
    result: PROXY_HEADERS + at for at, result in enumerate(HEADERS)
}
NAME_COLUMNS: Mapping[str, int] = {word: CLIENT_NAMES + at for at, word in enumerate(FOUND)}
REFUSED_COLUMNS: Mapping[str, int] = {
    word: FAMILIES["tls_names"].column(word, checking.REFUSED) for word in checking.FOUND[1:]
}
ERROR_COLUMNS: Mapping[str, int] = {error: FAILURES + at for at, error in enumerate(ERRORS)}
DIAL_ERROR_COLUMNS: Mapping[str, int] = {
    error: DIAL_FAILURES + at for at, error in enumerate(DIAL_ERRORS)
}
CUT_COLUMNS: Mapping[str, int] = {letter: REQUESTS_CUT + at for at, letter in enumerate(ENDED_BY)}
_METHOD_COLUMNS: Mapping[str, int] = {
    method: REQUESTS + at * len(STATUSES) for at, method in enumerate(METHODS)
}
_OTHER_METHOD = _METHOD_COLUMNS[OTHER]


def private() -> memoryview:
    """A row of zeros that nobody shares."""
    return memoryview(bytearray(8 * WIDTH)).cast("Q")


def request_column(method: str, status: int) -> int:
    """That of REQUESTS; status 0: none was sent."""
    return _METHOD_COLUMNS.get(method, _OTHER_METHOD) + min(status // 100, len(STATUSES) - 1)


def observe(row: memoryview, histogram: int, microseconds: int) -> None:
    """Counts a time in a histogram."""
    at = 0
    while at < len(BOUNDS) and microseconds > BOUNDS[at]:
        at += 1
    row[histogram + at] += 1
    row[histogram + len(BOUNDS) + 1] += microseconds
