"""The user's Python hook: loaded, called under a deadline, closed when it fails.

A module with ``authorize(request) -> Allow | Deny`` and, if it likes, ``on_close(record)``;
each may be a coroutine function or a plain one. They run on the event loop of a worker: a
plain function that blocks holds up every connection, and no deadline can end it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from spliceproxy.errors import Failure
from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.request import Request

Authorize = Callable[[Request], Allow | Deny | Awaitable[Allow | Deny]]
OnClose = Callable[[Any], object]

log = logging.getLogger("spliceproxy")

CACHED = 4096
"""Answers kept, where they may be used again."""

LOGGED = 32
"""Different faults that are logged with their traceback; the others are only counted."""

CLOSING = 1024
"""Calls of an asynchronous ``on_close`` that may be under way; more are dropped, and counted."""

_Key = tuple[str, str, str, str, int, tuple[str, ...]]


class HookError(ValueError):
    """A hook that cannot be loaded."""


class _Late(Exception):
    """The deadline has passed."""


class Functions(NamedTuple):
    """What a hook consists of."""

    authorize: Authorize | None = None
    on_close: OnClose | None = None


def load(name: str) -> Functions:
    """The functions of ``FILE.py`` or ``package.module``, with ``:function`` behind it where
    that is not called ``authorize``. HookError.

    The module is executed; one that fails has its traceback in the error's cause.
    """
    place, _, function = name.partition(":")
    module = _load_file(place) if place.endswith(".py") or "/" in place else _load_name(place)
    authorize = getattr(module, function or "authorize", None)
    on_close = getattr(module, "on_close", None)
    if authorize is None and (function or on_close is None):
        raise HookError(f"{place} has no function {function or 'authorize'}")
    for value in (authorize, on_close):
        if value is not None and not callable(value):
            raise HookError(f"{place}: {value!r} is not a function")
    return Functions(authorize, on_close)


def _load_file(place: str) -> ModuleType:
    path = Path(place)
    name = f"spliceproxy_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HookError(f"{place}: allowed: FILE.py or a dotted name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise HookError(f"cannot read {place}: {error.strerror}") from error
    except Exception as error:
        raise HookError(f"{place}: {_describe(error)}") from error
    return module


def _load_name(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise HookError(f"cannot import {place}: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class Answer(NamedTuple):
    """An answer of the hook and the seconds for which it may be used again."""

    decision: Allow | Deny
    repeat_for: float


class Hook:
    """Calls the functions. ``timeout`` in seconds; ``cache``: seconds that an answer is used
    again for the same client, user, method, host, port and addresses, 0 for never."""

    def __init__(self, functions: Functions, timeout: float, cache: float = 0.0) -> None:
        self._functions = functions
        self._timeout = timeout
        self._ttl = cache
        self._answers: dict[_Key, tuple[Allow | Deny, float]] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._logged: set[tuple[str, str]] = set()
        self.failures = 0  # calls that raised, were late, or answered something else
        self.dropped = 0  # calls of on_close that were not made

    @property
    def decides(self) -> bool:
        """Whether there is an ``authorize``."""
        return self._functions.authorize is not None

    @property
    def watches(self) -> bool:
        """Whether there is an ``on_close``."""
        return self._functions.on_close is not None

    async def ask(self, request: Request) -> Answer:
        """What the hook says. Failure where it fails: nothing is allowed then."""
        if not self._ttl:
            return Answer(await self._call(request), 0.0)
        key = (
            request.client,
            request.user,
            request.method,
            request.host,
            request.port,
            request.addresses,
        )
        now = time.monotonic()
        known = self._answers.get(key)
        if known is not None and known[1] > now:
            return Answer(known[0], known[1] - now)
        decision = await self._call(request)
        self._answers.pop(key, None)  # one that is stored again goes to the end
        if len(self._answers) >= CACHED:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = decision, time.monotonic() + self._ttl
        return Answer(decision, self._ttl)

    async def _call(self, request: Request) -> Allow | Deny:
        authorize = self._functions.authorize
        assert authorize is not None
        try:
            answer = authorize(request)
            if not isinstance(answer, (Allow, Deny)) and isinstance(answer, Awaitable):
                answer = await self._in_time(answer)
            if not isinstance(answer, (Allow, Deny)):
                raise TypeError(f"authorize answered {answer!r}; allowed: Allow(...), Deny(...)")
        except _Late:
            self._failed("authorize", None)
            raise Failure("proxy_internal_error", "the policy hook took too long") from None
        except Exception as error:
            self._failed("authorize", error)
            raise Failure("proxy_internal_error", "the policy hook failed") from error
        return answer

    async def _in_time(self, answer: Awaitable[Allow | Deny]) -> Allow | Deny:
        """Awaits in the caller's task, so that an answer which does not wait costs no task."""
        task = asyncio.current_task()
        assert task is not None
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self._timeout, expire)
        try:
            got = await answer
        except asyncio.CancelledError:
            if not late:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise _Late from None
        finally:
            timer.cancel()
        if late:  # it has swallowed the cancellation
            raise _Late
        return got

    def closed(self, record: Any) -> None:
        """Tells the hook that a request or tunnel is over."""
        on_close = self._functions.on_close
        if on_close is None:
            return
        try:
            result = on_close(record)
        except Exception as error:  # noqa: BLE001 - it is logged
            self._failed("on_close", error)
            return
        if isinstance(result, Awaitable):
            if len(self._closing) >= CLOSING:
                self.dropped += 1
                if isinstance(result, Coroutine):
                    result.close()
                return
            task = asyncio.ensure_future(self._close(result))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, result: Awaitable[object]) -> None:
        try:
            await asyncio.wait_for(result, self._timeout)
        except asyncio.TimeoutError:
            self._failed("on_close", None)
        except Exception as error:  # noqa: BLE001 - it is logged
            self._failed("on_close", error)

    def _failed(self, function: str, error: Exception | None) -> None:
        """Counts a fault; logs the first of its kind. None: it was late."""
        self.failures += 1
        place = ""
        trace = error.__traceback__ if error is not None else None
        while trace is not None:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        kind = (f"{function} {type(error).__name__}", place)
        if kind in self._logged or len(self._logged) >= LOGGED:
            return
        self._logged.add(kind)
        if error is None:
            log.error("the policy hook's %s took more than %g s", function, self._timeout)
        else:
            log.error("the policy hook's %s failed", function, exc_info=error)

    async def finish(self) -> None:
        """Waits for the calls of ``on_close``, and says how many calls have failed."""
        if self._closing:
            await asyncio.wait(self._closing)
        if self.failures or self.dropped:
            log.warning(
                "the policy hook: failures %d, calls of on_close left out %d",
                self.failures,
                self.dropped,
            )
