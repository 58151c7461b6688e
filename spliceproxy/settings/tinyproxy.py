"""Converts a tinyproxy.conf(5) into settings.

tinyproxy allows and denies clients in the order of the lines; here that becomes one list of
networks. ConnectPort and Filter become rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spliceproxy.settings import posix
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.table import BY_NAME

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEFAULT_PORT = "8888"
_MAX_PORT = 65535

_LOG_LEVELS = {
    "critical": "error",
    "error": "error",
    "warning": "warning",
    "notice": "info",
    "connect": "info",
    "info": "info",
}

_NOT_NEEDED = {
    "filtercasesensitive": "hosts are compared in lower case",
    "filterextended": "see FilterType",
    "group": "whatever starts the proxy says as whom it runs",
    "maxrequestsperchild": "there are no such processes",
    "maxspareservers": "there are no such processes",
    "minspareservers": "there are no such processes",
    "pidfile": "the proxy stays in the foreground",
    "startservers": "there are no such processes",
    "syslog": "messages go to standard error",
    "user": "whatever starts the proxy says as whom it runs",
}

_UNKNOWN_HERE = {
    "addheader": "no fields are added to requests",
    "anonymous": "all end-to-end fields of requests are passed on",
    "bind": "the kernel chooses the source address",
    "bindsame": "the kernel chooses the source address",
    "defaulterrorfile": "error pages are the proxy's own",
    "errorfile": "error pages are the proxy's own",
    "reversebaseurl": "this is no reverse proxy; see default-backend",
    "reversemagic": "this is no reverse proxy; see default-backend",
    "reverseonly": "this is no reverse proxy; see default-backend",
    "reversepath": "this is no reverse proxy; see default-backend",
    "statfile": "there is no such page",
    "stathost": "there is no such page",
    "upstream": "there are no parent proxies",
    "xtinyproxy": 'forwarded-for = "on" tells origins who the client is',
}

_DIRECTIVE = re.compile(r"\s*([A-Za-z]+)\s+(.*?)\s*")
_HOST = re.compile(
    r"(\^|(?:\.\*)?\\\.|\(\^\|\\\.\))((?:[\w-]+\\\.)*[\w-]*[a-z_-])\$", re.ASCII | re.I
)
"""A regular expression for a host, for those below it, or for both."""


@dataclass(frozen=True)
class Converted:
    """``toml``: the settings. ``notes``: what is different but needs no setting here.
    ``missing``: what could not be converted. Both by line of the file."""

    toml: str
    notes: tuple[str, ...]
    missing: tuple[str, ...]


def convert(path: str) -> Converted:
    """Converts a file. OSError, UnicodeDecodeError; its Filter file is read, too."""
    import tomli_w

    conversion = _Conversion(path)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        conversion.line(number, line)
    conversion.end()
    found = {name: conversion.settings[name] for name in BY_NAME if name in conversion.settings}
    return Converted(tomli_w.dumps(found), tuple(conversion.notes), tuple(conversion.missing))


class _Conversion:
    """The settings so far. Each directive has a method here, or a word in the tables."""

    def __init__(self, path: str) -> None:
        self.settings: dict[str, Any] = {}
        self.notes: list[str] = []
        self.missing: list[str] = []
        self._path = path
        self._number = 0
        self._directive = ""
        self._port = _DEFAULT_PORT
        self._listen: list[str] = []
        self._controls: list[tuple[bool, Network]] = []
        self._controlled = False
        self._connect_ports: set[int] | None = None
        self._filter: tuple[int, str] | None = None  # line and file
        self._filter_type = "bre"
        self._filter_urls = 0  # line
        self._filter_allows = False
        self._no_via = False

    def line(self, number: int, line: str) -> None:
        """Takes in a line of the file."""
        if not line.strip() or line.lstrip().startswith("#"):
            return
        self._number = number
        match = _DIRECTIVE.fullmatch(line)
        if match is None:
            self._directive = line.strip()
            self._miss("a directive and its value belong here")
            return
        self._directive, value = match.groups()
        name = self._directive.lower()
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        take = _TAKERS.get(name)
        if take is not None:
            take(self, value)
        elif name in _NOT_NEEDED:
            self._note(f"not needed: {_NOT_NEEDED[name]}")
        else:
            self._miss(_UNKNOWN_HERE.get(name, "unknown to tinyproxy.conf(5)"))

    def end(self) -> None:
        """Makes settings of what several lines say together."""
        self.settings["listen"] = [f"{host}:{self._port}" for host in self._listen or [""]]
        if self._no_via:
            self.settings["via"] = "off"
        if self._controlled:
            self.settings["allow-clients"] = [str(one) for one in permitted(self._controls)]
        elif "auth" not in self.settings:
            self.notes.append(
                f"{self._path}: without Allow and Deny tinyproxy serves everybody; here "
                "loopback and private networks, unless allow-clients has others"
            )
        self.notes.append(
            f"{self._path}: this proxy refuses clients of other machines what is on its own; "
            'tinyproxy does not (guard = "off")'
        )
        rules = [*self._connect_rule(), *self._filter_rule()]
        if rules:
            self.settings["rule"] = rules

    def _note(self, text: str) -> None:
        self.notes.append(f"{self._path}:{self._number}: {self._directive}: {text}")

    def _miss(self, text: str) -> None:
        self.missing.append(
            f"{self._path}:{self._number}: {self._directive}: not converted: {text}"
        )

    def _allows(self, name: str, value: object) -> bool:
        """Whether the setting allows the value."""
        try:
            BY_NAME[name].kind.read_toml(value, "/")
        except Invalid as error:
            self._miss(f"{name}: {error}")
            return False
        return True

    def _set(self, name: str, value: object) -> bool:
        """The same, and then it has it."""
        allows = self._allows(name, value)
        if allows:
            self.settings[name] = value
        return allows

    def _set_number(self, name: str, value: str) -> None:
        self._set(name, int(value) if value.isdecimal() else value)

    # Directives

    def take_port(self, value: str) -> None:
        if self._allows("listen", f":{value}"):
            self._port = value

    def take_listen(self, value: str) -> None:
        host = f"[{value}]" if ":" in value else value
        if self._allows("listen", f"{host}:{_DEFAULT_PORT}"):
            self._listen.append(host)

    def take_timeout(self, value: str) -> None:
        self._set_number("timeout-idle", value)

    def take_max_clients(self, value: str) -> None:
        self._set_number("max-connections", value)

    def take_log_file(self, value: str) -> None:
        if self._set("access-log", value):
            self._note("is the access log now; messages go to standard error")

    def take_log_level(self, value: str) -> None:
        self._set("log-level", _LOG_LEVELS.get(value.lower(), value))

    def take_via(self, value: str) -> None:
        self._set("via", value)

    def take_no_via(self, value: str) -> None:
        self._no_via = _is_on(value)

    def take_realm(self, value: str) -> None:
        self._set("auth-realm", value)

    def take_user(self, value: str) -> None:
        user, _, password = value.partition(" ")
        if "auth" in self.settings:
            self._miss(f"auth has one user; put {user} and all others into a file for htpasswd")
        else:
            self._set("auth", f"{user}:{password.strip()}")

    def take_allow(self, value: str) -> None:
        self._control(True, value)

    def take_deny(self, value: str) -> None:
        self._control(False, value)

    def _control(self, allow: bool, value: str) -> None:
        self._controlled = True
        try:
            self._controls.append((allow, ipaddress.ip_network(value, strict=False)))
        except ValueError:
            self._miss(f"{value}: clients are known by their address here, not by a name")

    def take_connect_port(self, value: str) -> None:
        ports = self._connect_ports = self._connect_ports or set()
        port = int(value) if value.isdecimal() else -1
        if 0 <= port <= _MAX_PORT:
            ports.add(port)
        else:
            self._miss(f"{value!r} is no port")

    def take_filter(self, value: str) -> None:
        self._filter = self._number, value

    def take_filter_type(self, value: str) -> None:
        if value.lower() in ("bre", "ere", "fnmatch"):
            self._filter_type = value.lower()
        else:
            self._miss(f"{value!r} is no type")

    def take_filter_extended(self, value: str) -> None:
        if _is_on(value):
            self._filter_type = "ere"

    def take_filter_urls(self, value: str) -> None:
        self._filter_urls = self._number if _is_on(value) else 0

    def take_filter_default_deny(self, value: str) -> None:
        self._filter_allows = _is_on(value)

    # Rules

    def _connect_rule(self) -> Iterator[dict[str, Any]]:
        if self._connect_ports is None:
            return
        ports = []
        first = 1
        for port in [*sorted(self._connect_ports - {0}), _MAX_PORT + 1]:
            if first < port:
                ports.append(f"{first}-{port - 1}" if first < port - 1 else first)
            first = port + 1
        yield {"id": "connect-ports", "action": "deny", "methods": ["CONNECT"], "ports": ports}

    def _filter_rule(self) -> Iterator[dict[str, Any]]:
        if self._filter is None:
            return
        self._number, path = self._filter
        self._directive = "Filter"
        if self._filter_allows:  # also where not all of it can be converted
            self.settings["rule-default"] = "deny"
        if self._filter_urls:
            self._number, self._directive = self._filter_urls, "FilterURLs"
            self._miss("rules look at hosts, not at URLs; the filter is left out")
            return
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self._miss(f"{path}: {error}; the filter is left out")
            return
        hosts: list[str] = []
        for number, line in enumerate(lines, 1):
            try:
                hosts.extend(_hosts(line, self._filter_type))
            except ValueError as error:
                self.missing.append(f"{path}:{number}: not converted: {line.strip()!r}: {error}")
        if hosts:
            action = "allow" if self._filter_allows else "deny"
            yield {"id": "filter", "action": action, "hosts": list(dict.fromkeys(hosts))}


_TAKERS: dict[str, Callable[[_Conversion, str], None]] = {
    "allow": _Conversion.take_allow,
    "basicauth": _Conversion.take_user,
    "basicauthrealm": _Conversion.take_realm,
    "connectport": _Conversion.take_connect_port,
    "deny": _Conversion.take_deny,
    "disableviaheader": _Conversion.take_no_via,
    "filter": _Conversion.take_filter,
    "filterdefaultdeny": _Conversion.take_filter_default_deny,
    "filterextended": _Conversion.take_filter_extended,
    "filtertype": _Conversion.take_filter_type,
    "filterurls": _Conversion.take_filter_urls,
    "listen": _Conversion.take_listen,
    "logfile": _Conversion.take_log_file,
    "loglevel": _Conversion.take_log_level,
    "maxclients": _Conversion.take_max_clients,
    "port": _Conversion.take_port,
    "timeout": _Conversion.take_timeout,
    "viaproxyname": _Conversion.take_via,
}


def _is_on(value: str) -> bool:
    return value.lower() in ("yes", "on")


def permitted(controls: Iterable[tuple[bool, Network]]) -> list[Network]:
    """The addresses for which the first control that holds them allows."""
    seen: list[Network] = []
    found: list[Network] = []
    for allow, network in controls:
        if allow:
            found.extend(_without(network, seen))
        seen.append(network)
    v4 = [one for one in found if isinstance(one, ipaddress.IPv4Network)]
    v6 = [one for one in found if isinstance(one, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]


def _without(network: Any, holes: Iterable[Any]) -> list[Network]:
    parts = [network]
    for hole in holes:
        if hole.version != network.version:
            continue
        parts, before = [], parts
        for part in before:
            if part.subnet_of(hole):
                continue
            parts.extend(part.address_exclude(hole) if hole.subnet_of(part) else [part])
    return parts


def _hosts(line: str, kind: str) -> list[str]:
    """A line of a filter file as hosts of a rule; ValueError."""
    words = re.split(r"(?<!\\)#", line.strip())[0].split()
    if not words:
        return []
    pattern = words[0]
    if kind == "fnmatch":
        if not re.search(r"[*?[\\]", pattern.removeprefix("*.")):
            return [pattern]
        return [f"/{posix.from_glob(pattern)}/"]
    translated = posix.from_regex(pattern, extended=kind == "ere")
    simple = _HOST.fullmatch(translated)
    if simple is None:
        return [f"/.*(?:{translated}).*/"]
    name = simple[2].replace("\\.", ".")
    below = [f"*.{name}"]
    return {"^": [name], r"\.": below, r".*\.": below}.get(simple[1], [name, *below])
