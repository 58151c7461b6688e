"""``opened.py PATH... -- COMMAND...``: runs the command where every user may reach these paths.

An interpreter in a home, an environment in a temporary folder, and the folders of a test are below
folders that root alone may enter. In a mount namespace of its own (mount_namespaces(7)) the command
sees others in their place, which hold the paths and nothing else.
"""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x00020000


def mount(*args: str) -> None:
    subprocess.run(["mount", *args], check=True)


def closed(path: Path) -> Iterator[Path]:
    """The outermost folder above it that not everybody may enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            yield folder
            return


def open_to_all(paths: list[Path]) -> None:
    hidden = {path: folder for path in paths for folder in closed(path)}
    if not hidden:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    mount("--make-rprivate", "/")
    kept = Path("/mnt")
    mount("-t", "tmpfs", "opened", str(kept))
    for number, path in enumerate(hidden):
        (kept / str(number)).mkdir()
        mount("--bind", str(path), str(kept / str(number)))
    for folder in set(hidden.values()):
        # What was made for it must stay where it is seen from below.
        mount("-t", "tmpfs", "-o", "mode=755", "opened", str(folder))
    for number, path in enumerate(hidden):
        path.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(kept / str(number)), str(path))


if __name__ == "__main__":
    at = sys.argv.index("--")
    open_to_all([Path(path) for path in sys.argv[1:at]])
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])
