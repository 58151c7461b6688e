"""Modules that are loaded once more while the program runs: that of --policy, and those beside it.

Python would take them from ``sys.modules``, or from a file of bytecode that it holds for fresh if
the source has the same size and was changed in the same second (PEP 3147, "time stamps"). Here both
are passed over: what is executed is what the source says now. Or it is what the source said when it
was kept, and the file is not read at all (:mod:`spliceproxy.kept`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from types import CodeType, ModuleType

from spliceproxy.kept import Kept

OWN = "spliceproxy"
"""The package that is never loaded once more."""


class FreshLoader(SourceFileLoader):
    """Neither reads bytecode nor writes it. Sources that are ``kept`` are executed as they were,
    and what is executed is noted there."""

    def __init__(self, fullname: str, path: str, kept: Kept | None = None) -> None:
        super().__init__(fullname, path)
        self._kept = kept

    def get_code(self, fullname: str) -> CodeType:
        path, kept = self.get_filename(fullname), self._kept
        before = None if kept is None else kept.given.modules.get(fullname)
        source = self.get_data(path) if before is None else before[1]
        if kept is not None:
            kept.read.modules[fullname] = path, source
        code = self.source_to_code(source, path)
        assert isinstance(code, CodeType)
        return code


class _Finder:
    """Loads what is in one of the ``folders``, and what is ``kept``."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.kept: Kept | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the usual finder does; with another loader."""
        before = None if self.kept is None else self.kept.given.modules.get(fullname)
        if before is not None:  # the file may be gone
            file = before[0]
            return spec_from_file_location(
                fullname,
                file,
                loader=FreshLoader(fullname, file, self.kept),
                submodule_search_locations=(
                    [os.path.dirname(file)] if os.path.basename(file) == "__init__.py" else None
                ),
            )
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return None
        if not any(_is_below(spec.origin, folder) for folder in self.folders):
            return None
        spec.loader = FreshLoader(spec.loader.name, spec.loader.path, self.kept)
        spec.cached = None
        return spec


_finder = _Finder()


class Forgotten:
    """Modules that are not in ``sys.modules`` any more, so that the next import loads them anew."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = dict(modules)
        self._kept = _finder.kept
        for name in self._modules:
            del sys.modules[name]

    def restore(self) -> None:
        """They are there again, in the place of those that were loaded since."""
        sys.modules.update(self._modules)
        _finder.kept = self._kept


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


def keep(kept: Kept, file: str, name: str) -> None:
    """From here on modules are executed from the sources that are ``kept``, and noted there: those
    in the folder of a policy's ``file``, or of the package that its ``name`` begins with. In a
    folder of installed packages none are: no policy is written there."""
    _finder.kept = kept
    _watch("")
    found = file or _origin(name.partition(".")[0])
    folder = os.path.dirname(os.path.realpath(found)) if found else ""
    if folder and not _is_installed(folder):
        _watch(folder)


def _origin(package: str) -> str:
    """The file of a package or module that may not be loaded yet; "" where that is not known."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return ""
    return "" if spec is None or not spec.has_location else spec.origin or ""


def _watch(folder: str) -> None:
    if folder:
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
