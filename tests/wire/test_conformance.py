"""docs/conformance.md names the sections that the cases hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import page


def test_the_page_is_that_of_the_cases() -> None:
    """``python tests/wire/conformance.py > docs/conformance.md`` renews it."""
    path = Path(__file__).parents[2] / "docs" / "conformance.md"
    if not path.exists():
        pytest.skip("not in a source tree")
    assert path.read_text() == page()
