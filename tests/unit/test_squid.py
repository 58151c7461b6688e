"""squid.conf to settings: what stands in the result, and what is told. What it decides is compared
with the real squid in tests/policy/test_squid_real.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spliceproxy.cli import main as cli
from spliceproxy.settings import squid
from spliceproxy.settings.squid import addresses, directives, hosts, regexes, terms, times
from spliceproxy.settings.squid.converting import _PREPARED, _TAKERS
from spliceproxy.settings.squid.regexes import Expression

try:
    import tomllib
except ImportError:
    import tomli as tomllib


class Result:
    """``table``: the settings; ``missing`` and ``notes`` without the file's name."""

    def __init__(self, folder: Path, text: str, **files: str) -> None:
        for name, content in files.items():
            (folder / name).write_text(content)
        source = folder / "squid.conf"
        port = "" if "http_port" in text else "http_port 3128\n"
        source.write_text(port + text.replace("{folder}", str(folder)))
        found = squid.convert(str(source))
        self.text = found.toml
        self.table: dict[str, Any] = tomllib.loads(found.toml)
        self.missing = [line.replace(f"{source}:", "") for line in found.missing]
        self.notes = [line.replace(f"{source}:", "") for line in found.notes]

    @property
    def rules(self) -> list[dict[str, Any]]:
        return self.table.get("rule", [])


def refused(folder: Path, text: str) -> str:
    with pytest.raises(squid.Refused) as caught:
        Result(folder, text)
    return str(caught.value)


@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT ONE}", "9" * 5000, "-1", ""])
def test_numbers_that_are_none(tmp_path: Path, number: str) -> None:
    text = f"workers {number}\nclient_ip_max_connections {number}\nacl many maxconn {number}\n"
    text += f"cache_peer up.example parent 3128 0 max-conn={number}\nhttp_access allow all\n"
    text += f"delay_pools {number}\ndelay_class {number} 1\n"
    text += f"deny_info {number}:/page many\nhttp_access deny many\n"
    assert "workers" not in Result(tmp_path, text).table


def test_a_log_that_no_file_can_be(tmp_path: Path) -> None:
    found = Result(tmp_path, "access_log /var/log/\0squid\nhttp_access allow all\n")
    assert any("without NUL" in note for note in found.notes)


def test_the_usual_file(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        """\
acl lan src 10.0.0.0/8
acl SSL_ports port 443
acl ok dstdomain .good.example www.fine.example
acl bad dstdomain bad.good.example
http_port 127.0.0.1:3128
http_port [::1]:3129
http_access deny CONNECT !SSL_ports
http_access allow localhost manager
http_access deny manager
http_access allow lan ok !bad
http_access deny all
via off
forwarded_for delete
dns_nameservers 192.0.2.53
dns_v4_first on
workers 2
client_ip_max_connections 20
cache_mem 100 MB
""",
    )
    assert found.missing == []
    assert found.table == {
        "listen": ["127.0.0.1:3128", "[::1]:3129"],
        "workers": 2,
        "allow-clients": ["0.0.0.0/0", "::/0"],
        "rule-default": "deny",
        "via": "off",
        "forwarded-for": "delete",
        "dns-server": ["192.0.2.53"],
        "ip-version": "prefer4",
        "rule": [
            {"id": "squid-7", "action": "deny", "methods": ["CONNECT"], "not-ports": [443]},
            {
                "id": "squid-10",
                "action": "allow",
                "clients": ["10.0.0.0/8"],
                "hosts": [".good.example", "www.fine.example"],
                "not-hosts": ["bad.good.example"],
            },
            {"id": "squid-11", "action": "deny"},
        ],
        "limit": [{"id": "client-connections", "by": "client", "prefix6": 128, "connections": 20}],
    }
    assert "# http_access allow lan ok !bad\n" in found.text
    assert found.notes[-1].endswith("it does not say who may go where: cache_mem")


