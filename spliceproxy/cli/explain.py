"""``spliceproxy explain``: what would happen to a request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from spliceproxy.cli.flags import Parser, add_settings, read_settings


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy explain",
        usage="%(prog)s [--config FILE] [option]... METHOD TARGET",
        description="Says what the proxy would do with a request, and which rule or setting\n"
        "decides. It sends nothing but DNS queries, and it calls the function of\n"
        "--policy. The other options are those of spliceproxy.",
        epilog="example:\n"
        "  spliceproxy explain --config proxy.toml --from 10.0.0.7 CONNECT a.test:443\n\n"
        "exit status: 0 the request is allowed, 1 it is not, 2 wrong usage",
    )
    asked = made.add_argument_group("the request")
    asked.add_argument("method", metavar="METHOD", help="CONNECT, GET and so on")
    asked.add_argument("target", metavar="TARGET", help="host:port for CONNECT, else http://...")
    asked.add_argument(
        "--user",
        dest="asks",
        metavar="USER",
        default="",
        help="the user that it comes from; needs no password here",
    )
    asked.add_argument(
        "--from",
        dest="client",
        metavar="IP",
        default="127.0.0.1",
        help="address of the client, or unix (default: 127.0.0.1)",
    )
    asked.add_argument(
        "--balancer",
        metavar="IP",
        help="address of the balancer that has brought the client, or unix (default: none has)",
    )
    asked.add_argument(
        "--listener",
        metavar="ADDR",
        help="address of --listen where the client comes in (default: none that a route names)",
    )
    asked.add_argument(
        "--address",
        metavar="IP",
        action="append",
        default=[],
        help="address of the target, instead of a DNS query; may be repeated",
    )
    asked.add_argument("--json", action="store_true", help="print JSON")
    add_settings(made, without=("user", "group"))  # whose rights the proxy would have
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    flags = made.parse_args(argv)
    config, _ = read_settings(made, flags, start=False)
    from spliceproxy.embed import explaining

    try:
        request = explaining.read_request(
            flags.method, flags.target, flags.client, flags.asks, flags.address
        )
        if flags.balancer is not None:
            explaining.check_balancer(config, flags.client, flags.balancer)
        listener = None if flags.listener is None else explaining.listener(config, flags.listener)
    except ValueError as error:
        made.error(str(error))
    with redirect_stdout(sys.stderr):  # the function may print
        explanation = explaining.explain(config, request, flags.balancer or "", listener)
    print(explaining.as_json(explanation) if flags.json else explaining.as_text(explanation))
    return 0 if explanation.allowed else 1
