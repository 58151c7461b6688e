"""What is written down twice, in C and in Python, and must agree."""

from __future__ import annotations

import re
from pathlib import Path

from spliceproxy.http1 import framing

NATIVE = Path(__file__).parents[2] / "native"


def constant(path: str, name: str) -> int:
    """Of an enum in a file of ``native``."""
    found = re.findall(rf"^    {name} = (\d+)\b", (NATIVE / path).read_text("utf-8"), re.MULTILINE)
    assert len(found) == 1, f"{path}: {name}: {found}"
    return int(found[0])


def test_the_digits_of_a_content_length() -> None:
    assert constant("http/plain_response.pxd", "LENGTH_DIGITS") == framing._LENGTH_DIGITS
