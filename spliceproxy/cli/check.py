"""``spliceproxy check``: the settings, checked and printed; nothing is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from spliceproxy.cli.flags import Parser, add_settings, escaped, read_settings
from spliceproxy.config import Config
from spliceproxy.settings.table import BY_NAME


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy check",
        usage="%(prog)s [--config FILE] [option]...",
        description="Checks the settings and starts nothing. Lists every mistake on standard\n"
        "error, or prints the effective settings as TOML. Passwords given by flag or\n"
        "variable are left out, and so is the name in Via unless it is set. The options\n"
        "are those of spliceproxy.",
        epilog="exit status: 0 there is no mistake, 2 there are mistakes",
    )
    add_settings(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    config, found = read_settings(made, made.parse_args(argv), start=False)
    from spliceproxy.settings.writing import to_toml

    outside = {name for name, one in found.items() if BY_NAME[name].kind.secret and not one.in_file}
    # The name in Via is made up at each start. Two proxies with the same name would see loops.
    outside |= {"via"} - found.keys()
    try:
        text = to_toml(config, leave_out=outside)
    except ValueError as error:
        made.fail(str(error))
    sys.stdout.write(text)
    for line in doubts(config):
        print(f"{made.prog}: warning: {escaped(line)}", file=sys.stderr)
    return 0


def doubts(config: Config) -> Iterator[str]:
    """A line for each setting that is allowed, but is probably a mistake."""
    if config.serve_links and config.serve is None:
        yield "--serve-links: it has no effect without --serve"
    if config.group and not config.user:
        yield "--group: it has no effect without --user"
    yield from _doubts_of_operators(config)
    if config.serve is not None:
        from spliceproxy.site.opening import unserved

        links = unserved(str(config.serve), links=config.serve_links)
        if links:
            more = f" and {len(links) - 1} more" if len(links) > 1 else ""
            why = "links that lead to no file within the directory are not followed"
            if not config.serve_links:
                why = "links are not followed; --serve-links follows those that stay within it"
            yield f"--serve {config.serve}: {links[0]}{more}: {why}"


def _doubts_of_operators(config: Config) -> Iterator[str]:
    admin = config.admin
    if admin.address is None:
        for name, given in (
            ("--admin-token-file", admin.token_file),
            ("admin-hosts", admin.hosts),
        ):
            if given:
                yield f"{name}: it has no effect without --admin"
    elif admin.address.path and admin.token_file is not None:
        yield "--admin-token-file: it has no effect where --admin is a Unix socket"
    if admin.token_file is not None:
        from spliceproxy.settings import token

        if token.is_public(admin.token_file):
            yield f"--admin-token-file {admin.token_file}: every user can read it; chmod o-r it"
