"""The rooms of the package, and which may know of which: read from their imports.

Rooms import downwards in the order of ROOMS; what is in the package itself, the ground, is for
all of them, and knows none. The same holds for the folders of ``native`` and their cimports.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROOMS = (
    "cli",
    "deploy",
    "embed",
    "processes",
    "admin",
    "settings",
    "front",
    "forward",
    "upstream",
    "observe",
    "site",
    "policy",
    "relay",
    "socks",
    "tls",
    "http1",
    "net",
)
"""From the top to the bottom: a room may use what comes after it."""

GROUND = {
    "config",
    "errors",
    "kept",
    "messages",
    "seldom",
    "sizes",
    "textfile",
    "toml",
    "version",
    "watched",
}
"""Modules that every room may use."""

DOOR = {"__init__", "__main__"}
"""Modules that may use every room: nobody imports from them but names that are public."""

STRANGERS = {"http1": {"policy", "net"}, "net": {"policy", "http1"}, "relay": {"http1"}}
"""What a room knows nothing of, whatever the order says."""

FOLDERS = ("", "lane", "http", "core")
"""Of ``native``, from the top to the bottom: "" is ``native`` itself."""

NATIVE = "relay._native"
"""The compiled module."""

LANE = "relay.lane.Lane"
"""How the relay is told what to repeat. Questions and hand-offs are for others, too."""

SPEAKERS = (("forward", "lane"), ("forward", "lane_options"))
"""The modules that do so."""


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each module of the package that a file imports, also inside of
    functions and for type checking: ``policy.auth`` for spliceproxy.policy.auth."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            # ``from spliceproxy import tcp`` names a module, ``from x import y`` may not.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == root.name:
                yield node.lineno, module


def violations(root: Path) -> list[str]:
    """What breaks the rules below a package's folder."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room = parts[0]
        if len(parts) == 1 and room in DOOR:
            continue
        for line, module in imports(path, root):
            why = _why_not(room, parts, module)
            if why:
                found.append(f"{'/'.join(parts)}.py:{line}: {module}: {why}")
    return found


def _why_not(room: str, parts: tuple[str, ...], module: str) -> str:
    other = module.partition(".")[0]
    if module.startswith(NATIVE) and parts != ("relay", "choice"):
        return "only relay/choice.py loads the compiled module"
    if module.startswith(LANE) and room != "relay" and parts not in SPEAKERS:
        return "only forward/lane.py speaks to the native lane"
    if other not in ROOMS:
        return "" if other in GROUND else "the door is for others"
    if room not in ROOMS:
        return "the ground knows no room"
    if other in STRANGERS.get(room, ()):
        return f"{room} knows nothing of {other}"
    if ROOMS.index(other) < ROOMS.index(room):
        return f"{other} is above {room}"
    return ""


def _forks(path: Path) -> Iterator[int]:
    """The lines on which a file makes a process that goes on with this program."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [node.attr] if isinstance(node, ast.Attribute) else []
        parts = {part for name in names for part in name.split(".")}
        if parts & {"fork", "forkpty", "multiprocessing", "ProcessPoolExecutor"}:
            yield node.lineno


def forks(root: Path) -> list[str]:
    """Where a module outside of the room of the processes forks."""
    return [
        f"{path.relative_to(root)}:{line}: only processes/ forks"
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] != "processes"
        for line in _forks(path)
    ]


CIMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+cimport\b|^\s*cimport\s+([\w.]+)", re.MULTILINE)

IMPORT = re.compile(
    r"^\s*from\s+(spliceproxy[\w.]*)\s+import\s+(\w+)?|^\s*import\s+(spliceproxy[\w.]*)",
    re.MULTILINE,
)


def native_violations(root: Path) -> list[str]:
    """What breaks the order of the folders of ``native``, or imports of the package what neither
    the room that the compiled module is in has, nor the one below."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".pxd", ".pxi", ".pyx")):
        inner = path.relative_to(root)
        folder = inner.parts[0] if len(inner.parts) > 1 else ""
        text = path.read_text("utf-8")
        for match in IMPORT.finditer(text):
            name = match[3] or f"{match[1]}.{match[2]}"
            if name.split(".")[1] not in ("relay", "net"):
                found.append(f"{inner}: {match[0].strip()}: only of relay and net")
        for match in CIMPORT.finditer(text):
            other = (match[1] or match[2]).partition(".")[0]
            if (root / f"{other}.pxd").is_file():
                other = ""
            if other not in FOLDERS:  # of C or of Cython
                continue
            if FOLDERS.index(other) < FOLDERS.index(folder):
                found.append(f"{inner}: {match[0].strip()}: {other} is above {folder}")
    return found


