"""The settings of one proxy, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

UPGRADE_VARIABLE = "SPLICEPROXY_UPGRADE"
"""By it a program that runs tells another that this is to take over: no setting."""

LISTEN_VARIABLE = "LISTEN_PID"
"""By it systemd says to which process it has passed sockets (sd_listen_fds(3))."""

NOTIFY_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_PID"
"""By them a service manager says where it is told that the proxy is ready (sd_notify(3)), and of
which process it wants signs of life (sd_watchdog_enabled(3))."""


MIXED = "mixed"  # each client's first byte says which
HTTP = "http"
SOCKS = "socks"
"""What clients can speak at an address."""

REDIRECT = "redirect"
TPROXY = "tproxy"
"""What is at an address to which the kernel leads connections that were made to others: by NAT, or
as they are."""

TRANSPARENT = (REDIRECT, TPROXY)

FORWARD = "forward"  # whatever they like: each connection is a tunnel


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``path`` for a Unix socket, else ``host`` ("" is every
    address) and ``port`` (0: any free one). ``proxied``: each connection begins with a header of
    the PROXY protocol. ``protocol``: what clients speak there; "" is what a bare address stands
    for, which is MIXED. ``name``: systemd has opened the socket, and calls it so; where that is, is
    not said here. ``target``: the host and port to which each connection is a tunnel."""

    host: str = ""
    port: int = 0
    path: str = ""
    proxied: bool = False
    protocol: str = ""
    name: str = ""
    target: tuple[str, int] | None = None

    def __str__(self) -> str:
        if self.target is None:
            return self._place
        host, port = self.target
        return f"{self._place}={f'[{host}]' if ':' in host else host}:{port}"

    @property
    def _place(self) -> str:
        if self.name:
            return f"{self.way}systemd:{self.name}"
        if self.path:
            return f"{self.way}unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.way}tcp://{host}:{self.port}" if self.way else f"{host}:{self.port}"

    @property
    def way(self) -> str:
        """What stands in front of the transport; "" for a bare address."""
        protocol = f"{self.protocol}+" if self.protocol else ""
        return f"proxy+{protocol}" if self.proxied else protocol

    @property
    def spoken(self) -> str:
        """What clients speak there: MIXED, HTTP or SOCKS; or FORWARD or one of TRANSPARENT, where
        they say nothing to the proxy."""
        return FORWARD if self.target is not None else self.protocol or MIXED

    @property
    def where(self) -> Address:
        """The same without what is said of its clients."""
        return replace(self, proxied=False, protocol="", target=None)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Every wait of the proxy is under one of these."""

    head: float = 30.0  # a whole request head; also a kept-alive connection between requests
    # Clients give up after 5 s (a name) and 10 s: these are shorter, so that they get an answer.
    dial: float = 9.0  # looking up a name and all connection attempts of one request together
    dns: float = 4.0  # one name
    idle: float = 3600.0  # a tunnel or body without a byte
    half_close: float = 60.0  # the same, once one side has ended
    drain: float = 8.0  # tunnels after SIGTERM
    drain_delay: float = 0.0  # after SIGTERM, while clients are still accepted
    # A header of the PROXY protocol: its specification asks for 3 s at least, for lost segments.
    proxy_header: float = 3.0
    tls_name: float = 5.0  # the name in the first bytes of a client, from the first one on

    @property
    def lookup(self) -> float:
        """For one name: it is a part of what has the dial timeout."""
        return min(self.dns, self.dial)


@dataclass(frozen=True, slots=True)
class NamesConfig:
    """How the name of an origin becomes its addresses."""

    servers: tuple[str, ...] = ()  # IP:PORT or [IPv6]:PORT; none: those of resolv.conf
    hosts_file: str = "/etc/hosts"  # "none" for none
    ip_version: Literal["any", "4", "6", "prefer4", "prefer6"] = "any"
    stale: float = 0.0  # seconds for which an old answer may stand in for none; 0: never

    @property
    def hosts(self) -> Path | None:
        """The file of names, if there is to be one."""
        return None if self.hosts_file == "none" else Path(self.hosts_file)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """How a client becomes a user."""

    user: tuple[str, str] | None = field(default=None, repr=False)  # one name and password
    htpasswd: Path | None = None  # names and hashes, as htpasswd(1) writes them
    realm: str = "spliceproxy"  # of the challenge (RFC 7617)
    networks: Mapping[str, str] = field(default_factory=dict)  # client network -> user
    peers: Mapping[str, str] = field(default_factory=dict)  # uid of a Unix-socket peer -> user
    users_file: Path | None = None  # the same two as lines "network-or-uid user"
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # group -> users
    no_delay: tuple[str, ...] = ()  # networks of clients that wrong passwords never slow
    required: bool | Literal["by-rule"] = True
    """Where there are passwords: whether a client without a user gets 407. "by-rule": where rules
    refuse it, and would not refuse every user."""

    @property
    def names_users(self) -> bool:
        """Whether a client can be a user at all."""
        ways = self.user, self.htpasswd, self.networks, self.peers, self.users_file
        return any(ways)


Condition = tuple[str, ...] | None
"""Of a rule: the values of which one must match, None where any does. Never empty: what
matches nothing would be read as what matches everything, and the other way round. A value may be
a policy.listfile.FileList, which stands for all that the file lists, and may be nothing."""

ANY_USER = "*"
"""Among the users of a rule: whoever is one, whatever the name."""


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """One access rule. It matches where every condition does; but for ``users`` and
    ``groups``, of which one must. Of a condition that begins with ``not_`` no value may match.
    TypeError, and ValueError for a condition that is empty."""

    id: str
    action: Literal["allow", "deny"]
    clients: Condition = None  # networks
    users: Condition = None  # names, or ANY_USER
    groups: Condition = None
    methods: Condition = None
    hosts: Condition = None  # policy.hosts.ALLOWED
    networks: Condition = None  # of the destination's addresses
    ports: Condition = None  # "443", "8000-8999"
    times: Condition = None  # "Mon-Fri 08:00-18:00"
    not_clients: Condition = None
    not_users: Condition = None
    not_groups: Condition = None
    not_methods: Condition = None
    not_hosts: Condition = None
    not_networks: Condition = None
    not_ports: Condition = None
    not_times: Condition = None
    report_only: bool = False  # logs what it would decide, and lets the next rule decide
    status: int | None = None  # of the answer to what it denies; None: 403
    reason: str = ""  # what is said of what it denies (policy.decision.REASONS)
    # Of the name inside TLS (policy.tls_names), in tunnels that it allows; None: as PolicyConfig.
    tls_name: Literal["check", "require", "off"] | None = None
    tls_refuse: tuple[str, ...] = ()  # what check is to refuse as well

    def __post_init__(self) -> None:
        for name in CONDITIONS:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, (str, bytes)):
                raise TypeError(f"rule {self.id}: {name}: {value!r}; allowed: a tuple of texts")
            values = tuple(value)  # first: an iterator that gives nothing looks like any other
            if not values:
                raise ValueError(f"rule {self.id}: {name}: {EMPTY}")
            object.__setattr__(self, name, values)


CONDITIONS = tuple(field.name for field in fields(RuleConfig) if field.type == "Condition")
"""The conditions of a rule."""


@dataclass(frozen=True, slots=True)
class LimitConfig(RuleConfig):
    """How much may pass of the requests that match, with the conditions of a rule: for each value
    of what it counts ``by``. None: as much as comes."""

    action: Literal["allow", "deny"] = "allow"  # it is no rule that decides
    by: Literal["client", "user", "group", "destination", "total"] = "total"
    only_named: bool = False  # it counts what a function names it for, and nothing else
    prefix4: int = 32  # by client: bits of an IPv4 address that make one client
    prefix6: int = 64
    connections: int | None = None
    requests_per_second: float | None = None
    new_tunnels_per_second: float | None = None
    burst: int | None = None  # so many at once; None: as many as in a second, at least one
    rate_in: int | None = None  # bytes per second from clients
    rate_out: int | None = None  # and to them
    bytes_per_day: int | None = None  # both ways; days are those of UTC
    bytes_per_hour: int | None = None
    tunnel_seconds: float | None = None  # the life of one


EMPTY = "is empty; leave it out, or name at least one"
"""Of a list that would match nothing, and might be meant to match everything."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Who may use the proxy, and to go where."""

    rules: tuple[RuleConfig, ...] = ()  # the first that matches decides
    default: Literal["allow", "deny"] = "allow"  # where no rule does
    limits: tuple[LimitConfig, ...] = ()  # each that matches counts
    limits_store: str = ""  # the URL of what machines share of them; "": each counts by itself
    limits_store_auth: tuple[str, str] | None = field(default=None, repr=False)
    """User ("" for the default one) and password for that."""
    report_only: bool = False  # of all rules and the default
    guard: Literal["on", "private", "off"] = "on"  # addresses that are never dialled
    guard_local: Literal["loopback", "none"] = "loopback"
    """Which clients are on this machine, and may so reach it: those of loopback and of Unix
    sockets; or none, as where a balancer on this machine brings the clients."""
    guard_allow: tuple[str, ...] = ()  # networks
    guard_deny: tuple[str, ...] = ()  # networks
    clients: tuple[str, ...] | None = None
    """Networks that may use the proxy. None: users from anywhere, and clients of Unix
    sockets, private networks and, unless ``guard_local`` is none, loopback."""
    hook: str = ""  # FILE.py or a dotted name, with ":function" behind it or not
    hook_timeout: float = 5.0  # seconds
    hook_cache: float = 0.0  # seconds that an answer is used again; 0: never
    learn: Path | None = None  # where the destinations seen are written
    locked: Path | None = None  # destinations as --learn writes them: nothing else is allowed
    targets: Literal["any", "names"] | None = None
    """names: no destination that is written as an address, but for those that the file of
    ``locked`` names. None: names where there is such a file, and else any."""
    tls_name: Literal["check", "require", "off"] | None = None
    """Where neither a rule nor the function says anything of the name inside TLS. None: check where
    there is a file of ``locked``, and else off."""
    tls_refuse: tuple[str, ...] = ()  # as of a rule; where the rule has a ``tls_name`` only its own

    @property
    def names_only(self) -> bool:
        """Whether destinations must be names."""
        return self.targets == "names" or (self.targets is None and self.locked is not None)

    @property
    def names_inside(self) -> Literal["check", "require", "off"]:
        """``tls_name`` as it holds."""
        return self.tls_name or ("off" if self.locked is None else "check")


