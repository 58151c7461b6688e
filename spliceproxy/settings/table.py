"""The one table of settings.

Flags, TOML keys, environment variables, the JSON Schema, ``--help`` and what ``check``
prints are all made from it. A key of the file is the flag without its dashes; the variable
is SPLICEPROXY_ and the same in capitals with underscores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from spliceproxy.config import (
    CONDITIONS,
    Config,
    LimitConfig,
    ParentConfig,
    RouteConfig,
    RuleConfig,
)
from spliceproxy.http1.chain import FORWARDED_MODES
from spliceproxy.policy.decision import TLS_NAMES, TLS_REFUSABLE
from spliceproxy.settings import listening, routing, store, values
from spliceproxy.settings.kind import Kind, choice


@dataclass(frozen=True)
class Setting:
    """One setting. ``path`` is its attribute of Config (a rule's field: of RuleConfig)."""

    name: str
    path: str
    kind: Kind
    help: str
    section: str = ""  # of --help; without one it has no flag
    many: bool = False  # a list of such values; a flag for each
    empty: str = ""  # what an empty list or table stands for; "" where it is a mistake
    keys: Kind | None = None  # a table from such keys to such values
    fields: tuple[Setting, ...] = ()  # an array of tables of these; with keys, a table of them
    made: type[Any] | None = None  # what each of these tables becomes
    alone: bool = False  # a list of one may be written as its value
    required: bool = False  # in each table of the array
    fixed: str = ""  # why a reload cannot change it, "" where it can
    default: str = ""  # in words, where the value of Config says too little

    @property
    def flag_name(self) -> str:
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        return PREFIX + self.name.replace("-", "_").upper()

    @property
    def in_environment(self) -> bool:
        return self.keys is None and not self.fields

    def of(self, owner: Any) -> Any:
        """The setting's value in a Config, or a field's in a RuleConfig."""
        return reduce(getattr, self.path.split("."), owner)


PREFIX = "SPLICEPROXY_"

WHERE = "addresses and files"
HOW = "processes and connections"
POLICY = "who may use it, and for what"
WAYS = "which way requests go"
FIELDS = "fields of forwarded requests"
TIMEOUTS = "timeouts"
OPERATORS = "for operators"
LOGS = "logs and information"

SECTIONS: Mapping[str, str] = {
    WHERE: "",
    HOW: "",
    POLICY: "",
    WAYS: "",
    FIELDS: "",
    TIMEOUTS: "In seconds; fractions are allowed. More than 0, and at most a year.",
    OPERATORS: "",
    LOGS: "",
}
"""The parts of --help, in their order, with what stands above each."""

_OF_FIELDS = choice()  # no value by itself

# What rules and routes have in common.
_HOSTS = Setting(
    "hosts",
    "hosts",
    values.HOST,
    "destinations: a name, .NAME for the name and all names below it, *.NAME for those below "
    "it alone, or /REGEX/ for the whole name",
    many=True,
)
_PORTS = Setting("ports", "ports", values.PORTS, "ports of destinations, or ranges", many=True)
_USERS = Setting("users", "users", values.USER, "names of users, or * for all of them", many=True)
_TLS_REFUSE = Setting(
    "tls-refuse",
    "tls_refuse",
    choice(*TLS_REFUSABLE),
    "what tls-name = check lets pass by itself, and is to refuse as well",
    many=True,
)
_GROUPS = Setting("groups", "groups", values.USER, "names from the table groups", many=True)

_CLIENTS = Setting("clients", "clients", values.RULE_CLIENTS, "networks of clients", many=True)
_METHODS = Setting("methods", "methods", values.METHOD, "request methods", many=True)
_NETWORKS = Setting(
    "networks",
    "networks",
    values.RULE_NETWORK,
    "networks of the destination's addresses",
    many=True,
)
_TIMES = Setting("times", "times", values.TIMES, "days and hours, in local time", many=True)


def _not(one: Setting) -> Setting:
    """The same of what is excepted."""
    return replace(
        one,
        name=f"not-{one.name}",
        path=f"not_{one.path}",
        help=f"as {one.name}; the rule does not match where one of these does",
    )


_RULE = (
    Setting(
        "id",
        "id",
        values.RULE_ID,
        "name of the rule in refusals and in the log",
        required=True,
    ),
    Setting(
        "action",
        "action",
        choice("allow", "deny"),
        "what happens if every condition holds",
        required=True,
    ),
    _CLIENTS,
    _USERS,
    _GROUPS,
    _METHODS,
    _HOSTS,
    _NETWORKS,
    _PORTS,
    _TIMES,
    *map(_not, (_CLIENTS, _USERS, _GROUPS, _METHODS, _HOSTS, _NETWORKS, _PORTS, _TIMES)),
    Setting(
        "report-only",
        "report_only",
        values.SWITCH,
        "log what the rule would decide, and try the next rule",
    ),
    Setting(
        "status",
        "status",
        values.STATUS,
        "status code of the refusal (default: 403)",
    ),
    Setting(
        "reason",
        "reason",
        values.REASON,
        "what clients and the log are told of the refusal",
    ),
    Setting(
        "tls-name",
        "tls_name",
        choice(*TLS_NAMES),
        "what is asked of the name inside TLS, of tunnels that the rule allows (default: what "
        "tls-name above the first table says)",
    ),
    _TLS_REFUSE,
)

_LIMIT = (
    Setting(
        "id",
        "id",
        values.RULE_ID,
        "name of the limit in refusals, in the log and in metrics",
        required=True,
    ),
    Setting(
        "by",
        "by",
        choice("client", "user", "group", "destination", "total"),
        "what it counts by: each client, user, group or destination has its own count; total: "
        "one count for all",
        required=True,
    ),
    Setting(
        "only-named",
        "only_named",
        values.SWITCH,
        "count only requests for which the function of policy names this limit",
    ),
    Setting(
        "prefix4",
        "prefix4",
        values.PREFIX4,
        "by client: bits of an IPv4 address that clients have in common who count as one",
    ),
    Setting("prefix6", "prefix6", values.PREFIX6, "the same of an IPv6 address"),
    *(one for one in _RULE if one.path in CONDITIONS),
    Setting(
        "connections",
        "connections",
        values.LIMIT,
        "client connections at a time, tunnels included; by destination: requests and tunnels "
        "at a time",
    ),
    Setting(
        "requests-per-second",
        "requests_per_second",
        values.PER_SECOND,
        "requests per second, CONNECT included",
    ),
    Setting(
        "new-tunnels-per-second",
        "new_tunnels_per_second",
        values.PER_SECOND,
        "new tunnels per second",
    ),
    Setting(
        "burst",
        "burst",
        values.LIMIT,
        "requests, and new tunnels, that may come at once after a rest",
        default="as many as in a second, at least 1",
    ),
    Setting(
        "rate-in",
        "rate_in",
        values.BYTES,
        "bytes per second from clients, shared by all that count together",
    ),
    Setting("rate-out", "rate_out", values.BYTES, "the same to clients"),
    Setting(
        "bytes-per-day",
        "bytes_per_day",
        values.BYTES,
        "bytes both ways in a day of UTC, heads included",
    ),
    Setting("bytes-per-hour", "bytes_per_hour", values.BYTES, "the same in an hour"),
    Setting("tunnel-seconds", "tunnel_seconds", values.SECONDS, "seconds that a tunnel may last"),
)

_ROUTE = (
    Setting(
        "to",
        "to",
        routing.WAY,
        "names of parents, of which the first that can be reached is taken; direct: without a "
        "parent; refuse: nowhere; pac: as the file of --pac says",
        many=True,
        alone=True,
        required=True,
    ),
    Setting(
        "pick",
        "pick",
        choice("in-order", "round-robin", "least", "hash"),
        "which of several parents is tried first: the first; each in turn; the one with the fewest "
        "connections; or for each host the same",
    ),
    _HOSTS,
    Setting(
        "networks",
        "networks",
        values.RULE_NETWORK,
        "networks of the destination's addresses, for which its name is looked up",
        many=True,
    ),
    _PORTS,
    _USERS,
    _GROUPS,
    Setting(
        "listeners",
        "listeners",
        listening.LISTENER,
        "addresses of --listen or --forward where clients have come in",
        many=True,
    ),
    Setting(
        "source-address",
        "source",
        routing.SOURCE,
        "IP address of this machine from which the connections of this route are made",
    ),
)

_PARENT = (
    Setting(
        "url",
        "url",
        routing.PARENT_URL,
        "where it is, and what it speaks",
        required=True,
    ),
    Setting(
        "auth-file",
        "auth_file",
        values.FILE_TO_READ,
        "file whose only line is USER:PASSWORD, which the parent asks for",
    ),
    Setting(
        "auth-env",
        "auth_env",
        routing.VARIABLE,
        "environment variable that holds USER:PASSWORD, instead of such a file",
    ),
    Setting(
        "ca-file",
        "ca_file",
        values.FILE_TO_READ,
        "certificates (PEM) that vouch for an https parent, instead of the system's",
    ),
    Setting(
        "through",
        "through",
        routing.PARENT_NAME,
        "name of the parent by which this one is reached",
    ),
    Setting(
        "connect-by",
        "connect_by",
        choice("name", "address"),
        "what the parent is told: the name of a destination, or an address that was looked up and "
        "checked here (default: name; address for socks5)",
    ),
    Setting(
        "timeout",
        "timeout",
        values.SECONDS,
        "seconds to reach the parent, TLS included",
    ),
    Setting(
        "max-connections",
        "max_connections",
        values.COUNT,
        "limit on connections to it; each worker takes an equal share",
    ),
)

SETTINGS = (
    Setting(
        "listen",
        "listen",
        listening.LISTEN,
        "address to listen on: :8888 (every address), 127.0.0.1:8888, [::1]:8888 or unix:/path; "
        "port 0 takes a free port. With proxy+tcp://127.0.0.1:8888 or proxy+unix:/path a balancer "
        "says by the PROXY protocol who each client is. systemd:NAME is a socket of systemd's",
        WHERE,
        many=True,
        default=":8888",
    ),
    Setting(
        "forward",
        "forwards",
        listening.FORWARD,
        "address to listen on, and a destination to which each connection there is a tunnel: "
        "127.0.0.1:5432=db.example.com:5432",
        WHERE,
        many=True,
        default="none",
    ),
    Setting(
        "proxy-protocol-from",
        "balancers",
        values.NETWORK,
        "network of the balancers that may connect to addresses with proxy+tcp://, each "
        "connection of which must begin with a header of the PROXY protocol",
        WHERE,
        many=True,
        default="none, which such an address does not allow",
    ),
    Setting(
        "redirect-verify",
        "redirect_verify",
        choice("address", "strict"),
        "what becomes of a connection at redirect+tcp:// or tproxy+tcp:// whose name does not lead "
        "to the address that it was made to. address: the rules see the address alone; strict: it "
        "is refused",
    ),
    Setting(
        "default-backend",
        "default_backend",
        values.BACKEND,
        "server for requests that name no other server, such as GET /index.html",
        WHERE,
        default="they get a 400 that explains how to configure a client",
    ),
    Setting(
        "serve",
        "serve",
        values.DIRECTORY,
        "answer such requests with files from this directory instead",
        WHERE,
    ),
    Setting(
        "serve-links",
        "serve_links",
        values.SWITCH,
        "follow symbolic links that stay within that directory; files that Kubernetes mounts are "
        "such links",
        WHERE,
    ),
    Setting(
        "workers",
        "workers",
        values.WORKERS,
        "number of worker processes",
        HOW,
        default="auto, one per usable CPU, but no more than the CPU quota of its cgroup",
    ),
    Setting(
        "user",
        "user",
        values.SYSTEM_USER,
        "user of this system whose rights workers and the admin process have, where root starts "
        "the proxy",
        HOW,
        default="as the proxy is started",
        fixed="the processes that run have these rights",
    ),
    Setting(
        "group",
        "group",
        values.SYSTEM_GROUP,
        "group that they have",
        HOW,
        default="that of --user",
        fixed="the processes that run have these rights",
    ),
    Setting(
        "landlock",
        "landlock",
        choice("auto", "off", "require"),
        "whether workers and the admin process can open only the files that they need. auto: with "
        "--user, where the kernel has Landlock; require: always, or the proxy does not start",
        HOW,
        default="auto",
        fixed="the processes that run can open no more than before",
    ),
    Setting(
        "landlock-read",
        "landlock_read",
        values.PLACE,
        "files and folders that a function of policy reads, beside its own folder",
        many=True,
        empty="none",
    ),
    Setting(
        "landlock-write",
        "landlock_write",
        values.DIRECTORY,
        "folders in which a function of policy writes files",
        many=True,
        empty="none",
    ),
    Setting(
        "engine",
        "engine",
        choice("auto", "native", "splice", "copy"),
        "what moves the bytes: the compiled relay, os.splice, or recv and send",
        HOW,
        default="auto, the best that works here",
        fixed="the bytes that are on their way are the engine's",
    ),
    Setting(
        "max-connections",
        "max_connections",
        values.COUNT,
        "limit on client connections; each worker takes an equal share",
        HOW,
        default="0, as many as the file descriptors allow",
    ),
    Setting(
        "allow-clients",
        "policy.clients",
        values.CLIENTS,
        "network of clients that may use the proxy",
        POLICY,
        many=True,
        empty="nobody",
        default="loopback and private networks, and users from anywhere",
    ),
    Setting(
        "auth",
        "auth.user",
        values.USER_AND_PASSWORD,
        "require this user and password; ps(1) shows flags to everyone, so prefer "
        "SPLICEPROXY_AUTH or --htpasswd",
        POLICY,
    ),
    Setting(
        "htpasswd",
        "auth.htpasswd",
        values.FILE_TO_READ,
        "require a user and password from this file, which htpasswd(1) writes",
        POLICY,
    ),
    Setting(
        "auth-realm",
        "auth.realm",
        values.REALM,
        "name that clients show when they ask for the password",
    ),
    Setting(
        "auth-required",
        "auth.required",
        values.AUTH_REQUIRED,
        "answer 407 to clients that are not users, if there are users: true, to all; by-rule, "
        "where rules refuse them and would not refuse every user; or false",
    ),
    Setting(
        "auth-no-delay",
        "auth.no_delay",
        values.CLIENTS,
        "networks of clients that wrong passwords never delay",
        many=True,
    ),
    Setting(
        "auth-networks",
        "auth.networks",
        values.USER,
        "table from a network to the user that its clients are, without a password",
        keys=values.NETWORK,
    ),
    Setting(
        "auth-peers",
        "auth.peers",
        values.USER,
        "table from a Unix user who connects by a Unix socket to the user that it is, without a "
        "password",
        keys=values.PEER,
    ),
    Setting(
        "auth-file",
        "auth.users_file",
        values.FILE_TO_READ,
        "file with more of auth-networks and auth-peers: lines of a network or Unix user, and its "
        "user",
    ),
    Setting(
        "groups",
        "auth.groups",
        values.USER,
        "table from the name of a group to the users in it",
        many=True,
        empty="no groups, or a group of nobody",
        keys=values.USER,
    ),
    Setting(
        "guard",
        "policy.guard",
        choice("on", "private", "off"),
        "addresses that are never connected to. on: this machine, link-local addresses and cloud "
        "metadata; private: private networks as well; off: none",
        POLICY,
        default="on",
    ),
    Setting(
        "guard-local",
        "policy.guard_local",
        choice("loopback", "none"),
        "which clients count as being on this machine, for guard and allow-clients. loopback: "
        "those that come from it; none: nobody, for a proxy behind a balancer on this machine",
    ),
    Setting(
        "guard-allow",
        "policy.guard_allow",
        values.NETWORK,
        "networks that the guard lets through",
        many=True,
        empty="none",
    ),
    Setting(
        "guard-deny",
        "policy.guard_deny",
        values.NETWORK,
        "networks that the guard refuses as well; takes precedence over guard-allow",
        many=True,
        empty="none",
    ),
    Setting(
        "rule-default",
        "policy.default",
        choice("allow", "deny"),
        "what happens to requests that no rule decides",
    ),
    Setting(
        "report-only",
        "policy.report_only",
        values.SWITCH,
        "log what the rules would refuse, and let it through",
    ),
    Setting(
        "policy",
        "policy.hook",
        values.HOOK,
        "ask a Python function: FILE.py or dotted.name, with :function added unless it is called "
        "authorize",
        POLICY,
    ),
    Setting(
        "policy-timeout",
        "policy.hook_timeout",
        values.SECONDS,
        "seconds that the function has to answer",
    ),
    Setting(
        "policy-cache",
        "policy.hook_cache",
        values.SECONDS_OR_NONE,
        "seconds for which an answer of the function is reused",
    ),
    Setting(
        "learn",
        "policy.learn",
        values.FILE_TO_WRITE,
        "write the destinations seen to this file, for review",
        POLICY,
    ),
    Setting(
        "locked",
        "policy.locked",
        values.FILE_TO_READ,
        "allow only the destinations of such a file",
        POLICY,
    ),
    Setting(
        "targets",
        "policy.targets",
        choice("any", "names"),
        "names: refuse destinations that are written as addresses, but for those that the file of "
        "--locked names",
        POLICY,
        default="names with --locked, any without",
    ),
    Setting(
        "tls-name",
        "policy.tls_name",
        choice(*TLS_NAMES),
        "what is asked of the name inside TLS, of tunnels whose rule does not say it. check: it is "
        "not another one; require: it is the name that the client has asked for; off: nothing",
        POLICY,
        default="check with --locked, off without",
    ),
    replace(_TLS_REFUSE, path="policy.tls_refuse"),
    Setting(
        "proxy",
        "routing.proxy",
        routing.PARENT_URL,
        "send requests through another proxy; SPLICEPROXY_PROXY_AUTH has USER:PASSWORD, if it asks "
        "for them",
        WAYS,
    ),
    Setting(
        "pac",
        "routing.pac",
        routing.PAC_FILE,
        "send requests the way that this PAC file says; one at a URL is fetched at the start and "
        "at each reload",
        WAYS,
    ),
    Setting(
        "proxy-auth",
        "routing.auth",
        values.USER_AND_PASSWORD,
        "user and password for the proxy of --proxy, or for those that a PAC file names",
    ),
    Setting(
        "no-proxy",
        "routing.no_proxy",
        routing.NO_PROXY,
        "destinations that are not for that proxy: names, which stand for those below them, too, "
        "addresses and networks",
        WAYS,
    ),
    Setting(
        "proxy-from-environment",
        "routing.from_environment",
        values.SWITCH,
        "take both from http_proxy, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as curl does",
        WAYS,
    ),
    Setting(
        "via",
        "via",
        values.VIA,
        "name of this proxy in the Via field, by which it also detects loops; or off",
        FIELDS,
        default="spliceproxy- and eight random digits",
    ),
    Setting(
        "forwarded-for",
        "forwarded_for",
        choice(*FORWARDED_MODES),
        "what becomes of Forwarded and X-Forwarded-For. transparent: they pass unchanged; on: the "
        "client's address is added; off: unknown is added; delete: they are removed",
        FIELDS,
        default="transparent",
    ),
    Setting(
        "timeout-proxy-header",
        "timeouts.proxy_header",
        values.SECONDS,
        "for a header of the PROXY protocol, where one is expected",
        TIMEOUTS,
    ),
    Setting(
        "timeout-tls-name",
        "timeouts.tls_name",
        values.SECONDS,
        "for the first bytes of a client in which it names the server: in a tunnel with tls-name, "
        "and at redirect+tcp:// or tproxy+tcp://",
    ),
    Setting(
        "timeout-head",
        "timeouts.head",
        values.SECONDS,
        "for a whole request head, and between two requests of a connection",
        TIMEOUTS,
    ),
    Setting(
        "timeout-dial",
        "timeouts.dial",
        values.SECONDS,
        "for looking up an origin's name and connecting to it",
        TIMEOUTS,
    ),
    Setting(
        "timeout-dns",
        "timeouts.dns",
        values.SECONDS,
        "for looking up one name, within --timeout-dial",
        TIMEOUTS,
    ),
    Setting(
        "dns-server",
        "names.servers",
        values.NAME_SERVER,
        "name server to ask, with or without a port",
        HOW,
        many=True,
        default="those of /etc/resolv.conf",
    ),
    Setting(
        "hosts-file",
        "names.hosts_file",
        values.HOSTS_FILE,
        "file of names and addresses that come before those of name servers, as hosts(5); or none",
    ),
    Setting(
        "ip-version",
        "names.ip_version",
        choice("any", "4", "6", "prefer4", "prefer6"),
        "version of IP of the addresses to connect to. any: as RFC 6724 orders them; 4, 6: no "
        "other; prefer4, prefer6: those first",
        HOW,
    ),
    Setting(
        "dns-stale",
        "names.stale",
        values.SECONDS_OR_NONE,
        "seconds for which an answer whose time is over may be used while name servers are silent "
        "or fail",
        default="0, never",
    ),
    Setting(
        "timeout-idle",
        "timeouts.idle",
        values.SECONDS,
        "for a tunnel or a body without a byte",
        TIMEOUTS,
    ),
    Setting(
        "timeout-half-close",
        "timeouts.half_close",
        values.SECONDS,
        "for a tunnel without a byte, once one side has ended",
        TIMEOUTS,
    ),
    Setting(
        "timeout-drain",
        "timeouts.drain",
        values.SECONDS_OR_NONE,
        "for requests and tunnels to finish after SIGTERM; may be 0",
        TIMEOUTS,
    ),
    Setting(
        "drain-delay",
        "timeouts.drain_delay",
        values.SECONDS_OR_NONE,
        "for balancers to notice that /readyz of --admin says 503, after SIGTERM and before new "
        "clients are refused; may be 0",
        TIMEOUTS,
    ),
    Setting(
        "pid-file",
        "pid_file",
        values.FILE_TO_WRITE,
        "file that has the process id of the proxy while it runs",
        OPERATORS,
        fixed="the process that runs has written it at its start",
    ),
    Setting(
        "reload-tunnels",
        "reload_tunnels",
        choice("keep", "recheck"),
        "what a reload does with tunnels that live. keep: they go on; recheck: the new settings "
        "judge them, and those that they do not allow end",
        OPERATORS,
    ),
    Setting(
        "admin",
        "admin.address",
        listening.ADMIN,
        "address where operators ask the proxy what it does: 127.0.0.1:9810, [::1]:9810, "
        "unix:/path, or off",
        OPERATORS,
        default="off",
    ),
    Setting(
        "admin-token-file",
        "admin.token_file",
        values.FILE_TO_READ,
        "file with the token that operators must give; required unless --admin is a Unix socket",
        OPERATORS,
    ),
    Setting(
        "admin-hosts",
        "admin.hosts",
        values.NAME,
        "names of this machine by which browsers may come to the admin address, beside localhost "
        "and addresses",
        many=True,
        empty="none",
    ),
    Setting(
        "admin-mode",
        "admin.mode",
        values.MODE,
        "permissions of the file, where --admin is a Unix socket",
    ),
    Setting(
        "access-log",
        "access_log",
        values.LOG_FILE,
        "one line per request and tunnel: a file, - for standard output, syslog: for the daemon of "
        "this machine, syslog:HOST:PORT for another by UDP, or off",
        LOGS,
        default="-",
    ),
    Setting(
        "log-format",
        "log_format",
        values.LOG_FORMAT,
        "format of the access log. native: the ten fields of squid, and more behind them; squid: "
        "these ten alone; common, combined: as web servers write; json: an object a line; or a "
        "format of your own in squid's codes, such as '%ts %>a %rm %ru %>Hs'",
        LOGS,
    ),
    Setting(
        "log-live",
        "log_live",
        values.SECONDS_OR_NONE,
        "also write a line when a tunnel begins, and every so many seconds while it lives; for "
        "--log-format json or one of your own",
        LOGS,
        default="0, a line at the end only",
    ),
    Setting(
        "log-query",
        "log_query",
        values.SWITCH,
        "keep the queries of URLs in the access log and in traces; false leaves only the question "
        "mark",
    ),
    Setting(
        "log-level",
        "log_level",
        choice("debug", "info", "warning", "error"),
        "write messages of this level and above to standard error; debug traces each request",
        LOGS,
    ),
    Setting(
        "rule",
        "policy.rules",
        _OF_FIELDS,
        "access rules, tried in order; the first that matches decides",
        fields=_RULE,
        made=RuleConfig,
    ),
    Setting(
        "limit",
        "policy.limits",
        _OF_FIELDS,
        "limits on how much may pass; each that matches counts",
        fields=_LIMIT,
        made=LimitConfig,
    ),
    Setting(
        "limits-store",
        "policy.limits_store",
        store.STORE,
        "Redis in which machines share what limits count; each counts by itself while it is away",
        default="none, each machine counts by itself",
        fixed="what was lent belongs to one store",
    ),
    Setting(
        "limits-store-auth",
        "policy.limits_store_auth",
        store.STORE_AUTH,
        "user and password for that",
        fixed="it is for the store that the proxy has begun with",
    ),
    Setting(
        "route",
        "routing.routes",
        _OF_FIELDS,
        "ways for requests, tried in order; the first that matches is taken, and without one "
        "requests go the way of --proxy, or straight to their origins",
        fields=_ROUTE,
        made=RouteConfig,
    ),
    Setting(
        "parent",
        "routing.parents",
        _OF_FIELDS,
        "tables [parent.NAME]: other proxies, for the routes",
        keys=routing.PARENT_NAME,
        empty="none",
        fields=_PARENT,
        made=ParentConfig,
    ),
)

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def default_words(setting: Setting) -> str:
    """The default for --help, "" where there is none to tell."""
    if setting.default or setting.many or setting.keys or setting.fields:
        return setting.default
    value = setting.of(Config(listen=()))
    words = "" if value in (None, "") else str(setting.kind.write(value))
    return words.lower() if value is True or value is False else words
