"""The command line: flags to :class:`Config`, and the exit status."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NoReturn

from spliceproxy.config import Address, Config, Timeouts
from spliceproxy.http1.chain import FORWARDED_MODES
from spliceproxy.version import __version__

MAX_WORKERS = 1024
MAX_SECONDS = 365 * 24 * 3600.0
NAME_MAX = 254  # of a host name with its final dot (RFC 1035 section 3.1)
UNIX_PATH_MAX = 107
"""Bytes of a Unix socket's path (sun_path less its NUL, unix(7))."""

# A host name; one that ends in a number could be taken for an IPv4 address.
_NAME = re.compile(r"([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*\.?")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_PSEUDONYM = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,9}")

_EXAMPLES = """\
examples:
  spliceproxy
      proxy for every host that can reach port 8888 of this one
  spliceproxy --listen 127.0.0.1:3128 --listen '[::1]:3128'
      for this machine alone
  curl -x http://127.0.0.1:3128 https://example.org/
      how a client uses it

exit status:
  0 stopped and drained, 1 cannot start or a worker failed to drain, 2 bad
  value, 128+N ended at once by a second signal N

SIGTERM, SIGINT and SIGHUP stop it: it refuses new connections and lets
requests and tunnels run for the drain timeout. A second one ends it at once.
SIGUSR1 opens the access log anew, for log rotation.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the proxy; returns the exit status. ``--help``, ``--version`` and bad values
    leave by SystemExit (0, 0 and 2)."""
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
        # Not at the top, so that the answers of parse() come at once.
        from spliceproxy import logs, supervisor

        logs.set_up(config.log_level)
        return supervisor.run(config)
    except KeyboardInterrupt:  # before the supervisor has taken the signals
        return 130


def parse(argv: Sequence[str]) -> Config:
    """The settings that the flags ask for; SystemExit(2) after one line on standard
    error where they make no sense."""
    parser = _parser()
    flags = parser.parse_args(argv)
    listen = tuple(flags.listen or [Address(port=8888)])
    for one, other in combinations(listen, 2):
        if _overlap(one, other):
            parser.error(f"--listen {other}: overlaps with --listen {one}; give each address once")
    if flags.serve and flags.default_backend:
        parser.error(
            f"--serve {flags.serve}: not together with --default-backend; "
            "only one of them can answer requests to the proxy itself"
        )
    if flags.engine == "native" and not _native_is_built():
        parser.error(
            "--engine native: the compiled module is not built; allowed: auto, splice, copy, "
            "or install it again with a C compiler"
        )
    if flags.access_log not in ("-", "off"):
        try:
            _check_writable(flags.access_log)
        except OSError as error:
            parser.error(
                f"--access-log {flags.access_log}: cannot write to it "
                f"({error.strerror}); allowed: a writable file, '-' or 'off'"
            )
    return Config(
        listen=listen,
        workers=flags.workers or len(os.sched_getaffinity(0)),
        engine=flags.engine,
        default_backend=flags.default_backend,
        serve=flags.serve,
        max_connections=flags.max_connections,
        via=f"spliceproxy-{os.urandom(4).hex()}" if flags.via is None else flags.via,
        forwarded_for=flags.forwarded_for,
        timeouts=Timeouts(
            head=flags.timeout_head,
            dial=flags.timeout_dial,
            dns=flags.timeout_dns,
            idle=flags.timeout_idle,
            half_close=flags.timeout_half_close,
            drain=flags.timeout_drain,
        ),
        access_log=flags.access_log,
        log_level=flags.log_level,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        self.exit(2, f"{self.prog}: {line} (see --help)\n")


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

        native = "built" if _native_is_built() else "not built"
        loop = "uvloop" if _is_there("uvloop") else "asyncio"
        print(
            f"spliceproxy {__version__} ({python_implementation()} {python_version()}, "
            f"native engine {native}, {loop})"
        )
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spliceproxy",
        usage="%(prog)s [--listen ADDR]... [option]...",
        description="HTTP and CONNECT forward proxy. Python decides, the kernel moves the bytes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    _add_where(parser.add_argument_group("where"))
    _add_how(parser.add_argument_group("how"))
    _add_fields(parser.add_argument_group("fields of forwarded requests"))
    _add_timeouts(
        parser.add_argument_group("timeouts", "In seconds, fractions allowed: above 0, to a year.")
    )
    _add_logs(parser.add_argument_group("logs and information"))
    return parser


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--listen",
        metavar="ADDR",
        action="append",
        type=_address,
        help="address for clients, may be repeated: :8888 (every address), "
        "127.0.0.1:8888, [::1]:8888 or unix:/path; port 0 takes a free port (default: :8888)",
    )
    group.add_argument(
        "--default-backend",
        metavar="HOST:PORT",
        type=_backend,
        help="where requests to the proxy itself go, such as GET /index.html "
        "(default: they are answered with how to configure a client)",
    )
    group.add_argument(
        "--serve",
        metavar="DIR",
        type=_directory,
        help="answer such requests with the files of this directory instead",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        default=0,
        help="processes (default: auto, one per CPU that this process may use)",
    )
    group.add_argument(
        "--engine",
        choices=("auto", "native", "splice", "copy"),
        default="auto",
        help="what moves the bytes: the compiled relay, os.splice, or recv and send "
        "(default: auto, the best that works here)",
    )
    group.add_argument(
        "--max-connections",
        metavar="N",
        type=_count,
        default=0,
        help="client connections, over all workers (default: 0, as many as there are "
        "file descriptors for)",
    )


