"""Modules that are loaded once more while the program runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spliceproxy.policy.functions import HookError, load, load_anew

POLICY = """\
from spliceproxy import Allow, Deny
import {helper}

def authorize(request):
    return {helper}.SAYS
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """On the path, as with PYTHONPATH."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before, finders = dict(sys.modules), list(sys.meta_path)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.meta_path[:] = finders


def write(path: Path, text: str) -> None:
    """As if it had been changed in the same second as before."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def says(functions: object) -> object:
    return functions.authorize(None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["{folder}/own_policy.py", "own_policy"])
def test_the_module_and_those_beside_it(folder: Path, form: str) -> None:
    name = form.format(folder=folder)
    write(folder / "own_policy.py", POLICY.format(helper="own_helper"))
    write(folder / "own_helper.py", "SAYS = 1")
    first = load(name)
    assert says(first) == 1
    write(folder / "own_helper.py", "SAYS = 2")
    second, _ = load_anew(name)
    assert (says(first), says(second)) == (1, 2)
    write(folder / "own_policy.py", POLICY.format(helper="own_helper").replace("SAYS", "SAY2"))
    write(folder / "own_helper.py", "SAY2 = 3")
    third, _ = load_anew(name)
    assert says(third) == 3


def test_a_package(folder: Path) -> None:
    package = folder / "own_package"
    package.mkdir()
    write(package / "__init__.py", "")
    write(package / "entry.py", POLICY.format(helper="own_package.deep.lists"))
    write(package / "deep" / "__init__.py", "")
    write(package / "deep" / "lists.py", "SAYS = 1")
    load("own_package.entry")
    write(package / "deep" / "lists.py", "SAYS = 2")
    found, _ = load_anew("own_package.entry")
    assert says(found) == 2


def test_what_fails_leaves_the_old_modules(folder: Path) -> None:
    write(folder / "own_policy.py", POLICY.format(helper="own_helper"))
    write(folder / "own_helper.py", "SAYS = 1")
    load("own_policy")
    policy, helper = sys.modules["own_policy"], sys.modules["own_helper"]
    write(folder / "own_helper.py", "SAYS = 1 / 0")
    with pytest.raises(HookError, match="ZeroDivisionError"):
        load_anew("own_policy")
    assert sys.modules["own_policy"] is policy
    assert sys.modules["own_helper"] is helper


def test_what_is_not_wanted_is_undone(folder: Path) -> None:
    write(folder / "own_policy.py", POLICY.format(helper="own_helper"))
    write(folder / "own_helper.py", "SAYS = 1")
    load("own_policy")
    helper = sys.modules["own_helper"]
    write(folder / "own_helper.py", "SAYS = 2")
    _, forgotten = load_anew("own_policy")
    assert sys.modules["own_helper"] is not helper
    forgotten.restore()
    assert sys.modules["own_helper"] is helper


def test_others_stay(folder: Path) -> None:
    """What Python and installed packages have, and the proxy itself."""
    write(folder / "own_policy.py", "import json, pytest\ndef authorize(request): ...\n")
    load("own_policy")
    kept = {name: sys.modules[name] for name in ("json", "pytest", "spliceproxy", "os")}
    load_anew("own_policy")
    assert {name: sys.modules[name] for name in kept} == kept