def test_a_file_of_values_is_named_where_it_means_the_same(tmp_path: Path) -> None:
    text = 'acl ok dstdomain "{folder}/ok"\nhttp_access allow ok\n'
    (rule,) = Result(tmp_path, text, ok="# ours\n.a.example\n\nb.example\n").rules
    assert rule["hosts"] == [f"@{tmp_path}/ok"]
    (rule,) = Result(tmp_path, text, ok="a.example # ours\n").rules
    assert rule["hosts"] == ["a.example"]
    (rule,) = Result(tmp_path, text, ok="a.example\n*.b.example\n").rules
    assert rule["hosts"] == ["a.example"]
    found = Result(tmp_path, text, ok="")
    assert (found.rules, found.table["rule-default"]) == ([], "deny")
    text = 'acl lan src "{folder}/nets"\nhttp_access allow lan\n'
    (rule,) = Result(tmp_path, text, nets="10.0.0.0/8\nfd00::1\n").rules
    assert rule["clients"] == [f"@{tmp_path}/nets"]
    (rule,) = Result(tmp_path, text, nets="10.0.0.1-10.0.0.2\n").rules
    assert rule["clients"] == ["10.0.0.1/32", "10.0.0.2/32"]


@pytest.mark.parametrize("kind", ["dstdom_regex", "url_regex"])
def test_where_case_does_not_count_is_said_line_by_line(tmp_path: Path, kind: str) -> None:
    lines = f"acl x {kind} ^GOOD\n", f"acl x {kind} -i ^OTHER\n"
    allowed = "http_access allow x\n"
    for one, other in (lines, lines[::-1]):
        found = Result(tmp_path, f"{one}{other}{allowed}")
        each = [Result(tmp_path, f"{line}{allowed}").rules[0]["hosts"] for line in (one, other)]
        assert [rule["hosts"] for rule in found.rules if "hosts" in rule] == each


def test_what_denies_and_is_not_converted_denies_more(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        "acl b browser curl\nacl g dstdomain .good.example\nacl lan src 10.0.0.0/8\n"
        "http_access allow g\nhttp_access deny b lan\nhttp_access allow b\nhttp_access allow all\n",
    )
    assert found.rules == [
        {"id": "squid-5", "action": "allow", "hosts": [".good.example"]},
        {"id": "not-converted-squid-6", "action": "deny", "clients": ["10.0.0.0/8"]},
        {"id": "squid-8", "action": "allow"},
    ]
    why = "acl b: no rule looks at what browser does"
    assert found.missing == [
        f"6: http_access: not converted: {why}; a rule not-converted-… denies all that it may be "
        "about",
        f"7: http_access: not converted: {why}; what it alone allows is denied",
    ]
    assert f"#   It denies more than squid: {why}.\n" in found.text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("url_rewrite_program /usr/bin/squidGuard", "no program is asked"),
        ("icap_service s reqmod_precache icap://127.0.0.1/", "no ICAP service is asked"),
        ("response_delay_pool slow", "a rate for each response has no counterpart"),
        ("http_reply_access deny all", "it restricts answers or requests in its own way"),
        ("follow_x_forwarded_for allow localhost", "clients are known by the address"),
        ("reply_body_max_size 10 MB", "answers have no greatest size"),
        ("ssl_bump bump all", "bump: TLS is not opened here"),
        ("ssl_bump terminate all", "terminate: TLS is not opened here"),
        ("not_a_directive 1", "unknown to squid.conf"),
        ("configuration_includes_quoted_values on", "what is in quotes is read as the name of a"),
    ],
)
def test_what_restricts_closes(tmp_path: Path, line: str, why: str) -> None:
    found = Result(tmp_path, f"http_access allow all\n{line}\n")
    assert found.rules[0] == {"id": "not-converted", "action": "deny"}
    (missing,) = found.missing
    assert missing.startswith(f"3: {line.split()[0]}: not converted: {why}")
    assert missing.endswith("; until that is settled, rule not-converted denies everything")
    assert f"# Denies everything, because of\n#   {tmp_path}/squid.conf:3: " in found.text


LAN = {"not-clients": ["10.0.0.0/8"]}
SLOW = {"by": "client", "prefix6": 128}

