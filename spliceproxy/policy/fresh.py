"""Modules that are loaded once more while the program runs: that of --policy, and those beside it.

Python would take them from ``sys.modules``, or from a file of bytecode that it holds for fresh if
the source has the same size and was changed in the same second (PEP 3147, "time stamps"). Here both
are passed over: what is executed is what the source says now.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

OWN = "spliceproxy"
"""The package that is never loaded once more."""


class FreshLoader(SourceFileLoader):
    """Neither reads bytecode nor writes it."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code = self.source_to_code(self.get_data(path), path)
        assert isinstance(code, CodeType)
        return code


class _Finder:
    """Loads what is in one of the ``folders``."""

    def __init__(self) -> None:
        self.folders: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the usual finder does; with another loader."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return None
        if not any(_is_below(spec.origin, folder) for folder in self.folders):
            return None
        spec.loader = FreshLoader(spec.loader.name, spec.loader.path)
        spec.cached = None
        return spec


_finder = _Finder()


class Forgotten:
    """Modules that are not in ``sys.modules`` any more, so that the next import loads them anew."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = dict(modules)
        for name in self._modules:
            del sys.modules[name]

    def restore(self) -> None:
        """They are there again, in the place of those that were loaded since."""
        sys.modules.update(self._modules)


def forget(name: str, file: str) -> Forgotten:
    """Forgets a module, or a package with all that is in it, and what was loaded from the folder of
    its ``file``; "" if that is not known. In a folder of installed packages nothing else is
    forgotten."""
    folder = os.path.dirname(os.path.realpath(file)) if file else ""
    if folder and not _is_installed(folder):
        _watch(folder)
    else:
        folder = ""
    return Forgotten(dict(_concerned(name.partition(".")[0], folder)))


def _watch(folder: str) -> None:
    _finder.folders.add(folder)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _concerned(root: str, folder: str) -> Iterator[tuple[str, ModuleType]]:
    for name, module in list(sys.modules.items()):
        first = name.partition(".")[0]
        if first in (OWN, "__main__"):
            continue
        found = getattr(module, "__file__", None)
        if first == root or (folder and found and _is_below(found, folder)):
            yield name, module


def _is_installed(folder: str) -> bool:
    """Whether it is one of Python's own, or below it."""
    import site  # late: most proxies never need either
    import sysconfig

    paths = sysconfig.get_paths()
    known = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    known.update(site.getsitepackages())
    known.add(site.getusersitepackages())
    return any(_is_below(f"{folder}/x", os.path.realpath(one)) for one in known)


def _is_below(file: str, folder: str) -> bool:
    return os.path.realpath(file).startswith(f"{folder.rstrip('/')}/")
