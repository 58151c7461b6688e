"""``/tunnels``: the tunnels and running requests of all workers, and how an operator ends them.

The answer is sent as the workers give it, a few tunnels at a time: nobody has all of it in memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from spliceproxy.admin.desk import ANSWER_SECONDS, Desk
from spliceproxy.admin.filters import Filter, age_of, refuse_empty
from spliceproxy.admin.http import Refusal, Request, Response, Table
from spliceproxy.admin.links import Refused, Unanswered
from spliceproxy.admin.orders import MOST, First
from spliceproxy.admin.watch import miss, told_silent
from spliceproxy.messages import log

SEEN_MOST = 50_000
"""Tunnels whose bytes are remembered, for their rates."""

SEEN_SECONDS = 120.0
"""That they are remembered."""

NAMED = 1000
"""Ids of what was ended that are told."""

Seen = tuple[float, int, int]
"""Monotonic seconds, and the bytes in and out until then."""


class Tunnels:
    """Of one ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._seen: dict[str, Seen] = {}
        self._before: dict[str, Seen] = {}  # those of an earlier time
        self._turned = time.monotonic()

    def add_to(self, table: Table) -> None:
        table.add("/tunnels", takes=None, GET=self.show, DELETE=self.end)
        table.add("/tunnels/*", GET=self.one, DELETE=self.end_one)

    async def show(self, request: Request) -> Response:
        """All that match the filters in the query; with ``most`` or ``order`` the first ones."""
        query = dict(request.query)
        if not query.keys() & {"most", "order"}:
            return Response(body=self._stream(_filters(query)), type="application/json")
        most, order = request.one("most", str(MOST)), request.one("order", "id")
        query.pop("most", None)
        query.pop("order", None)
        filters = _filters(query)
        try:
            first = First(most, order)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        silent: dict[int, str] = {}
        async for flows in self._flows(filters, silent):
            for flow in flows:
                first.add(flow)
        shown = {"tunnels": first.take(), "found": first.found}
        return Response.json({**shown, **told_silent(silent)})

    async def one(self, request: Request) -> Response:
        """The one with this id."""
        silent: dict[int, str] = {}
        async for flows in self._flows({"id": [request.last]}, silent):
            return Response.json(flows[0])
        raise _absent(silent.values())

    async def end(self, request: Request) -> Response:
        """Ends all that match the filters, of which there must be one, and each with a value."""
        filters = _filters(request.query)
        try:
            refuse_empty(filters)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if not filters:
            raise Refusal(400, "a filter is needed; GET /tunnels?FILTER shows what it matches")
        return Response.json(await self._kill(filters))

    async def end_one(self, request: Request) -> Response:
        """Ends the one with this id."""
        ended = await self._kill({"id": [request.last]})
        if not ended["killed"]:
            raise _absent(ended["why"])
        return Response.json(ended)

    async def _stream(self, filters: Mapping[str, list[str]]) -> AsyncIterator[bytes]:
        silent: dict[int, str] = {}
        yield b'{"tunnels": ['
        between = "\n"
        async for flows in self._flows(filters, silent):
            yield (between + ",\n".join(map(json.dumps, flows))).encode("ascii")
            between = ",\n"
        end = json.dumps(told_silent(silent))
        yield f"\n], {end[1:]}\n".encode("ascii")

    async def _flows(
        self, filters: Mapping[str, list[str]], silent: dict[int, str]
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Those of all workers, some at a time; whoever does not answer goes into ``silent``."""
        self._turn()
        now = time.monotonic()  # of all: workers are asked one after the other
        watch = self._desk.watch
        await watch.look()
        silent.update(watch.silent())
        for worker in watch.answering():
            parts = worker.link.parts("tunnels", ANSWER_SECONDS, filters=filters)
            try:
                async for part in parts:
                    if part.get("flows"):
                        yield [self._rated(_aged(flow, now)) for flow in part["flows"]]
            except (Unanswered, Refused) as error:
                miss(silent, worker.index, str(error))
            finally:
                await parts.aclose()

    async def _kill(self, filters: Mapping[str, list[str]]) -> dict[str, Any]:
        killed: list[str] = []
        watch = self._desk.watch
        await watch.look()
        silent = dict(watch.silent())
        for worker in watch.answering():
            try:
                async for part in worker.link.parts("kill", ANSWER_SECONDS, filters=filters):
                    killed += part.get("killed", ())
            except (Unanswered, Refused) as error:
                miss(silent, worker.index, str(error))
        if killed:
            self._desk.publish("killed", {"filters": filters, "killed": len(killed)})
        if silent:
            log.warning("not all could be ended: %s", "; ".join(silent.values()))
        return {"killed": len(killed), "ids": killed[:NAMED], **told_silent(silent)}

    # ---- rates -------------------------------------------------------------------------

    def _turn(self) -> None:
        """What has not been seen for a while is forgotten."""
        now = time.monotonic()
        if now - self._turned > SEEN_SECONDS or len(self._seen) > SEEN_MOST:
            self._before, self._seen = self._seen, {}
            self._turned = now

    def _rated(self, flow: dict[str, Any]) -> dict[str, Any]:
        """With bytes a second each way, since somebody has looked last, or since it began."""
        now = time.monotonic()
        received = flow["in_copied"] + flow["in_spliced"]
        sent = flow["out_copied"] + flow["out_spliced"]
        before = self._seen.get(flow["id"]) or self._before.get(flow["id"])
        if (
            before is None
            or now - before[0] > SEEN_SECONDS
            or before[1] > received
            or before[2] > sent
        ):
            age = flow["age"]
            before = (now - age, 0, 0) if age else None
        if before is not None and now > before[0]:
            seconds = now - before[0]
            flow["in_rate"] = round((received - before[1]) / seconds)
            flow["out_rate"] = round((sent - before[2]) / seconds)
        else:
            flow["in_rate"] = flow["out_rate"] = 0
        self._seen[flow["id"]] = now, received, sent
        return flow


def _aged(flow: dict[str, Any], now: float) -> dict[str, Any]:
    """With its age at this moment, whenever its worker was asked."""
    age = age_of(flow.pop("started"), now)
    return {"id": flow["id"], "worker": flow["worker"], "age": age, **flow}


def _absent(silent: Iterable[str]) -> Refusal:
    """There is none with an id; where a worker is silent, nobody knows."""
    if why := "; ".join(silent):
        return Refusal(503, f"no worker that answers has a tunnel or request with this id; {why}")
    return Refusal(404, "there is no tunnel or request with this id")


def _filters(query: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Those of a query, if they are right. Refusal."""
    try:
        Filter(query)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    return dict(query)
