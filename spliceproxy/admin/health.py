"""``/healthz`` and ``/readyz``: whether the workers serve, and whether new clients are welcome.

Both ask the workers, each of which answers from its event loop: a worker that is stopped, or that
goes round in a circle, does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from spliceproxy.admin.channel import Message
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.http import Refusal, Request, Response, Table

PING_SECONDS = 0.8
"""That a worker has to answer. The probes of Kubernetes wait for a second by default."""

STARTING_SECONDS = 10.0
"""That a new worker has until its first answer, where others serve."""


class Health:
    """Of one ``desk``. Those who ask at the same time share one look."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._look: asyncio.Task[Mapping[int, Message | str]] | None = None

    def add_to(self, table: Table) -> None:
        table.add("/healthz", open=True, GET=self.healthz)
        table.add("/readyz", open=True, GET=self.readyz)

    async def healthz(self, request: Request) -> Response:
        """503 where a worker does not answer, or there is none that does."""
        answers = await self._answers()
        silent = []
        serving = 0
        for worker in list(self._desk.workers.values()):
            answer = answers.get(worker.index)
            if isinstance(answer, dict):
                serving += 1
            elif worker.seen or time.monotonic() - worker.met > STARTING_SECONDS:
                silent.append(answer or f"{worker} does not answer")
        if silent:
            raise Refusal(503, "; ".join(silent))
        if not serving:
            raise Refusal(503, "no worker answers yet")
        return Response.text(f"ok: workers that answer: {serving}")

    async def readyz(self, request: Request) -> Response:
        """503 as soon as the proxy drains, and until a worker serves."""
        if self._desk.draining:
            raise Refusal(503, "draining")
        answers = await self._answers()
        if self._desk.draining:
            raise Refusal(503, "draining")
        if not any(isinstance(answer, dict) for answer in answers.values()):
            raise Refusal(503, "no worker answers")
        return Response.text("ready")

    async def _answers(self) -> Mapping[int, Message | str]:
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._desk.ask_all("ping", PING_SECONDS))
        return await asyncio.shield(self._look)
