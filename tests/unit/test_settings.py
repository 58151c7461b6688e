"""The settings: file, environment and flags to a Config, every mistake, and back to TOML."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.admin.settings import hand, handed
from spliceproxy.cli import main as cli
from spliceproxy.cli.flags import COMMANDS
from spliceproxy.config import (
    CONDITIONS,
    Address,
    AdminConfig,
    AuthConfig,
    Config,
    LimitConfig,
    NamesConfig,
    ParentConfig,
    PolicyConfig,
    RouteConfig,
    RoutingConfig,
    RuleConfig,
    Timeouts,
    Url,
)
from spliceproxy.policy.listfile import FileList
from spliceproxy.settings import page, schema, writing
from spliceproxy.settings.loading import SettingsError, Sources, load
from spliceproxy.settings.table import BY_NAME, SETTINGS, Setting

try:
    import tomllib
except ImportError:
    import tomli as tomllib

EVERYTHING = """\
listen = [":1", "[::1]:2", "unix:sock", "proxy+tcp://:3", "http+tcp://:4", "redirect+tcp://:7"]
redirect-verify = "strict"
forward = ["127.0.0.1:5=db.example:5432", ":6=[2001:db8::1]:22"]
proxy-protocol-from = ["10.0.0.10", "fd00::/8"]
serve = "site"
serve-links = true
workers = 3
user = "nobody"
group = "daemon"
landlock = "require"
landlock-read = ["users"]
landlock-write = ["site"]
engine = "splice"
max-connections = 1000
allow-clients = ["10.0.0.0/8", "unix"]
auth = "ada:se:cret"
htpasswd = "users"
auth-realm = "the proxy of \\"B\\""
auth-required = "by-rule"
auth-no-delay = ["192.0.2.0/24", "unix"]
auth-file = "map"
guard = "private"
guard-local = "none"
guard-allow = ["10.1.0.0/16", "::ffff:10.2.0.0/112"]
guard-deny = ["192.0.2.1"]
rule-default = "deny"
report-only = true
policy = "hook.py:decide"
policy-timeout = 2.5
policy-cache = 60
targets = "any"
tls-name = "check"
tls-refuse = ["ech", "no-name"]
learn = "seen"
proxy = "http://Parent.Example:3128"
proxy-auth = "machine:se:cret"
no-proxy = "a.example, 10.0.0.0/8,*.b.example:80"
via = "off"
forwarded-for = "on"
timeout-proxy-header = 7.5
timeout-tls-name = 8.5
timeout-head = 1
timeout-dial = 2.5
timeout-dns = 0.5
dns-server = ["192.0.2.53", "[2001:db8::53]:5353", "2001:DB8::54"]
hosts-file = "map"
ip-version = "prefer4"
dns-stale = 3600
timeout-idle = 4
timeout-half-close = 5
timeout-drain = 0
drain-delay = 6.5
admin = "unix:asked"
admin-token-file = "token"
admin-hosts = ["Proxy.Example", "proxy"]
admin-mode = "0660"
access-log = "log"
log-format = "json"
log-live = 0
log-query = false
log-level = "debug"
pid-file = "pid"
reload-tunnels = "recheck"

[auth-networks]
"10.9.0.0/16" = "ci"

[auth-peers]
root = "admin"
1000 = "ada"

[groups]
"the admins" = ["admin", "ada"]
nobody = []

[[rule]]
id = "no-ads"
action = "deny"
clients = ["10.0.0.0/8", "unix"]
users = ["ada"]
groups = ["the admins"]
methods = ["GET", "CONNECT"]
hosts = ["ads.example", "*.ads.example", "/ad[0-9]+\\\\..*/"]
networks = ["192.0.2.0/24"]
ports = [80, "443", "8000-8999"]
times = ["Mon-Fri 08:00-18:00", "Sat,Sun"]
not-clients = ["10.0.0.1", "@networks"]
not-users = ["*"]
not-groups = ["nobody"]
not-methods = ["PUT"]
not-hosts = ["@hosts", "good.example"]
not-networks = ["@networks"]
not-ports = [81]
not-times = ["Sat"]
report-only = true
status = 451
reason = "Ask the platform team in #egress"

[[rule]]
id = "rest"
action = "allow"
tls-name = "check"
tls-refuse = ["not-tls"]

[[limit]]
id = "much"
by = "client"
only-named = true
prefix4 = 24
prefix6 = 56
clients = ["10.0.0.0/8", "unix"]
users = ["ada"]
groups = ["the admins"]
methods = ["GET"]
hosts = [".c.example"]
networks = ["192.0.2.0/24"]
ports = [443]
times = ["Sat,Sun"]
not-clients = ["10.1.0.0/16"]
not-users = ["bob"]
not-groups = ["nobody"]
not-methods = ["PUT"]
not-hosts = ["d.c.example"]
not-networks = ["192.0.2.1"]
not-ports = [80]
not-times = ["Sun"]
connections = 10
requests-per-second = 2.5
new-tunnels-per-second = 1
burst = 7
rate-in = 100000
rate-out = "10MB"
bytes-per-day = "2 GiB"
bytes-per-hour = "1GB"
tunnel-seconds = 3600

[[route]]
to = ["berlin", "direct"]
pick = "least"
hosts = [".c.example"]
networks = ["192.0.2.0/24"]
ports = [443]
users = ["ada"]
groups = ["the admins"]
listeners = [":4", "redirect+tcp://:7"]
source-address = "::1"

[[route]]
to = "refuse"

[parent.berlin]
url = "https://[2001:db8::1]:443"
auth-file = "parent"
through = "gate"
connect-by = "address"
timeout = 1.5
max-connections = 7

[parent.gate]
url = "socks5h://gate.example:1080"
"""
OTHERS = 'locked = "lock"\ndefault-backend = "[::1]:80"\nproxy-from-environment = true\n'
PAC = 'pac = "pac"\n' if find_spec("pacparser") or os.environ.get("CI") else ""
STORE = (
    'limits-store = "redis://store.example:6379/3"\nlimits-store-auth = "ann:se:cret"\n'
    if find_spec("redis") or os.environ.get("CI")
    else ""
)
"""What needs packages that .ci/run installs."""
"""What does not go together with some of the above."""

BALANCED = {"listen": ["proxy+tcp://:3"], "proxy-protocol-from": ["10.0.0.10"]}
"""What only goes together."""

PROXIED = ("proxy-auth", "no-proxy")
"""What only goes together with ``proxy``."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files that EVERYTHING and OTHERS name."""
    (tmp_path / "site").mkdir()
    (tmp_path / "users").write_text(
        "bob:$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n"
    )
    (tmp_path / "map").write_text("192.0.2.0/24 eve\n")
    (tmp_path / "hook.py").write_text("def decide(request): ...\n")
    (tmp_path / "lock").touch()
    (tmp_path / "hosts").write_text("# bad ones\nb.example\n\n*.b.example\n")
    (tmp_path / "networks").write_text("192.0.2.128/25\n")
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "parent").write_text("machine:other\n")
    (tmp_path / "pac").write_text("function FindProxyForURL(url, host) { return 'DIRECT'; }")
    return tmp_path


