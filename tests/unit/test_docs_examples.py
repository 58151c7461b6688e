"""The examples on the pages: settings are accepted, functions decide, programs and tests run."""

from __future__ import annotations

import os
import pwd
import re
import textwrap
from pathlib import Path

import pytest

from spliceproxy import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The indented texts of a page, without their indent."""
    texts = re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.M)
    return [textwrap.dedent(text).strip("\n") for text in texts if text.strip()]


def is_toml(block: str) -> bool:
    """Whether it is a file of settings, or the beginning of one."""
    return re.match(r"(#.*\n)*([a-z-]+ = |\[\[rule\]\])", block) is not None


TOML = [
    pytest.param(block, id=f"{page.name}-{n}")
    for page in PAGES
    if page.exists()
    for n, block in enumerate(filter(is_toml, blocks(page)))
]


@pytest.mark.parametrize("block", TOML)
def test_settings_are_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("10.0.7.0/24 ci\n54321 alice\n")
    user = pwd.getpwuid(os.getuid()).pw_name
    text = block.replace("/etc/spliceproxy", str(tmp_path)).replace("www-data", user)
    (tmp_path / "proxy.toml").write_text(text)
    load_config(str(tmp_path / "proxy.toml"))
