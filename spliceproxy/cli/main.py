"""The command line: what to run, with which settings, and the exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from spliceproxy.config import Config
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.loading import (
    SettingsError,
    is_there,
    load,
    native_is_built,
    native_is_for_debugging,
)
from spliceproxy.settings.sources import Found, strangers
from spliceproxy.settings.table import BY_NAME, SECTIONS, SETTINGS, Setting, default_words
from spliceproxy.version import __version__

_EXAMPLES = """\
commands, each with a --help of its own:
{commands}

examples:
  spliceproxy
      serve this machine and private networks on port 8888
  spliceproxy --listen 127.0.0.1:3128 --listen '[::1]:3128'
      serve this machine only
  spliceproxy --config /etc/spliceproxy.toml
      read the settings from a file
  curl -x http://127.0.0.1:3128 https://example.org/
      use the proxy from a client

configuration:
  Every option is also a key of the file that --config names (log-level =
  "info") and an environment variable (SPLICEPROXY_LOG_LEVEL=info; lists have
  commas). Options override variables, and variables override the file. The
  file can also hold access rules and keys that have no option. 'spliceproxy
  check' prints the effective settings.

exit status:
  0      it stopped, and everything had finished
  1      it could not start, or a worker failed while it stopped
  2      a value is bad
  128+N  a second signal, number N, stopped it at once

SIGTERM, SIGINT or SIGHUP begins a graceful stop: no new clients, and open
requests and tunnels have --timeout-drain seconds to finish. A second signal
stops at once. SIGUSR1 reopens the access log, for log rotation.
SIGQUIT and SIGUSR2 do nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the proxy or a command; returns the exit status. ``--help``, ``--version`` and
    bad values leave by SystemExit (0, 0 and 2)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in COMMANDS:
            return COMMANDS[argv[0]].run(argv[1:])
        config = parse(argv)
        # Not at the top, so that the answers of parse() come at once.
        from spliceproxy.processes import logs, supervisor

        logs.set_up(config.log_level)
        for line in _doubts(config):
            supervisor.log.warning("%s", line)
        return supervisor.run(config)
    except KeyboardInterrupt:  # in a command: the proxy takes the signals before this is loaded
        return 130