def write(folder: Path, text: str) -> str:
    path = folder / "proxy.toml"
    path.write_text(text)
    return str(path)


def read(
    folder: Path,
    text: str,
    environ: Mapping[str, str] | None = None,
    start: bool = False,
    **flags: Any,
) -> Config:
    return load(flags, write(folder, text), environ or {}, start=start)[0]


def problems(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, **flags: Any
) -> list[str]:
    """What is wrong, without the path of the file."""
    with pytest.raises(SettingsError) as caught:
        read(folder, text, environ, **flags)
    return [line.replace(f"{folder}/proxy.toml: ", "") for line in caught.value.problems]


# The file


def test_every_key(folder: Path) -> None:
    networks = FileList(f"@{folder}/networks", ["192.0.2.128/25"])
    config = read(folder, EVERYTHING)
    assert config == Config(
        listen=(
            Address(port=1),
            Address("::1", 2),
            Address(path=f"{folder}/sock"),
            Address(port=3, proxied=True),
            Address(port=4, protocol="http"),
            Address(port=7, protocol="redirect"),
        ),
        redirect_verify="strict",
        forwards=(
            Address("127.0.0.1", 5, target=("db.example", 5432)),
            Address(port=6, target=("2001:db8::1", 22)),
        ),
        balancers=("10.0.0.10/32", "fd00::/8"),
        workers=3,
        user="nobody",
        group="daemon",
        landlock="require",
        landlock_read=(folder / "users",),
        landlock_write=(folder / "site",),
        engine="splice",
        serve=folder / "site",
        serve_links=True,
        max_connections=1000,
        via="",
        forwarded_for="on",
        timeouts=Timeouts(1.0, 2.5, 0.5, 4.0, 5.0, 0.0, 6.5, 7.5, 8.5),
        names=NamesConfig(
            ("192.0.2.53:53", "[2001:db8::53]:5353", "[2001:db8::54]:53"),
            f"{folder}/map",
            "prefer4",
            3600.0,
        ),
        access_log=f"{folder}/log",
        log_format="json",
        log_live=0.0,
        log_query=False,
        log_level="debug",
        pid_file=folder / "pid",
        reload_tunnels="recheck",
        admin=AdminConfig(
            address=Address(path=f"{folder}/asked"),
            mode=0o660,
            token_file=folder / "token",
            hosts=("proxy.example", "proxy"),
        ),
        auth=AuthConfig(
            user=("ada", "se:cret"),
            htpasswd=folder / "users",
            realm='the proxy of "B"',
            networks={"10.9.0.0/16": "ci"},
            peers={"root": "admin", "1000": "ada"},
            users_file=folder / "map",
            groups={"the admins": ("admin", "ada"), "nobody": ()},
            required="by-rule",
            no_delay=("192.0.2.0/24", "unix"),
        ),
        policy=PolicyConfig(
            rules=(
                RuleConfig(
                    id="no-ads",
                    action="deny",
                    clients=("10.0.0.0/8", "unix"),
                    users=("ada",),
                    groups=("the admins",),
                    methods=("GET", "CONNECT"),
                    hosts=("ads.example", "*.ads.example", r"/ad[0-9]+\..*/"),
                    networks=("192.0.2.0/24",),
                    ports=("80", "443", "8000-8999"),
                    times=("Mon-Fri 08:00-18:00", "Sat,Sun"),
                    not_clients=("10.0.0.1/32", networks),
                    not_users=("*",),
                    not_groups=("nobody",),
                    not_methods=("PUT",),
                    not_hosts=(
                        FileList(f"@{folder}/hosts", ["b.example", "*.b.example"]),
                        "good.example",
                    ),
                    not_networks=(networks,),
                    not_ports=("81",),
                    not_times=("Sat",),
                    report_only=True,
                    status=451,
                    reason="Ask the platform team in #egress",
                ),
                RuleConfig(id="rest", action="allow", tls_name="check", tls_refuse=("not-tls",)),
            ),
            limits=(
                LimitConfig(
                    "much",
                    by="client",
                    only_named=True,
                    prefix4=24,
                    prefix6=56,
                    clients=("10.0.0.0/8", "unix"),
                    users=("ada",),
                    groups=("the admins",),
                    methods=("GET",),
                    hosts=(".c.example",),
                    networks=("192.0.2.0/24",),
                    ports=("443",),
                    times=("Sat,Sun",),
                    not_clients=("10.1.0.0/16",),
                    not_users=("bob",),
                    not_groups=("nobody",),
                    not_methods=("PUT",),
                    not_hosts=("d.c.example",),
                    not_networks=("192.0.2.1/32",),
                    not_ports=("80",),
                    not_times=("Sun",),
                    connections=10,
                    requests_per_second=2.5,
                    new_tunnels_per_second=1.0,
                    burst=7,
                    rate_in=100_000,
                    rate_out=10_000_000,
                    bytes_per_day=2**31,
                    bytes_per_hour=10**9,
                    tunnel_seconds=3600.0,
                ),
            ),
            default="deny",
            report_only=True,
            guard="private",
            guard_local="none",
            guard_allow=("10.1.0.0/16", "10.2.0.0/16"),
            guard_deny=("192.0.2.1/32",),
            clients=("10.0.0.0/8", "unix"),
            hook=f"{folder}/hook.py:decide",
            hook_timeout=2.5,
            hook_cache=60.0,
            targets="any",
            tls_name="check",
            tls_refuse=("ech", "no-name"),
            learn=folder / "seen",
        ),
        routing=RoutingConfig(
            routes=(
                RouteConfig(
                    to=("berlin", "direct"),
                    pick="least",
                    hosts=(".c.example",),
                    networks=("192.0.2.0/24",),
                    ports=("443",),
                    users=("ada",),
                    groups=("the admins",),
                    listeners=(Address(port=4), Address(port=7)),
                    source="::1",
                ),
                RouteConfig(to=("refuse",)),
            ),
            parents={
                "berlin": ParentConfig(
                    Url("https", "2001:db8::1", 443),
                    auth_file=folder / "parent",
                    through="gate",
                    connect_by="address",
                    timeout=1.5,
                    max_connections=7,
                    credentials=("machine", "other"),
                ),
                "gate": ParentConfig(Url("socks5h", "gate.example", 1080)),
            },
            proxy=Url("http", "parent.example", 3128),
            auth=("machine", "se:cret"),
            no_proxy=("a.example", "10.0.0.0/8", "*.b.example:80"),
        ),
    )
    others = read(folder, OTHERS)
    assert others.policy.locked == folder / "lock"
    assert others.default_backend == ("::1", 80)
    assert others.routing.from_environment
    assert read(folder, PAC).routing.pac == (f"{folder}/pac" if PAC else "")
    shared = read(folder, STORE).policy
    assert shared.limits_store == ("redis://store.example:6379/3" if STORE else "")
    assert shared.limits_store_auth == (("ann", "se:cret") if STORE else None)


