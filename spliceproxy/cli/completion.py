"""``spliceproxy completion``: scripts that complete the command line in bash, zsh and fish.

They are made from the parsers of the commands, so they know every option there is. They are
static: nothing of this program runs when a word is completed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from spliceproxy.cli.flags import COMMANDS, Parser, add_help

FILES, FOLDERS, NOTHING = "FILE", "DIR", ""


class Option(NamedTuple):
    """``value``: FILES, FOLDERS, the words that are allowed, or NOTHING to be completed; None
    where it takes no value."""

    names: Sequence[str]
    text: str
    value: str | Sequence[str] | None
    many: bool


class Known(NamedTuple):
    """What may stand behind the name of a command, "" for the program itself."""

    words: Mapping[str, str]
    options: Sequence[Option]
    files: bool  # its arguments are files


def parser() -> Parser:
    made = Parser(
        prog="spliceproxy completion",
        usage="%(prog)s SHELL",
        description="Prints a script that completes the command line.",
        epilog="where it goes:\n"
        "  bash  ~/.local/share/bash-completion/completions/spliceproxy\n"
        "  zsh   a file _spliceproxy in a folder of $fpath\n"
        "  fish  ~/.config/fish/completions/spliceproxy.fish\n\n"
        "exit status: 0 it is printed, 2 wrong usage",
    )
    made.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    shell = made.parse_args(argv).shell
    if shell not in SHELLS:
        made.error(f"no such shell: {shell!r}; allowed: {', '.join(SHELLS)}")
    sys.stdout.write(SHELLS[shell](_known()))
    return 0


def _known() -> dict[str, Known]:
    from spliceproxy.cli.ctl import VERBS
    from spliceproxy.cli.main import parser as program

    words = {name: one.text for name, one in COMMANDS.items()}
    known = {"": Known(words, _options(program()), False)}
    more: dict[str, Mapping[str, str]] = {
        "ctl": {name: verb.text for name, verb in VERBS.items()},
        "completion": dict.fromkeys(SHELLS, "print the script of this shell"),
    }
    for name, one in COMMANDS.items():
        made: Parser = import_module(f"spliceproxy.cli.{one.module}").parser()
        takes = any(not act.option_strings and act.metavar == "FILE" for act in made._actions)
        known[name] = Known(more.get(name, {}), _options(made), takes)
    return known


def _options(made: argparse.ArgumentParser) -> list[Option]:
    found = []
    for action in made._actions:
        if action.option_strings:
            text = (action.help or "").replace("%%", "%")
            many = action.default == []
            found.append(Option(action.option_strings, text, _value(action), many))
    return found


def _value(action: argparse.Action) -> str | Sequence[str] | None:
    if action.nargs == 0:
        return None
    shown = action.metavar if isinstance(action.metavar, str) else ""
    if shown.startswith("{"):
        return shown.strip("{}").split(",")
    return shown if shown in (FILES, FOLDERS) else NOTHING


# ---- bash ------------------------------------------------------------------------------------

_BASH = """\
# bash completion for spliceproxy
_spliceproxy() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command=
    COMPREPLY=()
    case ${{COMP_WORDS[1]}} in
        {commands})
            if ((COMP_CWORD > 1)); then command=${{COMP_WORDS[1]}}; fi
            ;;
    esac
    case $command:$before in
{values}
    esac
    case $command in
{words}
    esac
}}
complete -F _spliceproxy spliceproxy
"""


def bash(known: Mapping[str, Known]) -> str:
    """The script for bash(1)."""
    values, words = [], []
    for name, one in known.items():
        for option in one.options:
            if option.value is None:
                continue
            where = "|".join(f"{name}:{flag}" for flag in option.names)
            values.append(f"        {where}) {_bash_value(option.value)}return ;;")
        offered = [*one.words, *(flag for option in one.options for flag in option.names)]
        line = f"COMPREPLY=($(compgen -W '{' '.join(offered)}' -- \"$current\"))"
        if one.files:
            line += '; [[ $current == -* ]] || COMPREPLY+=($(compgen -f -- "$current"))'
        words.append(f"        '{name}') {line} ;;")
    commands = "|".join(name for name in known if name)
    return _BASH.format(commands=commands, values="\n".join(values), words="\n".join(words))


def _bash_value(value: str | Sequence[str]) -> str:
    if value == NOTHING:
        return ""
    if value in (FILES, FOLDERS):
        letter = "f" if value == FILES else "d"
        return f'compopt -o filenames; COMPREPLY=($(compgen -{letter} -- "$current")); '
    return f"COMPREPLY=($(compgen -W '{' '.join(value)}' -- \"$current\")); "


# ---- zsh -------------------------------------------------------------------------------------

_ZSH = """\
#compdef spliceproxy
# zsh completion for spliceproxy
_spliceproxy() {{
    local -a commands
    case ${{words[2]}} in
{cases}
    esac
    commands=(
{commands}
    )
    if [[ $CURRENT == 2 && ${{words[2]}} != -* ]]; then
        _describe -t commands command commands
        return
    fi
    _arguments -s \\
{options}
}}
if [[ $funcstack[1] == _spliceproxy ]]; then
    _spliceproxy "$@"
