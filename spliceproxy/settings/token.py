"""The file of tokens by which an operator is known at the admin address."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from spliceproxy.kept import Kept
from spliceproxy.watched import Mistakes, WatchedFile

TOKEN_MIN = 16
"""Characters of the shortest token: with fewer it could be found by trying."""

# RFC 6750 section 2.1, which a password of Basic can be, too.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def parse(text: str) -> tuple[str, ...]:
    """The tokens, one a line; Mistakes. Empty lines and those that begin with # say nothing."""
    tokens = []
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not _TOKEN.fullmatch(token):
            problems.append(f":{number}: a token has letters, digits and ._~+/-= only")
        elif len(token) < TOKEN_MIN:
            problems.append(f":{number}: a token has {TOKEN_MIN} characters at least")
        tokens.append(token)
    if not tokens:
        problems.append(": there is no token in it")
    if problems:
        raise Mistakes(problems)
    return tuple(tokens)


def watch(path: Path, kept: Kept | None = None) -> WatchedFile[tuple[str, ...]]:
    """The tokens of a file, which is read again when it changes. ValueError, unless what it said
    before is ``kept``."""
    return WatchedFile(path, parse, kept)


def is_public(path: Path) -> bool:
    """Whether every user of this system may read the file."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
