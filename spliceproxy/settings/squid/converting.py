"""The directives of a squid.conf as settings in TOML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
from spliceproxy.settings.squid import directives, ports
from spliceproxy.settings.squid.access import Access, Rule, line_of
from spliceproxy.settings.squid.acls import Acls
from spliceproxy.settings.squid.auth import Auth
from spliceproxy.settings.squid.delays import Delays
from spliceproxy.settings.squid.peers import Peers
from spliceproxy.settings.squid.reading import Statement, number_in, read

_FORWARDED = ("on", "off", "transparent", "delete")
_HIDDEN = {"x-forwarded-for": ("forwarded-for", "delete"), "via": ("via", "off")}


def convert(path: str) -> Converted:
    """Converts a file with all that it names. OSError for the first, Refused."""
    return _Conversion(Report(path)).all_of(read(path))


class _Conversion(Conversion[Statement]):
    """The settings so far."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self._auth = Auth(report)
        self._acls = Acls(report, self._auth)
        self._access = Access(report, self._acls)
        self._peers = Peers(report, self._acls)
        self._ports = ports.Ports(report)
        self._formats: dict[str, str] = {}
        self._rules: list[Rule] = []
        self._limits: list[Rule] = []
        self._unneeded: dict[str, None] = {}
        self._delays = Delays(report, self._acls, self._auth)
        self._client_delays = Delays(report, self._acls, self._auth, clients=True)

    def prepare(self, statement: Statement) -> None:
        if statement.name == "append_domain":
            self._acls.append(" ".join(statement.words[:1]))
        elif statement.name == "auth_param":
            self._auth.take(statement)
        elif statement.name == "logformat":
            name, _, form = statement.text.strip().partition(" ")
            self._formats[name] = form.strip()

    def take(self, statement: Statement) -> None:
        name = statement.name
        take = _TAKERS.get(name)
        if take is not None:
            take(self, statement)
        elif name in directives.CLOSING:
            why, harmless = directives.CLOSING[name]
            if statement.words not in harmless:
                self._report.close(why)
        elif name in directives.MISSING:
            self._report.miss(directives.MISSING[name])
        elif name in directives.UNNEEDED:
            self._unneeded[name] = None
        elif name not in _PREPARED:
            self._report.close("unknown to squid.conf; perhaps another version of squid knows it")

    def end(self) -> None:
        if self._report.refused:
            return
        self.settings |= self._ports.settings()
        wrong = self._auth.never_right()
        self._rules = list(self._access.rules())
        self._limits += [*self._delays.limits(), *self._client_delays.limits()]
        if any(_names_users(rule.table) for rule in (*self._rules, *self._limits)):
            self.settings |= self._auth.settings()
            if wrong:
                table = {"id": "users-in-capitals", "action": "deny", "users": wrong}
                self._rules.insert(0, Rule(table, ("squid never finds these users in the file.",)))
        last = self._rules[-1].table if self._rules else {}
        default = last.get("action") if last.keys() == {"id", "action"} else None
        self.settings["rule-default"] = default or self._access.default
        self.settings["allow-clients"] = ["0.0.0.0/0", "::/0"]
        self._report.about = None
        self._report.say(
            "clients are served from everywhere, as squid does: the rules say who may what"
        )
        self._report.say(
            "clients of other machines may not reach the proxy's own machine here, and nobody "
            'link-local addresses; squid lets them (guard = "off")'
        )
        if "forwarded-for" not in self.settings:
            self._report.say(
                "origins are not told who the client is; squid tells them (forwarded-for)"
            )
        if self._unneeded:
            names = ", ".join(sorted(self._unneeded))
            self._report.say(f"not needed, for it does not say who may go where: {names}")

    def toml(self) -> str:
        import tomli_w

        routes = self._peers.routes()
        parents = self._peers.parents
        plain = self._in_order()
        parts = [tomli_w.dumps(plain)]
        if self._report.closed:
            table = {"id": CLOSED, "action": "deny"}
            parts += ["\n", closing(self._report), "[[rule]]\n", tomli_w.dumps(table)]
        for rule in self._rules:
            parts += ["\n", comment(rule.above[0], rule.above[1:])]
            parts += ["[[rule]]\n", tomli_w.dumps(rule.table)]
        for limit in (*self._limits, *self._access.limits):
            parts += ["\n", comment(limit.above[0]), "[[limit]]\n", tomli_w.dumps(limit.table)]
        for route in routes:
            parts += ["\n", comment(route.above[0], route.above[1:]) if route.above else ""]
            parts += ["[[route]]\n", tomli_w.dumps(route.table)]
        for name, parent in parents.items():
            parts += ["\n", tomli_w.dumps({"parent": {name: parent}})]
        return "".join(parts)

    # ---- directives --------------------------------------------------------------------

    def take_acl(self, statement: Statement) -> None:
        self._acls.define(statement)

    def take_access(self, statement: Statement) -> None:
        self._access.take(statement)

    def take_other_access(self, statement: Statement) -> None:
        """Lists that restrict beside http_access: only what allows all is nothing."""
        line = line_of(statement, statement.words, self._acls, self._report)
        if line is not None and not (line.allow and line.names == ("all",)):
            self._report.close("it restricts answers or requests in its own way")

    def take_page(self, statement: Statement) -> None:
        self._access.take_page(statement)

    def take_folder(self, statement: Statement) -> None:
        self._access.folder = " ".join(statement.words[:1])

    def take_domain(self, statement: Statement) -> None:
        self._report.note(
            "hosts without a dot are looked up as they are: name servers know them, or resolv.conf "
            "has this domain (search)"
        )

    def take_port(self, statement: Statement) -> None:
        self._ports.take(statement)

    def take_peer(self, statement: Statement) -> None:
        self._peers.take_peer(statement)

    def take_peer_access(self, statement: Statement) -> None:
        self._peers.take_access(statement)

    def take_direct(self, statement: Statement) -> None:
        self._peers.take_direct(statement)

    def take_source(self, statement: Statement) -> None:
        self._peers.take_source(statement)

    def take_via(self, statement: Statement) -> None:
        if statement.words[:1] == ("off",):
            self._set("via", "off")

    def take_forwarded(self, statement: Statement) -> None:
        word = " ".join(statement.words[:1])
        if word in _FORWARDED:
            self._set("forwarded-for", word)
        elif word == "truncate":
            self._report.miss("truncate: allowed are on, off, transparent and delete")
        else:
            self._report.refuse(f"{word!r}: squid does not start with it")

    def take_servers(self, statement: Statement) -> None:
        known = list(self.settings.get("dns-server", []))
        self._set("dns-server", known + [one for one in statement.words if one != "none"])

    def take_hosts(self, statement: Statement) -> None:
        path = " ".join(statement.words[:1])
        if path == "none" or os.path.isfile(path):
            self._set("hosts-file", path)
        else:
            self._report.note(f"{path}: there is no such file")

    def take_v4_first(self, statement: Statement) -> None:
        if statement.words[:1] == ("on",):
            self._set("ip-version", "prefer4")

    def take_workers(self, statement: Statement) -> None:
        number = number_in(" ".join(statement.words[:1]))
        if number:
            self._set("workers", number)

    def take_fields(self, statement: Statement) -> None:
        """request_header_access: two fields have settings of their own."""
        name, *words = (*statement.words, "")
        setting = _HIDDEN.get(name.lower())
        if setting is not None and words[:2] == ["deny", "all"]:
            self._set(*setting)
        elif words[:2] != ["allow", "all"]:
            self._report.miss("fields of requests are passed on as they are")

    def take_log(self, statement: Statement) -> None:
        place, *rest = (*statement.words, "")
        rest = [one for one in rest if one]
        if place in ("none", ""):
            self._set("access-log", "off")
            return
        path = place.removeprefix("stdio:").removeprefix("daemon:")
        if ":" in path:
            self._report.note(f"left out: {place}: see access-log for syslog")
            return
        form = next((one.removeprefix("logformat=") for one in rest), "squid")
        faults = list(log_faults(path, "access-log", create=False))
        if faults:
            self._report.note(f"left out: {faults[0]}")
        else:
            self._set("access-log", path)
        self._set("log-format", self._formats.get(form, form if "=" not in form else "squid"))
        if [one for one in rest[1:] if "=" not in one]:
            self._report.note("all requests are logged, whatever the acls say")

    def take_bump(self, statement: Statement) -> None:
        action = " ".join(statement.words[:1])
        if action in ("peek", "splice", "none"):
            self._report.note("not needed: a tunnel is passed on as it is; see tls-name")
        else:
            self._report.close(f"{action}: TLS is not opened here, and its names end no tunnel")

    def take_most(self, statement: Statement) -> None:
        number = number_in(" ".join(statement.words[:1]))
        if number:
            table: dict[str, Any] = {"id": "client-connections", "by": "client", "prefix6": 128}
            table["connections"] = number
            self._limits = [Rule(table, (f"{statement.name} {number}",))]  # the last one holds

    def take_delays(self, statement: Statement) -> None:
        """delay_pools and its like, with client_ in front or not."""
        name = statement.name.removeprefix("client_")
        delays = self._delays if name == statement.name else self._client_delays
        _DELAYS[name](delays, statement)

    def take_clients(self, statement: Statement) -> None:
        if statement.words[:1] != ("deny",):
            self._report.close("clients are known by the address that they come from")


