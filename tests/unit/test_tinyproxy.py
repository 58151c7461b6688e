"""tinyproxy.conf to settings: what they mean stays the same, or is listed as missing."""

from __future__ import annotations

import ctypes
import ipaddress
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.apache import HtpasswdFile

from spliceproxy.cli import main as cli
from spliceproxy.config import Address, Config
from spliceproxy.policy.clients import ClientNetworks
from spliceproxy.policy.routes import RouteTable
from spliceproxy.policy.rules import RuleSet
from spliceproxy.settings import posix, tinyproxy
from spliceproxy.settings.loading import load
from spliceproxy.settings.tinyproxy import converting, reading

try:
    import tomllib
except ImportError:
    import tomli as tomllib


class Result:
    """``config``, and ``missing`` and ``notes`` without the file's name."""

    def __init__(self, folder: Path, text: str) -> None:
        source = folder / "tinyproxy.conf"
        source.write_text(text if re.search("(?im)^port ", text) else f"{text}\nPort 8888\n")
        found = tinyproxy.convert(str(source))
        target = folder / "proxy.toml"
        target.write_text(found.toml)
        self.text = found.toml
        self.table: dict[str, Any] = tomllib.loads(found.toml)
        self.config: Config = load({}, str(target), {}, start=False)[0]
        self.missing = [line.replace(f"{source}:", "") for line in found.missing]
        self.notes = [line.replace(f"{source}:", "") for line in found.notes]

    @property
    def closed(self) -> bool:
        """Whether a rule denies everything, and a comment says why."""
        first = [one for one in self.table.get("rule", []) if one["action"] == "deny"][-1:]
        denies = first == [{"id": tinyproxy.CLOSED, "action": "deny"}]
        hosts = ("a.example", "127.0.0.1", "2001:db8::1")
        assert not (denies and any(map(self.allows, hosts)))
        assert denies == ("# Denies everything, because of\n#   " in self.text)
        return denies

    def allows(self, host: str, port: int = 443, method: str = "CONNECT") -> bool:
        """What the rules say."""
        policy = self.config.policy
        rules = RuleSet(policy.rules, policy.default)
        return rules.select(0, "", frozenset(), method, host, port).match("192.0.2.1").allow


def filtered(folder: Path, lines: str, directives: str = "") -> Result:
    (folder / "filter").write_text(lines)
    return Result(folder, f'Filter "{folder}/filter"\n{directives}')


def test_every_directive_that_has_a_setting(tmp_path: Path) -> None:
    result = Result(
        tmp_path,
        f"""\
# a comment
port 3128

Listen 127.0.0.1
Listen ::1
Timeout 600
LogFile "{tmp_path}/log"
LogLevel Connect
MaxClients 100
ViaProxyName "tiny"
BasicAuthRealm "the realm"
BasicAuth ada secret
""",
    )
    assert result.missing == []
    assert result.table == {
        "listen": ["127.0.0.1:3128", "[::1]:3128"],
        "max-connections": 100,
        "auth": "ada:secret",
        "auth-realm": "the realm",
        "via": "tiny",
        "timeout-idle": 600,
        "access-log": f"{tmp_path}/log",
        "log-level": "info",
    }
    assert result.config.listen == (Address("127.0.0.1", 3128), Address("::1", 3128))
    assert result.config.auth.user == ("ada", "secret")


@pytest.mark.parametrize(
    ("text", "via"),
    [
        ('ViaProxyName "a"\nDisableViaHeader Yes', ""),
        ('DisableViaHeader on\nViaProxyName "a"', ""),
        ('DisableViaHeader No\nViaProxyName "a"', "a"),
    ],
)
def test_via(tmp_path: Path, text: str, via: str) -> None:
    assert Result(tmp_path, text).config.via == via


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            'Upstream http u:p@10.0.0.1:8080 "a.example"',
            "Upstream: not converted: put its user and password into a file",
        ),
        ('AddHeader "X" "Y"', "AddHeader: not converted: no fields are added"),
        ("Bind 192.0.2.1", "Bind: not converted: the kernel chooses"),
        ("XTinyproxy Yes", 'XTinyproxy: not converted: forwarded-for = "on" tells'),
        ('ViaProxyName "a b"', "ViaProxyName: not converted: via: invalid value 'a b'"),
        ("Allow example.com", "Allow: not converted: example.com: clients are known by"),
        ("Deny .example.com", "Deny: not converted: .example.com: clients are known by"),
        ('Filter "/nonexistent"', "Filter: not converted: /nonexistent: cannot read it (No such"),
        ("MaxClients 0", "MaxClients: not converted: with 0 tinyproxy serves nobody"),
    ],
)
def test_what_cannot_be_converted_is_listed_by_line(
    tmp_path: Path, line: str, problem: str
) -> None:
    result = Result(tmp_path, f"\n# a comment\n{line}\n")
    (found,) = result.missing
    assert found.startswith(f"3: {problem}")


