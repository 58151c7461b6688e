"""What is written down twice, in C and in Python, and must agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spliceproxy.forward import plain
from spliceproxy.http1 import framing
from spliceproxy.upstream import pool

NATIVE = Path(__file__).parents[2] / "native"


def constant(path: str, name: str) -> int:
    """Of an enum in a file of ``native``."""
    found = re.findall(rf"^    {name} = (\d+)\b", (NATIVE / path).read_text("utf-8"), re.MULTILINE)
    assert len(found) == 1, f"{path}: {name}: {found}"
    return int(found[0])


def test_the_digits_of_a_content_length() -> None:
    assert constant("http/plain.pxd", "LENGTH_DIGITS") == framing._LENGTH_DIGITS


def test_the_bytes_of_a_method() -> None:
    assert constant("http/plain.pxd", "METHOD_MAX") == plain.METHOD_MAX


def test_how_long_a_connection_is_its_client_s_own() -> None:
    assert constant("lane/origins.pxd", "OWN_MS") == pool.OWN_SECONDS * 1000


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("interface.REASONS = interface.REASONS[:-1]", "reasons"),
        ("interface.REASONS = (*interface.REASONS, 'new')", "reasons"),
        ("interface.REASONS = ('', *interface.REASONS[:0:-1])", "reasons"),
        ("handoff.CAUSES = (*handoff.CAUSES[:-1], 'other')", "causes"),
        ("pass", ""),
    ],
)
def test_the_compiled_module_is_not_imported_with_other_words(change: str, what: str) -> None:
    pytest.importorskip("spliceproxy.relay._native")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from spliceproxy.relay import handoff, interface\n{change}\n"
            "import spliceproxy.relay._native",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = (done.stderr.splitlines() or [""])[-1]
    told = "ImportError: the compiled relay was built from other sources: its "
    assert last.startswith(told + what if what else ""), done.stderr
    assert done.returncode == (1 if what else 0)