def test_the_examples_here_have_every_key() -> None:
    keys = {**tomllib.loads(EVERYTHING), **tomllib.loads(OTHERS), **tomllib.loads(PAC)}
    assert {*keys, "pac", "limits-store", "limits-store-auth"} == set(BY_NAME)
    parents = keys["parent"].values()
    each = {"rule": keys["rule"], "limit": keys["limit"], "route": keys["route"]}
    for name, tables in {**each, "parent": parents}.items():
        found = {key for table in tables for key in table}
        # tests/unit/test_settings_parents.py has those that need something else to be there.
        elsewhere = {"ca-file", "auth-env"}
        assert found == {field.name for field in BY_NAME[name].fields} - elsewhere


def test_every_value_of_the_config_has_a_setting() -> None:
    def leaves(owner: Any, prefix: str = "") -> list[str]:
        found = []
        for part in fields(owner):
            if is_dataclass(part.default_factory):
                found += leaves(part.default_factory, f"{part.name}.")
            elif part.compare:  # the others only say where a value is from
                found.append(prefix + part.name)
        return found

    assert sorted(setting.path for setting in SETTINGS) == sorted(leaves(Config))
    assert [field.path for field in BY_NAME["rule"].fields] == leaves(RuleConfig)
    # Nobody writes these down.
    made = {
        "route": (RouteConfig, {"literals", "tunnels"}),
        "parent": (ParentConfig, {"credentials"}),
    }
    for name, (owner, inner) in made.items():
        assert [field.path for field in BY_NAME[name].fields] + sorted(inner) == list(owner._fields)


def test_an_empty_file_is_the_defaults(folder: Path) -> None:
    config = read(folder, "")
    assert config == Config(listen=(Address(port=8888),), workers=config.workers, via=config.via)


def test_paths_start_at_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'serve = "site"\naccess-log = "../log"\nlisten = ["unix:sock"]'
    monkeypatch.chdir(folder.parent)
    path = Path(write(folder, text)).relative_to(folder.parent)
    config = load({}, str(path), {}, start=False)[0]
    assert config.serve == folder / "site"
    assert config.access_log == f"{folder.parent}/log"
    assert config.listen == (Address(path=f"{folder}/sock"),)


# Which is stronger


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(folder: Path) -> None:
    path = write(folder, 'via = "file"\nguard = "off"\ntimeout-head = 1')
    environ = {
        "SPLICEPROXY_CONFIG": path,
        "SPLICEPROXY_GUARD": "on",
        "SPLICEPROXY_TIMEOUT_HEAD": "2",
        "HOME": "/",
    }
    config, found = load({"timeout-head": 3.0}, None, environ)
    assert (config.via, config.policy.guard, config.timeouts.head) == ("file", "on", 3.0)
    assert [found[name].where for name in ("via", "guard", "timeout-head")] == [
        f"{path}: via",
        "SPLICEPROXY_GUARD",
        "--timeout-head",
    ]


def test_the_flag_for_the_file_is_stronger_too(folder: Path) -> None:
    config = load({}, write(folder, 'via = "a"'), {"SPLICEPROXY_CONFIG": "/nonexistent"})[0]
    assert config.via == "a"


def test_every_variable(folder: Path) -> None:
    table = {**tomllib.loads(EVERYTHING), **tomllib.loads(OTHERS), **tomllib.loads(PAC)}
    for name, value in table.items():
        setting = BY_NAME[name]
        if not setting.in_environment:
            continue
        texts = value if setting.many else [value]
        text = ", ".join(str(one).lower() if one is True else str(one) for one in texts)
        if value is False:
            text = "false"
        rebased = re.sub(
            r"\b(site|users|map|hook\.py|seen|lock|log|sock|asked|token|pid|pac)\b",
            rf"{folder}/\1",
            text,
        )
        variable = f"SPLICEPROXY_{name.upper().replace('-', '_')}"
        more = {one: given for one, given in BALANCED.items() if name in BALANCED and one != name}
        if name == "tls-refuse":
            more = {"tls-name": "check"}
        if name in PROXIED:
            more = {"proxy": "http://parent.example:3128"}
        variables = {
            f"SPLICEPROXY_{one.upper().replace('-', '_')}": given
            if type(given) is str
            else given[0]
            for one, given in more.items()
        }
        by_variable = load({}, None, {variable: rebased, **variables}, start=False)[0]
        by_file = read(folder, tomli_w.dumps({name: value, **more}))
        assert setting.of(by_variable) == setting.of(by_file), name


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("SPLICEPROXY_WORKERS", "0", "SPLICEPROXY_WORKERS: invalid value '0'; allowed: 1 to"),
        ("SPLICEPROXY_SERVE", "", "SPLICEPROXY_SERVE: invalid value ''; allowed: a directory"),
        ("SPLICEPROXY_LISTEN", ":1,x", "SPLICEPROXY_LISTEN: invalid value 'x'; allowed: :8888"),
        ("SPLICEPROXY_AUTH", "secret", "SPLICEPROXY_AUTH: invalid value; allowed: USER:"),
        ("SPLICEPROXY_AUTH_REQUIRED", "yes", "SPLICEPROXY_AUTH_REQUIRED: invalid value 'yes'"),
        ("SPLICEPROXY_TIMEOUT_HAED", "1", "no such variable; did you mean SPLICEPROXY_TIMEOUT_H"),
        ("SPLICEPROXY_CONFIGS", "1", "no such variable; did you mean SPLICEPROXY_CONFIG?"),
        (
            "SPLICEPROXY_CONFIG",
            "/nonexistent",
            "SPLICEPROXY_CONFIG /nonexistent: cannot read it (No such",
        ),
        ("SPLICEPROXY_CONFIG", "", "SPLICEPROXY_CONFIG : cannot read it (No such"),
    ],
)
def test_bad_variables(variable: str, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, None, {variable: text}, start=False)
    (line,) = caught.value.problems
    assert problem in line


