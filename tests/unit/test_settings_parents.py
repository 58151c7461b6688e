"""Settings of routes and parents: what they come to, and each mistake by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spliceproxy.cli import main as cli
from spliceproxy.config import Config, ParentConfig, RouteConfig, Url
from spliceproxy.settings.loading import SettingsError, load

PROXY = "http://p.example:3128"


def read(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> Config:
    path = folder / "proxy.toml"
    path.write_text(text)
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return load(named, str(path), environ or {}, start=False)[0]


def problems(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(folder, text, environ, **flags)
    return [line.replace(f"{folder}/", "") for line in caught.value.problems]


def parent(name: str, url: str = "http://p.example:1", **keys: str) -> str:
    lines = [f"[parent.{name}]", f'url = "{url}"']
    lines += [f'{key.replace("_", "-")} = "{value}"' for key, value in keys.items()]
    return "\n".join(lines) + "\n"


# ---- --proxy -----------------------------------------------------------------------------------


def test_the_simple_case(tmp_path: Path) -> None:
    text = f'proxy = "{PROXY}"\nno-proxy = "corp.example, *.b.test:8443, 10.0.0.0/8, ::1"'
    routing = read(tmp_path, text, {"SPLICEPROXY_PROXY_AUTH": "u:p:w"}).routing
    (found,) = routing.all_parents.values()
    assert found.url == Url("http", "p.example", 3128)
    assert found.credentials == ("u", "p:w")
    assert "p:w" not in repr(routing)
    *exceptions, rest = routing.all_routes
    assert rest == RouteConfig(("proxy",))
    assert [route.to for route in exceptions] == [("direct",)] * 4
    assert [route.hosts for route in exceptions] == [(".corp.example",), (".b.test",), None, None]
    assert [route.ports for route in exceptions] == [None, ("8443",), None, None]
    assert [route.literals for route in exceptions][2:] == [("10.0.0.0/8",), ("::1/128",)]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:secret@p.example:3128", "'http://***@p.example:3128' (a user and password do"),
        ("ftp://p.example:21", "'ftp://p.example:21'; allowed: a URL with a host and a port"),
        ("http://p.example", "'http://p.example' (a host and a port are needed)"),
        ("p.example:3128", "'p.example:3128'; allowed: a URL"),
        ("http://p.example:3128/path", "allowed: a URL"),
        ("http://fe80::1%eth0:3128", "allowed: a URL"),
    ],
)
def test_urls_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, shown: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--proxy", url])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "--proxy: invalid value" in said
    assert shown in said
    assert "secret" not in said
    (line,) = problems(tmp_path, f'proxy = "{url}"')
    assert line.startswith("proxy.toml: proxy: invalid value")
    assert shown in line


def test_a_password_in_a_url_has_two_other_places(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, parent("a", "http://u:secret@p.example:1"))
    assert "SPLICEPROXY_PROXY_AUTH for --proxy" in line
    assert "auth-file" in line


@pytest.mark.parametrize(
    ("text", "environ", "line"),
    [
        ('no-proxy = "a.test"', {}, "proxy.toml: no-proxy a.test: there is no proxy; add --proxy"),
        ("", {"SPLICEPROXY_PROXY_AUTH": "u:p"}, "SPLICEPROXY_PROXY_AUTH: there is no --proxy"),
        (f'proxy = "{PROXY}"\n{parent("proxy")}', {}, "parent.proxy: --proxy makes a parent of"),
        (
            f'proxy = "{PROXY}"\nproxy-from-environment = true',
            {},
            "proxy.toml: proxy http://p.example:3128: it cannot be combined with proxy.toml: proxy",
        ),
        (f'proxy = "{PROXY}"\nno-proxy = "a b"', {}, "proxy.toml: no-proxy: invalid value 'a b'"),
        (f'proxy = "{PROXY}"\nno-proxy = "a:0"', {}, "proxy.toml: no-proxy: invalid value 'a:0'"),
        (
            'proxy = "socks4a://p.example:1"',
            {"SPLICEPROXY_PROXY_AUTH": "u:p"},
            "proxy-auth: SOCKS4a knows no passwords",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, environ: Mapping[str, str], line: str) -> None:
    (found,) = problems(tmp_path, text, environ)
    assert found.startswith(line)


# ---- [parent] ----------------------------------------------------------------------------------


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("u:from the file\n")
    text = parent("a", auth_file="auth") + parent("b", auth_env="SECRET")
    found = read(tmp_path, text, {"SECRET": "u:from the variable"}).routing.all_parents
    assert found["a"].credentials == ("u", "from the file")
    assert found["b"].credentials == ("u", "from the variable")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (parent("a", auth_env="NONE"), "parent.a: auth-env NONE: there is no such variable"),
        (parent("a", auth_file="two"), "parent.a: auth-file two: it has 2 lines; allowed: one"),
        (parent("a", auth_file="bad"), "parent.a: auth-file bad: allowed: USER:PASSWORD"),
        (parent("a", auth_file="two", auth_env="X"), "parent.a: auth-env: it cannot be combined"),
        (parent("a", ca_file="two"), "parent.a: ca-file: only an https parent has certificates"),
        (
            parent("a", "https://p.example:1", ca_file="two"),
            "parent.a: ca-file two: no certificates",
        ),
        (parent("a", through="b"), "parent.a: through: there is no parent 'b'; allowed: a"),
        (parent("a", through="a"), "parent.a: through: a chain that has no end: a > a"),
        (
            parent("a", "socks5://p.example:1", connect_by="name"),
            "parent.a: connect-by: a socks5 parent is told addresses",
        ),
        (
            parent("a", "socks5h://p.example:1", connect_by="address"),
            "parent.a: connect-by: a socks5h parent is told names",
        ),
        (parent("direct"), "parent.direct: invalid value 'direct' (it stands for no parent)"),
        (parent('"a b"'), "parent.a b: invalid value 'a b'; allowed: letters, digits"),
        ("[parent]\na = 1", "parent: expected [parent.NAME], not a table"),
        ("[parent.a]\ntimeout = 1", "parent.a: url: missing; allowed: a URL"),
        (parent("a") + "x = 1", "parent.a: x: no such key; allowed: url"),
        ("[[route]]\nports = [1]", "route 1: to: missing; allowed: the name of a [parent]"),
        ("[[route]]\nto = []", "route 1: to: is empty"),
        ('[[route]]\nto = "b"\n' + parent("a"), "route 1: to: there is no parent 'b'; allowed: a"),
        ('[[route]]\nto = ["refuse", "direct"]', "route 1: to: refuse stands alone"),
        ('[[route]]\nto = ["direct", "a"]\n' + parent("a"), "route 1: to: direct is the last"),
        ('[[route]]\nto = ["a", "a"]\n' + parent("a"), "route 1: to: the same parent twice"),
        ('[[route]]\nto = "direct"\nhosts = []', "route 1: hosts: is empty; leave it out"),
        ('[[route]]\nto = "direct"\nhosts = ["a:1"]', "route 1: hosts: invalid value 'a:1'"),
        (
            '[[route]]\nto = "refuse"\nsource-address = "127.0.0.1"',
            "route 1: source-address: nothing is connected to by a route to refuse",
        ),
        (
            '[[route]]\nto = "direct"\nsource-address = "a.example"',
            "route 1: source-address: invalid value 'a.example'; allowed: an IP address of this",
        ),
        (
            '[[route]]\nto = "direct"\nusers = ["ada"]',
            "route 1: users: no setting makes any client a user",
        ),
        (
            '[[route]]\nto = "direct"\ngroups = ["ops"]\n[groups]\ndev = ["ada"]',
            "route 1: groups: there is no group 'ops'; allowed: dev",
        ),
        (
            '[[route]]\nto = "direct"\nlisteners = [":8889"]',
            "route 1: listeners: the proxy does not listen on :8889; allowed: :8888",
        ),
        (
            '[[route]]\nto = "direct"\nlisteners = ["lan0"]',
            "route 1: listeners: invalid value 'lan0'; allowed: an address as of --listen",
        ),
        ('[[route]]\nto = "direct"\npick = "x"', "route 1: pick: invalid value 'x'; allowed: in-"),
    ],
)
def test_mistakes_in_tables(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "two").write_text("u:p\nv:q\n")
    (tmp_path / "bad").write_text("nothing\n")
    found = problems(tmp_path, text)
    assert found[0].removeprefix("proxy.toml: ").startswith(line)


def test_a_chain(tmp_path: Path) -> None:
    text = parent("a", through="b") + parent("b", through="c") + parent("c")
    parents = read(tmp_path, text).routing.all_parents
    assert [parents[name].through for name in "abc"] == ["b", "c", ""]
    circle = problems(tmp_path, text + 'through = "b"')
    assert "parent.b: through: a chain that has no end: b > c > b" in circle[-2]


# ---- the environment ---------------------------------------------------------------------------


def environment(tmp_path: Path, **environ: str) -> tuple[list[ParentConfig], list[RouteConfig]]:
    routing = read(tmp_path, "proxy-from-environment = true", environ).routing
    return list(routing.all_parents.values()), list(routing.all_routes)


def test_both_kinds(tmp_path: Path) -> None:
    parents, routes = environment(
        tmp_path,
        http_proxy="http://a.example:1/",
        HTTPS_PROXY="http://u%40x:p%3a@b.example:2",
        NO_PROXY="localhost,.corp.example",
    )
    assert [str(one.url) for one in parents] == ["http://a.example:1", "http://b.example:2"]
    assert [one.credentials for one in parents] == [None, ("u@x", "p:")]
    assert [route.tunnels for route in routes] == [None, None, False, True]
    assert [route.hosts for route in routes[:2]] == [(".localhost",), (".corp.example",)]


def test_lower_case_wins_and_http_proxy_counts_in_no_other(tmp_path: Path) -> None:
    parents, routes = environment(
        tmp_path,
        HTTP_PROXY="http://evil.example:1",
        https_proxy="http://low.example:1",
        HTTPS_PROXY="http://high.example:1",
    )
    assert [str(one.url) for one in parents] == ["http://low.example:1"]
    assert [route.tunnels for route in routes] == [True]


def test_one_for_all(tmp_path: Path) -> None:
    parents, routes = environment(tmp_path, ALL_PROXY="socks5h://s.example")
    assert [str(one.url) for one in parents] == ["socks5h://s.example:1080"] * 2
    assert [route.tunnels for route in routes] == [False, True]


def test_none_at_all(tmp_path: Path) -> None:
    assert environment(tmp_path) == ([], [])


def test_variables_that_are_wrong(tmp_path: Path) -> None:
    environ = {"http_proxy": "gopher://u:secret@x:1", "no_proxy": "a b:x"}
    first, second = problems(tmp_path, "proxy-from-environment = true", environ)
    assert first.startswith("http_proxy: invalid value 'gopher://x:1'; allowed: ")
    assert second.startswith("no_proxy: invalid value")


def test_nothing_of_it_counts_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert not read(tmp_path, "", {"HTTPS_PROXY": "http://p.example:1"}).routing.all_parents