else
    compdef _spliceproxy spliceproxy
fi
"""


def zsh(known: Mapping[str, Known]) -> str:
    """The script for zsh(1)."""
    cases = []
    for name, one in known.items():
        if not name:
            continue
        lines = list(_zsh_options(one))
        if one.words:
            lines.insert(0, f"            {_quoted(f'1:word:(({_zsh_words(one.words)}))')}")
        elif one.files:
            lines.insert(0, f"            {_quoted('*:file:_files')}")
        cases.append(
            f"        {name})\n            shift words; ((CURRENT--))\n"
            "            _arguments -s \\\n" + " \\\n".join(lines) + "\n            return ;;"
        )
    main = known[""]
    commands = "\n".join(
        f"        {_quoted(f'{word}:{text}')}" for word, text in main.words.items()
    )
    options = " \\\n".join(line[4:] for line in _zsh_options(main))
    return _ZSH.format(cases="\n".join(cases), commands=commands, options=options)


def _zsh_words(words: Mapping[str, str]) -> str:
    return " ".join(f"{word}\\:{_escaped(text, ':() ')}" for word, text in words.items())


def _zsh_options(one: Known) -> Iterator[str]:
    for option in one.options:
        star = "*" if option.many else ""
        text = _escaped(option.text, ":[]")
        for flag in option.names:
            spec = f"{star}{flag}[{text}]"
            if option.value is not None:
                spec += f":value:{_zsh_value(option.value)}"
            yield f"            {_quoted(spec)}"


def _zsh_value(value: str | Sequence[str]) -> str:
    if value == FILES:
        return "_files"
    if value == FOLDERS:
        return "_files -/"
    return f"({' '.join(value)})" if value != NOTHING else " "


def _escaped(text: str, signs: str) -> str:
    return "".join(f"\\{sign}" if sign in signs else sign for sign in text)


# ---- fish ------------------------------------------------------------------------------------


def fish(known: Mapping[str, Known]) -> str:
    """The script for fish(1)."""
    lines = ["# fish completion for spliceproxy", "complete -c spliceproxy -f"]
    for name, one in known.items():
        when = f"__fish_seen_subcommand_from {name}" if name else "__fish_use_subcommand"
        begin = f"complete -c spliceproxy -n {_quoted(when)}"
        for word, text in one.words.items():
            lines.append(f"{begin} -a {word} -d {_quoted(text)}")
        if one.files:
            lines.append(f"{begin} -F")
        for option in one.options:
            parts = [
                f"-{'l' if flag[1] == '-' else 's'} {flag.lstrip('-')}" for flag in option.names
            ]
            lines.append(
                f"{begin} {' '.join(parts)}{_fish_value(option.value)} -d {_quoted(option.text)}"
            )
    return "\n".join(lines) + "\n"


def _fish_value(value: str | Sequence[str] | None) -> str:
    if value is None:
        return ""
    if value == FILES:
        return " -r -F"
    if value == FOLDERS:
        return " -x -a '(__fish_complete_directories)'"
    return f" -x -a {_quoted(' '.join(value))}" if value != NOTHING else " -x"


def _quoted(text: str) -> str:
    """As shells take it literally; fish(1) knows no other way for an apostrophe, either."""
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Mapping[str, Callable[[Mapping[str, Known]], str]] = {
    "bash": bash,
    "zsh": zsh,
    "fish": fish,
}