def _names_users(table: Mapping[str, Any]) -> bool:
    return bool({"users", "not-users"} & table.keys()) or table.get("by") == "user"


_DELAYS = {
    "delay_access": Delays.take_access,
    "delay_class": Delays.take_class,
    "delay_parameters": Delays.take_parameters,
    "delay_pools": Delays.take_count,
}

_PREPARED = ("append_domain", "auth_param", "logformat")

_TAKERS: Mapping[str, Callable[[_Conversion, Statement], None]] = {
    "access_log": _Conversion.take_log,
    "acl": _Conversion.take_acl,
    "adapted_http_access": _Conversion.take_other_access,
    "always_direct": _Conversion.take_direct,
    "append_domain": _Conversion.take_domain,
    "cache_peer": _Conversion.take_peer,
    "cache_peer_access": _Conversion.take_peer_access,
    "client_delay_access": _Conversion.take_delays,
    "client_delay_parameters": _Conversion.take_delays,
    "client_delay_pools": _Conversion.take_delays,
    "client_ip_max_connections": _Conversion.take_most,
    "delay_access": _Conversion.take_delays,
    "delay_class": _Conversion.take_delays,
    "delay_parameters": _Conversion.take_delays,
    "delay_pools": _Conversion.take_delays,
    "deny_info": _Conversion.take_page,
    "dns_nameservers": _Conversion.take_servers,
    "dns_v4_first": _Conversion.take_v4_first,
    "error_directory": _Conversion.take_folder,
    "follow_x_forwarded_for": _Conversion.take_clients,
    "forwarded_for": _Conversion.take_forwarded,
    "hosts_file": _Conversion.take_hosts,
    "http_access": _Conversion.take_access,
    "http_access2": _Conversion.take_other_access,
    "http_port": _Conversion.take_port,
    "http_reply_access": _Conversion.take_other_access,
    "https_port": _Conversion.take_port,
    "miss_access": _Conversion.take_other_access,
    "never_direct": _Conversion.take_direct,
    "request_header_access": _Conversion.take_fields,
    "ssl_bump": _Conversion.take_bump,
    "tcp_outgoing_address": _Conversion.take_source,
    "via": _Conversion.take_via,
    "workers": _Conversion.take_workers,
}