class Url(NamedTuple):
    """Where a parent is; ``host`` is a name, or an address without brackets."""

    scheme: str  # one of SCHEMES
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


SCHEMES = ("http", "https", "socks5", "socks5h", "socks4a")
"""What a parent can speak."""


class ParentConfig(NamedTuple):
    """Another proxy, through which requests may go."""

    url: Url
    auth_file: Path | None = None  # whose only line is USER:PASSWORD
    auth_env: str = ""  # the variable that holds USER:PASSWORD
    ca_file: Path | None = None  # certificates (PEM) that vouch for an https parent
    through: str = ""  # the parent by which this one is reached
    connect_by: Literal["name", "address", ""] = ""  # what it is told; "": as its scheme has it
    timeout: float = 3.0  # seconds to reach it, TLS included
    max_connections: int = 0  # 0: no limit
    credentials: tuple[str, str] | None = None  # what the file or the variable has said

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"ParentConfig({str(self.url)!r})"

    @property
    def by_address(self) -> bool:
        """Whether it is told the addresses of destinations, not their names."""
        if self.connect_by:
            return self.connect_by == "address"
        return self.url.scheme == "socks5"


DIRECT = "direct"
REFUSE = "refuse"
PAC = "pac"
"""What stands among the names of parents: no parent at all, nowhere, and what the PAC file says."""