def test_variables_of_others_are_not_ours() -> None:
    others = (
        "SERVICE_HOST SERVICE_PORT SERVICE_PORT_HTTP PORT PORT_8888_TCP PORT_8888_TCP_ADDR "
        "VERSION REQUIRE_NATIVE DEBUG POD_IP"
    )
    load({}, None, {f"SPLICEPROXY_{name}": "x" for name in others.split()})


def test_links_that_are_not_served_are_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = folder / "site"
    for name, target in {"a": "b", "c": "index.html", "d": "../x"}.items():
        (site / name).symlink_to(target)
    (site / "index.html").touch()
    assert cli.main(["check", "--serve", str(site)]) == 0
    assert capsys.readouterr().err == (
        f"spliceproxy check: warning: --serve {site}: {site}/a and 2 more: links are not followed; "
        "--serve-links follows those that stay within it\n"
    )
    assert cli.main(["check", "--serve", str(site), "--serve-links"]) == 0
    out, err = capsys.readouterr()
    assert "serve-links = true\n" in out
    assert err == (
        f"spliceproxy check: warning: --serve {site}: {site}/a and 1 more: links that lead to no "
        "file within the directory are not followed\n"
    )


def test_links_without_files_are_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "--serve-links"]) == 0
    assert capsys.readouterr().err == (
        "spliceproxy check: warning: --serve-links: it has no effect without --serve\n"
    )


def test_strange_variables_are_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (
        "PORT PORT_8888_TCP PORT_8888_TCP_ADDR PORT_53_UDP_PORT SERVICE_HOST SERVICE_PORT_HTTP "
        "ADMIN_PORT_80_TCP_PROTO REQUIRE_NATIVE DEBUG POD_IP VIA"
    )
    for name in names.split():
        monkeypatch.setenv(f"SPLICEPROXY_{name}", "x")
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().err == (
        "spliceproxy check: warning: SPLICEPROXY_POD_IP: there is no such variable, "
        "and it has no effect\n"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("check --confg x", "check: --confg: no such option; did you mean --config?"),
        ("explain --fro 10.0.0.1 GET http://a/", "explain: --fro: no such option; did you mean --"),
        ("import x --config x", "import: --config: no such option"),
        ("import a b", "import: b: only options and their values"),
    ],
)
def test_bad_options_of_commands(
    line: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"spliceproxy {problem}")


