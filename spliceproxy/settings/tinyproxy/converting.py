"""The directives of a tinyproxy.conf(5) as settings in TOML."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Any

from spliceproxy.settings.imported import (
    CLOSED,
    Conversion,
    Converted,
    Report,
    closing,
    comment,
)
from spliceproxy.settings.loading import log_faults
from spliceproxy.settings.tinyproxy import clients, filters
from spliceproxy.settings.tinyproxy.filtering import Filtering
from spliceproxy.settings.tinyproxy.reading import Directive, is_on, number, read
from spliceproxy.settings.tinyproxy.upstreams import Upstreams

_DEFAULT_TIMEOUT = 600
_MAX_PORT = 65535
_MAX_CREDENTIALS = 257  # bytes of USER:PASSWORD; tinyproxy leaves out what is longer

_LOG_LEVELS = {
    "critical": "error",
    "error": "error",
    "warning": "warning",
    "notice": "info",
    "connect": "info",
    "info": "info",
}

_BY_ADDRESS = "clients are known by their address here, not by a name"
_PAGES = "pages are the proxy's own"
_FRONT = "the proxy runs as the user that starts it"
_NO_REVERSE = "spliceproxy is not a reverse proxy; see default-backend"
_NO_PROCESSES = "there are no such processes"

_NOT_NEEDED = {
    "defaulterrorfile": f"error {_PAGES}",
    "errorfile": f"error {_PAGES}",
    "group": _FRONT,
    "maxrequestsperchild": _NO_PROCESSES,
    "maxspareservers": _NO_PROCESSES,
    "minspareservers": _NO_PROCESSES,
    "pidfile": "the proxy stays in the foreground",
    "reversebaseurl": _NO_REVERSE,
    "reversemagic": _NO_REVERSE,
    "startservers": _NO_PROCESSES,
    "statfile": "there is no such page",
    "stathost": "there is no such page",
    "syslog": "messages go to standard error",
    "user": _FRONT,
}

_UNKNOWN_HERE = {
    "addheader": "no fields are added to requests",
    "anonymous": "all end-to-end fields of requests are passed on",
    "bind": "the kernel chooses the source address",
    "bindsame": "the kernel chooses the source address",
    "reversepath": _NO_REVERSE,
    "xtinyproxy": 'forwarded-for = "on" tells origins who the client is',
}


def convert(path: str) -> Converted:
    """Converts a file, its Filter file included. OSError for the first, Refused."""
    return _Conversion(Report(path)).all_of(read(path))


class _Conversion(Conversion[Directive]):
    """The settings so far. Each directive has a method here, or a word in the tables."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self._at = Directive("", 0, "", "", ())  # the one that is taken
        self._port = 0  # none so far
        self._listen: list[str] = []
        self._controls: list[tuple[bool, clients.Network]] = []
        self._controlled = False
        self._named: list[Directive] = []  # Deny of a name, as long as no Allow is behind it
        self._connect_ports: set[int] | None = None
        self._filtering = Filtering()
        self._upstreams = Upstreams(report)
        self._null_routes: list[tuple[str, str]] = []  # key of a rule, value
        self._users: list[tuple[str, str]] = []
        self._reverse_only: Directive | None = None
        self._reverse = False
        self._no_via = False
        self._max_clients: Directive | None = None
        self._last_user: Directive | None = None

    def take(self, directive: Directive) -> None:
        self._at = directive
        name, values = directive.name, directive.values
        take = _TAKERS.get(name)
        if take is not None:
            take(self, values[0])
        elif name.startswith("filter"):
            self._filtering.take(directive)
        elif name in _NOT_NEEDED:
            self._report.note(f"not needed: {_NOT_NEEDED[name]}")
        elif name in ("bindsame", "xtinyproxy") and not is_on(values[0]):
            self._report.note("not needed: it is off")
        else:
            self._report.miss(_UNKNOWN_HERE[name])

    def end(self) -> None:
        if not (self._port or self._report.refused):
            self._report.lack("there is no Port, and tinyproxy does not start without one")
        self.settings["listen"] = [f"{host}:{self._port}" for host in self._listen or [""]]
        if self._no_via:
            self.settings["via"] = "off"
        if self._controlled:
            permitted = clients.permitted(self._controls)
            self.settings["allow-clients"] = [str(one) for one in permitted]
        elif "auth" not in self.settings:
            self._report.say(
                "without Allow and Deny tinyproxy serves everybody; here "
                "loopback and private networks, unless allow-clients has others"
            )
        self._report.say(
            "clients of other machines may not reach the proxy's own machine here; "
            'tinyproxy lets them (guard = "off")'
        )
        self._end_lines()
        filtered = self._filtering.rule(self._report)
        self.settings |= self._upstreams.settings()
        closed = [{"id": CLOSED, "action": "deny"}] if self._report.closed else []
        if self._filtering.allows:  # also where not all of it can be converted
            self.settings["rule-default"] = "deny"
            closed, filtered = filtered, closed  # what allows comes last
        rules = self._connect_rule() + self._route_rules() + filtered + closed
        if rules:
            self.settings["rule"] = rules

    def _end_lines(self) -> None:
        """What closes by the last line that says it, or by the lack of another."""
        if self._max_clients and not self.settings.get("max-connections", 1):
            self._report.about = self._max_clients
            self._report.close("with 0 tinyproxy serves nobody")
            del self.settings["max-connections"]
        if self._last_user and not self._users:
            self._report.about = self._last_user
            self._report.close("so there is no user")
        if self._reverse and self._reverse_only:
            self._report.about = self._reverse_only
            self._report.close(
                "spliceproxy is not a reverse proxy, and this tinyproxy is nothing else"
            )
        for directive in self._named:  # without an Allow behind it, it opens nothing
            self._report.about = directive
            self._report.miss(f"{directive.values[0]}: {_BY_ADDRESS}")

    def toml(self) -> str:
        import tomli_w

        plain = self._in_order()
        rules = plain.pop("rule", [])
        routes, parents = plain.pop("route", []), plain.pop("parent", {})
        parts = [tomli_w.dumps(plain)]
        if len(self._users) > 1:
            users = (f"{user}:{_hashed(password)}" for user, password in self._users)
            parts.insert(0, comment("All users, for a file of htpasswd:", users))
        for rule in rules:
            parts.append("\n")
            if rule["id"] == CLOSED:
                parts.append(closing(self._report))
            parts += ["[[rule]]\n", tomli_w.dumps(rule)]
        for route in routes:
            parts += ["\n[[route]]\n", tomli_w.dumps(route)]
        for name, parent in parents.items():
            parts += ["\n", tomli_w.dumps({"parent": {name: parent}})]
        return "".join(parts)

    # Directives

    def take_port(self, value: str) -> None:
        port = number(value)
        if 0 < port <= _MAX_PORT:
            self._port = port
        else:
            self._report.refuse(f"{value!r} is not a port; tinyproxy does not start with it")

    def take_listen(self, value: str) -> None:
        host = _address(value)
        if host:
            self._listen.append(host)
        else:
            self._report.refuse(
                f"cannot listen on {value!r}; allowed: an IP address without a zone"
            )

    def take_timeout(self, value: str) -> None:
        self._set("timeout-idle", number(value) or _DEFAULT_TIMEOUT)

    def take_max_clients(self, value: str) -> None:
        self._max_clients = self._at
        self._set("max-connections", number(value))

    def take_log_file(self, value: str) -> None:
        path = os.path.join("/", value)  # where tinyproxy has gone then
        faults = list(log_faults(path, "access-log", create=False))
        if faults:
            self._report.note(f"left out: {faults[0]}")
        elif self._set("access-log", path):
            self._report.note("is the access log now; messages go to standard error")

    def take_log_level(self, value: str) -> None:
        self._set("log-level", _LOG_LEVELS[value.lower()])

    def take_via(self, value: str) -> None:
        self._set("via", value)

    def take_no_via(self, value: str) -> None:
        self._no_via = is_on(value)

    def take_realm(self, value: str) -> None:
        self._set("auth-realm", value)

    def take_user(self, _: str) -> None:
        self._last_user = self._at
        user, password = self._at.values
        if len(f"{user}:{password}".encode("utf-8", "surrogateescape")) > _MAX_CREDENTIALS:
            self._report.miss("tinyproxy ignores it, too: user and password are too long")
        elif self._users:
            self._users.append((user, password))
            self._report.miss(
                f"auth has one user; lines for all users, {user} among them, are in the output, "
                "for a file of htpasswd"
            )
        elif self._set("auth", f"{user}:{password}"):
            self._users.append((user, password))

    def take_allow(self, value: str) -> None:
        self._control(True, value)

    def take_deny(self, value: str) -> None:
        self._control(False, value)

    def _control(self, allow: bool, value: str) -> None:
        self._controlled = True
        found = clients.networks(allow, value)
        if found is None and allow:
            self._report.miss(f"{value}: {_BY_ADDRESS}")
        elif found is None:
            self._named.append(self._at)
        elif not found:
            self._report.note(f"{value} is not a network, and tinyproxy ignores it, too")
        else:
            self._controls.extend((allow, network) for network in found)
        if allow and found and self._named:
            self._report.about = self._named[0]
            names = ", ".join(one.values[0] for one in self._named)
            self._named.clear()
            self._report.close(f"{names}: {_BY_ADDRESS}")

    def take_connect_port(self, value: str) -> None:
        ports = self._connect_ports = self._connect_ports or set()
        if number(value) <= _MAX_PORT:
            ports.add(number(value))
        else:
            self._report.note(f"{value} is not a port, and tinyproxy allows none for it, too")

    def take_upstream(self, value: str) -> None:
        site = self._at.values[-1]
        if value.lower() in ("none", "upstream"):  # the second of the old "no upstream"
            self._upstreams.take_none(site)
        elif number(value.rpartition(":")[2]):
            self._upstreams.take_parent(self._at)
        elif site == value:
            self._report.note("tinyproxy ignores it, too: there is no port 0")
        elif found := _destinations(site):
            self._null_routes.extend(found)
        else:
            self._report.close(f"{site}: no host or network of a rule")

    def take_reverse_path(self, _: str) -> None:
        self._reverse = True
        self._report.miss(_NO_REVERSE)

    def take_reverse_only(self, value: str) -> None:
        self._reverse_only = self._at if is_on(value) else None

    # Rules

    def _connect_rule(self) -> list[dict[str, Any]]:
        if self._connect_ports is None:
            return []
        ports = []
        first = 1
        for port in [*sorted(self._connect_ports - {0}), _MAX_PORT + 1]:
            if first < port:
                ports.append(f"{first}-{port - 1}" if first < port - 1 else first)
            first = port + 1
        if not ports:
            return []
        return [{"id": "connect-ports", "action": "deny", "methods": ["CONNECT"], "ports": ports}]

    def _route_rules(self) -> list[dict[str, Any]]:
        """What leads to port 0, and so nowhere."""
        rules = []
        for key in ("hosts", "networks"):
            found = [value for one, value in self._null_routes if one == key]
            if found:
                rules.append({"id": f"no-route-{key}", "action": "deny", key: found})
        return rules


