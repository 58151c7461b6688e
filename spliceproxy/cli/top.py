"""``spliceproxy top``: the live tunnels and requests of a running proxy, in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from spliceproxy.admin.client import NoAnswer, Unknown, find
from spliceproxy.cli.flags import Parser, add_help, escaped

SHORTEST = 0.2
"""Seconds between two looks, at least: each costs the proxy a little."""


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy top",
        usage="%(prog)s [option]...",
        description="Shows the live tunnels and running requests of a proxy, and can end them.",
        epilog="keys:\n"
        "  < >    order by another column; a click on a heading does it, too\n"
        "  r      the other way round\n"
        "  /      show rows with some words only; Escape shows all again\n"
        "  space  stop or go on looking\n"
        "  k      end the tunnel or request at the cursor, after a question\n"
        "  q      leave\n\n"
        "exit status: 0 the user has left; 1 the proxy does not answer; 2 wrong usage,\n"
        "no terminal, or textual is not installed (pip install 'spliceproxy[top]')",
    )
    made.add_argument("--admin", metavar="ADDR", help="the admin address of the proxy")
    made.add_argument("--admin-token-file", metavar="FILE", help="the file with the token")
    made.add_argument(
        "--config",
        metavar="FILE",
        help="the settings of the proxy, which say both unless an option does, or "
        "SPLICEPROXY_ADMIN or SPLICEPROXY_ADMIN_TOKEN_FILE",
    )
    made.add_argument(
        "--seconds", metavar="SECONDS", default="2", help="between two looks (default: 2)"
    )
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    flags = made.parse_args(argv)
    try:
        seconds = float(flags.seconds)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds <= 3600:
        made.error(f"--seconds: {flags.seconds!r}; allowed: {SHORTEST} to 3600")
    if find_spec("textual") is None:
        made.fail("textual is needed for this; install it with: pip install 'spliceproxy[top]'")
    try:
        client = find(flags.admin, flags.admin_token_file, flags.config)
    except Unknown as error:
        made.fail(*str(error).split("\n"))
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if not stream.isatty():
            made.fail(
                f"standard {name} is no terminal; spliceproxy ctl tunnels prints the list once"
            )
    from spliceproxy.admin import screen

    try:
        screen.run(client, seconds)
    except NoAnswer as error:
        print(f"{made.prog}: {escaped(str(error))}", file=sys.stderr)
        return 1
    return 0
