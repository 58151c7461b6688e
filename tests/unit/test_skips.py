"""A skip that tests/skips.txt does not list fails a run of .ci/run, and no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skipping import UNLISTED

TESTS = Path(__file__).parents[1]

MODULE = """
import pytest
from skipping import UNLISTED

def test_listed():
    pytest.skip("in the list, really")

def test_other():
    pytest.skip("OTHER")

@pytest.mark.xfail(reason="not a skip")
def test_expected():
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("ci", "other", "failed"),
    [
        ("", "not in the list", ""),
        ("true", "in the list, too", ""),
        ("true", "not in the list", ""),
        ("true", "not in the list", "\ndef test_failed():\n    assert False\n"),
    ],
)
def test_skips_are_listed(tmp_path: Path, ci: str, other: str, failed: str) -> None:
    """A failed test does not hide one: it is run again, and may then pass."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for file in TESTS.glob("*.py"):  # conftest.py, and whatever it imports
        shutil.copy(file, tests)
    (tests / "skips.txt").write_text("# words\ntests/test_a.py: in the list*  # why\n")
    (tests / "test_a.py").write_text(MODULE.replace("OTHER", other) + failed)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["tests"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "", "SHARE": ""},
        capture_output=True,
        text=True,
    )
    fails = ci and other == "not in the list"
    assert done.returncode == (UNLISTED if fails else 1 if failed else 0), done.stdout
    told = "not in tests/skips.txt: tests/test_a.py: not in the list"
    assert (told in done.stdout) == bool(fails), done.stdout