POOLS = {
    "of all": (
        "delay_pools 1\ndelay_class 1 1\ndelay_parameters 1 64000/128000\n"
        "delay_access 1 allow all\n",
        [{"id": "delay-pool-1", "by": "total", "rate-out": 64000}],
    ),
    "of each client": (
        "delay_pools 1\ndelay_class 1 2\ndelay_parameters 1 -1/-1 64000/64000\n"
        "delay_access 1 allow all\n",
        [{"id": "delay-pool-1-clients", **SLOW, "rate-out": 64000}],
    ),
    "of each client alone": (
        "delay_pools 1\ndelay_class 1 2\ndelay_parameters 1 none 1250000000/1250000000\n"
        "delay_access 1 allow all\n",
        [{"id": "delay-pool-1-clients", **SLOW, "rate-out": 1_250_000_000}],
    ),
    "of networks and clients": (
        "delay_pools 1\ndelay_class 1 3\ndelay_parameters 1 3000/1 2000/1 1000/1\n"
        "delay_access 1 allow all\n",
        [
            {"id": "delay-pool-1", "by": "total", "rate-out": 3000},
            {"id": "delay-pool-1-networks", "by": "client", "prefix4": 24, "rate-out": 2000},
            {"id": "delay-pool-1-clients", **SLOW, "rate-out": 1000},
        ],
    ),
    "of clients of another kind": (
        "client_delay_pools 1\nclient_delay_parameters 1 64000 64000\n"
        "client_delay_access 1 allow all\n",
        [{"id": "client-delay-pool-1-clients", **SLOW, "rate-out": 64000}],
    ),
    "but the lan": (
        "delay_pools 1\ndelay_class 1 1\ndelay_parameters 1 64000/64000\ndelay_access 1 deny lan\n"
        "delay_access 1 allow all\n",
        [{"id": "delay-pool-1", "by": "total", **LAN, "rate-out": 64000}],
    ),
    "the opposite of the last line": (
        "delay_pools 1\ndelay_class 1 1\ndelay_parameters 1 64000/64000\ndelay_access 1 deny lan\n",
        [{"id": "delay-pool-1", "by": "total", **LAN, "rate-out": 64000}],
    ),
    "the first pool": (
        "delay_pools 2\ndelay_class 2 1\ndelay_class 1 1\ndelay_parameters 1 1000/1\n"
        "delay_parameters 2 2000/2\ndelay_access 2 allow all\ndelay_access 1 allow lan\n",
        [
            {"id": "delay-pool-1", "by": "total", "clients": ["10.0.0.0/8"], "rate-out": 1000},
            {"id": "delay-pool-2", "by": "total", **LAN, "rate-out": 2000},
        ],
    ),
    "nobody": (
        "delay_pools 1\ndelay_class 1 1\ndelay_parameters 1 64000/64000\n",
        [],
    ),
    "no rate": (
        "delay_pools 1\ndelay_class 1 2\ndelay_parameters 1 -1/-1 -1/-1\n"
        "delay_access 1 allow all\n",
        [],
    ),
    "more than the pool": (
        "acl odd browser x\ndelay_pools 1\ndelay_class 1 1\ndelay_parameters 1 64000/64000\n"
        "delay_access 1 allow odd lan\n",
        [{"id": "delay-pool-1", "by": "total", "clients": ["10.0.0.0/8"], "rate-out": 64000}],
    ),
}


@pytest.mark.parametrize("pools", POOLS)
def test_delay_pools_are_limits(tmp_path: Path, pools: str) -> None:
    text, limits = POOLS[pools]
    found = Result(tmp_path, f"acl lan src 10.0.0.0/8\nhttp_access allow all\n{text}")
    assert (found.table.get("limit", []), found.missing) == (limits, [])
    notes = [note for note in found.notes if "so the limit holds for more than the pool" in note]
    assert len(notes) == (pools == "more than the pool")


def test_delay_pools_of_users(tmp_path: Path) -> None:
    pools = "delay_pools 1\ndelay_class 1 4\ndelay_parameters 1 -1/-1 -1/-1 -1/-1 64000/1\n"
    text = f"{pools}delay_access 1 allow all\nhttp_access allow all\n"
    found = Result(tmp_path, text)
    assert "limit" not in found.table
    assert any("nobody is a user here" in note for note in found.notes)
    auth = "auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/users\n"
    found = Result(tmp_path, auth + text, users="ann:$apr1$12345678$zbBEMgfXu4mAHPrplrtNt.\n")
    assert found.table["limit"] == [{"id": "delay-pool-1-users", "by": "user", "rate-out": 64000}]
    assert found.table["htpasswd"] == str(tmp_path / "users")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("delay_class 1 5", "tags, which a helper of squid's gives, have no counterpart"),
        ("delay_class 1 1\ndelay_parameters 1 999/64000", "999: a rate is at least 1000 bytes"),
        ("delay_class 1 1\ndelay_parameters 1 3000000000/1", "squid makes another number of it"),
    ],
)
def test_delay_pools_that_close(tmp_path: Path, line: str, why: str) -> None:
    found = Result(tmp_path, f"http_access allow all\ndelay_pools 1\n{line}\n")
    assert found.rules[0] == {"id": "not-converted", "action": "deny"}
    assert any(why in missing for missing in found.missing)