def parse(argv: Sequence[str]) -> Config:
    """The settings to run with; SystemExit(2) after a line on standard error for each
    mistake in them."""
    parser = Parser(
        prog="spliceproxy",
        usage="%(prog)s [--listen ADDR]... [option]...\n"
        f"       %(prog)s {{{','.join(COMMANDS)}}} ...",
        description="HTTP and CONNECT forward proxy. Python decides, the kernel moves the bytes.",
        epilog=_EXAMPLES.format(
            commands="\n".join(f"  {name:<10}{one.text}" for name, one in COMMANDS.items())
        ),
    )
    add_settings(parser)
    if argv and not argv[0].startswith("-"):
        near = get_close_matches(argv[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = f"allowed: {', '.join(COMMANDS)}, or an option"
        parser.error(f"no such command: {argv[0]!r}; {allowed}{hint}")
    return read_settings(parser, parser.parse_args(argv))[0]


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
            return f"{text}: no such option; it is a key of the file that --config names"
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


def add_settings(parser: Parser) -> None:
    """The flags of all settings, --config, --version and --help."""
    groups = {
        section: parser.add_argument_group(section, text or None)
        for section, text in SECTIONS.items()
    }
    first, *_, last = groups.values()
    first.add_argument(
        "--config", metavar="FILE", help="a TOML file of settings, access rules among them"
    )
    for setting in SETTINGS:
        if setting.section:
            _add_flag(groups[setting.section], setting)
    last.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    add_help(last)


def _add_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    kind = setting.kind
    default = default_words(setting)
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
        metavar=kind.metavar or None,
        action="append" if setting.many else "store",
        type=str if kind.choices else read,
        choices=kind.choices or None,
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
    )


def read_settings(
    parser: Parser, flags: argparse.Namespace, *, start: bool = True
) -> tuple[Config, Mapping[str, Found]]:
    """What :func:`settings.loading.load` makes of the flags of :func:`add_settings`;
    SystemExit(2) after a line for each mistake."""
    given = {name: value for name, value in vars(flags).items() if name in BY_NAME}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    for line in strangers(os.environ):
        print(f"{parser.prog}: warning: {escaped(line)}", file=sys.stderr)
    try:
        return load({**given, **lists}, flags.config, start=start)
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


# The commands


def _check(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="spliceproxy check",
        usage="%(prog)s [--config FILE] [option]...",
        description="Checks the settings and starts nothing. Lists every mistake on standard\n"
        "error, or prints the effective settings as TOML. Passwords given by flag or\n"
        "variable are left out, and so is the name in Via unless it is set. The options\n"
        "are those of spliceproxy.",
        epilog="exit status: 0 there is no mistake, 2 there are mistakes",
    )
    add_settings(parser)
    config, found = read_settings(parser, parser.parse_args(argv), start=False)
    from spliceproxy.settings.writing import to_toml

    outside = {name for name, one in found.items() if BY_NAME[name].kind.secret and not one.in_file}
    # A name made up at each start is no setting: two proxies with the same would see loops.
    outside |= {"via"} - found.keys()
    try:
        text = to_toml(config, leave_out=outside)
    except ValueError as error:
        parser.fail(str(error))
    sys.stdout.write(text)
    for line in _doubts(config):
        print(f"{parser.prog}: warning: {escaped(line)}", file=sys.stderr)
    return 0


def _doubts(config: Config) -> Iterator[str]:
    """What is allowed but is hardly meant."""
    if config.serve is not None:
        from spliceproxy.site.opening import unserved

        links = unserved(str(config.serve), links=config.serve_links)
        if links:
            more = f" and {len(links) - 1} more" if len(links) > 1 else ""
            why = "links that lead to no file within the directory are not followed"
            if not config.serve_links:
                why = "links are not followed; --serve-links follows those that stay within it"
            yield f"--serve {config.serve}: {links[0]}{more}: {why}"


def _import(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="spliceproxy import",
        usage="%(prog)s FILE",
        description="Converts a tinyproxy.conf(5) into TOML on standard output. Lists on\n"
        "standard error the lines that it could not convert.",
        epilog="exit status: 0 everything is converted; 1 something is not, and if that\n"
        "restricts clients, the result denies everything; 2 the file cannot be read, or\n"
        "tinyproxy does not start with it, and nothing is printed",
    )
    parser.add_argument("file", metavar="FILE", help="tinyproxy.conf")
    add_help(parser)
    path = parser.parse_args(argv).file
    from spliceproxy.settings.tinyproxy import Refused, convert

    try:
        converted = convert(path)
    except Refused as error:
        parser.fail(*error.problems)
    except OSError as error:
        parser.fail(f"{path}: cannot read it ({error.strerror}); allowed: a tinyproxy.conf(5)")
    sys.stdout.write(converted.toml)
    for line in converted.notes + converted.missing:
        print(escaped(line), file=sys.stderr)
    return 1 if converted.missing else 0


def _explain(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="spliceproxy explain",
        usage="%(prog)s [--config FILE] [option]... METHOD TARGET",
        description="Says what the proxy would do with a request, and which rule or setting\n"
        "decides. It sends nothing but DNS queries, and it calls the function of\n"
        "--policy. The other options are those of spliceproxy.",
        epilog="example:\n"
        "  spliceproxy explain --config proxy.toml --from 10.0.0.7 CONNECT a.test:443\n\n"
        "exit status: 0 the request is allowed, 1 it is not, 2 wrong usage",
    )
    asked = parser.add_argument_group("the request")
    asked.add_argument("method", metavar="METHOD", help="CONNECT, GET and so on")
    asked.add_argument("target", metavar="TARGET", help="host:port for CONNECT, else http://...")
    asked.add_argument(
        "--user", default="", help="the user that it comes from; needs no password here"
    )
    asked.add_argument(
        "--from",
        dest="client",
        metavar="IP",
        default="127.0.0.1",
        help="address of the client, or unix (default: 127.0.0.1)",
    )
    asked.add_argument(
        "--address",
        metavar="IP",
        action="append",
        default=[],
        help="address of the target, instead of a DNS query; may be repeated",
    )
    asked.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    flags = parser.parse_args(argv)
    config, _ = read_settings(parser, flags, start=False)
    from spliceproxy.embed import explaining

    try:
        request = explaining.read_request(
            flags.method, flags.target, flags.client, flags.user, flags.address
        )
    except ValueError as error:
        parser.error(str(error))
    with redirect_stdout(sys.stderr):  # the hook may print
        explanation = explaining.explain(config, request)
    print(explaining.as_json(explanation) if flags.json else explaining.as_text(explanation))
    return 0 if explanation.allowed else 1


@dataclass(frozen=True)
class Command:
    """``run`` gets the arguments behind the command's name and returns the exit status. One
    that needs the settings has the proxy's flags: add_settings and read_settings."""

    run: Callable[[Sequence[str]], int]
    text: str  # for --help


COMMANDS: Mapping[str, Command] = {
    "check": Command(_check, "check the settings and print the effective ones"),
    "explain": Command(_explain, "say what would happen to a request, and why"),
    "import": Command(_import, "convert a tinyproxy.conf into TOML"),
}
