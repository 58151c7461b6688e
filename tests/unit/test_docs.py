"""The pages: each can be found, no link leads nowhere, and the files that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "tests" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

NAMED = re.compile(r"`([\w.][\w./*-]*(?:/|\.(?:json|md|pxd|pxi|py|pyx|sh|toml|txt)))`")
"""A folder, or a file with a name that tells: ``policy/``, ``native/relay.pyx``."""

ROOTS = ("spliceproxy", "native", "tests", "perf", "docs", "findings", ".ci")
"""What a path from the root of the project begins with."""


def missing(page: Path) -> Iterator[str]:
    """The files and folders that a page names and that are not there. In tests/README.md a
    path may begin in that folder; what begins elsewhere is somebody else's."""
    for name in NAMED.findall(page.read_text()):
        start = name.partition("/")[0]
        if start in ROOTS:
            found = any(ROOT.glob(name.rstrip("/")))
        elif page.parent.name == "tests":
            found = (
                any(page.parent.glob(name.rstrip("/"))) or (ROOT / "spliceproxy" / name).exists()
            )
        elif (ROOT / "spliceproxy" / start).is_dir():
            found = any((ROOT / "spliceproxy").glob(name.rstrip("/")))
        else:
            continue
        if not found:
            yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert " " not in link, link  # a line was broken there
        assert "://" in link or (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    assert list(missing(page)) == []


def test_a_file_that_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`spliceproxy/none.py`, `native/core/none.pxd` and `http1/none.py`, `http1/head.py`, "
        "`tests/wire/wire_*.py`, `native/relay.pyx`, but `/etc/none.py` and `a/b` are not ours"
    )
    wanted = ["spliceproxy/none.py", "native/core/none.pxd", "http1/none.py"]
    assert list(missing(page)) == wanted


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = re.findall(r"^- \[(.+)\]\(\1\): ", index, re.M)
    pages = [page.name for page in PAGES if page.parent.name == "docs"]
    assert sorted([*linked, "README.md"]) == pages


def test_each_folder_of_tests_is_explained() -> None:
    text = (ROOT / "tests" / "README.md").read_text()
    folders = {path.parent for path in (ROOT / "tests").glob("*/*.py")}
    assert [one.name for one in sorted(folders) if f"| `{one.name}/` |" not in text] == []


def test_each_helper_of_tests_is_explained() -> None:
    root = ROOT / "tests"
    named = re.findall(r"`([\w/*]+\.py)`", (root / "README.md").read_text())
    explained = {path for name in named for path in root.glob(name)}
    # The tables of cases are no helpers: they have test_wire.py.
    tables = {path for path in root.glob("wire/*.py") if "\nCASES = " in path.read_text()}
    others = {path for path in root.rglob("*.py") if re.match("test_|conftest", path.name)}
    assert set(root.rglob("*.py")) - explained - tables - others == set()
