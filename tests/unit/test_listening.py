"""settings/listening.py: the grammar of addresses, in a flag, a variable and a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from spliceproxy import Proxy
from spliceproxy.cli.main import main
from spliceproxy.config import Address, Config
from spliceproxy.settings import schema
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.listening import ADMIN, FORWARD, LISTEN
from spliceproxy.settings.loading import SettingsError, load

VALID = {
    "8888": Address(port=8888),
    ":8888": Address(port=8888),
    "127.0.0.1:0": Address(host="127.0.0.1"),
    "unix:/run/p": Address(path="/run/p"),
    "unix:/a+b/tcp://c": Address(path="/a+b/tcp:/c"),
    "tcp://127.0.0.1:1": Address(host="127.0.0.1", port=1),
    "http+tcp://127.0.0.1:1": Address(host="127.0.0.1", port=1, protocol="http"),
    "http+unix:/run/p": Address(path="/run/p", protocol="http"),
    "mixed+tcp://:1": Address(port=1, protocol="mixed"),
    "socks+tcp://:1": Address(port=1, protocol="socks"),
    "socks+unix:/run/p": Address(path="/run/p", protocol="socks"),
    "redirect+tcp://:1": Address(port=1, protocol="redirect"),
    "tproxy+tcp://[::]:1": Address(host="::", port=1, protocol="tproxy"),
    "redirect+systemd:web": Address(name="web", protocol="redirect"),
    "proxy+socks+tcp://:1": Address(port=1, proxied=True, protocol="socks"),
    "proxy+tcp://:1": Address(port=1, proxied=True),
    "proxy+tcp://1": Address(port=1, proxied=True),
    "proxy+tcp://[::1]:1": Address(host="::1", port=1, proxied=True),
    "proxy+http+tcp://:1": Address(port=1, proxied=True, protocol="http"),
    "proxy+unix:/run/p": Address(path="/run/p", proxied=True),
    "systemd:web": Address(name="web"),
    "systemd:spliceproxy.socket": Address(name="spliceproxy.socket"),
    "proxy+http+systemd:web": Address(name="web", proxied=True, protocol="http"),
    "proxy+http+unix:/run/p": Address(path="/run/p", proxied=True, protocol="http"),
}


@pytest.mark.parametrize("text", VALID)
def test_an_address(text: str) -> None:
    wanted = VALID[text]
    found = LISTEN.read(text, "/")
    assert found == wanted or (
        wanted.host == "::1" and found == wanted.__class__(host="::1", port=1, proxied=True)
    )
    assert LISTEN.read(str(found), "/") == found, "as it is written again"
    pattern = schema.schema()["properties"]["listen"]["items"]["pattern"]
    assert re.search(pattern, text)


INVALID = {
    "https+tcp://:1": "clients cannot speak 'https' here; they can speak mixed, http, socks, redir",
    "proxy+socks5+tcp://:1": "clients cannot speak 'socks5' here",
    "http+socks+tcp://:1": "an address has one protocol",
    "redirect+unix:/x": "the kernel leads clients to redirect+tcp:// alone",
    "proxy+tproxy+tcp://:1": "the kernel leads clients to tproxy+tcp:// alone, without a balancer",
    "http+proxy+tcp://:1": "clients cannot speak 'proxy' here",
    "proxy+proxy+tcp://:1": "'proxy'",
    "http+http+tcp://:1": "an address has one protocol",
    "+tcp://:1": "''",
    "systemd:": "the name of a socket has 1 to 255 printable characters of ASCII, and no colon",
    "systemd:a:b": "and no colon",
    "systemd:a b": "printable characters",
    "PROXY+tcp://:1": "'PROXY'",
    "proxy://:1": "allowed: :8888",
    "http://:1": "allowed: :8888",
    "proxy+:1": "allowed: :8888",
    "proxy+tcp://host:1": "allowed: :8888",
    "proxy+tcp://:65536": "allowed: :8888",
    "proxy+tcp://unix:/run/p": "a Unix socket has no tcp://",
    "proxy+tcp:///run/p": "allowed: :8888",
    "proxy+unix:": "1 to 107 bytes",
    "proxy+tcp://[fe80::1%lo]:1": "a zone",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(Invalid) as raised:
        LISTEN.read(text, "")
    assert repr(text) in str(raised.value)
    assert INVALID[text] in str(raised.value)
    pattern = schema.schema()["properties"]["listen"]["items"]["pattern"]
    assert not re.search(pattern, text) or INVALID[text].startswith(
        ("allowed: :8888", "a zone", "the kernel")
    )


TO = "db.example", 5432
FORWARDS = {
    "127.0.0.1:1=db.example:5432": Address(host="127.0.0.1", port=1, target=TO),
    ":1=DB.example:5432": Address(port=1, target=TO),
    "1=[2001:db8::1]:22": Address(port=1, target=("2001:db8::1", 22)),
    "[::1]:1=10.0.0.1:22": Address(host="::1", port=1, target=("10.0.0.1", 22)),
    "proxy+tcp://:1=db.example:5432": Address(port=1, proxied=True, target=TO),
    "unix:/a=b=db.example:5432": Address(path="/a=b", target=TO),
    "systemd:db=db.example:5432": Address(name="db", target=TO),
}


@pytest.mark.parametrize("text", FORWARDS)
def test_a_forward(text: str) -> None:
    found = FORWARD.read(text, "/")
    assert found == FORWARDS[text]
    assert FORWARD.read(str(found), "/") == found, "as it is written again"
    pattern = schema.schema()["properties"]["forward"]["items"]["pattern"]
    assert re.search(pattern, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:1", "have = between them"),
        (":1=db.example", "allowed: an address as of --listen"),
        (":1=db.example:0", "allowed: an address"),
        (":1=:5432", "allowed: an address"),
        (":1=", "allowed: an address"),
        ("=db.example:5432", "allowed: an address"),
        (":1=[fe80::1%lo]:1", "a zone"),
        ("http+tcp://:1=db.example:5432", "http: what clients speak there is not looked at"),
        ("example.com:1=db.example:5432", "allowed: an address"),
    ],
)
def test_a_forward_that_is_none(text: str, reason: str) -> None:
    with pytest.raises(Invalid) as raised:
        FORWARD.read(text, "")
    assert repr(text) in str(raised.value)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            'listen = [":1"]\nforward = ["127.0.0.1:1=db.example:2"]',
            "forward 127.0.0.1:1=db.example:2: it overlaps with {}: listen :1; give each",
        ),
        (
            'forward = [":1=a.example:2", ":1=b.example:2"]',
            "forward :1=b.example:2: it overlaps with {}: forward :1=a.example:2; give each",
        ),
        (
            'forward = ["proxy+tcp://:1=a.example:2"]',
            "forward proxy+tcp://:1=a.example:2: nobody may send a header of the PROXY protocol",
        ),
        (
            'admin = "127.0.0.1:1"\nadmin-token-file = "t"\nforward = [":1=a.example:2"]',
            "admin 127.0.0.1:1: it overlaps with {}: forward :1=a.example:2",
        ),
    ],
)
def test_forwards_beside_others(tmp_path: Path, settings: str, problem: str) -> None:
    (tmp_path / "t").write_text("0123456789abcdef" * 4)
    (tmp_path / "t").chmod(0o600)
    file = tmp_path / "p.toml"
    file.write_text(settings)
    with pytest.raises(SettingsError) as raised:
        load({}, str(file), {})
    (line,) = raised.value.problems
    assert problem.format(file) in line


@pytest.mark.parametrize("text", ["proxy+tcp://127.0.0.1:1", "http+tcp://:1", "proxy+unix:/x"])
def test_the_admin_address_has_no_protocol(text: str) -> None:
    with pytest.raises(Invalid):
        ADMIN.read(text, "")


FROM = {"proxy-protocol-from": ("10.0.0.0/8", "fd00::/8")}


def test_one_grammar_everywhere(tmp_path: Path) -> None:
    text = "proxy+tcp://127.0.0.1:3128"
    file = tmp_path / "p.toml"
    file.write_text(f'listen = ["{text}", ":1"]\nproxy-protocol-from = ["10.0.0.0/8", "fd00::/8"]')
    by_file = load({}, str(file), {})[0]
    by_variables = load(
        {},
        None,
        {
            "SPLICEPROXY_LISTEN": f"{text}, :1",
            "SPLICEPROXY_PROXY_PROTOCOL_FROM": "10.0.0.0/8, fd00::/8",
        },
    )[0]
    listen = tuple(LISTEN.read(one, "") for one in (text, ":1"))
    by_flags = load({"listen": listen, **FROM}, None, {})[0]
    for config in (by_file, by_variables, by_flags):
        assert config.listen == listen
        assert config.balancers == FROM["proxy-protocol-from"]


def test_check_prints_what_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--listen", "proxy+tcp://127.0.0.1:0", "--listen", "proxy+unix:/run/p"]
    assert main(["check", *flags, "--proxy-protocol-from", "::ffff:10.0.0.0/104"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "p.toml"
    file.write_text(printed)
    config = load({}, str(file), {})[0]
    assert [str(one) for one in config.listen] == ["proxy+tcp://127.0.0.1:0", "proxy+unix:/run/p"]
    assert config.balancers == ("10.0.0.0/8",)


def test_nobody_who_may_send_a_header(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["check"]):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main([*command, "--listen", "proxy+tcp://127.0.0.1:0"]))
        assert ended.value.code == 2
        said = capfd.readouterr().err
        assert "--listen proxy+tcp://127.0.0.1:0: nobody may send a header" in said
        assert "--proxy-protocol-from NETWORK" in said


def test_headers_that_no_address_expects() -> None:
    with pytest.raises(SettingsError, match="no address expects the PROXY protocol"):
        load({"listen": (Address(port=1),), **FROM}, None, {})
    unix = (Address(path="/run/p", proxied=True),)
    with pytest.raises(SettingsError, match="no address expects the PROXY protocol"):
        load({"listen": unix, **FROM}, None, {})
    assert load({"listen": unix}, None, {})[0].listen == unix  # the file's permissions decide


def test_the_library_has_the_same_rules() -> None:
    with pytest.raises(ValueError, match="nobody may send a header"):
        Proxy(listen=["proxy+tcp://127.0.0.1:0"])
    with pytest.raises(ValueError, match="they can speak mixed, http, socks, redir"):
        Proxy(listen=["socks5+tcp://127.0.0.1:0"])
    config = Config(listen=(), balancers=("127.0.0.0/8",))
    assert Proxy(listen=["proxy+tcp://127.0.0.1:0"], config=config)


def test_the_schema_is_that_of_the_grammar() -> None:
    folder = os.path.dirname(schema.__file__)
    with open(os.path.join(folder, "schema.json")) as file:
        assert json.load(file) == schema.schema()


def test_what_a_bare_address_stands_for() -> None:
    assert [LISTEN.read(text, "").spoken for text in (":1", "tcp://:1", "http+tcp://:1")] == [
        "mixed",
        "mixed",
        "http",
    ]