# Mistakes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # keys
        ("timeout-haed = 1", "timeout-haed: no such key; did you mean timeout-head?"),
        ("default_backend = 'a:1'", "default_backend: no such key; did you mean default-backend?"),
        ("x = 1", "x: no such key; allowed: listen, forward, proxy-protocol-from, "),
        ("[timeouts]\nhead = 1", "timeouts: no such key; did you mean"),
        (
            "[[rule]]\nid = 'a'\naction = 'deny'\nvia = 'x'",
            "rule 1 'a': via: no such key; move it above the first table of the file",
        ),
        (
            "[[rule]]\nid = 'a'\naction = 'deny'\nhost = []",
            "rule 1 'a': host: no such key; did you",
        ),
        ("[[rule]]\nid = 'a'", "rule 1 'a': action: missing; allowed: allow, deny"),
        ("[[rule]]\naction = 'deny'", "rule 1: id: missing; allowed: letters"),
        # types
        ("workers = true", "workers: expected a whole number or a string, not a boolean true; al"),
        ("workers = 1.5", "workers: expected a whole number or a string, not a number 1.5"),
        ("via = 7", "via: expected a string, not a whole number 7; allowed: letters"),
        ("via = 2020-01-01", "via: expected a string, not a date or time"),
        (
            "timeout-head = '1'",
            "timeout-head: expected a whole number or a number, not a string '1'",
        ),
        ("listen = ':1'", "listen: expected a list, not a string; allowed: a list, each :8888"),
        ("listen = [1]", "listen: expected a string, not a whole number 1"),
        ("auth = 12345", "auth: expected a string, not a whole number; allowed: USER:PASSWORD"),
        ("report-only = 'yes'", "report-only: expected a boolean, not a string 'yes'"),
        (
            "groups = 1",
            "groups: expected a table, not a whole number; allowed: [groups] and lines",
        ),
        ("[groups]\na = 'b'", "groups: a: expected a list, not a string"),
        (
            "[[limit]]\nid = 'a'\nby = 'total'",
            "limit 1 'a': it allows as much as comes; allowed: with one of connections, ",
        ),
        (
            "[[limit]]\nid = 'a'\nby = 'total'\nconnections = 1\nonly-named = true",
            "limit 1 'a': only-named: there is no function to name it; allowed: with policy",
        ),
        (
            "[[limit]]\nid = 'a'\nby = 'host'\nconnections = 1",
            "limit 1 'a': by: invalid value 'host'; allowed: client, user, group, destination",
        ),
        (
            "[[limit]]\nid = 'a'\nby = 'total'\nrequests-per-second = 0",
            "limit 1 'a': requests-per-second: invalid value '0'; allowed: a number from 0.001",
        ),
        (
            "[[limit]]\nid = 'a'\nby = 'total'\nconnections = 1\n" * 2,
            "limit 2 'a': id: limit 1 has the same id; each limit needs its own",
        ),
        ("rule = 1", "rule: expected [[rule]], not a whole number"),
        ("rule = [1]", "rule: expected [[rule]], not a list"),
        ("[rule]\nid = 'a'", "rule: expected [[rule]], not a table"),
        # values
        ("workers = 0", "workers: invalid value '0'; allowed: 1 to 1024, or auto"),
        ("workers = -1", "workers: invalid value '-1'"),
        ("timeout-head = inf", "timeout-head: invalid value 'inf'; allowed: seconds above 0"),
        ("timeout-head = nan", "timeout-head: invalid value 'nan'; allowed: seconds above 0"),
        ("engine = 'fast'", "engine: invalid value 'fast'; allowed: auto, native, splice, copy"),
        ("auth = 'secret'", "auth: invalid value; allowed: USER:PASSWORD"),
        ("auth-realm = 'é'", "auth-realm: invalid value 'é'; allowed: printable ASCII"),
        (
            "auth-file = 'absent'",
            "auth-file: invalid value 'absent' ({}/absent does not exist); allowed: a file that",
        ),
        ("guard-allow = ['fe80::1%eth0']", "guard-allow: invalid value 'fe80::1%eth0' ('fe80::1%e"),
        (
            "allow-clients = ['fe80::1%eth0']",
            "and a network stands for every link; allowed: fe80::1",
        ),
        (
            "[auth-networks]\n'fe80::1%eth0' = 'a'",
            "auth-networks: invalid value 'fe80::1%eth0' ('f",
        ),
        (
            "listen = ['[fe80::1%eth0]:1']",
            "listen: invalid value '[fe80::1%eth0]:1' (an address with a zone belongs to one "
            "network interface; listen on every address, and name its clients in allow-clients, ",
        ),
        ("listen = ['fe80::1%eth0']", "listen: invalid value 'fe80::1%eth0' (an address with a zo"),
        (
            "default-backend = '[fe80::1%eth0]:1'",
            "default-backend: invalid value '[fe80::1%eth0]:1' (an address with a zone cannot be d",
        ),
        ("guard-allow = ['unix']", "guard-allow: invalid value 'unix'"),
        (
            "allow-clients = ['10.0.0.1/8']",
            "allow-clients: invalid value '10.0.0.1/8' (10.0.0.1/8 has host bits set); allowed: a",
        ),
        ("[auth-networks]\nlocalhost = 'a'", "auth-networks: invalid value 'localhost'"),
        ("[auth-networks]\n'::1' = 'a:b'", "auth-networks: ::1: invalid value 'a:b'; allowed: a u"),
        (
            "[auth-peers]\nabsent-one = 'a'",
            "auth-peers: invalid value 'absent-one' (this system has no",
        ),
        # together
        ("listen = [':1', ':1']", "listen :1: it overlaps with listen :1; give each"),
        ("admin = ':9810'", "admin :9810: anybody who can connect to it could stop the proxy; all"),
        (
            "listen = ['127.0.0.1:1']\nadmin = ':1'\nadmin-token-file = 'token'",
            "admin :1: it overlaps with listen 127.0.0.1:1; give each its own address",
        ),
        ("admin = 'localhost:1'", "admin: invalid value 'localhost:1'; allowed: 127.0.0.1:9810,"),
        ("admin-mode = '660'", "admin-mode: invalid value '660'; allowed: a mode in octal dig"),
        ("admin-hosts = ['a:1']", "admin-hosts: invalid value 'a:1'; allowed: the name of a host"),
        ("admin-token-file = 'lock'", "admin-token-file {}/lock: there is no token in it"),
        ("admin-token-file = 'map'", "admin-token-file {}/map:1: a token has letters, digits and"),
        ("learn = 'seen'\nlocked = 'lock'", "seen: it cannot be combined with locked; only one"),
        ("access-log = 'site'", "access-log {}/site: cannot write to it (Is a directory)"),
        ("access-log = 'a/b'", "access-log {}/a/b: cannot write to it (No such file or directory)"),
        ("policy = 'absent_module'", "policy absent_module: cannot import absent_module: Mod"),
        ("policy = 'hook.py'", "policy {}/hook.py: {}/hook.py has no function authorize"),
        (
            "policy = 'hook.py:absent'",
            "policy {}/hook.py:absent: {}/hook.py has no function absent",
        ),
        ("policy = 'hook.py:1'", "policy: invalid value 'hook.py:1' ('1' cannot be the name of"),
        # no TOML
        ("via = ", "not TOML: "),
        ("\nvia = 'a'\nvia = 'b'\n", "not TOML: Cannot overwrite a value (at line 3, column "),
    ],
)
def test_mistakes(folder: Path, text: str, problem: str) -> None:
    (line,) = problems(folder, text)
    assert problem.replace("{}", str(folder)) in line


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("id", "a b", "id: invalid value 'a b'; allowed: letters, digits and ._:-, at most 64"),
        ("id", "guard", "id: invalid value 'guard' (the proxy itself uses this id)"),
        ("action", "drop", "action: invalid value 'drop'; allowed: allow, deny"),
        ("clients", ["10.0.0.0/33"], "clients: invalid value '10.0.0.0/33'"),
        ("users", ["a:b"], "users: invalid value 'a:b'; allowed: a user's name"),
        ("methods", ["get"], "methods: invalid value 'get'; allowed: a method in capitals"),
        (
            "hosts",
            ["a b"],
            "hosts: invalid value 'a b' ('a b' is not a host name); allowed: a name",
        ),
        ("hosts", ["a.*.b"], "hosts: invalid value 'a.*.b'"),
        ("hosts", ["*.10.0.0.1"], "hosts: "),
        ("hosts", ["*."], "hosts: invalid value '*.'"),
        ("hosts", [""], "hosts: invalid value ''"),
        ("hosts", ["/(/"], "hosts: invalid value '/(/' (not a regular expression: missing ), unt"),
        (
            "hosts",
            ["x.org:443"],
            "hosts: invalid value 'x.org:443' (a host and a port; write hosts = [\"x.org\"], "
            "ports = [443]); allowed: a name or an address, .NAME for",
        ),
        (
            "hosts",
            ["https://x.org/"],
            "hosts: invalid value 'https://x.org/' (a URL; write hosts = [\"x.org\"], ports = [443",
        ),
        (
            "status",
            407,
            "status: invalid value '407'; allowed: a whole number from 400 to 599, not 407",
        ),
        (
            "status",
            200,
            "status: invalid value '200'; allowed: a whole number from 400 to 599, not 407",
        ),
        ("reason", "", "reason: invalid value ''; allowed: one line of at most 200 characters"),
        ("reason", "a\tb", "reason: invalid value 'a\\tb'; allowed: one line of at most 200"),
        ("status", 403.5, "status: expected a whole number, not a number 403.5"),
        ("status", True, "status: expected a whole number, not a boolean true"),
        ("hosts", ["//"], "hosts: "),
        ("networks", ["example.com"], "networks: invalid value 'example.com'"),
        ("ports", [0], "ports: invalid value '0'; allowed: a port from 1 to 65535"),
        ("ports", ["9-8"], "ports: invalid value '9-8'"),
        ("ports", ["1-65536"], "ports: invalid value '1-65536'"),
        ("ports", ["http"], "ports: invalid value 'http'"),
        ("times", ["Mon 8-9"], "times: invalid value 'Mon 8-9'; allowed: days and hours such as"),
        ("times", ["Foo"], "times: invalid value 'Foo'"),
        ("times", ["24:00-25:00"], "times: invalid value '24:00-25:00'"),
        ("report-only", 1, "report-only: expected a boolean, not a whole number 1"),
        ("groups", ["staff"], "groups: there is no group 'staff'; allowed: admins"),
    ],
)
def test_mistakes_in_rules(folder: Path, key: str, value: object, problem: str) -> None:
    rules = [{"id": "a", "action": "deny"}, {"id": "b", "action": "deny", key: value}]
    table = {"auth": "a:b", "groups": {"admins": ["a"]}, "rule": rules}
    (line,) = problems(folder, tomli_w.dumps(table))
    name = value if key == "id" else "b"
    assert line.startswith(f"rule 2 {name!r}: {problem}")


