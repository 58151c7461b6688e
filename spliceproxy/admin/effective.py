"""``/config``: the settings that are in force."""

from __future__ import annotations

from spliceproxy.admin.desk import Desk
from spliceproxy.admin.http import Refusal, Request, Response, Table
from spliceproxy.settings.table import SETTINGS
from spliceproxy.settings.writing import to_plain, to_toml

SECRET = frozenset(setting.name for setting in SETTINGS if setting.kind.secret)
"""Settings that are never shown."""


class Effective:
    """Of one ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add_to(self, table: Table) -> None:
        table.add("/config", takes=("format",), GET=self.config)

    async def config(self, request: Request) -> Response:
        """As ``spliceproxy check`` prints them, or as JSON for whoever accepts that."""
        config = self._desk.config
        wanted = b", ".join(request.head.values(b"accept")).lower()
        form = request.one("format", "json" if b"application/json" in wanted else "toml")
        if form == "json":
            return Response.json(to_plain(config, leave_out=SECRET))
        if form != "toml":
            raise Refusal(400, f"format: {form!r}; allowed: toml, json")
        try:
            text = to_toml(config, leave_out=SECRET)
        except ValueError as error:
            raise Refusal(500, str(error)) from None
        return Response(body=text.encode(), type="application/toml; charset=utf-8")
