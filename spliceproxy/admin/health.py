"""``/healthz`` and ``/readyz``: whether the workers serve, and whether new clients are welcome.

Both ask the workers, each of which answers from its event loop: a worker that is stopped, or that
goes round in a circle, does not.
"""

from __future__ import annotations

from spliceproxy.admin.desk import Desk
from spliceproxy.admin.http import Refusal, Request, Response, Table


class Health:
    """Of one ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add_to(self, table: Table) -> None:
        table.add("/healthz", open=True, GET=self.healthz)
        table.add("/readyz", open=True, GET=self.readyz)

    async def healthz(self, request: Request) -> Response:
        """503 where a worker does not answer, or there is none that does."""
        watch = self._desk.watch
        await watch.look()
        ill, silent = watch.ill(), watch.silent()
        if ill:
            raise Refusal(503, "; ".join(ill.values()))
        serving = len(watch.serving())
        if not serving:
            raise Refusal(503, "no worker answers yet")
        text = f"ok: workers that answer: {serving}"
        return Response.text("; ".join([text, *silent.values()]))

    async def readyz(self, request: Request) -> Response:
        """503 as soon as the proxy drains, and until a worker serves."""
        if self._desk.draining:
            raise Refusal(503, "draining")
        await self._desk.watch.look()
        if self._desk.draining:
            raise Refusal(503, "draining")
        watch = self._desk.watch
        if not watch.serving():
            raise Refusal(503, "no worker answers")
        return Response.text("; ".join(["ready", *watch.silent().values()]))
