"""Whether the compiled module in the source tree is of the sources beside it.

A forgotten build would test the old code, and be green.
"""

from __future__ import annotations

from pathlib import Path


def newer_source(root: Path) -> Path | None:
    """The file of ``native`` that is newer than the module that was built in this tree; None if
    there is none, or nothing was built here."""
    built = [path.stat().st_mtime for path in (root / "spliceproxy" / "relay").glob("_native*.so")]
    if not built:
        return None
    for path in sorted((root / "native").rglob("*.p*")):
        if path.suffix in (".pxd", ".pxi", ".pyx") and path.stat().st_mtime > min(built):
            return path.relative_to(root)
    return None
