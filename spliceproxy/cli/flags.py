"""What the commands have in common: the flags of the settings, and how a mistake is told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, NoReturn

from spliceproxy.config import Config
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.loading import (
    SettingsError,
    Sources,
    is_there,
    native_is_built,
    native_is_for_debugging,
)
from spliceproxy.settings.sources import Found, strangers
from spliceproxy.settings.table import BY_NAME, SECTIONS, SETTINGS, Setting, default_words
from spliceproxy.version import __version__


class Command(NamedTuple):
    """``module`` of this package has ``run(argv) -> int``: it gets the arguments behind the
    command's name and returns the exit status. It is loaded when the command is used."""

    module: str
    text: str  # for --help


COMMANDS: Mapping[str, Command] = {
    "check": Command("check", "check the settings and print the effective ones"),
    "completion": Command("completion", "print a script that completes the command line"),
    "ctl": Command("ctl", "ask or steer a running proxy"),
    "explain": Command("explain", "say what would happen to a request, and why"),
    "import": Command("importing", "convert a squid.conf or a tinyproxy.conf into TOML"),
    "manifests": Command("manifests", "print what runs and watches it in Kubernetes"),
    "top": Command("top", "show live tunnels and requests in a terminal"),
    "unit": Command("unit", "print files for systemd, logrotate and sysctl"),
}


class Parser(argparse.ArgumentParser):
    """What all commands have in common: no abbreviations, errors in one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **kwargs,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but what is unknown is named with what may be meant."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = next((one for one in unknown if one.startswith("-")), unknown[0])
            self.error(self._unknown(flag.partition("=")[0]))
        return found

    def _unknown(self, text: str) -> str:
        if text in COMMANDS:
            return f"{text}: a command comes before all options"
        if not text.startswith("-"):
            return f"{text}: only options and their values are allowed here"
        if text.removeprefix("--") in BY_NAME:
            setting = BY_NAME[text.removeprefix("--")]
            variable = f", or the variable {setting.variable}" if setting.in_environment else ""
            return f"{text}: no such option; it is a key of the file that --config names{variable}"
        from difflib import get_close_matches

        names = [one.removeprefix("--") for one in self._option_string_actions]
        name = text.lstrip("-")
        near = [one for one in names if len(name) > 1 and one.startswith(name)]
        near = near or get_close_matches(name, names, 1, 0.7)
        hint = f"; did you mean {' or '.join(f'--{one}' for one in near)}?" if near else ""
        return f"{text}: no such option{hint}"

    def error(self, message: str) -> NoReturn:
        plain = message.replace("ignored explicit argument", "it takes no value, but was given")
        self.fail(f"{plain.removeprefix('argument ')} (see --help)")

    def fail(self, *lines: str) -> NoReturn:
        """Ends with status 2."""
        self.exit(2, "".join(f"{self.prog}: {escaped(line)}\n" for line in lines))


def escaped(text: str) -> str:
    """The text on one line, whatever it was made of."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def add_help(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--help", "-h", action="help", help="print this text and exit")


def add_settings(parser: Parser, without: Collection[str] = ()) -> None:
    """The flags of all settings, --config, --version and --help. ``without`` are settings whose
    flags would mean something else in this command."""
    groups = {
        section: parser.add_argument_group(section, text or None)
        for section, text in SECTIONS.items()
    }
    first, *_, last = groups.values()
    first.add_argument(
        "--config", metavar="FILE", help="a TOML file of settings, access rules among them"
    )
    for setting in SETTINGS:
        if setting.section and setting.name not in without:
            _add_flag(groups[setting.section], setting)
    last.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    add_help(last)


def _add_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    kind = setting.kind
    default = default_words(setting)
    # Not argparse's choices, which has other words for a bad value than a variable and the file.
    choices = f"{{{','.join(kind.choices)}}}" if kind.choices else ""
    text = setting.help + ("; may be repeated" if setting.many else "")
    text += f" (default: {default})" if default else ""

    def read(value: str) -> Any:
        try:
            return kind.read(value, "")
        except Invalid as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    if kind.types == (bool,):
        group.add_argument(
            setting.flag_name,
            dest=setting.name,
            action="store_true",
            default=argparse.SUPPRESS,
            help=setting.help,
        )
        return
    group.add_argument(
        f"--{setting.name}",
        dest=setting.name,
        metavar=kind.metavar or choices or None,
        action="append" if setting.many else "store",
        type=read,
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
    )


def read_settings(
    parser: Parser, flags: argparse.Namespace, *, start: bool = True
) -> tuple[Config, Mapping[str, Found]]:
    """What :func:`settings.loading.load` makes of the flags of :func:`add_settings`;
    SystemExit(2) after a line for each mistake."""
    return read(parser, sources(flags), start=start)


def sources(flags: argparse.Namespace) -> Sources:
    """The flags of :func:`add_settings`, with the environment and the file that they name."""
    given = {name: value for name, value in vars(flags).items() if name in BY_NAME}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Sources({**given, **lists}, flags.config)


def read(
    parser: Parser, found: Sources, *, start: bool = True
) -> tuple[Config, Mapping[str, Found]]:
    """As of :func:`read_settings`."""
    for line in strangers(os.environ):
        print(f"{parser.prog}: warning: {escaped(line)}", file=sys.stderr)
    try:
        return found.load(start=start)
    except SettingsError as error:
        parser.fail(*error.problems)


class _Version(argparse.Action):
    """Prints the version; finds out what is built only when asked."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        from platform import python_implementation, python_version

        native = "built" if native_is_built() else "not built"
        if native_is_for_debugging():
            native = "built for debugging"
        loop = "uvloop" if is_there("uvloop") else "asyncio"
        print(
            f"spliceproxy {__version__} ({python_implementation()} {python_version()}, "
            f"native engine {native}, {loop})"
        )
        parser.exit()
