"""What people and monitors look at: ``/metrics``, ``/stats.json`` and the page at ``/``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from functools import partial

from spliceproxy.admin import stats, tallies
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.exposition import OPENMETRICS, TEXT, render, wants_openmetrics
from spliceproxy.admin.http import Refusal, Request, Response, Table
from spliceproxy.admin.metrics import Process, families, of_worker
from spliceproxy.admin.page import page
from spliceproxy.admin.sampling import STEP, Samples, sample
from spliceproxy.admin.shared import Shared
from spliceproxy.admin.tallies import Tallies
from spliceproxy.admin.usage import Usage, started_at, usage
from spliceproxy.messages import log
from spliceproxy.observe.board import Reading, Unreadable

FRESH = 1.0
"""Seconds for which what the workers have said of their tallies is said again."""

SCRAPE_SECONDS = 0.01
"""Between two texts of the metrics. One takes 2 to 4 ms, and anybody may ask for it."""

TOP = 50
"""Rows of each list."""


class Views:
    """Of one ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._samples = Samples()
        self._tallies = Tallies()
        self._asked = -FRESH  # time.monotonic(), when the workers were asked last
        self._asking: asyncio.Task[Tallies] | None = None
        self._metrics = {
            openmetrics: Shared(partial(self._render, openmetrics), SCRAPE_SECONDS)
            for openmetrics in (False, True)
        }
        self._sampling = asyncio.ensure_future(self._sample())

    def add_to(self, table: Table) -> None:
        table.add("/metrics", open=True, GET=self.metrics)
        table.add("/stats.json", takes=("since",), GET=self.stats)
        table.add("/", takes=None, GET=self.page)

    # ---- what is asked -----------------------------------------------------------------

    async def metrics(self, request: Request) -> Response:
        """In the format that Accept prefers."""
        accept = b",".join(request.head.values(b"accept")).decode("latin-1")
        openmetrics = wants_openmetrics(accept)
        text = await self._metrics[openmetrics].get()
        return Response(200, text, OPENMETRICS if openmetrics else TEXT, {"Vary": "Accept"})

    async def stats(self, request: Request) -> Response:
        """``since``: the history begins behind this moment."""
        text = request.one("since", "0")
        try:
            since = float(text)
        except ValueError:
            raise Refusal(400, f"since: {text!r}; allowed: seconds, Unix time") from None
        await self._refresh()
        reading = self._read()
        now = sample(reading, self._usage(reading))
        value = stats.stats(
            stats.Moment(
                reading,
                self._samples,
                now,
                self._tallies,
                since,
                self._desk.watch.ill(),
                {**self._tallies.silent, **self._desk.watch.silent()},
                self._desk.reloads,
                self._desk.board.meters.counts(),
                self._desk.board.meters.leases.state,
            ),
            started=self._started(),
            draining=self._desk.draining,
            engine=self._tallies.engine,
        )
        return Response.json(value)

    async def page(self, request: Request) -> Response:
        text, policy = page()
        fields = {"Content-Security-Policy": policy}
        return Response(200, text, "text/html; charset=utf-8", fields)

    # ---- what it is made from ----------------------------------------------------------

    async def _render(self, openmetrics: bool) -> bytes:
        found = families(
            self._read(),
            self._processes(),
            engine=self._tallies.engine,
            ill=self._desk.watch.ill(),
            limits=self._desk.board.meters.counts(),
            store=self._desk.board.meters.leases.state,
        )
        return render(found, openmetrics=openmetrics)

    def _read(self) -> Reading:
        try:
            return self._desk.board.read()
        except Unreadable:
            raise Refusal(503, "the counters cannot be read just now") from None

    def _usage(self, reading: Reading) -> Mapping[int, Usage]:
        found: dict[int, Usage] = {}
        for at in range(reading.workers):
            pid = of_worker(reading, at, "worker_pid")
            one = usage(pid) if pid else None
            if one is not None:
                found[pid] = one
        return found

    @staticmethod
    def _started() -> float:
        """When the proxy was started, Unix time."""
        supervisor = usage(os.getppid())
        return time.time() if supervisor is None else started_at(supervisor)

    def _processes(self) -> list[Process]:
        # Of two processes of one worker that which has its place.
        workers = sorted(self._desk.workers.values(), key=lambda one: not one.leaves)
        known = {str(worker.index): worker.pid for worker in workers}
        names = {**dict(sorted(known.items())), "supervisor": os.getppid(), "admin": os.getpid()}
        return [
            Process(name, pid, one)
            for name, pid in names.items()
            if (one := usage(pid)) is not None
        ]

    async def _sample(self) -> None:
        """Keeps the history, for as long as this process lives."""
        while True:
            try:
                reading = self._desk.board.read()
                self._samples.add(sample(reading, self._usage(reading)))
                if not self._tallies.engine:
                    await self._refresh()
            except Unreadable:
                pass  # a fold has not ended: there is no sample until it has
            except Exception:
                log.exception("a sample of the counters could not be taken")
            await asyncio.sleep(STEP)

    async def _refresh(self) -> None:
        """Asks the workers, unless somebody has a moment ago. Those who ask at the same time share
        one answer."""
        if time.monotonic() < self._asked + FRESH:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(tallies.ask(self._desk, TOP))
        self._tallies = await asyncio.shield(self._asking)
        self._asked = time.monotonic()