def test_rooms_import_downwards() -> None:
    assert violations(ROOT / "spliceproxy") == []


def test_only_the_room_of_the_processes_forks() -> None:
    assert forks(ROOT / "spliceproxy") == []


def test_native_folders_cimport_downwards() -> None:
    assert native_violations(ROOT / "native") == []


@pytest.mark.parametrize(
    ("where", "line", "why"),
    [
        ("net/tcp.py", "from spliceproxy.policy import Allow", "net knows nothing of policy"),
        ("http1/head.py", "import spliceproxy.policy.rules", "http1 knows nothing of policy"),
        ("http1/head.py", "from spliceproxy.net import stream", "http1 knows nothing of net"),
        ("relay/driver.py", "from spliceproxy.http1.head import Head", "knows nothing of http1"),
        (
            "policy/engine.py",
            "if 1:\n    import spliceproxy.front.http1",
            "is above policy",
        ),
        ("upstream/pool.py", "from spliceproxy.forward import lane", "forward is above upstream"),
        ("errors.py", "from spliceproxy.net.stream import Stream", "the ground knows no room"),
        (
            "forward/lane.py",
            "from spliceproxy.relay._native import NativeRelay",
            "only relay/choice.py loads the compiled module",
        ),
        (
            "front/http1.py",
            "from spliceproxy.relay.lane import NATIVE, LaneOptions",
            "only forward/lane.py speaks to the native lane",
        ),
        ("net/tcp.py", "from spliceproxy import Proxy", "the door is for others"),
        ("settings/page.py", "import spliceproxy", "the door is for others"),
    ],
)
def test_a_violation_is_found(where: str, line: str, why: str, tmp_path: Path) -> None:
    root = tmp_path / "spliceproxy"
    path = root / where
    path.parent.mkdir(parents=True)
    path.write_text(f"import os\nfrom spliceproxy.config import Config\n{line}\n")
    (found,) = violations(root)
    assert why in found


@pytest.mark.parametrize(
    "line",
    [
        "os.fork()",
        "from os import fork",
        "import multiprocessing.pool",
        "from multiprocessing import Process",
        "from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_a_fork_is_found(line: str, tmp_path: Path) -> None:
    root = tmp_path / "spliceproxy"
    (root / "policy").mkdir(parents=True)
    (root / "policy" / "hook.py").write_text(f"import os\n{line}\n")
    assert forks(root) == ["policy/hook.py:2: only processes/ forks"]


@pytest.mark.parametrize(
    "line",
    [
        "from lane.routes cimport NOWHERE",
        "from http.plain cimport Plain",
        "cimport lane.log",
        "from step cimport run",
    ],
)
def test_a_cimport_upwards_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "step.pxd").touch()
    (tmp_path / "core" / "flow.pxd").write_text(f"from core cimport linux\n{line}\n")
    (found,) = native_violations(tmp_path)
    assert "is above core" in found


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("from spliceproxy.relay.interface import (\n    TunnelEnd,\n)", True),
        ("import spliceproxy.relay.interface", True),
        ("from spliceproxy.http1 import rewrite", False),
        ("    import spliceproxy.net.tcp", True),
        ("from spliceproxy import relay", True),
        ("    import spliceproxy.forward.plain", False),
        ("from spliceproxy import errors", False),
        ("from spliceproxy.relays import fast", False),
    ],
)
def test_an_import_of_another_room_is_found_in_native(
    line: str, right: bool, tmp_path: Path
) -> None:
    (tmp_path / "relay.pyx").write_text(f"from core cimport linux\nimport warnings\n{line}\n")
    found = native_violations(tmp_path)
    assert [text.rpartition(": ")[2] for text in found] == ["only of relay and net"] * (not right)


def test_every_module_is_in_a_room_or_of_the_ground() -> None:
    root = ROOT / "spliceproxy"
    loose = {path.stem for path in root.glob("*.py")} - GROUND - DOOR
    rooms = {path.parent.name for path in root.glob("*/__init__.py")} - set(ROOMS)
    assert (loose, rooms) == (set(), set())