def test_a_second_user_is_missing(tmp_path: Path) -> None:
    result = Result(tmp_path, "BasicAuth ada secret\nBasicAuth bob hidden")
    assert result.config.auth.user == ("ada", "secret")
    assert result.missing == [
        "2: BasicAuth: not converted: auth has one user; lines for all users, bob among them, are "
        "in the output, for a file of htpasswd"
    ]
    lines = [line[4:] for line in result.text.splitlines() if line.startswith("#   ")]
    (tmp_path / "users").write_text("\n".join(lines))
    users = HtpasswdFile(str(tmp_path / "users"))
    assert users.users() == ["ada", "bob"]
    assert users.check_password("ada", "secret")
    assert users.check_password("bob", "hidden")


REFUSED = [
    (
        "FilterDefaultDeny True",
        "FilterDefaultDeny: 'True': tinyproxy does not start with it; allow",
    ),
    (
        "FilterURLs 1",
        "FilterURLs: '1': tinyproxy does not start with it; allowed: yes, on, no or o",
    ),
    ("FilterURLs Yes # why", "FilterURLs: 'Yes # why': tinyproxy does not start with it"),
    ("FilterURLs Yes\r", "FilterURLs: 'Yes\\r': tinyproxy does not start with it"),
    ("Prot 8888", "Prot: unknown to tinyproxy.conf(5); did you mean port?"),
    ("Port 99999", "Port: '99999' is not a port; tinyproxy does not start with it"),
    ("Port 0", "Port: '0' is not a port"),
    ("Port", "Port: '': tinyproxy does not start with it; allowed: a number"),
    ("Listen localhost", "Listen: 'localhost': tinyproxy does not start with it; allowed: an IP"),
    ("Timeout soon", "Timeout: 'soon': tinyproxy does not start with it; allowed: a number"),
    ("LogLevel loud", "LogLevel: 'loud': tinyproxy does not start with it; allowed: Critical, E"),
    ("LogFile /tmp/log", "LogFile: '/tmp/log': tinyproxy does not start with it; allowed: text b"),
    ("BasicAuth ada", "BasicAuth: tinyproxy does not start with it; allowed: a user and a passwo"),
    ("Allow 10.0.0.0/255.0.0.0", "Allow: '10.0.0.0/255.0.0.0': tinyproxy does not start with it"),
    ("ConnectPort https", "ConnectPort: 'https': tinyproxy does not start with it"),
    ("FilterType pcre", "FilterType: 'pcre': tinyproxy does not start with it; allowed: bre, ere"),
    ("Upstream http host", "Upstream: tinyproxy does not start with it; allowed: http, socks4 or"),
    ("# " + "x" * 2050, "it has more than 2047 bytes, and tinyproxy would cut it in two there"),
]


