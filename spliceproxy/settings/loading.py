"""Makes a Config of flags, environment and file. Flags override variables, these the file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from spliceproxy.config import (
    TRANSPARENT,
    Address,
    AuthConfig,
    Config,
    PolicyConfig,
    RouteConfig,
    RoutingConfig,
    RuleConfig,
)
from spliceproxy.observe.format_names import NAMELESS
from spliceproxy.observe.standard import STANDARD
from spliceproxy.observe.syslog_address import address_of, is_syslog
from spliceproxy.policy.conditions import RuleError
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.rules import RuleSet
from spliceproxy.settings import cpus, listening, store
from spliceproxy.settings.sources import (
    CONFIG_VARIABLE,
    Found,
    from_environment,
    from_file,
    rule_where,
)
from spliceproxy.settings.table import BY_NAME, SETTINGS


class SettingsError(ValueError):
    """What is wrong with the settings: ``problems`` has a line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Sources:
    """Where settings come from, as for :func:`load`; they can be read more than once."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        file: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._from = flags, file, environ
        self._via = f"spliceproxy-{os.urandom(4).hex()}"

    def load(self, *, start: bool = True) -> tuple[Config, Mapping[str, Found]]:
        """As :func:`load`."""
        return load(*self._from, start=start, via=self._via)

    def again(self, before: Config) -> tuple[Config, list[str]]:
        """What they are by now, for a proxy that runs with others, and a line for each that stays
        as it is. SettingsError. The function of --policy is not loaded."""
        config, found = load(*self._from, runs=True, via=self._via)
        kept = []
        for setting in SETTINGS:
            value, old = setting.of(config), setting.of(before)
            if setting.fixed and value != old:
                where = found[setting.name].where if setting.name in found else setting.flag_name
                shown = old if old or old == 0 else "as it is, without a value,"
                if setting.kind.secret:
                    shown = "as it is"
                kept.append(
                    f"{where}: it stays {shown} until the proxy is started again, because "
                    f"{setting.fixed}"
                )
                config = _with(config, setting.path, old)
        return config, kept


def _with(owner: Any, path: str, value: object) -> Any:
    """The same settings with another value."""
    name, _, rest = path.partition(".")
    return replace(owner, **{name: _with(getattr(owner, name), rest, value) if rest else value})


def load(
    flags: Mapping[str, Any],
    file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    start: bool = True,
    runs: bool = False,
    via: str = "",
) -> tuple[Config, Mapping[str, Found]]:
    """The settings, and where each of those that were given stood. SettingsError.

    ``flags`` are values by the name of the setting. ``file`` is a TOML file; without it
    SPLICEPROXY_CONFIG names one. ``start`` says that the proxy will run with them in this
    process. Otherwise nothing is created, and the policy functions are loaded to see whether they
    can be; who starts has ``processes.trial`` for that. ``runs``: it does already, so neither is
    done. ``via`` is our name there where no setting says it.
    """
    start = start and not runs
    problems: list[str] = []
    found: dict[str, Found] = {}
    if file is not None:
        found = from_file(file, "--config", problems)
    elif CONFIG_VARIABLE in environ:
        found = from_file(environ[CONFIG_VARIABLE], CONFIG_VARIABLE, problems)
    found.update(from_environment(environ, problems))
    found.update({name: Found(value, f"--{name}") for name, value in flags.items()})
    config = _routed(_build(found, via), found, environ, problems)
    problems.extend(_contradictions(config, found))
    problems.extend(store.faults(config.policy, found))
    problems.extend(_here(config, found, start=start, runs=runs))
    if config.admin.token_file is not None:
        problems.extend(_tokens(config.admin.token_file, found))
    if config.auth != AuthConfig():
        problems.extend(_auth(config.auth, found))
    if bool(config.policy.locked) != bool(config.policy.learn):
        problems.extend(_destinations(config.policy, found))
    if config.policy.hook and not start and not runs:
        problems.extend(_hook(config.policy.hook, found["policy"].where))
    if not problems:  # users and groups may be missing by mistake
        problems.extend(_conditions(config, found))
    if config.access_log != "off" and config.access_log not in STANDARD:
        where = found["access-log"].where
        # Workers as another user have a log that is made for them later.
        create = start and not problems and not config.user
        problems.extend(log_faults(config.access_log, where, create=create))
    if problems:
        raise SettingsError(problems)
    return config, found


def load_config(path: str) -> Config:
    """The settings of a TOML file alone, for a test of them; SettingsError."""
    return load({}, path, {}, start=False)[0]


def _build(found: Mapping[str, Found], via: str) -> Config:
    values = {BY_NAME[name].path: one.value for name, one in found.items()}
    values.setdefault("listen", (Address(port=8888),))
    if values.get("workers"):
        values["workers_why"] = "as set"
    else:
        values["workers"], values["workers_why"] = cpus.available()
    if "via" not in values:
        values["via"] = via or f"spliceproxy-{os.urandom(4).hex()}"
    tree: dict[str, Any] = {}
    for part in fields(Config):
        if is_dataclass(part.default_factory):
            prefix = f"{part.name}."
            tree[part.name] = part.default_factory(
                **{p.removeprefix(prefix): v for p, v in values.items() if p.startswith(prefix)}
            )
        elif part.name in values:
            tree[part.name] = values[part.name]
    return Config(**tree)


def _routed(
    config: Config, found: Mapping[str, Found], environ: Mapping[str, str], problems: list[str]
) -> Config:
    """With what the settings of routes and parents come to."""
    if config.routing == RoutingConfig():
        return config
    from spliceproxy.settings import parents  # late: most have none

    routing = parents.completed(config.routing, found, environ, problems)
    return replace(config, routing=routing)


def _contradictions(config: Config, found: Mapping[str, Found]) -> Iterator[str]:
    """Values that are allowed by themselves, but not together or not on this machine."""
    listen = {one: _place(one, found) for one in config.places}
    for one, other in combinations(config.places, 2):
        if _overlap(one, other):
            yield f"{listen[other]}: it overlaps with {listen[one]}; give each address once"
    balancers = found["proxy-protocol-from"].where if "proxy-protocol-from" in found else ""
    yield from listening.contradictions(config.places, config.balancers, listen.get, balancers)
    yield from _unasked(config, listen)
    yield from _unnamed(config, found, listen)
    if config.policy.tls_refuse and config.policy.names_inside != "check":
        yield (
            f"{found['tls-refuse'].where}: it adds to tls-name = check, and tls-name is "
            f"{config.policy.names_inside}; allowed: together with check, or in rules that have it"
        )
    yield from _admin(config, found, listen)
    yield from _not_together(
        found, "serve", "default-backend", "answer requests to the proxy itself"
    )
    yield from _not_together(found, "learn", "locked", "say which destinations there are")
    form = config.log_format
    if config.log_live and (form in NAMELESS or ("%" in form and "%{event}json" not in form)):
        yield (
            f"{found['log-live'].where} {config.log_live:g}: lines of the format "
            f"{form} cannot say that they are of a tunnel that lives; allowed: 0, or "
            "--log-format json or one of your own with %{event}json"
        )
    if config.engine == "native" and not native_is_built():
        yield (
            f"{found['engine'].where} native: the compiled module is not built; allowed: auto, "
            "splice, copy, or install it again with a C compiler"
        )


def _place(one: Address, found: Mapping[str, Found]) -> str:
    """An address, with where it stood."""
    name = "listen" if one.target is None else "forward"
    return f"{found[name].where if name in found else f'--{name}'} {one}"


def _unasked(config: Config, listen: Mapping[Address, str]) -> Iterator[str]:
    """Addresses whose clients cannot be asked for a password, where all need one."""
    auth, policy = config.auth, config.policy
    if auth.networks or auth.peers or auth.users_file:
        return
    allows = [one for one in policy.rules if one.action == "allow" and not one.report_only]
    for_users = policy.default == "deny" and all(one.users or one.groups for one in allows)
    if auth.required is True and (auth.user or auth.htpasswd):
        reason = "all clients must be users"
    elif for_users and not policy.report_only and policy.locked is None:
        reason = "the rules allow nothing but to users"
    else:
        return
    for one, where in listen.items():
        if one.target is not None or one.spoken in TRANSPARENT:
            yield (
                f"{where}: {reason}, and nobody can be asked for a password there; allowed: with "
                "auth-networks or auth-file, by which clients are users without one"
            )


def _unnamed(
    config: Config, found: Mapping[str, Found], listen: Mapping[Address, str]
) -> Iterator[str]:
    """Addresses that lead to an address, where nothing but names is wanted."""
    if config.policy.targets != "names" or config.policy.locked is not None:
        return
    for one, where in listen.items():
        if one.target is not None and is_address(one.target[0]):
            yield (
                f"{where}: it leads to an address, which {found['targets'].where} names refuses; "
                "allowed: a name"
            )


def _admin(
    config: Config, found: Mapping[str, Found], listen: Mapping[Address, str]
) -> Iterator[str]:
    address = config.admin.address
    if address is None:
        return
    start = f"{found['admin'].where} {address}:"
    if not address.path and config.admin.token_file is None:
        yield (
            f"{start} anybody who can connect to it could stop the proxy; allowed: unix:/path, or "
            "an address together with --admin-token-file"
        )
    for one in config.places:
        if _overlap(one, address):
            yield f"{start} it overlaps with {listen[one]}; give each its own address"


def _here(config: Config, found: Mapping[str, Found], *, start: bool, runs: bool) -> Iterator[str]:
    """What is wrong on this machine, if the proxy is to run on it or does."""
    yield from _users(config, found, start=start)
    if start or runs:
        yield from _sources(config.routing, found)


def _users(config: Config, found: Mapping[str, Found], *, start: bool) -> Iterator[str]:
    """What is wrong with the user of the workers."""
    if not config.user:
        return
    where = f"{found['user'].where} {config.user}"
    import pwd

    number = int(config.user) if config.user.isdigit() else pwd.getpwnam(config.user).pw_uid
    if config.user.isdigit() and not config.group:
        try:
            pwd.getpwuid(number)
        except KeyError:
            yield f"{where}: this number has no name, and so no group; allowed: with --group"
    if start and os.geteuid() not in (0, number):
        yield (
            f"{where}: only root can start workers as another user, and this is user "
            f"{os.geteuid()}; allowed: without it, or started by root"
        )


def _sources(routing: RoutingConfig, found: Mapping[str, Found]) -> Iterator[str]:
    """Addresses to connect from that this machine has not."""
    for number, route in enumerate(routing.routes, 1):
        if route.source:
            import socket  # late: most need none here

            family = socket.AF_INET6 if ":" in route.source else socket.AF_INET
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.bind((route.source, 0))
            except OSError as error:
                yield (
                    f"{found['route'].where} {number}: source-address: nothing can be connected to "
                    f"from {route.source} ({error.strerror}); allowed: an address of this machine"
                )


def _tokens(path: Path, found: Mapping[str, Found]) -> Iterator[str]:
    from spliceproxy.settings import token

    try:
        token.watch(path)
    except ValueError as error:
        for problem in str(error).split("\n"):
            yield f"{found['admin-token-file'].where} {problem}"


def _not_together(found: Mapping[str, Found], one: str, other: str, what: str) -> Iterator[str]:
    if one in found and other in found:
        yield (
            f"{found[one].where} {found[one].value}: it cannot be combined with "
            f"{found[other].where}; only one of them can {what}"
        )


def _conditions(config: Config, found: Mapping[str, Found]) -> Iterator[str]:
    """Of rules, limits and routes."""
    if config.policy.rules:
        yield from _rules(config, found["rule"].where)
    if config.policy.limits:
        yield from _limits(config, found["limit"].where)
    for number, route in enumerate(config.routing.routes, 1):
        start = f"{found['route'].where} {number}: "
        yield from _named_users(config, start, route)
        yield from _named_listeners(config, start, route)


def _rules(config: Config, where: str) -> Iterator[str]:
    yield from _each(config, "rule", config.policy.rules, where)


def _each(config: Config, kind: str, rules: Iterable[RuleConfig], where: str) -> Iterator[str]:
    """Of rules, or of limits, which have the same conditions."""
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules, 1):
        start = rule_where(where, number, rule.id)
        if rule.id in seen:
            yield f"{start}id: {kind} {seen[rule.id]} has the same id; each {kind} needs its own"
        seen.setdefault(rule.id, number)
        yield from _named_users(config, start, rule)
        try:
            RuleSet((rule,))
        except RuleError as error:
            detail = str(error).partition(": ")[2]  # it begins with the rule, too
            yield start + detail.replace(error.key, _key(error.key), 1)


def _limits(config: Config, where: str) -> Iterator[str]:
    from spliceproxy.policy import limits  # late: most have none

    yield from _each(config, "limit", config.policy.limits, where)
    for number, limit in enumerate(config.policy.limits, 1):
        for fault in limits.faults(limit, config.auth):
            yield rule_where(where, number, limit.id) + fault
        if limit.only_named and not config.policy.hook:
            start = rule_where(where, number, limit.id)
            yield f"{start}only-named: there is no function to name it; allowed: with policy"


def _named_users(config: Config, start: str, one: RuleConfig | RouteConfig) -> Iterator[str]:
    """Those that a rule or a route names, of whom there may be none."""
    auth = config.auth
    for key in ("groups", "not_groups"):
        for group in getattr(one, key, None) or ():
            if group not in auth.groups:
                names = ", ".join(auth.groups) or "none, because there is no table groups"
                yield f"{start}{_key(key)}: there is no group {group!r}; allowed: {names}"
    named = [key for key in _OF_USERS if getattr(one, key, None)]
    if named and not auth.names_users:
        yield (
            f"{start}{_key(named[0])}: no setting makes any client a "
            "user; set auth, htpasswd, auth-networks, auth-peers or auth-file"
        )


_OF_USERS = ("users", "groups", "not_users", "not_groups")


def _key(attribute: str) -> str:
    """How a key of a rule is written."""
    return attribute.replace("_", "-")


def _named_listeners(config: Config, start: str, route: RouteConfig) -> Iterator[str]:
    """Those where nobody could come in."""
    known = {one.where: one for one in config.places}
    for one in route.listeners or ():
        if one not in known:
            names = ", ".join(map(str, known))
            yield f"{start}listeners: the proxy does not listen on {one}; allowed: {names}"


def _destinations(policy: PolicyConfig, found: Mapping[str, Found]) -> Iterator[str]:
    """What is wrong with the file of learn or locked."""
    from spliceproxy.policy import learn, lockfile

    try:
        if policy.locked is not None:
            lockfile.read(policy.locked)
        elif policy.learn is not None:
            learn.check(policy.learn)
    except ValueError as error:
        yield f"{found['locked' if policy.locked else 'learn'].where} {error}"


def _auth(auth: AuthConfig, found: Mapping[str, Found]) -> Iterator[str]:
    """What is wrong in the files, with their names and lines. If a file cannot be read, the
    setting that names it."""
    from spliceproxy.policy.auth import Authenticator

    try:
        Authenticator(auth)
    except ValueError as error:
        names = {f"{auth.htpasswd}:": "htpasswd", f"{auth.users_file}:": "auth-file"}
        for problem in str(error).split("\n"):
            setting = next((name for start, name in names.items() if problem.startswith(start)), "")
            yield f"{found[setting].where} {problem}" if setting in found else problem


def _hook(hook: str, where: str) -> Iterator[str]:
    from spliceproxy.policy.functions import HookError, load

    try:
        with redirect_stdout(sys.stderr):  # the settings are printed there
            load(hook)
    except HookError as error:
        yield from hook_faults(str(error), hook, where)


def hook_faults(text: str, hook: str, where: str) -> Iterator[str]:
    """The lines for policy functions that cannot be loaded: ``text`` is that of a HookError, and
    ``where`` has named them."""
    first, *calls = text.split("\n")
    yield f"{where} {hook}: {first}"
    yield from calls


def _overlap(one: Address, other: Address) -> bool:
    """Whether the two cannot both be bound."""
    if one.path or other.path or one.name or other.name:
        return (one.path, one.name) == (other.path, other.name)
    if one.port != other.port or one.port == 0:
        return False
    if not one.host or not other.host or one.host == other.host:
        return True
    same_family = (":" in one.host) == (":" in other.host)
    return same_family and bool({one.host, other.host} & {"0.0.0.0", "::"})


def is_there(module: str) -> bool:
    """Whether a module could be imported. It is not imported."""
    from importlib.util import find_spec

    return find_spec(module) is not None


_NATIVE = "spliceproxy.relay._native"


def native_is_built() -> bool:
    """Whether there is the compiled relay."""
    return is_there(_NATIVE)


def native_is_for_debugging() -> bool:
    """Whether the compiled relay was built with ``SPLICEPROXY_DEBUG`` (setup.py). It is not
    imported: without the sanitizer's library in ``LD_PRELOAD`` that would end the process."""
    from importlib.util import find_spec

    spec = find_spec(_NATIVE)
    if spec is None or spec.origin is None:
        return False
    with open(spec.origin, "rb") as module:
        return b"__asan_init" in module.read()


def log_faults(path: str, where: str, *, create: bool) -> Iterator[str]:
    """Opens the file as the log will, to find any fault now."""
    if is_syslog(path):
        from spliceproxy.messages import plain
        from spliceproxy.observe.syslog import connect

        try:
            if create:  # else it may be for another machine
                os.close(connect(address_of(path)))
        except OSError as error:
            yield f"{where} {path}: cannot send to it ({plain(error)}); allowed: a syslog daemon"
        return
    if "\0" in path:  # what the kernel is never asked
        yield f"{where} {path!r}: no file can be called that; allowed: a path without NUL"
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        os.close(os.open(path, flags | os.O_CREAT if create else flags, 0o640))
    except OSError as error:
        folder = os.path.dirname(path)
        absent = isinstance(error, FileNotFoundError) and os.access(folder, os.W_OK | os.X_OK)
        if create or not absent:
            yield (
                f"{where} {path}: cannot write to it ({error.strerror}); "
                "allowed: a writable file, 'syslog:', '-' or 'off'"
            )
