"""What an exchange has waited for: the client, the origin, and the first byte of the answer."""

from __future__ import annotations

import math
import time

from spliceproxy.forward.resumed import Resumed
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import microseconds
from spliceproxy.observe.stalled import Waits


class Waited:
    """Of one exchange of ``client``, which begins; :meth:`begin` when it has its connection."""

    __slots__ = ("_client", "_client_before", "_due", "_more", "_origin_before", "_since")

    def __init__(self, client: Stream) -> None:
        self._client = client
        self._client_before = client.waited_read, client.waited_write
        self._origin_before = 0.0, 0.0
        self._since = 0.0
        self._due = 0.0  # since when an answer is due
        self._more = (0, 0, 0, 0)  # milliseconds that the relay has waited before

    def begin(self, origin: Stream, resumed: Resumed | None) -> None:
        """From here on it waits for an answer, unless the relay has done so before."""
        self._since = self._due = time.monotonic()
        self._origin_before = origin.waited_read, origin.waited_write
        if resumed is not None and resumed.started:
            self._since = resumed.started + sum(resumed.stages[:3]) / 1e6
            self._more = resumed.waits

    def uploading(self) -> None:
        """The body of the request is on its way: no answer is due."""
        self._due = math.inf

    def uploaded(self) -> None:
        """All of the request's body is sent: no answer was due before."""
        self._due = time.monotonic()

    def until(self, moment: float) -> int:
        """Microseconds from the connection to a moment, in monotonic seconds."""
        return microseconds(moment - self._since)

    def waits(self, origin: Stream) -> Waits:
        """All of it until now."""
        now = time.monotonic()
        more = [milliseconds / 1e3 for milliseconds in self._more]
        uploaded = self._client.waited_read - self._client_before[0] + more[0]
        taken = self._client.waited_write - self._client_before[1] + more[1]
        read, written = self._origin_before
        said = max(min(origin.waited_read - read, now - self._due), 0.0) + more[2]
        taken_there = origin.waited_write - written + more[3]
        each = now - self._since, uploaded + taken, taken, said + taken_there, taken_there
        return Waits._make([int(seconds * 1e3) for seconds in each])
