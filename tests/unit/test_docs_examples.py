"""The examples on the pages: settings are accepted, functions decide, programs and tests run."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import command

from spliceproxy import Allow, Deny, Request, load_config
from spliceproxy.policy.functions import wants_addresses
from spliceproxy.settings.schema import schema

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The indented texts of a page, without their indent."""
    texts = re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.M)
    return [textwrap.dedent(text).strip("\n") for text in texts if text.strip()]


def is_toml(block: str) -> bool:
    """Whether it is a file of settings, or the beginning of one."""
    return re.match(r"(#.*\n)*([a-z-]+ = |\[\[(rule|route)\]\])", block) is not None


TOML = [
    pytest.param(block, id=f"{page.name}-{n}")
    for page in PAGES
    if page.exists()
    for n, block in enumerate(filter(is_toml, blocks(page)))
]


@pytest.mark.parametrize("block", TOML)
def test_settings_are_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("10.0.7.0/24 ci\n54321 alice\n")
    (tmp_path / "users").write_text(
        "alice:$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n"
    )
    (tmp_path / "berlin").write_text("machine:secret\n")
    (tmp_path / "team-a.txt").write_text(".example.com\n")
    user = pwd.getpwuid(os.getuid()).pw_name
    text = block.replace("www-data", user)
    for folder in ("/etc/spliceproxy", "/var/log/spliceproxy"):
        text = text.replace(folder, str(tmp_path))
    (tmp_path / "proxy.toml").write_text(text)
    load_config(str(tmp_path / "proxy.toml"))
    jsonschema.validate(tomllib.loads(text), schema())


def functions(page: str) -> list[str]:
    return [one for one in blocks(ROOT / "docs" / page) if "def authorize(" in one]


def test_functions_decide() -> None:
    first, second = functions("policy-function.md")
    names: dict[str, Any] = {}
    exec(first, names)
    authorize = names["authorize"]
    assert asyncio.run(authorize(Request(host="a.test"))) == Allow(tags={"team": "web"})
    assert asyncio.run(authorize(Request(user="ci", host="a.test"))).rule == "ci"
    (test,) = [one for one in blocks(ROOT / "docs" / "policy-function.md") if "def test_" in one]
    exec(test, names)
    names["test_ci_stays_at_home"]()
    exec(second, names)
    authorize = names["authorize"]
    assert wants_addresses(authorize)
    asked = Request(host="a.example.com")
    assert asyncio.run(authorize(asked)) == Allow()
    refused = asyncio.run(authorize(asked._replace(addresses=("192.0.2.1",))))
    assert refused == Deny("Not into that network.")
    assert asyncio.run(authorize(asked._replace(addresses=("198.51.100.1",)))) == Allow()


def test_explain_prints_what_troubleshooting_shows() -> None:
    page = blocks(ROOT / "docs" / "troubleshooting.md")
    shown = [one for one in page if one.startswith("$ spliceproxy explain")]
    assert len(shown) == 2
    for block in shown:
        line, _, output = block.partition("\n")
        done = command(*line.split()[2:])
        assert (done.returncode, done.stdout) == (1, output + "\n")
