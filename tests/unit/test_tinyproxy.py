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

from spliceproxy import cli
from spliceproxy.config import Address, Config
from spliceproxy.policy.rules import RuleSet
from spliceproxy.settings import posix, tinyproxy
from spliceproxy.settings.loading import load

try:
    import tomllib
except ImportError:
    import tomli as tomllib


class Result:
    """``config``, and ``missing`` and ``notes`` without the file's name."""

    def __init__(self, folder: Path, text: str) -> None:
        source = folder / "tinyproxy.conf"
        source.write_text(text)
        found = tinyproxy.convert(str(source))
        target = folder / "proxy.toml"
        target.write_text(found.toml)
        self.table: dict[str, Any] = tomllib.loads(found.toml)
        self.config: Config = load({}, str(target), {}, start=False)[0]
        self.missing = [line.replace(f"{source}:", "") for line in found.missing]
        self.notes = [line.replace(f"{source}:", "") for line in found.notes]

    def allows(self, host: str, port: int = 443, method: str = "CONNECT") -> bool:
        """What the rules say."""
        policy = self.config.policy
        rules = RuleSet(policy.rules, policy.default)
        return rules.select("", "", frozenset(), method, host, port).match("192.0.2.1").allow


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
        ("Upstream http 10.0.0.1:8080", "Upstream: not converted: there are no parent proxies"),
        ('Upstream none ".local"', "Upstream: not converted"),
        ('AddHeader "X" "Y"', "AddHeader: not converted: no fields are added"),
        ("Bind 192.0.2.1", "Bind: not converted: the kernel chooses"),
        ('StatHost "tinyproxy.stats"', "StatHost: not converted"),
        ("XTinyproxy Yes", 'XTinyproxy: not converted: forwarded-for = "on" tells'),
        ("Prot 8888", "Prot: not converted: unknown to tinyproxy.conf(5)"),
        ("Port 99999", "Port: not converted: listen: invalid value ':99999'"),
        ("Listen localhost", "Listen: not converted: listen: invalid value 'localhost:8888'"),
        ("Timeout 0", "Timeout: not converted: timeout-idle: invalid value '0'"),
        ("Timeout soon", "Timeout: not converted: timeout-idle: a string 'soon'"),
        ("LogLevel loud", "LogLevel: not converted: log-level: invalid value 'loud'"),
        ('ViaProxyName "a b"', "ViaProxyName: not converted: via: invalid value 'a b'"),
        ("BasicAuth ada", "BasicAuth: not converted: auth: invalid value; allowed: USER"),
        ("Allow example.com", "Allow: not converted: example.com: clients are known by"),
        ("Deny .example.com", "Deny: not converted: .example.com: clients are known by"),
        ("ConnectPort https", "ConnectPort: not converted: 'https' is no port"),
        ("FilterType pcre", "FilterType: not converted: 'pcre' is no type"),
        ('Filter "/nonexistent"', "Filter: not converted: /nonexistent: [Errno 2] No such file"),
        ("Port", "Port: not converted: a directive and its value belong here"),
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
        "2: BasicAuth: not converted: auth has one user; put bob and all others into a file for "
        "htpasswd"
    ]


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


def test_bad_lines_of_a_filter_are_listed(tmp_path: Path) -> None:
    result = filtered(tmp_path, "fine\n[[.a.]]\nx\\{2,1\\}\n[+--]\n")
    assert [line.partition(": not converted: ")[0] for line in result.missing] == [
        f"{tmp_path}/filter:2",
        f"{tmp_path}/filter:3",
        f"{tmp_path}/filter:4",
    ]
    assert result.config.policy.rules[0].hosts == ("/.*(?:fine).*/",)


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
    assert err.startswith(f"spliceproxy import: {source}: cannot read it (")
