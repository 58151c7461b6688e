"""Random files for squid: the settings that come of them never allow what squid refuses, and refuse
what it allows only with a message.

Runs for 8 seconds, or for so many as SPLICEPROXY_SQUID_SECONDS says.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import need
from squid_files import AS_USERS, AUTH, GRID, NAMES, PASSWORDS, C, File, G
from squid_rig import running
from test_squid_real import agrees, verdicts, written

from spliceproxy.settings import squid
from spliceproxy.settings.loading import load_config

SECONDS = float(os.environ.get("SPLICEPROXY_SQUID_SECONDS", "8"))

VALUES: dict[str, tuple[str, ...]] = {
    "dst": ("127.9.0.0/16", "127.8.8.8", "127.0.0.0/8", "10.0.0.0/8", "all", "127.0.0.9"),
    "dstdom_regex": (
        "good",
        "^good\\.test",
        "\\.test$",
        "-i GOOD +i",
        "^x\\.|^bad\\.",
        "[0-9]",
        "o{2}",
    ),
    "dstdomain": (
        *(".good.test", "good.test", "a.good.test", ".bad.test", "x.test", ".test", "*.x.test"),
        *("127.0.0.77", "127.9.9.8", ".a.good.test", "GOOD.test", "intranet", "[::1]", "x.test,"),
    ),
    "method": ("CONNECT", "GET", "PUT", "get", "HEAD"),
    "port": ("80", "443", "22", "1-1024", "8000-9000", "1025-65535", "0"),
    "proto": ("HTTP", "HTTPS", "FTP", "http"),
    "proxy_auth": ("REQUIRED", "amy", "bob", "AMY", "carl"),
    "src": (
        *("10.0.0.0/8", "10.1.2.3", "127.0.0.1", "203.0.113.0/24", "all", "10.1.2.1-10.1.2.9"),
        *("192.168.0.0/16", "::/0", "10.1.2.3/255.255.0.0", "127.0.0.0/8"),
    ),
    "time": ("00:00-24:00", "SMTWHFA", "00:00-23:59", "MTWHFAS 00:00-24:00"),
    "url_regex": (
        *(
            "good",
            "^http://x\\.test/",
            "^https?://([^/]+\\.)?good\\.test(/|:|$)",
            "bad.test",
            "443",
        ),
        *(
            "^127",
            "^http://bad\\.test",
            "a\\..*\\.test",
            "(good|bad)\\.test",
            "x\\.test/",
            "\\.test$",
        ),
    ),
    "urlpath_regex": ("good",),
}
BUILT_IN = ("all", "localhost", "CONNECT", "to_localhost", "manager")
LISTS = (("l0", ".good.test\nx.test\n"), ("l1", ""), ("l2", "bad.test # c\n10.0.0.0/8\n"))
PROBES = (
    *GRID,
    *AS_USERS,
    *(C(host, port) for host in ("x.test", "intranet", "bad.test") for port in (443, 80)),
    G("x.test", path="/good"),
    C("2001:db8::1"),
)


def text_of(any_of: random.Random) -> str:
    """A file of some acls and lines."""
    pick, count = any_of.choice, any_of.randint(1, 5)
    lines = [AUTH]
    if any_of.random() < 0.1:
        lines.append("append_domain .good.test")
    for number in range(count):
        kind = pick(
            (*VALUES, "src", "dstdomain", "dstdomain", *("any-of", "all-of") * (number > 1))
        )
        if kind in VALUES:
            values = any_of.choices(VALUES[kind], k=any_of.randint(1, 3))
        else:
            values = [pick(("", "!")) + f"n{any_of.randrange(number)}" for _ in range(2)]
        if kind in ("src", "dstdomain") and any_of.random() < 0.15:
            values = [f'"{{folder}}/l{any_of.randrange(3)}"', *pick(([], ["x.test"]))]
        lines.append(f"acl n{number} {kind} {' '.join(values)}")
    names = [*(f"n{number}" for number in range(count)), *BUILT_IN]
    for _ in range(any_of.randint(1, 5)):
        asked = [pick(("", "", "!")) + pick(names) for _ in range(any_of.randint(1, 3))]
        lines.append(f"http_access {pick(('allow', 'deny'))} {' '.join(asked)}")
    return "\n".join(lines) + "\n"


def check(folder: Path, seed: int) -> str:
    """Asks both; gives what came of it in a word."""
    text = text_of(random.Random(seed))
    source = written(folder, File("random", text, files=(("users", PASSWORDS), *LISTS)))
    with running(folder, source.read_text(), NAMES) as real:
        if isinstance(real, str):
            return "did not start"
        converted = squid.convert(str(source))
        closed, by_address = bool(converted.missing), "networks" in converted.toml
        (folder / "proxy.toml").write_text(converted.toml)
        ours = asyncio.run(verdicts(load_config(str(folder / "proxy.toml")), PROBES))
        wrong = [
            (probe, one, real.ask(probe))
            for probe, one in zip(PROBES, ours, strict=True)
            if not agrees(real, probe, one, closed=closed, by_address=by_address)
        ]
    assert not wrong, (seed, text, wrong[:3])
    return "closed" if closed else "the same"


@pytest.mark.timeout(SECONDS + 120)
def test_random_files_decide_as_in_squid(caplog: pytest.LogCaptureFixture) -> None:
    need("squid")
    caplog.set_level("CRITICAL", "spliceproxy")  # wrong passwords
    deadline = time.monotonic() + SECONDS
    came: Counter[str] = Counter()
    while time.monotonic() < deadline or not came["the same"]:
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o755)  # squid gives up root's rights
            came[check(Path(name), random.getrandbits(32))] += 1
    print(dict(came))
