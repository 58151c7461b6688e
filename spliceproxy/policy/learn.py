"""``--learn``: the destinations that were asked for, gathered and merged into a file.

The file is one for :mod:`spliceproxy.policy.lockfile`, sorted, so that two runs of the same
program write the same. Several processes may write to it: each merges what is new to it into
what is there, under flock(2), and replaces the file as a whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from spliceproxy.config import RuleConfig
from spliceproxy.messages import log, plain
from spliceproxy.policy.lockfile import decide, parse
from spliceproxy.policy.names import canonical
from spliceproxy.policy.rules import DEFAULT, RuleSet

EVERY = 2.0
"""Seconds from the first new destination to the next time that the file is written."""

LOCK_SECONDS = 1.5
"""Seconds to wait for the lock of the file. Whoever holds it merges a few kilobytes. Twice this
time is less than a worker has to end (children.GRACE of the supervisor)."""

LOCK_POLL = 0.02
"""Seconds between two tries: flock(2) has no limit of its own."""

MAX_SEEN = 10_000
"""Destinations that one process gathers; a client can make up any number of names."""

HEADER = """\
# The destinations that spliceproxy --learn has seen, for review. With --locked this file allows
# the destinations of rules with action = "allow" and no others. You may add and remove lines.
# Hosts may also be .NAME, *.NAME or /REGEX/. When more is learned, rules with an id of your own
# are kept and stand before those named learned-PORT and denied-PORT, and comments are lost.

"""

Destination = tuple[str, int]
"""A canonical host and a port."""

_OURS = re.compile(r"(learned|denied)-([0-9]+)").fullmatch
_ACTIONS = {"learned": "allow", "denied": "deny"}


class Learned:
    """What one worker has seen; create it inside its event loop, and finish it."""

    def __init__(self, path: Path) -> None:
        merge(b"", {}, "")  # loads what it takes: later there may be no descriptor for it
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._seen: dict[Destination, bool] = {}
        self._fresh: dict[Destination, bool] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._full = False
        self.failures = 0  # times that the file could not be written

    def see(self, host: str, port: int, allowed: bool) -> None:
        """A request or tunnel asked to go there; whether it was allowed."""
        try:
            destination = canonical(host), port
        except ValueError:
            return  # it led nowhere
        known = self._seen.get(destination)
        if known or known is allowed:
            return
        if known is None and len(self._seen) >= MAX_SEEN:
            if not self._full:
                log.warning("--learn: more than %d destinations; no more are learned", MAX_SEEN)
            self._full = True
            return
        self._seen[destination] = self._fresh[destination] = allowed
        self._plan()

    async def finish(self) -> None:
        """Writes what is new. If that fails, it is written to another file beside it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await self._writing
        if self._fresh:
            await self._write()
        if self._fresh:
            self._write_aside()
        if self.failures:
            log.warning("--learn %s: it could not be written %d times", self._path, self.failures)

    def _write_aside(self) -> None:
        """Saves what could not be merged into the file."""
        path = self._path.resolve()
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            aside.write_bytes(merge(b"", self._fresh, str(aside)))
        except OSError as error:
            log.error(
                "--learn: %d destinations are lost: cannot write %s",
                len(self._fresh),
                plain(error),
            )
            return
        log.error(
            "--learn %s: %d destinations are not in it, but in %s; add its rules by hand",
            self._path,
            len(self._fresh),
            aside,
        )

    def _plan(self) -> None:
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(EVERY, self._start)

    def _start(self) -> None:
        self._timer = None
        self._writing = self._loop.create_task(self._write())
        self._writing.add_done_callback(self._written)

    def _written(self, _: object) -> None:
        self._writing = None
        if self._fresh:
            self._plan()

    async def _write(self) -> None:
        fresh, self._fresh = self._fresh, {}
        try:  # in a thread, for the lock of a process that is stopped would stop this one
            await self._loop.run_in_executor(None, update, self._path, fresh)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # or no thread for it
            self._fresh = fresh | self._fresh
            if not self.failures:
                log.error("--learn %s: cannot be written: %s", self._path, plain(error))
            self.failures += 1


