"""pyproject.toml names what there is: a package that it forgets is missing when installed."""

from __future__ import annotations

from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

if not (ROOT / "pyproject.toml").exists():
    pytest.skip("not in a source tree", allow_module_level=True)


def test_every_package_and_its_data_are_named() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = sorted(path.parent for path in (ROOT / "spliceproxy").rglob("__init__.py"))
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert setuptools["packages"] == names
    patterns = setuptools["package-data"]
    for folder, name in zip(folders, names, strict=True):
        named = {path for pattern in patterns.get(name, []) for path in folder.glob(pattern)}
        data = {path for path in folder.glob("*.*") if path.suffix not in (".py", ".so", ".pyc")}
        assert data - named == set()
