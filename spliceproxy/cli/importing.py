"""``spliceproxy import``: a tinyproxy.conf becomes TOML."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from spliceproxy.cli.flags import Parser, add_help, escaped


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy import",
        usage="%(prog)s FILE",
        description="Converts a tinyproxy.conf(5) into TOML on standard output. Lists on\n"
        "standard error the lines that it could not convert.",
        epilog="exit status: 0 everything is converted; 1 something is not, and if that\n"
        "restricts clients, the result denies everything; 2 the file cannot be read, or\n"
        "tinyproxy does not start with it, and nothing is printed",
    )
    made.add_argument("file", metavar="FILE", help="tinyproxy.conf")
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    path = made.parse_args(argv).file
    from spliceproxy.settings.tinyproxy import Refused, convert

    try:
        converted = convert(path)
    except Refused as error:
        made.fail(*error.problems)
    except OSError as error:
        made.fail(f"{path}: cannot read it ({error.strerror}); allowed: a tinyproxy.conf(5)")
    sys.stdout.write(converted.toml)
    for line in converted.notes + converted.missing:
        print(escaped(line), file=sys.stderr)
    return 1 if converted.missing else 0