def check(path: Path) -> None:
    """ValueError if a file cannot be written, or holds something else."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ValueError(f"{path}: cannot read it ({error.strerror})") from None
    merge(content, {}, str(path))
    folder = path.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(
            f"{path}: cannot write to it; allowed: a file that can be written, in a folder "
            "where it can be replaced"
        )


def update(path: Path, seen: Mapping[Destination, bool]) -> None:
    """Merges destinations, with whether they were allowed, into a file. OSError; ValueError
    if the file holds something else."""
    path = path.resolve()
    with _alone(path) as file:
        before = file.read()
        after = merge(before, seen, str(path))
        if after != before:
            _replace(path, after, os.fstat(file.fileno()).st_mode & 0o777)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, locked; it is created if it does not exist. TimeoutError after LOCK_SECONDS. While
    we waited for the lock, the file may have been replaced: then the new one is locked."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with open(path, "a+b") as file:
            _lock(file, deadline)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.seek(0)
                    yield file
                    return


def _lock(file: BinaryIO, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                text = f"another process has held its lock for {LOCK_SECONDS:g} s"
                raise TimeoutError(text) from None
        time.sleep(LOCK_POLL)


def _replace(path: Path, content: bytes, mode: int) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def merge(content: bytes, seen: Mapping[Destination, bool], where: str) -> bytes:
    """The content of a file with these destinations in it. What its rules decide already is
    left to them. ``where`` begins the text of a ValueError."""
    rules = parse(content, where)
    kept = [rule for rule in rules if not _is_ours(rule, where)]
    hosts: dict[tuple[int, str], set[str]] = {}
    for rule in rules:
        if rule not in kept:
            (text,) = rule.ports or ()
            hosts.setdefault((int(text), rule.action), set()).update(rule.hosts or ())
    by_people = RuleSet(kept)
    known = RuleSet(rules, "deny")
    for (host, port), allowed in seen.items():
        if _decides(by_people, host, port) or _decides(known, host, port, "allow"):
            continue
        if allowed:
            hosts.get((port, "deny"), set()).discard(host)
        elif _decides(known, host, port):
            continue
        hosts.setdefault((port, "allow" if allowed else "deny"), set()).add(host)
    learned = [
        RuleConfig(
            f"{'learned' if action == 'allow' else 'denied'}-{port}",
            "allow" if action == "allow" else "deny",
            hosts=tuple(sorted(names)),
            ports=(str(port),),
        )
        for (port, action), names in sorted(hosts.items())
        if names
    ]
    return _text([*kept, *learned])


def _decides(rules: RuleSet, host: str, port: int, action: str = "") -> bool:
    """Whether a rule, of this action if one is given, decides about a destination."""
    match = decide(rules, host, port)
    return match.rule != DEFAULT and action in ("", "allow" if match.allow else "deny")


def _is_ours(rule: RuleConfig, where: str) -> bool:
    """Whether it is one that is written here, and may be written again."""
    name = _OURS(rule.id)
    if name is None:
        return False
    if rule.action != _ACTIONS[name[1]] or rule.ports != (name[2],):
        raise ValueError(
            f"{where}: rule {rule.id}: rules of this name have action {_ACTIONS[name[1]]!r} and "
            f"ports = [{name[2]}]; give it another id"
        )
    return True


def _text(rules: Iterable[RuleConfig]) -> bytes:
    import tomli_w

    tables: list[dict[str, Any]] = [
        {
            "id": rule.id,
            "action": rule.action,
            "ports": [int(port) if port.isdigit() else port for port in rule.ports or ()],
            "hosts": list(rule.hosts or ()),
        }
        for rule in rules
    ]
    return (HEADER + tomli_w.dumps({"rule": tables})).encode()