def test_nobody_is_told_that_squid_skips_what_it_does_not(tmp_path: Path) -> None:
    pool = "delay_pools 1\ndelay_class 1 5\ndelay_parameters 1 1000/1000\n"
    text = f"{pool}delay_access 1 allow all\nacl wheels urlpath_regex whl$\n"
    found = Result(tmp_path, f"{text}http_access allow wheels\nhttp_access deny all\n")
    assert any("what it alone allows is denied" in line for line in found.missing)
    assert not [note for note in found.notes if "skips it" in note or "never matches" in note]


@pytest.mark.parametrize(
    "line", ["delay_class 2 1", "delay_parameters 1 1/1", "delay_access 3 allow all"]
)
def test_delay_pools_that_are_skipped(tmp_path: Path, line: str) -> None:
    found = Result(tmp_path, f"http_access allow all\ndelay_pools 1\n{line}\n")
    assert found.missing == []
    assert any("squid skips it" in note for note in found.notes)


@pytest.mark.parametrize(
    "line",
    [
        "delay_pools 0",
        "url_rewrite_program none",
        "http_reply_access allow all",
        "follow_x_forwarded_for deny all",
        "request_body_max_size 0 KB",
        "ssl_bump peek all",
        "ssl_bump splice all",
        "icp_port 0",
        "configuration_includes_quoted_values off",
    ],
)
def test_what_restricts_nothing_does_not(tmp_path: Path, line: str) -> None:
    found = Result(tmp_path, f"http_access allow all\n{line}\n")
    assert (found.missing, len(found.rules)) == ([], 1)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("http_access allow nobody", ":2: http_access: there is no acl nobody; squid does not"),
        ("acl a", ":2: acl: a name and a type are missing"),
        ("acl a src all\nacl A port 80", ":3: acl: A is of type src already"),
        ("acl p port 30-20\nhttp_access allow p", ":2: acl: 30-20: no ports; squid does not start"),
        ("acl t time 22:00-06:00\nhttp_access deny t", ":2: acl: 22:00-06:00: no time of the day"),
        ("acl u proxy_auth REQUIRED\nhttp_access allow u", ":2: acl: there is no auth_param"),
        ("http_port x", ":2: http_port: 'x' is no port"),
        ("if 1\nendif", ":2: if 1: allowed: true, false, NUMBER = NUMBER"),
        ("endif", ":2: endif without if"),
        ("if true", ": if without endif"),
        ("include /nowhere/*.conf", ":2: include: /nowhere/*.conf: there is no such file"),
        ("forwarded_for maybe", ":2: forwarded_for: 'maybe': squid does not start with it"),
        ("cache_peer p.example parent", ":2: cache_peer: not HOST parent PORT PORT"),
    ],
)
def test_what_squid_does_not_start_with(tmp_path: Path, lines: str, problem: str) -> None:
    first = "# a comment" if "http_port" in lines else "http_port 3128"
    assert f"squid.conf{problem}" in refused(tmp_path, f"{first}\n{lines}\nhttp_port 3129\n")


def test_there_is_a_port(tmp_path: Path) -> None:
    (tmp_path / "squid.conf").write_text("http_access allow all\n")
    with pytest.raises(squid.Refused, match="there is no http_port"):
        squid.convert(str(tmp_path / "squid.conf"))
    found = Result(tmp_path, "http_port 3129 intercept\nhttp_access allow all\n")
    assert "see redirect\\+tcp:// in listen".replace("\\", "") in found.missing[0]
    assert found.rules[0]["id"] == "not-converted"