@pytest.mark.parametrize(("line", "problem"), REFUSED, ids=[line[:30] for line, _ in REFUSED])
def test_what_tinyproxy_does_not_start_with_is_an_error(
    tmp_path: Path, line: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "tinyproxy.conf"
    source.write_text(f"Port 8888\nAllow 127.0.0.1\n{line}\n", newline="\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["import", str(source)])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"spliceproxy import: {source}:3: {problem}")
    assert err.count("\n") == 1
    program = shutil.which("tinyproxy")
    if program:
        ended = subprocess.run([program, "-d", "-c", source], capture_output=True, timeout=20)
        assert ended.returncode != 0


@pytest.mark.parametrize("text", ["", "Allow 127.0.0.1\nMaxClients 10\n"])
def test_a_file_without_a_port_is_an_error(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """tinyproxy: "You MUST set a Port in the config file"."""
    source = tmp_path / "tinyproxy.conf"
    source.write_text(text)
    with pytest.raises(SystemExit) as caught:
        cli.main(["import", str(source)])
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    why = "there is no Port, and tinyproxy does not start without one"
    assert err == f"spliceproxy import: {source}: {why}\n"
    program = shutil.which("tinyproxy")
    if program:
        ended = subprocess.run([program, "-d", "-c", source], capture_output=True, timeout=20)
        assert ended.returncode != 0


def test_a_foreign_file_is_told_in_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("frontend x\n" * 100)
    with pytest.raises(tinyproxy.Refused) as caught:
        tinyproxy.convert(str(tmp_path / "conf"))
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 80 more"


@pytest.mark.parametrize(
    "text",
    [
        "MaxClients 0",
        "MaxClients 4294967296",
        "Deny .example.com\nAllow 10.0.0.0/8",
        "Deny host.example.com\nDeny 10.0.0.1\nAllow localhost",
        'Upstream http 10.0.0.1:8080 "10.0.0.0/8"',
        'Upstream none "10.0.0.0/8"\nUpstream socks4 10.0.0.1:1080',
        'Upstream http 0.0.0.0:0 "10.0.0.0/255.0.0.0"',
        'Upstream http 0.0.0.0:0 "."',
        'Filter "/nonexistent"',
        'Filter "{filter}"\nFilterURLs Yes',
        'Filter "{filter}"\nFilterURLs Yes\nFilterURLs No',
        'Filter "{filter}"\nFilterURLs Yes\nFilterDefaultDeny Yes',
        'Filter "{odd}"',
        'Filter "{filter}"\nFilterType ERE',
        'ReversePath "/x/" "http://x.example/"\nReverseOnly Yes',
        f"BasicAuth {'a' * 200} {'b' * 57}",
    ],
)
def test_what_restricts_and_cannot_be_converted_closes(tmp_path: Path, text: str) -> None:
    (tmp_path / "filter").write_text("ads\n")
    (tmp_path / "odd").write_text("caf\xe9\n", encoding="latin-1")
    result = Result(tmp_path, text.format(filter=tmp_path / "filter", odd=tmp_path / "odd"))
    assert result.closed
    assert any("rule not-converted denies everything" in line for line in result.missing)


@pytest.mark.parametrize(
    "text",
    [
        "MaxClients 0\nMaxClients 9",
        "Allow 10.0.0.0/8\nDeny .example.com",
        "Deny .example.com\nAllow host.example.com",
        "Upstream http 0.0.0.0:0",
        'Upstream none "a.example"\nno upstream "b.example"',
        'ReversePath "/x/" "http://x.example/"\nReverseOnly Yes\nReverseOnly No',
        "ReverseOnly Yes",
        f"BasicAuth {'a' * 200} {'b' * 57}\nBasicAuth ada secret",
        "FilterURLs Yes\nFilterDefaultDeny Yes",
        'Filter "{filter}"',
    ],
)
def test_what_restricts_nothing_does_not_close(tmp_path: Path, text: str) -> None:
    (tmp_path / "filter").write_bytes(b"ads\n# caf\xe9\nbad\\.example # \xff\n")
    assert not Result(tmp_path, text.format(filter=tmp_path / "filter")).closed


def test_null_routes_are_denied(tmp_path: Path) -> None:
    sites = ["127.0.0.0/8", "10.0.0/8", "::/96", ".internal", "localhost", "Ads.example"]
    result = Result(tmp_path, "\n".join(f'upstream http 0.0.0.0:0 "{site}"' for site in sites))
    assert result.missing == []
    assert not result.closed
    denied = {"127.0.0.1", "10.1.1.1", "::1", "a.internal", "localhost", "ads.example"}
    allowed = {"11.0.0.1", "1::1", "internal", "a.localhost", "x.ads.example"}
    rules = RuleSet(result.config.policy.rules, result.config.policy.default)
    for host in denied | allowed:
        address = host if host[-1].isdigit() else "192.0.2.1"
        match = rules.select(0, "", frozenset(), "GET", host, 80).match(address)
        assert match.allow == (host in allowed), host


@pytest.mark.parametrize(
    ("lines", "table"),
    [
        ("Upstream http 10.0.0.1:8080", {"proxy": "http://10.0.0.1:8080"}),
        ("Upstream parent.example:8080", {"proxy": "http://parent.example:8080"}),
        (
            'Upstream socks5 u:p@10.0.0.1:1080\nUpstream none "192.168.0.0/16"\n'
            'Upstream none ".corp.example"\nUpstream http 10.0.0.1:9',
            {
                "proxy": "socks5h://10.0.0.1:1080",
                "proxy-auth": "u:p",
                "no-proxy": "192.168.0.0/16",
                "route": [{"to": "direct", "hosts": ["*.corp.example"]}],
            },
        ),
        (
            'Upstream http a.example:80 ".example"\nUpstream socks4 10.0.0.1:1080\n'
            'Upstream none "x.example"\nUpstream http b.example:80 "."',
            {
                "route": [
                    {"to": "b.example-80", "hosts": ["/[^.]+/"]},
                    {"to": "direct", "hosts": ["x.example"]},
                    {"to": "a.example-80", "hosts": ["*.example"]},
                    {"to": "10.0.0.1-1080"},
                ],
                "parent": {
                    "a.example-80": {"url": "http://a.example:80"},
                    "b.example-80": {"url": "http://b.example:80"},
                    "10.0.0.1-1080": {"url": "socks4a://10.0.0.1:1080", "connect-by": "address"},
                },
            },
        ),
        ('Upstream none "a.example"', {}),
    ],
)
def test_parents(tmp_path: Path, lines: str, table: dict[str, Any]) -> None:
    result = Result(tmp_path, lines)
    assert (result.missing, result.closed) == ([], False)
    assert {key: value for key, value in result.table.items() if key != "listen"} == table


def test_the_last_upstream_is_taken(tmp_path: Path) -> None:
    result = Result(
        tmp_path,
        'Upstream http a.example:80 ".x.example"\nUpstream http b.example:80 "y.x.example"\n'
        "Upstream http c.example:80",
    )
    routes = RouteTable(result.config.routing.all_routes)
    found = {
        host: routes.find(host, 443, "", tunnel=True).route.to[0]  # type: ignore[union-attr]
        for host in ("y.x.example", "z.x.example", "x.example")
    }
    assert found == {
        "y.x.example": "b.example-80",
        "z.x.example": "a.example-80",
        "x.example": "proxy",
    }


def test_every_directive_is_taken_or_explained() -> None:
    known = {*converting._TAKERS, *converting._NOT_NEEDED, *converting._UNKNOWN_HERE}
    known |= {name for name in reading._ARGUMENTS if name.startswith("filter")}
    assert set(reading._ARGUMENTS) == known


def test_pages_and_what_is_off_are_only_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "tinyproxy.conf"
    source.write_text(
        'Port 8888\nDefaultErrorFile "/x"\nErrorFile 404 "/x"\nStatFile "/x"\nStatHost "x.y"\n'
        'LogFile "/nonexistent/log"\nXTinyproxy No\nBindSame No\nReverseMagic No\n'
        'Upstream none "x"\nTimeout 0\nSyslog On\n'
    )
    status, out, _ = run([str(source)], capsys)
    assert (status, tomllib.loads(out)) == (0, {"listen": [":8888"], "timeout-idle": 600})


def test_what_needs_no_setting_is_only_noted(tmp_path: Path) -> None:
    result = Result(tmp_path, 'User nobody\nPidFile "/x"\nStartServers 10\nSyslog On')
    assert result.missing == []
    assert [note.partition(": not needed: ")[0] for note in result.notes[:4]] == [
        "1: User",
        "2: PidFile",
        "3: StartServers",
        "4: Syslog",
    ]


# Clients


def test_without_allow_and_deny_the_default_stays_and_is_noted(tmp_path: Path) -> None:
    result = Result(tmp_path, "Port 1")
    assert result.config.policy.clients is None
    assert any("without Allow and Deny" in note for note in result.notes)


def test_only_deny_is_nobody(tmp_path: Path) -> None:
    assert Result(tmp_path, "Deny 10.0.0.1").config.policy.clients == ()


NETWORKS = st.builds(
    lambda number, length: ipaddress.ip_network((number, length), strict=False),
    st.integers(0, 255).map(lambda last: (10 << 24) + last),
    st.integers(24, 32),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), NETWORKS), max_size=6))