def test_only_a_denial_has_a_status(folder: Path) -> None:
    (line,) = problems(folder, "[[rule]]\nid = 'a'\naction = 'allow'\nstatus = 451")
    assert line == "rule 1 'a': status: only a rule that denies can have a status"


LISTS = [one for one in BY_NAME.values() if (one.many or one.keys) and not one.fields]


@pytest.mark.parametrize("condition", [one.replace("_", "-") for one in CONDITIONS])
def test_an_empty_condition_is_a_mistake(folder: Path, condition: str) -> None:
    text = f"[[rule]]\nid = 'a'\naction = 'allow'\n{condition} = []"
    assert problems(folder, text) == [
        f"rule 1 'a': {condition}: is empty; leave it out, or name at least one"
    ]
    assert not is_valid(tomllib.loads(text))


@pytest.mark.parametrize("setting", LISTS, ids=lambda one: one.name)
def test_an_empty_list_is_closed_or_a_mistake(folder: Path, setting: Setting) -> None:
    """It never lets in or out what the setting would not, were it not there."""
    text = f"{setting.name} = {'{}' if setting.keys else '[]'}"
    assert is_valid(tomllib.loads(text)) is bool(setting.empty)
    if setting.empty:
        config = read(folder, text)
        assert not setting.of(config)
        others = values_of(Config(listen=(Address(port=8888),)))
        found = {**values_of(config), "workers": 1, "via": "spliceproxy"}
        assert found == {**others, setting.path: setting.of(config)}
    else:
        assert problems(folder, text) == [
            f"{setting.name}: is empty; leave it out, or name at least one"
        ]
    if setting.in_environment:
        with pytest.raises(SettingsError, match=f"{setting.variable}: invalid value ''"):
            load({}, None, {setting.variable: ""}, start=False)


def values_of(config: Config) -> dict[str, Any]:
    """Every setting's value, by its path."""
    return {setting.path: setting.of(config) for setting in BY_NAME.values()}


def test_lists_that_may_be_empty() -> None:
    """Nobody, no exceptions, a group of nobody."""
    legal = {one.name for one in LISTS if one.empty}
    folders = {"landlock-read", "landlock-write"}
    assert (
        legal == {"admin-hosts", "allow-clients", "guard-allow", "guard-deny", "groups"} | folders
    )
    conditions = [one.path for one in BY_NAME["rule"].fields if one.many]
    assert tuple(conditions) == (*CONDITIONS, "tls_refuse")
    assert not any(one.empty for one in BY_NAME["rule"].fields)


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("hosts", "# who\n\n a.example \n.b.example\r\n", ("a.example", ".b.example")),
        ("not-hosts", "\ufeff/x.*/", ("/x.*/",)),
        ("clients", "unix\n10.0.0.0/8", ("unix", "10.0.0.0/8")),
        ("networks", "fd00::/8\n", ("fd00::/8",)),
        ("not-networks", "", ()),
    ],
)
def test_a_list_in_a_file(folder: Path, key: str, text: str, values: tuple[str, ...]) -> None:
    (folder / "list").write_text(text, newline="")
    settings = f"[[rule]]\nid = 'a'\naction = 'deny'\n{key} = ['@list']\n"
    (found,) = getattr(read(folder, settings).policy.rules[0], key.replace("-", "_"))
    assert found == FileList(f"@{folder}/list", values)
    assert found != FileList(f"@{folder}/list", (*values, "more"))
    assert found != str(found)
    assert pickle.loads(pickle.dumps(found)) == found
    route = "[[route]]\nto = 'direct'\n"
    if key in ("hosts", "networks"):
        (found,) = getattr(read(folder, f"{route}{key} = ['@list']").routing.routes[0], key)
        assert found == FileList(f"@{folder}/list", values)


@pytest.mark.parametrize(
    ("key", "text", "faults"),
    [
        (
            "hosts",
            "a.example\nhttp://b.example\n\n10.0.0.0/8\n",
            [
                ":2: 'http://b.example': a URL; write hosts = [\"b.example\"], ports = [80]; "
                "allowed: a name or an address, .NAME",
                ":4: '10.0.0.0/8': a network of destinations belongs in networks; allowed: a name",
            ],
        ),
        ("hosts", "@other", [":1: '@other': '@other' is not a host name; allowed: a name"]),
        ("clients", "10.0.0.1/8", [":1: '10.0.0.1/8': 10.0.0.1/8 has host bits set; allowed:"]),
        ("networks", "unix", [":1: 'unix': 'unix' does not appear to be an IPv4 or IPv6"]),
        ("not-networks", "10.0.0\n" * 25, [":1: '10.0.0'", *[":"] * 19, ": 5 more such lines"]),
    ],
)
def test_mistakes_in_a_list(folder: Path, key: str, text: str, faults: list[str]) -> None:
    (folder / "list").write_text(text)
    found = problems(folder, f"[[rule]]\nid = 'a'\naction = 'deny'\n{key} = ['@list']\n")
    start = f"rule 1 'a': {key}: {folder}/list"
    assert len(found) == len(faults)
    for line, fault in zip(found, faults, strict=True):
        assert line.startswith(start + fault)


def test_a_list_that_is_no_text(folder: Path) -> None:
    settings = "[[rule]]\nid = 'a'\naction = 'deny'\nhosts = ['@list']\n"
    (line,) = problems(folder, settings)
    assert line.startswith(f"rule 1 'a': hosts: invalid value '@list' ({folder}/list: cannot be re")
    (folder / "list").write_bytes(b"a.example\n\xff\n")
    assert problems(folder, settings) == [f"rule 1 'a': hosts: {folder}/list:2: not UTF-8"]
    (line,) = problems(folder, settings.replace("hosts", "ports"))
    assert "ports: invalid value '@list'; allowed: a port from 1" in line