_TAKERS: Mapping[str, Callable[[_Conversion, str], None]] = {
    "allow": _Conversion.take_allow,
    "basicauth": _Conversion.take_user,
    "basicauthrealm": _Conversion.take_realm,
    "connectport": _Conversion.take_connect_port,
    "deny": _Conversion.take_deny,
    "disableviaheader": _Conversion.take_no_via,
    "listen": _Conversion.take_listen,
    "logfile": _Conversion.take_log_file,
    "loglevel": _Conversion.take_log_level,
    "maxclients": _Conversion.take_max_clients,
    "no": _Conversion.take_upstream,
    "port": _Conversion.take_port,
    "reverseonly": _Conversion.take_reverse_only,
    "reversepath": _Conversion.take_reverse_path,
    "timeout": _Conversion.take_timeout,
    "upstream": _Conversion.take_upstream,
    "viaproxyname": _Conversion.take_via,
}


def _destinations(site: str) -> list[tuple[str, str]]:
    """The site of an Upstream as keys and values of a rule; [] if it is none."""
    networks = None if site.lower() == clients.LOCALHOST else clients.networks(False, site)
    if networks is not None:
        permitted = clients.permitted((True, network) for network in networks)
        return [("networks", str(network)) for network in permitted]
    host = f"*{site}" if site.startswith(".") else site
    return [("hosts", host)] if filters.is_name(host, "ignored") else []


def _address(text: str) -> str:
    """The address as ``listen`` has it; "" for none. IPv4 may be as inet_aton(3) reads it."""
    try:
        if ":" not in text:
            return socket.inet_ntoa(socket.inet_aton(text))
        address = IPv6Address(text)
        return "" if address.scope_id else f"[{address}]"
    except (OSError, ValueError):
        return ""


def _hashed(password: str) -> str:
    from passlib.hash import sha512_crypt

    return str(sha512_crypt.using(rounds=5000).hash(password))  # type: ignore[no-untyped-call]
