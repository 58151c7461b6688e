"""The command line: what to run, with which settings, and the exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module

from spliceproxy.cli.flags import COMMANDS, Parser, add_settings, read, sources
from spliceproxy.config import UPGRADE_VARIABLE, Config
from spliceproxy.settings.loading import Sources
from spliceproxy.settings.sources import Found

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

SIGTERM or SIGINT begins a graceful stop: no new clients, and open requests
and tunnels have --timeout-drain seconds to finish. A second signal stops at
once. SIGHUP reads the settings again; what is wrong with them is told, and
nothing changes then. SIGUSR1 reopens the access log, for log rotation.
SIGQUIT prints every open connection to standard error. SIGUSR2 starts the
program anew, which takes over all connections.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the proxy or a command; returns the exit status. ``--help``, ``--version`` and
    bad values leave by SystemExit (0, 0 and 2)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in COMMANDS:
            command = import_module(f"spliceproxy.cli.{COMMANDS[argv[0]].module}")
            status: int = command.run(argv[1:])
            return status
        predecessor = None
        if UPGRADE_VARIABLE in os.environ:
            from spliceproxy.processes import succession

            predecessor = succession.begin(os.environ.pop(UPGRADE_VARIABLE))
        with predecessor.noting() if predecessor else nullcontext():
            made = parser()
            config, given, found = _read(made, argv)
            if config.policy.hook or config.user or config.landlock == "require":
                _try(made, config, given)
        # Not at the top: parse() answers --help and --version without loading these.
        from spliceproxy.cli.check import doubts
        from spliceproxy.messages import log
        from spliceproxy.processes import logs, supervisor

        logs.set_up(config.log_level)
        for line in doubts(config):
            log.warning("%s", line)
        return supervisor.run(config, load=partial(_again, found), predecessor=predecessor)
    except KeyboardInterrupt:  # only in a command: the proxy handles its signals before this
        return 130


def _again(found: Sources, before: Config) -> tuple[Config, list[str]]:
    """The settings as they are by now, and warnings; SettingsError."""
    from spliceproxy.cli.check import doubts

    config, kept = found.again(before)
    known = set(doubts(before))
    return config, [*kept, *(line for line in doubts(config) if line not in known)]


def parse(argv: Sequence[str]) -> Config:
    """The settings to run with; SystemExit(2) after a line on standard error for each mistake
    in them."""
    return _read(parser(), argv)[0]


def _read(made: Parser, argv: Sequence[str]) -> tuple[Config, Mapping[str, Found], Sources]:
    """The settings, where each stood, and where they can be read again."""
    if argv and not argv[0].startswith("-"):
        from difflib import get_close_matches

        near = get_close_matches(argv[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = f"allowed: {', '.join(COMMANDS)}, or an option"
        made.error(f"no such command: {argv[0]!r}; {allowed}{hint}")
    found = sources(made.parse_args(argv))
    return *read(made, found), found


def _try(made: Parser, config: Config, given: Mapping[str, Found]) -> None:
    """SystemExit(2) for files that the user of the workers may not use, and for policy functions
    that cannot be loaded."""
    from spliceproxy.processes import starting, trial

    rights = starting.rights_of(config)
    try:
        confinement = starting.confinement_of(config)
    except ValueError as error:
        made.fail(str(error))
    domain = None if confinement is None else confinement.domain(config)
    if rights is not None:
        try:
            rights.make_log(config.access_log)
        except OSError as error:
            made.fail(f"{given['access-log'].where} {config.access_log}: {error.strerror}")
        faults = trial.refused(starting.needed(config, given), rights)
        if faults:
            made.fail(*faults)
    hook = config.policy.hook
    text = trial.fault(hook, rights, domain) if hook else ""
    if text:
        from spliceproxy.settings.loading import hook_faults

        made.fail(*hook_faults(text, hook, given["policy"].where))


def parser() -> Parser:
    """Of the program itself."""
    made = Parser(
        prog="spliceproxy",
        usage="%(prog)s [--listen ADDR]... [option]...\n"
        f"       %(prog)s {{{','.join(COMMANDS)}}} ...",
        description="HTTP and CONNECT forward proxy. Python decides, the kernel moves the bytes.",
        epilog=_EXAMPLES.format(
            commands="\n".join(f"  {name:<12}{one.text}" for name, one in COMMANDS.items())
        ),
    )
    add_settings(made)
    return made