def test_the_first_of_allow_and_deny_decides(
    controls: list[tuple[bool, ipaddress.IPv4Network]],
) -> None:
    found = tinyproxy.permitted(controls)
    for address in ipaddress.ip_network("10.0.0.0/24"):
        first = next((allow for allow, network in controls if address in network), False)
        assert any(address in network for network in found) == first


@pytest.mark.parametrize(
    ("text", "allowed", "denied"),
    [
        # tinyproxy keeps 10.0.0.1 as ::ffff:10.0.0.1, and so is ::/0 about all clients.
        ("Deny ::/0\nAllow 10.0.0.0/8", "", "10.0.0.1 ::1 127.0.0.1"),
        ("Allow ::/0", "10.0.0.1 ::1", ""),
        ("Deny ::/1\nAllow ::/0\nAllow 0.0.0.0/0", "8000::1", "10.0.0.1 ::1"),
        ("Deny ::ffff:10.0.0.0/104\nAllow 0.0.0.0/0", "11.0.0.1", "10.0.0.1 ::1"),
        ("Allow ::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("Deny 10.0.0.1\nAllow ::/0", "10.0.0.2 ::1", "10.0.0.1"),
        ("Deny ::/96\nAllow ::/0", "10.0.0.1 1::1", "::1"),
        ("Allow 127.1", "127.0.0.1", "127.1.0.1"),
        ("Allow 10/8", "0.0.0.10", "10.0.0.1"),
        ("Deny 10.0.0.0/33\nAllow 10.0.0.0/8", "10.0.0.1", ""),
        ("Allow localhost", "127.0.0.1", "127.0.0.2 10.0.0.1"),
        ("Deny localhost\nAllow 127.0.0.0/8\nAllow 10.0.0.0/8", "10.0.0.1", "127.0.0.1"),
        ("Allow 10.0.0.1\nDeny 10.0.0.1", "10.0.0.1", ""),
    ],
)
def test_clients(tmp_path: Path, text: str, allowed: str, denied: str) -> None:
    found = Result(tmp_path, text).config.policy.clients
    assert found is not None
    admitted = ClientNetworks(found).admit
    wanted = {**dict.fromkeys(allowed.split(), True), **dict.fromkeys(denied.split(), False)}
    assert {client: admitted(client) for client in wanted} == wanted


def test_ipv6_and_masks(tmp_path: Path) -> None:
    text = "Deny 2001:db8::1\nAllow 2001:db8::/126\nAllow 10.1.2.3/16\nAllow 10.1.0.0/24"
    assert Result(tmp_path, text).config.policy.clients == (
        "10.1.0.0/16",
        "2001:db8::/128",
        "2001:db8::2/127",
    )


# Rules


@pytest.mark.parametrize(
    ("lines", "allowed", "denied"),
    [
        ("ConnectPort 443\nConnectPort 563", {443, 563}, {1, 442, 444, 562, 564, 65535}),
        ("ConnectPort 1\nConnectPort 65535", {1, 65535}, {2, 65534}),
        ("ConnectPort 0", set(), {1, 443, 65535}),
        ("", {1, 443, 65535}, set()),
    ],
)
def test_connect_ports(tmp_path: Path, lines: str, allowed: set[int], denied: set[int]) -> None:
    result = Result(tmp_path, lines)
    assert result.missing == []
    assert {port for port in allowed | denied if result.allows("a.example", port)} == allowed
    assert all(result.allows("a.example", port, "GET") for port in denied)


def test_a_filter_denies(tmp_path: Path) -> None:
    lines = "# comment\n\nads\n^exact\\.example$   # why\n.*\\.cnn\\.com$\n\\.below\\.example$"
    result = filtered(tmp_path, lines)
    assert result.missing == []
    assert result.table["rule"] == [
        {
            "id": "filter",
            "action": "deny",
            "hosts": ["/.*(?:ads).*/", "exact.example", "*.cnn.com", "*.below.example"],
        }
    ]
    hosts = "badsite.example exact.example cnn.com www.cnn.com an.exact.example below.example"
    assert {host for host in hosts.split() if not result.allows(host)} == {
        "badsite.example",
        "exact.example",
        "www.cnn.com",
    }


def test_a_filter_allows(tmp_path: Path) -> None:
    lines = "(^|\\.)example\\.com$\nwiki(pedia|media)\\.org"
    directives = "FilterType ere\nFilterDefaultDeny Yes\nConnectPort 443"
    result = filtered(tmp_path, lines, directives)
    assert result.missing == []
    hosts = "example.com www.example.com anexample.com en.wikipedia.org wikipediaXorg"
    assert [host for host in hosts.split() if result.allows(host)] == [
        "example.com",
        "www.example.com",
        "en.wikipedia.org",
    ]
    assert not result.allows("example.com", 80)


def test_shell_patterns(tmp_path: Path) -> None:
    result = filtered(tmp_path, "*.example.com\nexact.example\nad[0-9].*\n", "FilterType fnmatch")
    assert result.config.policy.rules[0].hosts == (
        "*.example.com",
        "exact.example",
        r"/ad[0-9]\..*/",
    )


@pytest.mark.parametrize("directive", ["FilterURLs On", "FilterType fnmatch\nFilterURLs Yes"])
def test_an_allowlist_that_is_left_out_allows_nothing(tmp_path: Path, directive: str) -> None:
    result = filtered(tmp_path, "example\\.com", f"{directive}\nFilterDefaultDeny On")
    (line,) = result.missing
    assert "FilterURLs: not converted: rules look at hosts, not at URLs" in line
    assert not result.allows("example.com")


def test_switches_are_never_taken_back(tmp_path: Path) -> None:
    directives = "FilterDefaultDeny Yes\nFilterDefaultDeny No\nFilterExtended Yes\nFilterType bre"
    result = filtered(tmp_path, "^(a|b)\\.example$", directives)
    hosts = "a.example c.example (a|b).example"
    assert [host for host in hosts.split() if result.allows(host)] == ["a.example"]


def test_two_repetitions_in_a_row(tmp_path: Path) -> None:
    result = filtered(tmp_path, "^a+?$\n^b*+c$\n^dd?+e$", "FilterType ere")
    assert result.missing == []
    hosts = "aa bbc c ddde de a b"
    assert "".join(one for one in hosts.split() if result.allows(one)) == "b"


@pytest.mark.parametrize("directive", ["", "FilterDefaultDeny Yes"])
def test_shell_patterns_that_are_no_hosts_of_a_rule(tmp_path: Path, directive: str) -> None:
    lines = (
        "http://a.example\na.example:443\n*.1\n*.127.0.0.1\n*.\n*\na_b.example\n-\n.example.com\n"
        "A.example\n10.0.0.08\n::1\n[::1]\n*.a..b\na*.b\n\\*.b\n/x/\n" + "x" * 64 + ".example\n"
    )
    result = filtered(tmp_path, lines, f"FilterType fnmatch\n{directive}")  # it is loaded
    assert result.allows("a.example") == bool(directive)  # "*" is there


def test_where_the_case_counts(tmp_path: Path) -> None:
    lines = "Abc\n[^d]e\n[^0-9]f\n"
    denies = filtered(tmp_path, lines, "FilterCaseSensitive Yes")
    assert denies.closed
    assert len(denies.missing) == 1
    allows = filtered(tmp_path, lines, "FilterCaseSensitive Yes\nFilterDefaultDeny Yes")
    assert [one for one in ("abc", "ae", "de", "1f", "af") if allows.allows(one)] == ["ae", "af"]


def test_loose_patterns_of_an_allowlist_are_noted(tmp_path: Path) -> None:
    lines = "example\\.com\n^a\\.example$\nb\\.example"
    result = filtered(tmp_path, lines, "FilterDefaultDeny Yes")
    assert result.missing == []
    assert result.allows("example.com.evil.net")
    assert result.notes[-1] == (
        f"{tmp_path}/filter:1: 'example\\\\.com' (and 1 more like it) does not end with $, so it "
        "allows names that go on, such as example.com.evil.net for example.com"
    )
    assert len(filtered(tmp_path, lines).notes) == len(result.notes) - 1


def test_bad_lines_of_a_filter_are_listed(tmp_path: Path) -> None:
    result = filtered(tmp_path, "fine\n[[.a.]]\nx\\{2,1\\}\n[+--]\n")
    assert [line.partition(": not converted: ")[0] for line in result.missing] == [
        f"{tmp_path}/filter:2",
        f"{tmp_path}/filter:3",
        f"{tmp_path}/filter:4",
    ]
    assert result.config.policy.rules[0].hosts == ("/.*(?:fine).*/",)
    assert result.closed  # what was to be denied may be anything


PATTERNS = [
    *("a.c", "a\\.c", "a*c", "^a", "c$", "[abc]d", "[^abc]d", "[]a]c", "[^]a]c", "[a-c]+"),
    *("a\\{2\\}", "a{2}", "\\(ab\\)*c", "(ab)*c", "a\\|c", "a|c", "a+", "a\\+", "a?c", "a\\?c"),
    *("[[:digit:]]\\.", "[^[:alpha:]-]", "[a\\.]x", "\\<b", "\\w\\.", "\\(a\\)\\1", "(a)\\1"),
    *("^(a|b)c$", "^\\(a\\|b\\)c$", "[a[]c", "a\\-c", "[[:punct:]]c", "[&&~~||-]c"),
]
TEXTS = [
    *("a.c", "abc", "ac", "c", "ad", "dd", "]c", "aa", "a{2}", "ababc", "(ab)c", "a|c", "a+"),
    *("a+c", "1.2", "a-1", ".x", "\\x", "a.b", "bb", "bc", "(a)1", "[c", "a-c", "a?c", "-c", "&c"),
]


@pytest.mark.skipif(shutil.which("grep") is None, reason="needs grep")
@pytest.mark.parametrize("extended", [False, True])
def test_regular_expressions_mean_what_they_mean_to_grep(extended: bool) -> None:
    for pattern in PATTERNS:
        grep = subprocess.run(
            ["grep", "-E" if extended else "-G", "-e", pattern],
            input="\n".join(TEXTS),
            capture_output=True,
            text=True,
            timeout=60,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            check=False,
        )
        try:
            translated = posix.from_regex(pattern, extended=extended)
        except ValueError:
            assert grep.returncode == 2, pattern
            continue
        assert [t for t in TEXTS if re.search(translated, t)] == grep.stdout.splitlines(), pattern


def test_shell_patterns_mean_what_they_mean_to_fnmatch() -> None:
    fnmatch = ctypes.CDLL(None).fnmatch
    for pattern in ("*.c", "a?c", "[ab]*", "[!a]*", "[^a]*", "[]a]*", "[a^]*", "a\\*", "[", "a.c"):
        translated = posix.from_glob(pattern)
        for text in ("a.c", ".c", "abc", "ac", "b", "]x", "^x", "a*", "[", ""):
            wanted = fnmatch(pattern.encode(), text.encode(), 0) == 0
            assert bool(re.fullmatch(translated, text)) == wanted, (pattern, text)


# The command


def run(args: Iterable[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["import", *args])
    return status, *capsys.readouterr()


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "tinyproxy.conf"
    source.write_text("Port 1234\nUser nobody\n")
    status, out, err = run([str(source)], capsys)
    assert (status, tomllib.loads(out)) == (0, {"listen": [":1234"]})
    assert f"{source}:2: User: not needed: " in err
    source.write_text("Port 1234\nBind 192.0.2.1\n")
    status, out, err = run([str(source)], capsys)
    assert (status, tomllib.loads(out)) == (1, {"listen": [":1234"]})
    assert err.endswith(f"{source}:2: Bind: not converted: the kernel chooses the source address\n")


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_import_of_what_cannot_be_read(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "tinyproxy.conf"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["import", str(source)])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    if content is None:
        assert err.startswith(f"spliceproxy import: {source}: cannot read it (")
    else:
        assert err == f"spliceproxy import: {source}:1: \\xff: unknown to tinyproxy.conf(5)\n"
