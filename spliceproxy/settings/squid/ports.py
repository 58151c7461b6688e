"""http_port: where clients are served."""

from __future__ import annotations

import re
from typing import Any

from spliceproxy.settings.imported import Report
from spliceproxy.settings.squid.reading import Statement
from spliceproxy.settings.values import ip_of, port_of

_PLACE = re.compile(r"(?:(\[[^]]+\]|[^:\[\]]+):)?([0-9]+)").fullmatch
_LED = {
    "intercept": "connections that the kernel leads here; see redirect+tcp:// in listen",
    "transparent": "connections that the kernel leads here; see redirect+tcp:// in listen",
    "tproxy": "connections that the kernel leads here; see tproxy+tcp:// in listen",
    "accel": "spliceproxy is not a reverse proxy; see default-backend",
    "vhost": "spliceproxy is not a reverse proxy; see default-backend",
    "require-proxy-header": "clients that a balancer brings; see proxy+tcp:// in listen",
}


class Ports:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._listen: list[str] = []
        self._taken = False

    def take(self, statement: Statement) -> None:
        self._taken = True
        place, *options = (*statement.words, "")
        match = _PLACE(place)
        host = match[1] or "" if match else ""
        if match is None or port_of(match[2]) < 1:
            self._report.refuse(f"{place!r} is no port; squid does not start with it")
            return
        named = {one.partition("=")[0] for one in options}
        why = next((text for option, text in _LED.items() if option in named), "")
        if statement.name == "https_port":
            why = "clients that speak TLS to the proxy are not served"
        if why:
            self._report.miss(f"it is left out: {why}")
        elif host and not ip_of(host):
            self._report.miss(f"it is left out: {host} is a name; allowed: an address")
        else:
            self._listen.append(f"{host}:{match[2]}")

    def settings(self) -> dict[str, Any]:
        if not self._listen:
            self._report.about = None
            if not self._taken:
                self._report.lack("there is no http_port; squid does not start")
            self._report.close("no http_port is left for clients that know of the proxy")
            return {}
        return {"listen": list(dict.fromkeys(self._listen))}