def _add_fields(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--via",
        metavar="NAME",
        type=_via,
        help="this proxy's name in Via, by which it also finds loops, or off "
        "(default: spliceproxy- and eight random digits)",
    )
    group.add_argument(
        "--forwarded-for",
        choices=FORWARDED_MODES,
        default="transparent",
        help="Forwarded and X-Forwarded-For: leave them as they come, add the client's "
        "address, add unknown, or delete them (default: transparent)",
    )


def _add_timeouts(group: argparse._ArgumentGroup) -> None:
    default = Timeouts()
    rows: tuple[tuple[str, Callable[[str], float], float, str], ...] = (
        ("head", _seconds, default.head, "a whole request head, and a wait for the next"),
        ("dial", _seconds, default.dial, "connecting to an origin"),
        ("dns", _seconds, default.dns, "resolving one name"),
        ("idle", _seconds, default.idle, "a tunnel or body without a byte"),
        ("half-close", _seconds, default.half_close, "the same, once one side has ended"),
        ("drain", _seconds_or_none, default.drain, "requests and tunnels after SIGTERM; may be 0"),
    )
    for name, convert, seconds, text in rows:
        group.add_argument(
            f"--timeout-{name}",
            metavar="S",
            type=convert,
            default=seconds,
            help=f"{text} (default: {seconds:g})",
        )


def _add_logs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--access-log",
        metavar="FILE",
        type=_log_file,
        default="-",
        help="one line per request and tunnel: a file, - for standard output, or off (default: -)",
    )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="of the messages on standard error (default: info)",
    )
    group.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    group.add_argument("--help", "-h", action="help", help="print this text and end")


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _native_is_built() -> bool:
    return _is_there("spliceproxy.relay._native")


def _refuse(value: str, allowed: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"invalid value {value!r}; allowed: {allowed}")


def _address(value: str) -> Address:
    allowed = (
        ":8888, 127.0.0.1:8888, [::1]:8888 (an IP address, a port from 0 to 65535) or unix:/path"
    )
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path or len(os.fsencode(os.path.abspath(path))) > UNIX_PATH_MAX:
            raise _refuse(value, f"unix: and a path of 1 to {UNIX_PATH_MAX} bytes")
        return Address(path=os.path.abspath(path))
    host, _, digits = value.rpartition(":")  # a bare 8888 is :8888
    port = _port(digits)
    if port < 0:
        raise _refuse(value, allowed)
    if not host:
        return Address(port=port)
    address = _ip(host)
    if not address:
        raise _refuse(value, allowed)
    return Address(host=address, port=port)


def _backend(value: str) -> tuple[str, int]:
    host, _, digits = value.rpartition(":")
    port = _port(digits)
    name = _ip(host) or (host.lower() if _NAME.fullmatch(host) else "")
    if port < 1 or not name or len(name) > NAME_MAX:
        raise _refuse(value, "HOST:PORT with a name, IPv4 or [IPv6] and a port from 1 to 65535")
    return name, port


def _port(digits: str) -> int:
    """0 to 65535, or -1 for anything else."""
    port = int(digits) if _DIGITS.fullmatch(digits) else -1
    return port if port <= 65535 else -1


def _ip(host: str) -> str:
    """The address in its canonical form, "" if ``host`` is none; IPv6 is in brackets."""
    try:
        if host.startswith("[") and host.endswith("]"):
            address = ipaddress.IPv6Address(host[1:-1])
            return "" if address.scope_id else str(address)
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""


def _overlap(one: Address, other: Address) -> bool:
    """Whether the two cannot both be bound."""
    if one.path or other.path:
        return one.path == other.path
    if one.port != other.port or one.port == 0:
        return False
    if not one.host or not other.host or one.host == other.host:
        return True
    same_family = (":" in one.host) == (":" in other.host)
    return same_family and bool({one.host, other.host} & {"0.0.0.0", "::"})


def _directory(value: str) -> Path:
    path = Path(value).absolute()
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.X_OK):
        raise _refuse(value, "a directory that exists and can be read")
    return path


def _workers(value: str) -> int:
    """The number, 0 for auto."""
    if value == "auto":
        return 0
    count = int(value) if _DIGITS.fullmatch(value) else 0
    if not 1 <= count <= MAX_WORKERS:
        raise _refuse(value, f"1 to {MAX_WORKERS}, or auto")
    return count


def _count(value: str) -> int:
    if not _DIGITS.fullmatch(value):
        raise _refuse(value, "0 to 999999999")
    return int(value)


def _via(value: str) -> str:
    """The pseudonym, "" for off."""
    if not _PSEUDONYM.fullmatch(value):
        raise _refuse(value, "letters, digits and -._:, at most 64; or off")
    return "" if value == "off" else value


def _seconds(value: str) -> float:
    seconds = float(value) if _SECONDS.fullmatch(value) else math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise _refuse(value, f"seconds above 0, at most {MAX_SECONDS:.0f}")
    return seconds


def _seconds_or_none(value: str) -> float:
    return 0.0 if _SECONDS.fullmatch(value) and float(value) == 0 else _seconds(value)


def _log_file(value: str) -> str:
    if not value:
        raise _refuse(value, "a file, - or off")
    return value if value in ("-", "off") else os.path.abspath(value)


def _check_writable(path: str) -> None:
    """Opens the file as the log will: any doubt about it is settled now."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    os.close(os.open(path, flags, 0o640))
