"""What README.md shows is what is printed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ProxyProcess

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def blocks() -> list[str]:
    """The indented texts."""
    if not README.exists():
        pytest.skip("not in a source tree")
    texts = re.findall(r"(?:^(?:    .*)?\n)+", README.read_text(), re.M)
    return [textwrap.dedent(text).strip("\n") for text in texts]


def shape(text: str) -> str:
    """The text without what each start has anew: times, process ids, versions, counts."""
    return re.sub(r"\d+", "0", text)


def test_a_first_start(blocks: list[str], new_proxy: Callable[..., ProxyProcess]) -> None:
    (shown,) = [block for block in blocks if "INFO listening on" in block]
    proxy = new_proxy("--engine", "auto", listen=[":0"])
    printed = shape(proxy.stderr().replace("(as set)", "(one per CPU that it may use)"))
    assert printed.splitlines()[:3] == shape(shown).splitlines()


def test_the_first_rule(blocks: list[str], tmp_path: Path) -> None:
    (rule,) = [block for block in blocks if block.startswith("rule-default")]
    (tmp_path / "proxy.toml").write_text(rule)
    (shown,) = [block for block in blocks if block.startswith("$ spliceproxy explain")]
    command, _, output = shown.partition("\n")
    argv = [sys.executable, "-m", *command.split()[1:]]
    done = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, output + "\n")
    allowed = [*argv[:-1], "www.github.com:443"]
    assert subprocess.run(allowed, cwd=tmp_path, timeout=60, check=False).returncode == 0
