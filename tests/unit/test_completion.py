"""The scripts that complete the command line, in the shells themselves; and the page of man(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from spliceproxy.cli import completion, manpage
from spliceproxy.cli.completion import SHELLS
from spliceproxy.cli.ctl import VERBS
from spliceproxy.cli.flags import COMMANDS
from spliceproxy.settings.table import SETTINGS

ROOT = Path(__file__).parents[2]

FLAGS = {one.flag_name for one in SETTINGS if one.section}

LINES = {
    "spliceproxy --eng": {"--engine"},
    "spliceproxy --engine n": {"native"},
    "spliceproxy che": {"check"},
    "spliceproxy ctl dra": {"drain"},
    "spliceproxy ctl --admin-t": {"--admin-token-file"},
    "spliceproxy check --serve-l": {"--serve-links"},
    "spliceproxy completion fi": {"fish"},
}
"""What completes a line: all of it."""

needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert completion.run([shell]) == 0
    return capsys.readouterr().out


def shell(*argv: str, given: str = "", folder: Path | None = None) -> str:
    ended = subprocess.run(
        argv, input=given, capture_output=True, text=True, timeout=60, check=True, cwd=folder
    )
    assert ended.stderr == ""
    return ended.stdout


def in_bash(text: str, line: str, folder: Path) -> set[str]:
    words = line.split(" ")
    ask = f"""{text}
compopt() {{ :; }}  # it works within a completion only
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_spliceproxy; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return set(shell("bash", "-s", given=ask, folder=folder).split())


@pytest.mark.parametrize("line", LINES)
def test_bash(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_bash(script("bash", capsys), line, tmp_path) == LINES[line]


def test_bash_offers_every_command_and_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script("bash", capsys)
    assert in_bash(text, "spliceproxy ", tmp_path) >= {*COMMANDS, *FLAGS, "--config", "--version"}
    assert in_bash(text, "spliceproxy ctl ", tmp_path) >= {*VERBS, "--json"}


def test_bash_offers_files_where_a_file_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "proxy.toml").touch()
    (tmp_path / "pages").mkdir()
    text = script("bash", capsys)
    assert in_bash(text, "spliceproxy --config p", tmp_path) == {"proxy.toml", "pages"}
    assert in_bash(text, "spliceproxy --serve p", tmp_path) == {"pages"}
    assert in_bash(text, "spliceproxy import p", tmp_path) == {"proxy.toml", "pages"}
    assert in_bash(text, "spliceproxy --timeout-head p", tmp_path) == set()


@needs_fish
@pytest.mark.parametrize("line", LINES)
def test_fish(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = f"{script('fish', capsys)}complete -C'{line}'\n"
    out = shell("fish", "--no-config", given=ask, folder=tmp_path)
    assert {found.partition("\t")[0] for found in out.splitlines()} == LINES[line]


@needs_zsh
def test_zsh_takes_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Completing needs a terminal; the grammar and the function's definition do not."""
    (tmp_path / "_spliceproxy").write_text(text := script("zsh", capsys))
    ask = "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; print $_comps[spliceproxy]"
    assert shell("zsh", "-f", "-c", ask, folder=tmp_path) == "_spliceproxy\n"
    shell("zsh", "-n", "_spliceproxy", folder=tmp_path)
    for name in (*COMMANDS, *VERBS, *FLAGS):
        assert name in text


def test_a_shell_that_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        completion.run(["tcsh"])
    assert caught.value.code == 2
    assert f"'tcsh'; allowed: {', '.join(SHELLS)}" in capsys.readouterr().err


def test_the_page_of_man_is_as_it_is_made() -> None:
    """If not: python -m spliceproxy.cli.manpage > docs/spliceproxy.1"""
    assert (ROOT / "docs" / "spliceproxy.1").read_text() == manpage.page()


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_page_of_man_is_well_formed() -> None:
    ended = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "error", ROOT / "docs" / "spliceproxy.1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "")
    shown = shell("mandoc", "-T", "ascii", str(ROOT / "docs" / "spliceproxy.1"))
    assert "spliceproxy - HTTP and CONNECT" in _without_overstrikes(shown)


def _without_overstrikes(text: str) -> str:
    """Bold is a sign, a backspace and the sign again."""
    shown: list[str] = []
    for sign in text:
        if sign == "\b":
            shown.pop()
        else:
            shown.append(sign)
    return "".join(shown)
