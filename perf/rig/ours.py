"""spliceproxy itself: without settings, with what it may do for each request, and another
build of it."""

from __future__ import annotations

import sys
from pathlib import Path

from .kinds import Kind, Setting, find

FUNCTIONS = Path(__file__).parent / "functions"

OURS = "spliceproxy"
BEFORE = "spliceproxy-before"
USERS = "user:password"
CREDENTIALS = "Basic dXNlcjpwYXNzd29yZA=="
RULES = 1000

_CONDITIONS = (  # by turns, with a number; none of them holds for what is measured
    ("deny", 'hosts = ["host{0}.test"]'),
    ("deny", 'hosts = ["*.domain{0}.test"]'),
    ("allow", 'hosts = ["/ads{0}[.].*[.]test/"]\nports = [{2}]'),
    ("deny", 'clients = ["10.{1}.0.0/16"]'),
    ("deny", 'ports = [{2}]\nmethods = ["CONNECT"]'),
    ("deny", 'networks = ["172.16.{1}.0/24"]'),
)


def is_ours(kind: Kind) -> bool:
    """Whether it is spliceproxy, of whatever build and settings."""
    return kind.name.startswith(OURS)


def rules(number: int) -> str:
    """TOML with so many rules of all kinds, none of which matches."""
    made = []
    for n in range(number):
        action, condition = _CONDITIONS[n % len(_CONDITIONS)]
        what = condition.format(n, n % 256, 1 + n)  # ports below those of the origins
        made.append(f'[[rule]]\nid = "rule-{n}"\naction = "{action}"\n{what}\n')
    return "\n".join(made)


def variants() -> tuple[Kind, ...]:
    """spliceproxy first, then each with something more to do for a request."""
    return (
        Kind(OURS, "", "", _plain),
        _with("function", "a function", *_function("plain"), counts=("calls",)),
        _with("async", "an async function", *_function("asynchronous"), counts=("calls",)),
        _with(
            *("on_close", "a function, tags and on_close", *_function("closing")),
            counts=("calls", "ends"),
        ),
        _with("auth", "a user's password", "--auth", USERS, credentials=CREDENTIALS),
        Kind(f"{OURS}+rules", "", "", _with_rules, more=f"{RULES:,} rules"),
        _with("log", "an access log in a file", "--access-log", "access.log"),
    )


def before() -> Kind:
    """Another build of spliceproxy, of the Python that BEFORE names."""
    how = "BEFORE names the python of an environment with it"

    def argv(s: Setting) -> list[str]:
        return [find(BEFORE) or BEFORE, *_arguments(s)]

    return Kind(BEFORE, BEFORE, how, argv)


def _arguments(s: Setting) -> list[str]:
    return [
        *("-m", "spliceproxy", "--listen", f"127.0.0.1:{s.port}"),
        *("--workers", str(s.workers), "--default-backend", f"127.0.0.1:{s.pages}"),
        *("--access-log", "off", "--log-level", "warning", "--timeout-drain", "0"),
        *("--via", "spliceproxy"),
    ]


def _plain(s: Setting) -> list[str]:
    return [sys.executable, *_arguments(s)]


def _with(
    name: str, more: str, *arguments: str, credentials: str = "", counts: tuple[str, ...] = ()
) -> Kind:
    def argv(s: Setting) -> list[str]:
        return [*_plain(s), *arguments]

    return Kind(f"{OURS}+{name}", "", "", argv, credentials=credentials, more=more, counts=counts)


def _function(name: str) -> tuple[str, str]:
    return "--policy", f"{FUNCTIONS / name}.py"


def _with_rules(s: Setting) -> list[str]:
    path = s.folder / "rules.toml"
    path.write_text(rules(RULES))
    return [*_plain(s), "--config", str(path)]
