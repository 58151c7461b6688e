"""The pages: each can be found, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link.partition("#")[0]).exists(), link


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = re.findall(r"^- \[(.+)\]\(\1\): ", index, re.M)
    assert sorted([*linked, "README.md"]) == [page.name for page in PAGES[1:]]
