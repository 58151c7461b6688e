"""What Python counts of requests, in the columns that the lane counts in, too.

A request is counted once, by whoever ends it: the lane, or the side that a client was given back
to. Here that is where its record ends, or where it becomes a tunnel. So are the bytes that Python
has moved by itself; what has gone through the relay, that has counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spliceproxy.errors import Denied, Failure
from spliceproxy.observe.board import Board
from spliceproxy.observe.names import ROOM_FOR_FUNCTIONS, Names
from spliceproxy.observe.termination import NORMAL
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.relay.columns import (
    ALLOW,
    CUT_COLUMNS,
    DENY,
    ERROR_COLUMNS,
    IN_COPIED,
    NAME_COLUMNS,
    OUT_COPIED,
    PARENT_EVENTS,
    REFUSED_COLUMNS,
    REPORT,
    SOCKS_REQUESTS,
    UNIDENTIFIED,
    UNIDENTIFIED_CLIENTS,
    request_column,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it since Python 3.11

    from spliceproxy.net.stream import Stream
    from spliceproxy.observe.record import Record
    from spliceproxy.relay.meters import Meters

FUNCTION = "function"
"""The id that stands for a denial of a function of --policy that has named none."""

_BY_REASON = {reason: UNIDENTIFIED_CLIENTS + at for at, reason in enumerate(UNIDENTIFIED)}


class Counts:
    """Of one worker: its row, and the names of the columns that are no part of the table."""

    __slots__ = ("_names", "_uncounted", "allowed", "meters", "place", "row")

    def __init__(self, row: memoryview, names: Names, meters: Meters, place: int) -> None:
        """``meters`` are what limits count, with ``place`` as the number of its row."""
        self.row = row
        self.meters = meters
        self.place = place
        self._names = names
        self._uncounted = 0
        default = names.column("decisions", ALLOW, "default")
        # By the id of a rule, "" for none: the column of requests that it has allowed.
        self.allowed: dict[str, int] = {"": default, "default": default}

    @classmethod
    def of(cls, board: Board, worker: int) -> Self:
        """Those of a worker of a board."""
        return cls(board.row(worker), board.names, board.meters, worker)

    @classmethod
    def private(cls) -> Self:
        """For a proxy that has no supervisor."""
        return cls.of(Board.private(), 0)

    # ---- decisions ---------------------------------------------------------------------

    def expect(self, rules: Sequence[tuple[str, str]]) -> None:
        """These rules, each an action and an id, may decide."""
        self._names.add("decisions", rules)
        for action, rule in rules:
            if action == ALLOW:
                self.allowed[rule] = self._names.column("decisions", ALLOW, rule)

    def denied(self, rule: str) -> int:
        """The column of requests that this rule has denied, "" for a function's without an id."""
        name = rule or FUNCTION
        return self._names.column("decisions", DENY, name, most=ROOM_FOR_FUNCTIONS)

    def report(self, rule: str) -> None:
        """A rule that only reports would have decided otherwise."""
        self.row[self._names.column("decisions", REPORT, rule)] += 1

    def expect_limits(self, limits: Iterable[str]) -> None:
        """There are limits with these ids."""
        self._names.add("limit_refusals", [(limit,) for limit in limits])

    # ---- parents -----------------------------------------------------------------------

    def parent(self, event: str, name: str) -> int:
        """The column of what has happened with this parent: one of columns.PARENT_EVENTS."""
        return self._names.column("parents", event, name)

    def expect_parents(self, names: Iterable[str]) -> None:
        """There are these parents."""
        self._names.add("parents", [(one, name) for name in names for one in PARENT_EVENTS])

    # ---- requests ----------------------------------------------------------------------

    def request(self, record: Record, client: Stream) -> None:
        """A request is over, or has become a tunnel: its record says what it had until now."""
        row = self.row
        row[request_column(record.method, record.status)] += 1
        if record.decision:
            row[record.decision] += 1
        if record.socks:
            row[SOCKS_REQUESTS + record.socks - 4] += 1
        if record.name:
            row[NAME_COLUMNS[record.name]] += 1
        if record.tls_name:
            row[REFUSED_COLUMNS[record.tls_name]] += 1
        if record.error:
            row[ERROR_COLUMNS[record.error]] += 1
        elif record.termination != NORMAL:
            row[CUT_COLUMNS[record.termination[0]]] += 1
        # Chunks that the lane has sent in frames of its own may be more than it has received. The
        # next requests make up for it: nothing that is counted ever goes back.
        more = record.bytes_in - client.relayed_in + self._uncounted
        row[IN_COPIED] += max(more, 0)
        self._uncounted = min(more, 0)
        row[OUT_COPIED] += record.bytes_out - client.relayed_out
        client.relayed_in = client.relayed_out = 0

    def gave_away(self, received: int, sent: int) -> None:
        """Another process goes on with a request, of which so many bytes are not counted yet."""
        self.row[IN_COPIED] += max(received, 0)
        self.row[OUT_COPIED] += max(sent, 0)

    def refused(
        self, method: str, error: Failure, received: int, sent: int, socks: int = 0
    ) -> None:
        """The lane has answered a request with this, for us. ``socks``: as of a record."""
        row = self.row
        row[request_column(method, error.status)] += 1
        row[ERROR_COLUMNS[error.error]] += 1
        row[IN_COPIED] += received
        row[OUT_COPIED] += sent
        if socks:
            row[SOCKS_REQUESTS + socks - 4] += 1
        column = self.refusal(error)
        if column:
            row[column] += 1
        if isinstance(error, Denied) and error.found:
            row[REFUSED_COLUMNS[error.found]] += 1

    def refusal(self, error: Exception) -> int:
        """The column of what is refused for this, 0 if it was no decision."""
        if isinstance(error, Denied) and error.kind == "limit":
            return self._names.column("limit_refusals", error.rule)
        if isinstance(error, Denied):
            return self.denied(error.rule)
        if isinstance(error, Unauthenticated):
            return _BY_REASON[error.reason]
        return 0
