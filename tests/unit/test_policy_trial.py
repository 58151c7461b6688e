"""Policy functions that cannot be loaded are told before anything is listened on, with the user's
lines and no others, by each command that takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ProxyProcess

from spliceproxy.processes import trial

COMMANDS = {
    "spliceproxy": ["--listen", "127.0.0.1:0"],
    "spliceproxy check": ["check"],
    "spliceproxy explain": ["explain", "GET", "http://192.0.2.1/"],
}

AT_IMPORT = """
import json

def read():
    return json.loads("{")

SETTINGS = read()
"""


def run(command: str, folder: Path, policy: str) -> list[str]:
    """What it says on standard error; it ends with status 2, and nothing was begun."""
    first, *rest = COMMANDS[command]
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", first, *rest, "--policy", policy],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"{command}: ") for line in lines), lines
    return [line.removeprefix(f"{command}: ").replace(str(folder), "DIR") for line in lines]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("source", "policy", "said"),
    [
        (None, "p.py", ["--policy: invalid value 'p.py' (DIR/p.py does not exist); allowed: a"]),
        (None, "p", ["--policy p: cannot import p: ModuleNotFoundError: No module named 'p'"]),
        ("\ndef a(:\n", "p.py", ["--policy DIR/p.py: DIR/p.py:2: SyntaxError: invalid syntax"]),
        ("\nnone\n", "p.py", ["--policy DIR/p.py: DIR/p.py:2: NameError: name 'none' is not"]),
        (
            AT_IMPORT,
            "p.py",
            [
                "--policy DIR/p.py: DIR/p.py:5: JSONDecodeError: Expecting property name",
                '  DIR/p.py:7, in <module>: SETTINGS = read()',
                '  DIR/p.py:5, in read: return json.loads("{")',
            ],
        ),
        (
            AT_IMPORT,
            "p",
            [
                "--policy p: cannot import DIR/p.py:5: JSONDecodeError: Expecting property name",
                '  DIR/p.py:7, in <module>: SETTINGS = read()',
                '  DIR/p.py:5, in read: return json.loads("{")',
            ],
        ),
        ("def ask(r): ...\n", "p.py:aks", ["--policy DIR/p.py:aks: DIR/p.py has no function aks;"]),
        (
            "from spliceproxy.policy import Deny\nDeny('no', status=1)\n",
            "p.py",
            ["--policy DIR/p.py: DIR/p.py:2: ValueError: Deny: status 1; allowed: a whole number"],
        ),
        ("raise SystemExit", "p.py", ["--policy DIR/p.py: DIR/p.py:1: SystemExit"]),
    ],
    ids=["file", "module", "syntax", "name", "calls", "calls-module", "function", "ours", "exit"],
)  # fmt: skip
def test_what_is_said(
    tmp_path: Path, command: str, source: str | None, policy: str, said: list[str]
) -> None:
    if source is not None:
        (tmp_path / "p.py").write_text(source)
    lines = run(command, tmp_path, policy)
    assert len(lines) == len(said), lines
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start), lines


def test_a_module_that_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    (line,) = run("spliceproxy", tmp_path, "p.py")
    assert line == "--policy DIR/p.py: its import ends the process (signal 9)"


def test_what_the_module_prints_is_no_line_of_the_trial(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text("print('loaded')\ndef authorize(request): ...\n")
    proxy = ProxyProcess(tmp_path / "proxy", "--policy", str(file), workers=2)
    assert proxy.stop() == 0
    assert proxy.stderr().count("loaded") + proxy.access_path.read_text().count("loaded") == 2


def test_who_holds_the_pipe_holds_up_nobody(tmp_path: Path) -> None:
    """A module may start processes that outlive the trial."""
    file = tmp_path / "p.py"
    file.write_text(
        "import os, time\n"
        "def authorize(request): ...\n"
        "if not os.fork():\n    time.sleep(30)\n    os._exit(0)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    assert trial.fault(str(file)) == ""
    assert (tmp_path / "done").exists()


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text("raise ValueError('x' * 1000000)\n")
    assert len(trial.fault(str(file))) == trial.MOST
