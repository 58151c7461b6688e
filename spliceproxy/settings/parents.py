"""What the settings of routes and parents come to, and what is wrong with them.

``--proxy`` and the variables of the environment become parents and routes like those of the file,
behind them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from spliceproxy.config import (
    DIRECT,
    PAC,
    REFUSE,
    ParentConfig,
    RouteConfig,
    RoutingConfig,
    Url,
)
from spliceproxy.policy.conditions import RuleError
from spliceproxy.policy.routes import RouteTable
from spliceproxy.settings import routing as kinds
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.sources import Found
from spliceproxy.settings.values import USER_AND_PASSWORD
from spliceproxy.textfile import text_of

MOST_HOPS = 8
"""Parents in a chain: more of them are a mistake."""

_DEFAULT_PORT = 1080
"""Of a proxy in a variable that says none (curl(1))."""

_SOCKS5_BY_NAME = "a socks5 parent is told addresses; allowed: address, or socks5h in its url"
_SOCKS5H_BY_ADDRESS = "a socks5h parent is told names; allowed: name, or socks5 in its url"


def completed(
    routing: RoutingConfig,
    found: Mapping[str, Found],
    environ: Mapping[str, str],
    problems: list[str],
) -> RoutingConfig:
    """The settings with what they imply. What is wrong becomes a line of ``problems``."""
    before = len(problems)
    problems.extend(_simple(routing, found))
    file = found["parent"].where if "parent" in found else "parent"
    parents = {}
    for name, parent in routing.parents.items():
        parents[name] = _with_credentials(parent, f"{file}.{name}: ", environ, problems)
        problems.extend(_parent(name, parent, routing.parents, f"{file}.{name}: "))
    routing = _implied(replace(routing, parents=parents), environ, problems)
    if routing.pac:
        routing = _with_script(routing, found, problems)
    # Routes to a parent that is not right would seem to lead nowhere.
    if len(problems) == before and not any(line.startswith(f"{file}.") for line in problems):
        where = found["route"].where if "route" in found else "route"
        problems.extend(_routes(routing, where))
    return routing


def _simple(routing: RoutingConfig, found: Mapping[str, Found]) -> Iterator[str]:
    """--proxy and what belongs to it."""
    ways = {
        "proxy": routing.proxy,
        "pac": routing.pac,
        "proxy-from-environment": routing.from_environment,
    }
    given = [name for name, value in ways.items() if value]
    for one, other in combinations(given, 2):
        first, second = found[one], found[other]
        yield (
            f"{first.where} {first.value}: it cannot be combined with {second.where}; one of them "
            "is enough"
        )
    if routing.no_proxy and not given:
        shown = ",".join(routing.no_proxy)
        yield f"{found['no-proxy'].where} {shown}: there is no proxy; add --proxy URL"
    if routing.auth is not None and routing.proxy is None and not routing.pac:
        yield f"{found['proxy-auth'].where}: there is no --proxy or --pac that it could be for"


# ---- parents -----------------------------------------------------------------------------------


def _parent(
    name: str, parent: ParentConfig, parents: Mapping[str, ParentConfig], where: str
) -> Iterator[str]:
    scheme = parent.url.scheme
    if parent.ca_file is not None:
        if scheme != "https":
            yield f"{where}ca-file: only an https parent has certificates, and this is {scheme}"
        else:
            yield from _ca_file(parent.ca_file, where)
    if scheme == "socks5" and parent.connect_by == "name":
        yield f"{where}connect-by: {_SOCKS5_BY_NAME}"
    if scheme == "socks5h" and parent.connect_by == "address":
        yield f"{where}connect-by: {_SOCKS5H_BY_ADDRESS}"
    seen = [name]
    while parent.through:
        if parent.through not in parents:
            yield f"{where}through: there is no parent {parent.through!r}; {_allowed(parents)}"
            return
        if parent.through in seen or len(seen) == MOST_HOPS:
            yield f"{where}through: a chain that has no end: {' > '.join([*seen, parent.through])}"
            return
        seen.append(parent.through)
        parent = parents[parent.through]


def _allowed(parents: Mapping[str, ParentConfig]) -> str:
    return f"allowed: {', '.join(parents) or 'none, because there is no [parent.NAME]'}"


def _ca_file(path: Path, where: str) -> Iterator[str]:
    import ssl

    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        yield f"{where}ca-file {path}: no certificates ({error}); allowed: certificates in PEM"


def _with_credentials(
    parent: ParentConfig, where: str, environ: Mapping[str, str], problems: list[str]
) -> ParentConfig:
    if parent.auth_file is not None and parent.auth_env:
        problems.append(f"{where}auth-env: it cannot be combined with auth-file; one is enough")
        return parent
    if parent.auth_file is not None:
        source = f"{where}auth-file {parent.auth_file}"
        text = _of_file(parent.auth_file, source, problems)
    elif parent.auth_env:
        source = f"{where}auth-env {parent.auth_env}"
        text = environ.get(parent.auth_env)
        if text is None:
            problems.append(f"{source}: there is no such variable")
    else:
        return parent
    if text is None:
        return parent
    try:
        credentials = _credentials(text, parent.url.scheme)
    except ValueError as error:
        problems.append(f"{source}: {error}")
        return parent
    return parent._replace(credentials=credentials)


def _of_file(path: Path, where: str, problems: list[str]) -> str | None:
    try:
        lines = text_of(path.read_bytes()).splitlines()
    except OSError as error:
        problems.append(f"{where}: cannot read it ({error.strerror})")
        return None
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None
    if len(lines) != 1:
        problems.append(f"{where}: it has {len(lines)} lines; allowed: one, USER:PASSWORD")
        return None
    return lines[0]


def _credentials(text: str, scheme: str) -> tuple[str, str]:
    """ValueError for what the parent could not be sent; the message does not show it."""
    try:
        user, password = USER_AND_PASSWORD.read(text, "")
    except Invalid:
        raise ValueError(f"allowed: {USER_AND_PASSWORD.allowed}") from None
    if not password.isprintable():
        raise ValueError("a password has no control characters")
    if scheme.startswith("socks") and max(len(user.encode()), len(password.encode())) > 255:
        raise ValueError("SOCKS has no room for more than 255 bytes each (RFC 1929)")
    if scheme == "socks4a":
        raise ValueError("SOCKS4a knows no passwords; allowed: an url with socks5 or http")
    return user, password


# ---- what is implied ---------------------------------------------------------------------------


def _implied(
    routing: RoutingConfig, environ: Mapping[str, str], problems: list[str]
) -> RoutingConfig:
    if routing.proxy is not None:
        if kinds.IMPLIED in routing.parents:
            problems.append(
                f"parent.{kinds.IMPLIED}: --proxy makes a parent of this name; choose another"
            )
        credentials = routing.auth
        if credentials is not None:
            try:
                credentials = _credentials(":".join(credentials), routing.proxy.scheme)
            except ValueError as error:
                problems.append(f"proxy-auth: {error}")
        parent = ParentConfig(routing.proxy, credentials=credentials)
        routes = (*_exceptions(routing.no_proxy), RouteConfig((kinds.IMPLIED,)))
        return replace(routing, implied_routes=routes, implied_parents={kinds.IMPLIED: parent})
    if routing.pac:
        return replace(
            routing, implied_routes=(*_exceptions(routing.no_proxy), RouteConfig((PAC,)))
        )
    if routing.from_environment:
        return _of_environment(routing, environ, problems)
    return routing


def _exceptions(entries: tuple[str, ...]) -> Iterator[RouteConfig]:
    """The routes of --no-proxy."""
    for entry in entries:
        host, network, port = kinds.exception_of(entry)
        yield RouteConfig(
            (DIRECT,),
            hosts=(host,) if host else None,
            literals=(network,) if network else None,
            ports=(port,) if port else None,
        )


def _of_environment(
    routing: RoutingConfig, environ: Mapping[str, str], problems: list[str]
) -> RoutingConfig:
    parents: dict[str, ParentConfig] = {}
    routes: list[RouteConfig] = []
    # http_proxy in capitals may be a field of a request, where a web server has started us (CGI).
    for names, tunnels in ((("http_proxy",), False), (("https_proxy", "HTTPS_PROXY"), True)):
        variable = next((one for one in (*names, "all_proxy", "ALL_PROXY") if environ.get(one)), "")
        if not variable:
            continue
        try:
            url, credentials = _of_variable(environ[variable])
        except ValueError as error:
            problems.append(f"{variable}: {error}")
            continue
        name = f"{kinds.IMPLIED}-{'tunnels' if tunnels else 'http'}"
        parents[name] = ParentConfig(url, credentials=credentials)
        routes.append(RouteConfig((name,), tunnels=tunnels))
    variable = next((one for one in ("no_proxy", "NO_PROXY") if environ.get(one)), "")
    entries = routing.no_proxy
    if variable:
        try:
            entries += kinds.NO_PROXY.read(environ[variable].replace(" ", ","), "")
        except Invalid as error:
            problems.append(f"{variable}: {error}")
    implied = (*_exceptions(entries), *routes)
    return replace(routing, implied_routes=implied, implied_parents=parents)


def _of_variable(text: str) -> tuple[Url, tuple[str, str] | None]:
    """What a variable says. The environment is as good a place for a password as another variable
    is, so it may be in the URL. ValueError; the message does not show it."""
    rest = text if "://" in text else f"http://{text}"
    scheme, _, rest = rest.partition("://")
    userinfo, at, place = rest.rpartition("@")
    place = place.rstrip("/")
    if ":" not in place.rpartition("]")[2]:
        place = f"{place}:{_DEFAULT_PORT}"
    scheme = {"socks": "socks5", "socks4": "socks4a"}.get(scheme, scheme)
    try:
        url: Url = kinds.PARENT_URL.read(f"{scheme}://{place}", "")
    except Invalid as error:
        raise ValueError(str(error)) from None
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    return url, _credentials(f"{unquote(user)}:{unquote(password)}", url.scheme)


# ---- PAC ---------------------------------------------------------------------------------------

SCRIPT_MOST = 1 << 20
"""Bytes of a PAC file."""

FETCH_SECONDS = 10.0
"""For one that is at a URL, and to try it."""


def _with_script(
    routing: RoutingConfig, found: Mapping[str, Found], problems: list[str]
) -> RoutingConfig:
    """The text of the PAC file, which has been tried."""
    from importlib.util import find_spec

    start = f"{found['pac'].where} {routing.pac}: "
    if find_spec("pacparser") is None:
        problems.append(f"{start}it needs pacparser; pip install 'spliceproxy[pac]'")
        return routing
    try:
        data = _fetched(routing.pac) if "://" in routing.pac else Path(routing.pac).read_bytes()
        if len(data) > SCRIPT_MOST:
            raise ValueError(f"it is longer than {SCRIPT_MOST} bytes")
        script = text_of(data)
        fault = _fault(script, _as_user(found))
    except OSError as error:
        problems.append(f"{start}cannot read it ({error.strerror or error})")
        return routing
    except ValueError as error:
        problems.append(f"{start}{error}")
        return routing
    if fault:
        problems.append(f"{start}{fault}")
    return replace(routing, script=script)


def _fetched(url: str) -> bytes:
    """OSError."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(SCRIPT_MOST + 1)
            return data
    except HTTPException as error:
        raise OSError(0, f"a malformed answer: {type(error).__name__}") from error


