"""Every message comes from one logger, by one name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from spliceproxy import messages

PACKAGE = Path(messages.__file__).parent

ROOT = {"admin/level.py", "processes/logs.py"}
"""Where the root logger is set up, and its level is changed."""


def spellings(source: str) -> Iterator[str]:
    """How a module comes by a logger, but for ``from spliceproxy.messages import log``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger"):
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module == "spliceproxy.messages":
            yield from (name.asname for name in node.names if name.asname)
        if isinstance(node, ast.ImportFrom) and any(name.name == "messages" for name in node.names):
            yield ast.unparse(node)


def test_one_logger_has_one_spelling() -> None:
    found = {
        str(path.relative_to(PACKAGE)): list(spellings(path.read_text("utf-8")))
        for path in PACKAGE.rglob("*.py")
    }
    assert found.pop("messages.py") == ["logging.getLogger('spliceproxy')"]
    assert {where: how for where, how in found.items() if how and where not in ROOT} == {}


def test_another_spelling_is_found() -> None:
    for line in (
        "import logging\nx = logging.getLogger(__name__)",
        "from logging import getLogger\nx = getLogger('spliceproxy')",
        "from spliceproxy.messages import log as _log",
        "from spliceproxy import messages",
    ):
        assert list(spellings(line)), line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "/a/b"),
            "/a/b: No such file",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("no number"), "no number"),
        (MemoryError(), "no memory"),
        (ValueError("x"), "x"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_error_is_told_without_its_number(error: BaseException, said: str) -> None:
    assert messages.plain(error).startswith(said)
    assert "[" not in messages.plain(error)