def test_each_rule_has_an_id_of_its_own(folder: Path) -> None:
    rule = "[[rule]]\nid = 'a'\naction = 'deny'\n"
    (line,) = problems(folder, 2 * rule)
    assert line == "rule 2 'a': id: rule 1 has the same id; each rule needs its own"


@pytest.mark.parametrize("key", ["users", "groups", "not-users", "not-groups"])
def test_rules_for_users_need_users(folder: Path, key: str) -> None:
    text = f"[groups]\nx = ['y']\n[[rule]]\nid = 'a'\naction = 'deny'\n{key} = ['x']"
    (line,) = problems(folder, text)
    assert line.startswith(f"rule 1 'a': {key}: no setting makes any client a user; set auth,")
    assert read(folder, f"auth-peers.root = 'x'\n{text}")


def test_every_mistake_is_told(folder: Path) -> None:
    text = """\
workers = 0
wrokers = 1
listen = ["x", "y", ":1"]
engine = 3
guard-deny = ["10.0.0.0/33"]
[groups]
a = [1, "b:c"]
[[rule]]
id = "a"
hosts = ["/(/", "a b"]
[[rule]]
action = "no"
"""
    environ = {"SPLICEPROXY_VIA": "", "SPLICEPROXY_GUARD": "x"}
    places = [line.split(": ")[0] for line in problems(folder, text, environ)]
    assert places == [
        *("workers", "wrokers", "listen", "listen", "engine", "guard-deny", "groups", "groups"),
        *3 * ["rule 1 'a'"],
        *2 * ["rule 2"],
        *("SPLICEPROXY_VIA", "SPLICEPROXY_GUARD"),
    ]


def test_a_mistake_does_not_make_others(folder: Path) -> None:
    text = """\
auth = 1
access-log = "new"
[groups]
admins = ["a:b"]
[[rule]]
id = "a"
action = "deny"
groups = ["admins"]
"""
    with pytest.raises(SettingsError) as caught:
        read(folder, text, start=True)
    assert len(caught.value.problems) == 2
    assert not (folder / "new").exists()


def test_mistakes_in_files_of_users_name_file_and_line(folder: Path) -> None:
    (folder / "users").write_text("bob:$2b$04$abc\nnonsense\n")
    (folder / "map").write_text("192.0.2.0/24 eve\n192.0.2.0/33 eve\n")
    first, second = problems(folder, 'htpasswd = "users"')
    assert f"{folder}/users:1" in first
    assert f"{folder}/users:2" in second
    (line,) = problems(folder, 'auth-file = "map"')
    assert f"{folder}/map:2" in line


def test_byte_order_mark(folder: Path) -> None:
    path = folder / "proxy.toml"
    path.write_bytes(b"\xef\xbb\xbfvia = 'a'\r\n")
    assert load({}, str(path), {})[0].via == "a"
    path.write_bytes("via = 'a'".encode("utf-16"))
    with pytest.raises(SettingsError, match=r"proxy\.toml: it is UTF-16; save it as UTF-8"):
        load({}, str(path), {})
    path.write_bytes(b"locked = 'seen'")
    rule = b"[[rule]]\nid = 'a'\naction = 'allow'\nhosts = ['a']\nports = [1]\n"
    (folder / "seen").write_bytes(b"\xef\xbb\xbf" + rule)
    assert load({}, str(path), {})[0].policy.locked == folder / "seen"


def test_not_unicode(folder: Path) -> None:
    path = folder / "proxy.toml"
    path.write_bytes(b"via = '\xff'")
    with pytest.raises(SettingsError, match=r"proxy.toml: not UTF-8 \(byte 7\)"):
        load({}, str(path), {})


def test_a_flag_and_the_file_can_contradict(folder: Path) -> None:
    (line,) = problems(folder, "default-backend = 'a:1'", serve=Path("/"))
    assert line.startswith("--serve /: it cannot be combined with default-backend; only one")


# Back to TOML


def there_and_back(folder: Path, config: Config) -> Config:
    return read(folder, writing.to_toml(config))


def test_round_trip(folder: Path) -> None:
    for text in (EVERYTHING, OTHERS, PAC, "allow-clients = []", ""):
        config = read(folder, text)
        assert there_and_back(folder, config) == config


TEXT = st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters=":"), min_size=1
)


@settings(deadline=None, max_examples=50)
@given(
    users=st.lists(TEXT),
    groups=st.dictionaries(TEXT, st.lists(TEXT).map(tuple)),
    pattern=st.text(min_size=1).map(lambda text: f"/{re.escape(text)}/"),
    seconds=st.floats(0.001, 1000).map(lambda seconds: round(seconds, 3)),
)
def test_round_trip_of_any_text(
    tmp_path_factory: pytest.TempPathFactory,
    users: list[str],
    groups: dict[str, tuple[str, ...]],
    pattern: str,
    seconds: float,
) -> None:
    rule = RuleConfig(
        "a",
        "deny",
        users=tuple(users) or None,
        groups=tuple(groups) or None,
        hosts=(pattern,),
    )
    config = Config(
        listen=(Address(port=1),),
        timeouts=Timeouts(head=seconds),
        auth=AuthConfig(user=("ada", "x" + "".join(users)), groups=groups),
        policy=PolicyConfig(rules=(rule,)),
    )
    assert there_and_back(tmp_path_factory.getbasetemp(), config) == config


def test_what_is_no_text_cannot_be_written() -> None:
    config = Config(listen=(), serve=Path("/\udcff"))
    with pytest.raises(ValueError, match=r"cannot be written as TOML: '\\udcff' is not Unicode"):
        writing.to_toml(config)


# The JSON Schema


def is_valid(document: dict[str, Any]) -> bool:
    validator = jsonschema.Draft202012Validator(schema.schema())
    return validator.is_valid(document)


def test_schema_in_the_package_is_that_of_the_table() -> None:
    shipped = json.loads(Path(schema.__file__).with_name("schema.json").read_text())
    assert shipped == schema.schema()
    jsonschema.Draft202012Validator.check_schema(shipped)
    assert set(shipped["properties"]) == set(BY_NAME)


def test_schema_allows_what_is_right(folder: Path) -> None:
    for text in (EVERYTHING, OTHERS, PAC, "", writing.to_toml(read(folder, EVERYTHING))):
        jsonschema.validate(tomllib.loads(text), schema.schema())


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "workers = 0",
        "workers = true",
        "workers = 'many'",
        "listen = ':1'",
        "engine = 'fast'",
        "timeout-head = 0",
        "timeout-head = '1'",
        "auth = 'secret'",
        "[groups]\na = 'b'",
        "[[rule]]\nid = 'a'",
        "[[rule]]\nid = 'guard'\naction = 'deny'",
        "[[rule]]\nid = 'a'\naction = 'deny'\nx = 1",
        "[[rule]]\nid = 'a'\naction = 'deny'\nports = [0]",
    ],
)
def test_schema_refuses_what_the_proxy_refuses(folder: Path, text: str) -> None:
    assert problems(folder, text)
    assert not is_valid(tomllib.loads(text))