def test_peers(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        """\
cache_peer p.example parent 3128 0 no-query default
cache_peer 192.0.2.1 parent 8080 0 no-query name=second ssl login=u:p max-conn=9
acl local dstdomain .corp.example
acl bad port 25
cache_peer_access second deny bad
always_direct allow local
never_direct allow all
http_access allow all
""",
    )
    assert found.table["parent"] == {
        "p.example": {"url": "http://p.example:3128"},
        "second": {"url": "https://192.0.2.1:8080", "max-connections": 9},
    }
    assert found.table["route"] == [
        {"to": "direct", "hosts": [".corp.example"]},
        {"to": "p.example", "ports": [25]},
        {"to": ["p.example", "second"]},
    ]
    (missing,) = found.missing
    assert (
        "put USER:PASSWORD into a file, and its name as auth-file into [parent.second]" in missing
    )
    found = Result(
        tmp_path, "cache_peer p.example parent 8080 0 login=u:p\nhttp_access allow all\n"
    )
    assert 'auth-file into [parent."p.example"]; until' in found.missing[0]


def test_too_many_connections(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        "acl many maxconn 20\nacl lan src 10.0.0.0/8\nacl web port 443\nacl b browser x\n"
        "http_access deny lan many !web\nhttp_access deny many b\nhttp_access allow !many\n"
        "http_access deny all\n",
    )
    assert found.table["limit"] == [
        {
            "id": "squid-6",
            "by": "client",
            "prefix6": 128,
            "clients": ["10.0.0.0/8"],
            "not-ports": [443],
            "connections": 20,
        }
    ]
    assert [rule["id"] for rule in found.rules] == ["not-converted-squid-7", "squid-9"]


def test_from_which_address(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        "acl g dstdomain .good.example\nacl lan src 10.0.0.0/8\n"
        "tcp_outgoing_address 192.0.2.7 g\nhttp_access allow all\n",
    )
    assert found.table["route"] == [
        {"to": "direct", "hosts": [".good.example"], "source-address": "192.0.2.7"}
    ]
    found = Result(
        tmp_path,
        "acl lan src 10.0.0.0/8\ntcp_outgoing_address 192.0.2.7 lan\nhttp_access allow all\n",
    )
    assert found.table["route"] == [{"to": "refuse"}]
    assert "a route cannot say clients: a route to refuse stands for it" in found.missing[0]


def test_pages(tmp_path: Path) -> None:
    found = Result(
        tmp_path,
        "error_directory {folder}\nacl b dstdomain .bad.example\nacl c dstdomain .worse.example\n"
        "acl d dstdomain .worst.example\ndeny_info 451:ERR_OURS b\ndeny_info http://go.example/ c\n"
        "http_access deny all b\nhttp_access deny c\nhttp_access deny d\nhttp_access allow all\n",
        ERR_OURS="<html><title>Ask  the team\n in #egress</title>",
    )
    assert [(rule.get("status"), rule.get("reason")) for rule in found.rules] == [
        (451, "Ask the team in #egress"),
        (None, None),
        (None, None),
        (None, None),
    ]
    assert found.missing == []


def test_the_log(tmp_path: Path) -> None:
    text = "logformat ours %ts %>a\naccess_log stdio:{folder}/log ours\nhttp_access allow all\n"
    found = Result(tmp_path, text)
    assert found.table["access-log"] == f"{tmp_path}/log"
    assert found.table["log-format"] == "%ts %>a"
    found = Result(tmp_path, "access_log none\nhttp_access allow all\n")
    assert found.table["access-log"] == "off"
    found = Result(tmp_path, "access_log daemon:/nowhere/log squid\nhttp_access allow all\n")
    assert "access-log" not in found.table
    assert any("left out: access-log /nowhere/log" in note for note in found.notes)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "any.name"
    source.write_text("http_port 3128\nacl b browser x\nhttp_access deny b\n")
    assert cli.main(["import", str(source)]) == 1
    printed = capsys.readouterr()
    assert "[[rule]]" in printed.out
    assert f"{source}:3: http_access: not converted" in printed.err
    source.write_text("http_port 3128\nhttp_access allow nobody\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["import", str(source)])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")


# ---- the parts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("192.168.1.77/24", "192.168.1.0/24"),
        ("172.16.0.0/255.240.0.0", "172.16.0.0/12"),
        ("10.0.0.1-10.0.0.4", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/32"),
        ("10.0.1.0-10.0.3.0/24", "10.0.1.0/24 10.0.2.0/23"),
        ("fd00::/8", "fd00::/8"),
        ("all", "0.0.0.0/0 ::/0"),
        ("0.0.0.0/0", "0.0.0.0/0 ::/0"),
    ],
)
def test_networks(value: str, networks: str) -> None:
    assert addresses.networks(value) == (tuple(networks.split()), False)