Pick = Literal["in-order", "round-robin", "least", "hash"]


class RouteConfig(NamedTuple):
    """By which way requests go that meet every condition: ``to`` are names of parents, in the order
    in which they are tried, DIRECT, or REFUSE alone. ``literals`` and ``tunnels`` are for routes
    that other settings make."""

    to: tuple[str, ...]
    pick: Pick = "in-order"
    hosts: Condition = None  # policy.hosts.ALLOWED
    networks: Condition = None  # of the destination's addresses
    ports: Condition = None
    users: Condition = None
    groups: Condition = None
    listeners: tuple[Address, ...] | None = None  # where the client has come in (Address.where)
    source: str = ""  # the IP address to connect from; "": any
    literals: Condition = None  # networks of hosts that are written as addresses
    tunnels: bool | None = None  # CONNECT alone, or everything else


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """Which way requests go. Without any of it each goes straight to its origin."""

    routes: tuple[RouteConfig, ...] = ()  # the first that matches
    parents: Mapping[str, ParentConfig] = field(default_factory=dict)  # by name
    proxy: Url | None = None  # for what no route matches
    no_proxy: tuple[str, ...] = ()  # destinations that are not for it
    pac: str = ""  # the PAC file that says which proxy, in its stead: a path, or a URL
    auth: tuple[str, str] | None = field(default=None, repr=False)  # for it
    from_environment: bool = False  # HTTPS_PROXY and its like say the same
    # What these come to; and the text of the PAC file.
    implied_routes: tuple[RouteConfig, ...] = field(default=(), compare=False)
    implied_parents: Mapping[str, ParentConfig] = field(default_factory=dict, compare=False)
    script: str = field(default="", repr=False, compare=False)

    @property
    def all_routes(self) -> tuple[RouteConfig, ...]:
        return self.routes + self.implied_routes

    @property
    def all_parents(self) -> Mapping[str, ParentConfig]:
        return {**self.parents, **self.implied_parents}


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Where operators ask a running proxy, and who may."""

    address: Address | None = None  # None: nowhere
    mode: int = 0o600  # of the file of a Unix socket
    token_file: Path | None = None  # one is needed on TCP
    hosts: tuple[str, ...] = ()  # names that requests may come to, beside addresses and localhost


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a worker needs to know."""

    listen: tuple[Address, ...]
    forwards: tuple[Address, ...] = ()  # beside these, each with a target
    balancers: tuple[str, ...] = ()
    """Networks of those who may send the PROXY protocol to TCP addresses that expect it."""
    workers: int = 1
    workers_why: str = field(default="", compare=False)  # so many, in words
    engine: str = "auto"
    default_backend: tuple[str, int] | None = None
    serve: Path | None = None
    serve_links: bool = False  # links that stay within it are followed
    max_connections: int = 0  # 0: as many as there are descriptors
    via: str = "spliceproxy"  # our name in Via; "": no Via, and no loop detection by it
    forwarded_for: str = "transparent"  # http1.chain.FORWARDED_MODES
    timeouts: Timeouts = field(default_factory=Timeouts)
    names: NamesConfig = field(default_factory=NamesConfig)
    access_log: str = "-"  # "-" standard output, "off", or a path
    log_format: str = "native"  # observe.formats.NAMES
    log_live: float = 0.0  # seconds between two lines about a tunnel that lives; 0: none
    log_query: bool = True  # targets in the log have their query
    log_level: str = "info"
    user: str = ""  # whose rights workers and the admin process have; "": those of the supervisor
    group: str = ""  # "": that of the user
    landlock: Literal["auto", "off", "require"] = "auto"
    """Whether workers and the admin process give up all files but those that they need: where
    they are another ``user`` and the kernel can do it, never, or always."""
    landlock_read: tuple[Path, ...] = ()  # files and folders that they may read beside these
    landlock_write: tuple[Path, ...] = ()  # folders that they may write in
    pid_file: Path | None = None  # has the process id of the supervisor while that runs
    redirect_verify: Literal["address", "strict"] = "address"
    """What is judged of a connection that was led here, whose name does not lead to its address:
    the address alone; or nothing, for it is refused."""
    reload_tunnels: Literal["keep", "recheck"] = "keep"
    """What becomes of tunnels that live when there is another configuration: they go on, or end
    where it does not allow them."""
    admin: AdminConfig = field(default_factory=AdminConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)

    @property
    def places(self) -> tuple[Address, ...]:
        """All addresses to listen on, for clients."""
        return self.listen + self.forwards
