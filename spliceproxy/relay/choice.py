"""Which engine runs, and why."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from typing import cast

from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.relay.selftest import splice_works

ENGINES = ("auto", "native", "splice", "copy")
NATIVE_MODULE = "spliceproxy.relay._native"


class EngineError(Exception):
    """The engine that was asked for cannot run here; the message says why."""


def choose(name: str, options: RelayOptions) -> tuple[Relay, str]:
    """The engine ``name`` (one of ENGINES) and one phrase that says what it is and why.

    ``auto`` is the first that works of native, splice and copy.
    """
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}: one of {', '.join(ENGINES)}")
    ignore_sigpipe()
    if name == "copy":
        return _portable(options, splices=False), "copy: as asked"
    trouble = splice_works()
    missing = ""
    if name != "splice":
        try:
            return _native(options, trouble)
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError)
            state = "is not built" if absent else "cannot be used"
            missing = f"the compiled module {state} ({error})"
            if name == "native":
                raise EngineError(f"native: {missing}") from error
    if not trouble:
        return _portable(options, splices=True), f"splice: {missing or 'as asked'}"
    if name == "splice":
        raise EngineError(f"splice: {trouble}")
    return _portable(options, splices=False), f"copy: {missing}; {trouble}"


def _portable(options: RelayOptions, *, splices: bool) -> Relay:
    from spliceproxy.relay.portable.engine import CopyRelay, SpliceRelay

    return SpliceRelay(options) if splices else CopyRelay(options)


def _native(options: RelayOptions, trouble: str) -> tuple[Relay, str]:
    engine = cast(
        "Callable[[RelayOptions], Relay]", importlib.import_module(NATIVE_MODULE).NativeRelay
    )
    if trouble:
        return engine(options._replace(max_pipes=0)), f"native, by copying only: {trouble}"
    return engine(options), "native: splice(2) works"


def ignore_sigpipe() -> None:
    """Ignores SIGPIPE, which would end the process: splice(2) has no MSG_NOSIGNAL, and sends
    the signal when it writes to a connection that is closed.

    CPython ignores it from its start. So there is something to do only where a program that
    embeds Python has changed that.
    """
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        return
    if threading.current_thread() is not threading.main_thread():
        raise EngineError("SIGPIPE must be ignored, and only the main thread can do so")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
