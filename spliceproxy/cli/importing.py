"""``spliceproxy import``: a squid.conf or a tinyproxy.conf becomes TOML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from spliceproxy.cli.flags import Parser, add_help, escaped


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy import",
        usage="%(prog)s FILE",
        description="Converts a squid.conf or a tinyproxy.conf(5) into TOML on standard output.\n"
        "Lists on standard error the lines that it could not convert.",
        epilog="exit status: 0 everything is converted; 1 something is not, and what that\n"
        "restricts is denied in the result; 2 the file cannot be read, or the other\n"
        "proxy does not start with it, and nothing is printed",
    )
    made.add_argument("file", metavar="FILE", help="squid.conf or tinyproxy.conf")
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    path = made.parse_args(argv).file
    from spliceproxy.settings import squid, tinyproxy
    from spliceproxy.settings.imported import Refused

    try:
        is_squid = squid.is_one(Path(path).read_bytes())
        converted = squid.convert(path) if is_squid else tinyproxy.convert(path)
    except Refused as error:
        made.fail(*error.problems)
    except OSError as error:
        allowed = "a squid.conf or a tinyproxy.conf(5)"
        made.fail(f"{path}: cannot read it ({error.strerror}); allowed: {allowed}")
    sys.stdout.write(converted.toml)
    for line in converted.notes + converted.missing:
        print(escaped(line), file=sys.stderr)
    return 1 if converted.missing else 0