@pytest.mark.parametrize("value", ["10", "10/8", "10.0.0.9-10.0.0.1", "10.0.0.0/33", "a/b", "x-y"])
def test_no_networks(value: str) -> None:
    with pytest.raises(ValueError, match=r"no |ends"):
        addresses.networks(value)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("10.0.0.0/8 10.1.2.3 192.0.2.1 fd00::/8", ""),
        ("all 10.0.0.0/8 ::/0", ""),
        ("10.1.2.3 192.0.2.1 10.0.0.0/8", "10.0.0.0/8 holds what stands before it"),
        ("10.0.0.1-10.0.0.9 10.0.0.5-10.0.0.12", "10.0.0.5-10.0.0.12 holds"),
        ("10.1.2.3 all", "all holds"),
    ],
)
def test_what_squid_keeps_of_networks(values: str, fault: str) -> None:
    kept = addresses.Kept()
    found = ""
    for value in values.split():
        try:
            kept.add(value, addresses.networks(value)[0])
        except ValueError as error:
            found = str(error)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        (".Good.example", ".good.example"),
        ("good.example", "good.example"),
        ("*.good.example", ""),
        ("good.example,", ""),
        (".good.example.", ""),
        ("https://good.example", ""),
        ("good.example:443", ""),
        ("10.0.0.0/8", ""),
        ("192.0.2.1", "192.0.2.1"),
        ("[::1]", "::1"),
        ("::1", ""),
    ],
)
def test_hosts(value: str, pattern: str) -> None:
    assert hosts.pattern(value) == pattern


@pytest.mark.parametrize(
    ("words", "periods"),
    [
        ("09:00-18:00", ["09:00-18:01"]),
        ("MTWHF 09:00-18:00", ["Mon,Tue,Wed,Thu,Fri 09:00-18:01"]),
        ("D", ["Mon,Tue,Wed,Thu,Fri"]),
        ("A S 00:00-24:00", ["Sat,Sun"]),
        ("M 08:00-09:00 10:00-11:00", ["Mon 08:00-09:01", "10:00-11:01"]),
        ("00:00-23:59", ["Mon,Tue,Wed,Thu,Fri,Sat,Sun"]),
    ],
)
def test_times(words: str, periods: list[str]) -> None:
    assert times.periods(words.split()) == periods


@pytest.mark.parametrize(
    ("pattern", "tunnel", "plain"),
    [
        ("^http://a\\.example/", "none", "hosts"),
        ("^https?://([^/]*\\.)?a\\.example(/|$)", "none", "hosts"),
        ("^http://a\\.example", "none", "hosts"),
        ("^https://a\\.example", "none", "none"),
        ("a\\.example", "hosts", "unknown"),
        ("\\.a\\.example.*", "hosts", "unknown"),
        ("a.example$", "none", "unknown"),
        ("^a\\.example", "hosts", "none"),
        ("(a|b)\\.example", "hosts", "unknown"),
        ("a\\.example$|b", "unknown", "unknown"),
        ("^http://a.example/", "none", "unknown"),
        ("^http://.*\\.example/", "none", "unknown"),
        ("^http://a\\.example/$", "none", "unknown"),
        ("^http://a\\.example/x", "none", "unknown"),
        ("^http://a\\.example|b\\.example", "unknown", "unknown"),
        ("443", "unknown", "unknown"),
        ("example:443", "unknown", "unknown"),
        ("[0-9]+", "unknown", "unknown"),
        ("\\[", "unknown", "unknown"),
        ("(", "unknown", "unknown"),
    ],
)
def test_expressions(pattern: str, tunnel: str, plain: str) -> None:
    """What each part of ``url_regex`` comes to: hosts, nothing, or not known."""
    found = regexes.in_urls([Expression(pattern, False)])

    def kind(terms_: list[terms.Term]) -> str:
        if any(term.opaque for term in terms_):
            return "unknown"
        return "hosts" if terms_ else "none"

    assert kind([term for term in found.yes if "methods" in term.values]) == tunnel
    assert kind([term for term in found.yes if "methods" in term.excepted]) == plain


def test_each_directive_is_known_once() -> None:
    tables = (_TAKERS, directives.CLOSING, directives.MISSING, directives.UNNEEDED, _PREPARED)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names)) + 1  # append_domain is read twice
