"""Upstream: which way requests go, as routes and parents.

tinyproxy takes the last line whose site matches, and the one without a site where none does. It
gives a site no address: a name is compared, and a network holds hosts that are written as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from spliceproxy.settings.imported import Report
from spliceproxy.settings.tinyproxy import clients, filters
from spliceproxy.settings.tinyproxy.reading import Directive, number

_PLACE = re.compile(r"(?:(http|socks4|socks5)[ \t]+)?(?:(.*)@)?(.+):(.+)", re.IGNORECASE).fullmatch
_SCHEMES = {"http": "http", "socks4": "socks4a", "socks5": "socks5h"}
_PARENT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class _Parent:
    directive: Directive
    kind: str
    user: str
    place: str
    hosts: tuple[str, ...]  # () for all

    @property
    def url(self) -> str:
        return f"{_SCHEMES[self.kind]}://{self.place}"

    @property
    def name(self) -> str:
        return _PARENT.sub("-", self.place).strip("-")[:64]


class Upstreams:
    """The lines so far. ``settings`` is what they come to, with tables of routes and parents."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._default: _Parent | None = None
        self._routes: list[dict[str, Any]] = []  # the last line first
        self._parents: dict[str, dict[str, Any]] = {}
        self._straight: list[str] = []  # networks

    def take_none(self, site: str) -> None:
        """These go straight to their origins."""
        hosts = _hosts(site)
        if hosts:
            self._routes.insert(0, {"to": "direct", "hosts": hosts})
        elif found := clients.networks(False, site):
            permitted = clients.permitted((True, network) for network in found)
            self._straight += map(str, permitted)
        else:
            self._report.close(f"{site}: no host or network of a route")

    def take_parent(self, directive: Directive) -> None:
        """Requests to a site, or to all others, go by this parent."""
        place, site = (*directive.values, "")[:2]
        match = _PLACE(place)
        assert match is not None
        hosts = _hosts(site) if site else []
        if site and not hosts:
            self._report.close(f"{site}: no host of a route; none alone may name a network")
            return
        kind = (match[1] or "http").lower()
        port = number(match[4]) & 0xFFFF
        parent = _Parent(directive, kind, match[2] or "", f"{match[3]}:{port}", tuple(hosts))
        if not hosts:
            if self._default is None:
                self._default = parent
            else:
                self._report.note("tinyproxy ignores it, too: there is a parent for all others")
            return
        self._add(parent)
        self._routes.insert(0, {"to": parent.name, "hosts": hosts})

    def _add(self, parent: _Parent) -> None:
        table = {"url": parent.url}
        if parent.kind == "socks4":
            table["connect-by"] = "address"
        self._parents[parent.name] = table
        if parent.user:
            self._report.about = parent.directive
            self._report.miss(
                "put its user and password into a file, and the name of that as auth-file into "
                f"[parent.{parent.name}]; until then the parent refuses all"
            )

    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        default = self._default
        if default is not None and default.kind != "socks4":
            found["proxy"] = default.url
            if default.user:
                found["proxy-auth"] = default.user
            if self._straight:
                found["no-proxy"] = ",".join(self._straight)
        elif default is not None:
            self._add(default)
            self._routes.append({"to": default.name})
            if self._straight:
                self._report.about = default.directive
                networks = ", ".join(self._straight)
                self._report.close(f"{networks}: a route looks names up to find their networks")
        if self._routes and (self._parents or found):
            found["route"] = self._routes
        if self._parents:
            found["parent"] = self._parents
        return found


def _hosts(site: str) -> list[str]:
    """The hosts of a site, [] for what is no name."""
    if site == ".":  # names without a dot
        return ["/[^.]+/"]
    host = f"*{site}" if site.startswith(".") else site
    if "/" in site or not filters.is_name(host, "ignored"):
        return []
    return [] if clients.networks(False, site) and site.lower() != clients.LOCALHOST else [host]