# The commands


def check(*args: str) -> int:
    return cli.main(["check", *args])


def test_check_prints_what_is_in_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder, 'via = "a"\nauth = "ada:secret"')
    assert check("--config", path, "--timeout-head", "7", "--listen", ":1") == 0
    out, err = capsys.readouterr()
    assert err == ""
    expected = 'via = "a"\nauth = "ada:secret"\ntimeout-head = 7\nlisten = [":1"]'
    assert read(folder, out) == read(folder, expected)


def test_check_keeps_passwords_that_are_not_in_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, 'auth = "ada:secret"')
    assert check("--config", path, "--auth", "bob:hidden") == 0
    monkeypatch.setenv("SPLICEPROXY_AUTH", "bob:hidden")
    assert check("--config", path) == 0
    out = capsys.readouterr().out
    assert "forwarded-for = " in out
    assert "auth = " not in out
    assert "hidden" not in out


def test_check_prints_no_name_that_is_made_up_at_each_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two proxies of one file would otherwise take each other for themselves."""
    path = write(folder, "workers = 1")
    assert check("--config", path) == 0
    first = capsys.readouterr().out
    assert check("--config", path) == 0
    assert capsys.readouterr().out == first
    assert "via" not in tomllib.loads(first)
    for args in (["--via", "a"], []):
        assert check("--config", path, *args) == 0
        assert tomllib.loads(capsys.readouterr().out)["via"] == "a"
        monkeypatch.setenv("SPLICEPROXY_VIA", "a")


def test_check_prints_every_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder, 'via = "\\u0007"\nworkers = 0')
    with pytest.raises(SystemExit) as caught:
        check("--config", path)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"spliceproxy check: {path}: via: invalid value '\\x07'; allowed: letters, digits and "
        "-._:, at most 64; or off",
        f"spliceproxy check: {path}: workers: invalid value '0'; allowed: 1 to 1024, or auto",
    ]


def test_check_creates_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert check("--access-log", str(folder / "new"), "--learn", str(folder / "seen")) == 0
    assert sorted(folder.iterdir()) == before


def test_check_loads_the_hook_but_a_start_leaves_that_to_the_workers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hook.py").write_text("print('loaded')\nasync def authorize(request): ...\n")
    path = write(folder, 'policy = "hook.py"')
    load({}, path, {})
    assert capsys.readouterr() == ("", "")
    assert check("--config", path) == 0
    out, err = capsys.readouterr()
    assert "loaded" not in out
    assert err == "loaded\n"


def test_the_proxy_itself_tells_every_mistake(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, "workers = 0\nvia = 1")
    with pytest.raises(SystemExit) as caught:
        cli.main(["--config", path])
    assert caught.value.code == 2
    assert [line.split(": ")[:3] for line in capsys.readouterr().err.splitlines()] == [
        ["spliceproxy", path, "workers"],
        ["spliceproxy", path, "via"],
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_help_and_are_in_that_of_the_proxy(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for args in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(args)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    proxy, own = out.split(f"usage: spliceproxy {command} ")
    assert re.search(rf"^  {command} +{COMMANDS[command].text}$", proxy, re.M)
    assert "exit status: 0" in own


# The page


def test_page_of_the_settings_is_that_of_the_table() -> None:
    """``python -m spliceproxy.settings.page > docs/settings.md`` renews it."""
    path = Path(__file__).parents[2] / "docs" / "settings.md"
    if not path.exists():
        pytest.skip("not in a source tree")
    shown = path.read_text()
    assert shown == page.page()
    for setting in SETTINGS:
        assert f"\n### {setting.name}\n" in shown, setting.name
        assert not setting.section or f"flag `{setting.flag_name}" in shown, setting.name
        assert not setting.in_environment or f"`{setting.variable}`" in shown, setting.name


def test_notes_of_the_page_are_about_settings() -> None:
    fields = {f"{one.name}.{each.name}" for one in SETTINGS for each in one.fields}
    assert page.NOTES.keys() <= BY_NAME.keys() | fields


def test_a_file_of_users_that_cannot_be_read_names_its_setting(folder: Path) -> None:
    (folder / "users").write_text("# nobody\n")
    (line,) = problems(folder, "", htpasswd=folder / "users")
    assert line.startswith(f"--htpasswd {folder}/users: it has no user")
    (folder / "map").write_bytes("1 a\n".encode("utf-16"))
    (line,) = problems(folder, "auth-file = 'map'")
    assert line == f"auth-file {folder}/map: it is UTF-16; save it as UTF-8"


# Read again


def test_what_a_file_says_by_now(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('engine = "copy"\ntimeout-idle = 5\n')
    sources = Sources({"timeout-head": 7.0}, str(file), {"SPLICEPROXY_TIMEOUT_DIAL": "3"})
    before, _ = sources.load()
    file.write_text('engine = "splice"\ntimeout-idle = 6\ntimeout-head = 8\n')
    config, kept = sources.again(before)
    assert config.timeouts == replace(before.timeouts, idle=6.0)
    assert config.via == before.via  # no setting says it, and it is the same proxy
    assert config.engine == "copy"
    (line,) = kept
    assert line.startswith(f"{file}: engine: it stays copy until the proxy is started again")
    file.write_text("engine = 1\n")
    with pytest.raises(SettingsError, match="engine"):
        sources.again(before)


def test_reading_again_creates_nothing_and_executes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("")
    sources = Sources({}, str(file), {})
    before, _ = sources.load()
    (tmp_path / "hook.py").write_text("raise SystemExit('executed')")
    file.write_text('access-log = "new.log"\npolicy = "hook.py"\n')
    config, _ = sources.again(before)
    assert config.policy.hook
    assert not (tmp_path / "new.log").exists()


def test_a_configuration_goes_to_another_process(folder: Path) -> None:
    (folder / "proxy.toml").write_text(EVERYTHING)
    config = load({}, str(folder / "proxy.toml"), {}, start=False)[0]
    fd = hand(config)
    try:
        assert handed(fd) == config
        assert handed(fd) == config  # and another one
    finally:
        os.close(fd)
