"""What an operator tells the whole proxy: to drain, how much to say, to read its settings again, to
replace workers, and to start anew.

All goes to the supervisor, which does it for every worker, also for those to come.
"""

from __future__ import annotations

from typing import Any

from spliceproxy.admin import level
from spliceproxy.admin.channel import Message
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.http import Refusal, Request, Response, Table
from spliceproxy.admin.links import Refused, Unanswered
from spliceproxy.admin.watch import told_silent

SUPERVISOR_SECONDS = 5.0
"""That the supervisor has to answer: it may be starting workers."""

DIGITS = 9
"""Of the number of a worker."""

RELOAD_SECONDS = 28.0
"""For a reload, which may have to wait for another one: each takes 12 s at most."""


class Steering:
    """Of one ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add_to(self, table: Table) -> None:
        table.add("/drain", POST=self.drain)
        table.add("/reload", POST=self.reload)
        table.add("/recycle", takes=("worker",), POST=self.recycle)
        table.add("/upgrade", POST=self.upgrade)
        table.add("/log-level", takes=("level",), GET=self.log_level, POST=self.set_log_level)

    async def drain(self, request: Request) -> Response:
        """As SIGTERM: a graceful stop. A second time it changes nothing."""
        return Response.json(await self._tell("drain"), 202)

    async def reload(self, request: Request) -> Response:
        """As SIGHUP, and with an answer when it is over: 409 where it is refused."""
        try:
            said = await self._desk.supervisor.ask("reload", RELOAD_SECONDS)
        except Unanswered as error:
            raise Refusal(503, str(error)) from None
        except Refused as error:
            raise Refusal(400, str(error)) from None
        return Response.json(said, 200 if said.get("result") == "done" else 409)

    async def recycle(self, request: Request) -> Response:
        """Replaces the ``worker`` with this number, or each, and answers when it is done."""
        if "worker" not in request.query:
            return await self._change("recycle")
        text = request.one("worker")
        if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
            raise Refusal(400, f"worker: {text!r} is no number of a worker")
        there = sorted(self._desk.board.expected)
        if int(text) not in there:
            allowed = ", ".join(map(str, there))
            raise Refusal(400, f"worker: there is no {int(text)}; allowed: {allowed}")
        return await self._change("recycle", worker=int(text))

    async def upgrade(self, request: Request) -> Response:
        """Starts the program anew, and answers when that has taken over."""
        return await self._change("upgrade")

    async def _change(self, name: str, **values: Any) -> Response:
        """What takes as long as it takes; 409 where it is refused."""
        try:
            return Response.json(await self._desk.supervisor.ask(name, None, **values))
        except Unanswered as error:
            raise Refusal(503, str(error)) from None
        except Refused as error:
            raise Refusal(409, str(error)) from None

    async def log_level(self, request: Request) -> Response:
        return Response.json({"level": level.current()})

    async def set_log_level(self, request: Request) -> Response:
        """``level`` in the query, or in the JSON of the body."""
        wanted = request.one("level")
        if not wanted:
            said = request.json()
            wanted = said.get("level", "") if isinstance(said, dict) else ""
        try:
            before = level.set_to(wanted)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        await self._tell("log-level", level=wanted)
        # The supervisor has told them, too. Asked here they say that they have heard of it.
        answers = await self._desk.ask_all("log-level", level=wanted)
        silent = {at: answer for at, answer in answers.items() if isinstance(answer, str)}
        self._desk.publish("log-level", {"level": wanted, "before": before})
        return Response.json({"level": wanted, "before": before, **told_silent(silent)})

    async def _tell(self, name: str, **values: str) -> Message:
        try:
            return await self._desk.supervisor.ask(name, SUPERVISOR_SECONDS, **values)
        except Unanswered as error:
            raise Refusal(503, str(error)) from None
        except Refused as error:
            raise Refusal(400, str(error)) from None
