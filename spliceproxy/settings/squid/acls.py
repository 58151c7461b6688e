"""The acl lines of a squid.conf: what each name stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from spliceproxy.config import ANY_USER
from spliceproxy.policy import listfile
from spliceproxy.policy.hosts import parse_pattern
from spliceproxy.policy.listfile import FileList
from spliceproxy.policy.networks import parse_network
from spliceproxy.settings.imported import Report
from spliceproxy.settings.squid import addresses, hosts, regexes, times
from spliceproxy.settings.squid.auth import Auth
from spliceproxy.settings.squid.reading import Statement, number_in, values_of_file
from spliceproxy.settings.squid.terms import (
    ALWAYS,
    NEVER,
    Acl,
    NotStarted,
    all_of,
    any_of,
    listed,
    split,
    unknown,
)

_PORTS = re.compile(r"([0-9]+)(?:-([0-9]+))?").fullmatch
_OPTIONS = ("-i", "-n", "-m", "--")
_BY_NAME = "addresses in requests are not looked up: what matches by the name of one does not here"

BUILT_IN = {
    "all": ("src", ("all",)),
    "CONNECT": ("method", ("CONNECT",)),
    "localhost": ("src", ("127.0.0.1/32", "::1/128")),
    "manager": ("manager", ()),
    "to_linklocal": ("dst", ("169.254.0.0/16", "fe80::/10")),
    "to_localhost": ("dst", ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128")),
}


@dataclass
class _Defined:
    kind: str
    options: set[str] = field(default_factory=set)
    values: list[str] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)  # the same, line by line
    about: Statement | None = None


class Acls:
    """By their names, whose case does not count."""

    def __init__(self, report: Report, auth: Auth) -> None:
        self._report = report
        self._auth = auth
        self._domain = ""
        self._defined = {
            name.lower(): _Defined(kind, values=list(values), lines=[list(values)])
            for name, (kind, values) in BUILT_IN.items()
        }
        self._made: dict[str, Acl] = {}
        self._told: set[str] = set()

    def append(self, domain: str) -> None:
        """``append_domain``: hosts without a dot are in this domain."""
        self._domain = domain

    def define(self, statement: Statement) -> None:
        self._report.about = statement
        name, kind, *rest = (*statement.words, "", "")[: max(2, len(statement.words))]
        if not kind:
            self._report.refuse("a name and a type are missing; squid does not start with it")
            return
        found = self._defined.setdefault(name.lower(), _Defined(kind))
        if found.kind not in (kind, "manager"):
            self._report.refuse(f"{name} is of type {found.kind} already; squid does not start")
            return
        found.about = found.about or statement
        options = set()
        while rest and rest[0] in _OPTIONS:
            options.add(rest[0])
            if rest.pop(0) == "--":
                break
        values = list(self._values(rest))
        found.options |= options
        found.values += values
        # This option is for its line alone.
        found.lines.append(["-i", *values] if "-i" in options else values)

    def knows(self, name: str) -> bool:
        return name.lower() in self._defined

    def asks(self, name: str) -> bool:
        """Whether squid has to know the user."""
        found = self._defined[name.lower()]
        return found.kind == "proxy_auth" and self._auth.htpasswd is not None

    def most(self, name: str) -> int:
        """The connections of a client above which a maxconn matches, 0 for another acl."""
        found = self._defined.get(name.lower())
        if found is None or found.kind != "maxconn" or len(found.values) != 1:
            return 0
        return number_in(found.values[0])

    def get(self, name: str) -> Acl:
        """What it stands for, when all lines are read."""
        key = name.lower()
        if key not in self._made:
            self._made[key] = unknown(f"acl {name} is made of itself")
            before, self._report.about = self._report.about, self._defined[key].about
            try:
                self._made[key] = self._build(name, self._defined[key])
            except NotStarted as error:
                self._report.refuse(f"{error}; squid does not start with it")
            except ValueError as error:
                self._made[key] = unknown(f"acl {name}: {error}")
            self._report.about = before
        return self._made[key]

    def _values(self, words: list[str]) -> Iterator[str]:
        """squid reads no further in a line than to the end of a file."""
        for place, word in enumerate(words):
            if word[0] not in "\"'":
                yield word
                continue
            path = re.split("[\"']", word[1:])[0]
            try:
                values = values_of_file(path)
            except OSError as error:
                self._report.note(f"{path}: cannot be read ({error.strerror}), so it lists nothing")
                values = []
            yield FileList(path, values)
            if words[place + 1 :]:
                ignored = " ".join(words[place + 1 :])
                self._report.note(f"squid reads nothing behind a file, so not {ignored}")
            return

    def _build(self, name: str, found: _Defined) -> Acl:
        build = _BUILD.get(found.kind)
        if build is None:
            return unknown(f"acl {name}: no rule looks at what {found.kind} does")
        made = build(self, found)
        if found.kind not in ("manager", "all-of", "any-of") and made == NEVER:
            self._report.note(f"{name} matches nothing")
        return made

    def _each(self, found: _Defined) -> Iterator[str]:
        return listfile.spelled_out(found.values)

    def _tell(self, text: str) -> None:
        """Once."""
        if text not in self._told:
            self._told.add(text)
            self._report.note(text)

    # ---- by type -----------------------------------------------------------------------

    def _never(self, found: _Defined) -> Acl:
        return NEVER

    def _src(self, found: _Defined) -> Acl:
        networks = self._networks(found)
        return ALWAYS if set(addresses.ALL) <= set(networks) else listed("clients", networks)

    def _dst(self, found: _Defined) -> Acl:
        self._tell(
            "squid looks at all addresses of a name, and connects to any; here each address is "
            "judged, and no other is connected to"
        )
        if "-n" in found.options:
            raise ValueError("-n: rules look at the addresses of names, too")
        return listed("networks", self._networks(found))

    def _networks(self, found: _Defined) -> list[str]:
        networks: list[str] = []
        kept = addresses.Kept()
        for value in self._each(found):
            kept.add(value, addresses.networks(value)[0])
        for value in found.values:
            if isinstance(value, FileList):
                networks += self._of_file(value, addresses.is_plain, parse_network, self._network)
            else:
                networks += self._network(value)
        return networks

    def _network(self, value: str) -> list[str]:
        found, by_name = addresses.networks(value)
        if by_name:
            self._report.note(f"{value} is {', '.join(found)} now; squid asks at its start")
        return list(found)

    def _of_file(
        self,
        written: FileList,
        is_plain: Callable[[FileList], bool],
        check: Callable[[str], object],
        each: Callable[[str], list[str]],
    ) -> list[str]:
        """The file, where each of its lines is a value that means the same here."""
        values = [one for value in written.values for one in each(value)]
        if not str(written).startswith("/"):
            return values
        try:
            named = listfile.read(f"{listfile.MARK}{written}", "/", check, "")
            if named.values == written.values and named.values and is_plain(named):
                return [named]
        except ValueError:
            pass
        return values

    def _dstdomain(self, found: _Defined) -> Acl:
        if "-n" not in found.options:
            self._tell(_BY_NAME)
        patterns: list[str] = []
        for value in found.values:
            if isinstance(value, FileList):
                patterns += self._of_file(value, hosts.is_plain, parse_pattern, self._host)
            else:
                patterns += self._host(value)
        if self._domain:
            patterns = hosts.appended(listfile.spelled_out(patterns), self._domain)
        return listed("hosts", patterns)

    def _host(self, value: str) -> list[str]:
        pattern = hosts.pattern(value)
        if not pattern:
            hint = hosts.meant(value)
            self._report.note(f"{value} matches nothing in squid{hint}")
        return [pattern] if pattern else []

    def _dstdom_regex(self, found: _Defined) -> Acl:
        if self._domain:
            raise ValueError("with append_domain it sees other hosts")
        literal = "-n" in found.options
        if not literal:
            self._tell(_BY_NAME)
        return any_of(
            regexes.in_hosts(self._expressions(line), literal=literal) for line in found.lines
        )

    def _url_regex(self, found: _Defined) -> Acl:
        if self._domain:
            raise ValueError("with append_domain it sees other hosts")
        return any_of(regexes.in_urls(self._expressions(line)) for line in found.lines)

    def _expressions(self, line: list[str]) -> Iterator[regexes.Expression]:
        return regexes.expressions(listfile.spelled_out(line))

    def _urlpath_regex(self, found: _Defined) -> Acl:
        return split("methods", "CONNECT", NEVER, unknown("no rule looks at paths"))

    def _port(self, found: _Defined) -> Acl:
        ports = []
        for value in self._each(found):
            match = _PORTS(value)
            if match is None:
                raise NotStarted(f"{value} is no port")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last <= 65535:
                raise NotStarted(f"{value}: no ports")
            if last:
                first = max(1, first)
                ports.append(f"{first}-{last}" if first < last else str(first))
        return listed("ports", ports)

    def _method(self, found: _Defined) -> Acl:
        methods = [value.upper() for value in self._each(found)]
        if set(methods) - {"CONNECT"}:
            self._tell("methods in lower case are others here than those in capitals")
        return listed("methods", methods)

    def _proto(self, found: _Defined) -> Acl:
        """http:// is all but CONNECT, and nothing else is served."""
        plain = "HTTP" in {value.upper() for value in self._each(found)}
        return listed("methods", ["CONNECT"]).inverse if plain else NEVER

    def _time(self, found: _Defined) -> Acl:
        return listed("times", [one for line in found.lines for one in times.periods(line)])

    def _proxy_auth(self, found: _Defined) -> Acl:
        values = list(self._each(found))
        if not self._auth.schemes:
            self._report.refuse("there is no auth_param; squid does not start with it")
        if self._auth.htpasswd is None:
            raise ValueError("users are known by a file of basic_ncsa_auth alone")
        if values[:1] == ["REQUIRED"]:
            return listed("users", [ANY_USER])
        return listed("users", self._auth.names(values, ignore="-i" in found.options))

    def _all_of(self, found: _Defined) -> Acl:
        """Of a line all must match, and of the lines one."""
        return any_of(all_of(map(self._signed, line)) for line in found.lines if line)

    def _any_of(self, found: _Defined) -> Acl:
        return any_of(map(self._signed, self._each(found)))

    def _signed(self, name: str) -> Acl:
        bare = name.removeprefix("!")
        if not self.knows(bare):
            self._report.refuse(f"there is no acl {bare}; squid does not start with it")
            return NEVER
        found = self.get(bare)
        if self.asks(bare):
            raise ValueError(f"{bare} asks for users in the midst of others")
        return found if bare == name else found.inverse


_BUILD: Mapping[str, Callable[[Acls, _Defined], Acl]] = {
    "all-of": Acls._all_of,
    "any-of": Acls._any_of,
    "dst": Acls._dst,
    "dstdom_regex": Acls._dstdom_regex,
    "dstdomain": Acls._dstdomain,
    "manager": Acls._never,
    "method": Acls._method,
    "port": Acls._port,
    "proto": Acls._proto,
    "proxy_auth": Acls._proxy_auth,
    "src": Acls._src,
    "time": Acls._time,
    "url_regex": Acls._url_regex,
    "urlpath_regex": Acls._urlpath_regex,
}