def _as_user(found: Mapping[str, Found]) -> Mapping[str, Any]:
    """Whose rights a script has, as arguments of subprocess: with --user not those of root, as it
    has not in a worker either."""
    if "user" not in found or os.geteuid() != 0:
        return {}
    import pwd

    user, group = found["user"].value, found["group"].value if "group" in found else ""
    number = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    if not group:
        try:
            group = pwd.getpwuid(number).pw_gid
        except KeyError:  # without a name there is no group, which is an error of its own
            group = number
    elif group.isdigit():
        group = int(group)
    return {"user": number, "group": group, "extra_groups": []}


def _fault(script: str, rights: Mapping[str, Any]) -> str:
    """What is wrong with a script, by a helper that tries it; "" for nothing."""
    import json
    import subprocess

    from spliceproxy.upstream.pac import helper

    try:
        tried = subprocess.run(
            **helper(),
            **rights,
            input=json.dumps(script) + "\n",
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it has no answer within {FETCH_SECONDS:g} s"
    try:
        answer = json.loads(tried.stdout)
    except ValueError:
        return "its interpreter has crashed"
    return str(answer.get("fault", ""))


# ---- routes ------------------------------------------------------------------------------------


def _routes(routing: RoutingConfig, where: str) -> Iterator[str]:
    parents = routing.all_parents
    for number, route in enumerate(routing.routes, 1):
        start = f"{where} {number}: "
        others = (DIRECT, REFUSE, PAC) if routing.pac else (DIRECT, REFUSE)
        for one in route.to:
            if one not in parents and one not in others:
                names = ", ".join((*parents, *others))
                yield f"{start}to: there is no parent {one!r}; allowed: {names}"
        for one in (REFUSE, PAC):
            if one in route.to and len(route.to) > 1:
                yield f"{start}to: {one} stands alone"
        if REFUSE in route.to and route.source:
            yield f"{start}source-address: nothing is connected to by a route to {REFUSE}"
        if DIRECT in route.to[:-1]:
            yield f"{start}to: {DIRECT} is the last, for nothing behind it would be tried"
        if len(set(route.to)) < len(route.to):
            yield f"{start}to: the same parent twice"
        try:
            RouteTable((route,))
        except RuleError as error:
            yield start + str(error).partition(": ")[2]
