"""The user's functions: found in a file or module, and looked at before the first call."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.request import Request

if TYPE_CHECKING:
    from spliceproxy.kept import Kept
    from spliceproxy.policy.fresh import Forgotten

Authorize = Callable[[Request], Allow | Deny | Awaitable[Allow | Deny]]
OnClose = Callable[[Any], object]


class HookError(ValueError):
    """Policy functions that cannot be loaded. The first line of the text says what is wrong and
    where; the others are the calls in the user's own files that have led there."""


class Functions(NamedTuple):
    """What a hook consists of."""

    authorize: Authorize | None = None
    on_close: OnClose | None = None


def wants_addresses(authorize: object) -> bool:
    """Whether the function is called a second time, with the addresses. It says so by an
    attribute ``wants_addresses = True``; of a functools.partial, the function that it calls may
    have it. TypeError for a value other than True and False."""
    while True:
        wants = getattr(authorize, "wants_addresses", None)
        if wants is None and isinstance(authorize, functools.partial):
            authorize = authorize.func
            continue
        if wants not in (None, True, False):
            raise TypeError(f"wants_addresses = {wants!r}; allowed: True, False")
        return bool(wants)


def load_anew(name: str, kept: Kept | None = None) -> tuple[Functions, Forgotten]:
    """As :func:`load`, for a process that has loaded it before: it is executed once more, as its
    source is now, and so are the modules beside it. Also what is to be restored if they are not
    wanted after all. HookError, and then all is as it was."""
    from spliceproxy.policy import fresh

    place, _, _ = name.partition(":")
    if _is_file(place):
        module, file = _name_of(place), place
    else:
        module, file = place, getattr(sys.modules.get(place), "__file__", None) or ""
    importlib.invalidate_caches()
    forgotten = fresh.forget(module, file)
    try:
        return load(name, kept), forgotten
    except BaseException:
        forgotten.restore()
        raise


def load(name: str, kept: Kept | None = None) -> Functions:
    """The functions of ``FILE.py`` or ``package.module``. ``:function`` after it names a function
    that is not called ``authorize``. HookError.

    The module is executed. If that fails, the error's cause has the whole traceback. Sources that
    are ``kept`` take the place of those in the files; the sources of that module, and of those
    beside it, are noted there.
    """
    place, _, function = name.partition(":")
    if kept is not None:
        from spliceproxy.policy import fresh

        fresh.keep(kept, place if _is_file(place) else "", place)
    module = _load_file(place, kept) if _is_file(place) else _load_name(place)
    authorize = getattr(module, function or "authorize", None)
    on_close = getattr(module, "on_close", None)
    if authorize is None and (function or on_close is None):
        raise HookError(f"{place} has no function {function or 'authorize'}{_near(module, name)}")
    for key, value in (((function or "authorize"), authorize), ("on_close", on_close)):
        if value is not None and not callable(value):
            raise HookError(f"{place}: {key} = {value!r} is not a function")
    try:
        return checked(authorize, on_close)
    except TypeError as error:
        raise HookError(f"{place}: {error}") from None


def checked(
    authorize: Authorize | None,
    on_close: OnClose | None,
    names: tuple[str, str] = ("authorize", "on_close"),
) -> Functions:
    """Both functions. TypeError for a value that is no function of one argument; the text begins
    with its name in ``names``."""
    for function, name, argument in zip(
        (authorize, on_close), names, ("request", "record"), strict=True
    ):
        if function is not None:
            _check(function, name, argument)
    wants_addresses(authorize)
    return Functions(authorize, on_close)


def _near(module: ModuleType, name: str) -> str:
    """What may have been meant, as the end of a sentence."""
    wanted = name.partition(":")[2] or "authorize"
    there = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    from difflib import get_close_matches

    near = get_close_matches(wanted, there, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _check(function: object, name: str, argument: str) -> None:
    allowed = f"allowed: a function such as def {getattr(function, '__name__', name)}({argument})"
    if not callable(function):
        raise TypeError(f"{name}: {function!r}; {allowed}")
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(f"{name}: it contains yield, so it answers nothing; {allowed}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin that does not tell
        return
    try:
        signature.bind(argument)
    except TypeError:
        raise TypeError(
            f"{name}: it is called with one argument, but takes {signature}; {allowed}"
        ) from None


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _name_of(place: str) -> str:
    return f"spliceproxy_policy_{Path(place).stem}"


def _load_file(place: str, kept: Kept | None) -> ModuleType:
    from spliceproxy.policy.fresh import FreshLoader

    path, name = Path(place), _name_of(place)
    loader = FreshLoader(name, str(path), kept) if place.endswith(".py") else None
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise HookError(f"{place}: allowed: FILE.py or a dotted name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the proxy's end is not for a module to say
        if isinstance(error, OSError) and error.filename == spec.origin:
            raise HookError(f"cannot read {place}: {error.strerror}") from error
        raise HookError(_describe(error, place)) from error
    return module


def _load_name(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise HookError(f"cannot import {_describe(error, place)}") from error


_OURS = str(Path(__file__).parents[1])
_PYTHONS = os.path.dirname(os.__file__)


def _is_users(file: str) -> bool:
    """Whether code of a file is the user's, or of a package that the user has installed: not our
    own, and not of Python's library."""
    if file.startswith((f"{_OURS}{os.sep}", "<")):
        return False
    return not file.startswith(f"{_PYTHONS}{os.sep}") or "-packages" in file


def _folder(place: str) -> Path:
    return Path(place).absolute().parent


def _is_beside(module: str, place: str) -> bool:
    """Whether a module that was not found lies in the folder of the policy's file."""
    name = module.partition(".")[0]
    there = _folder(place)
    found = (there / f"{name}.py").exists() or (there / name).is_dir()
    return bool(name) and _is_file(place) and found


def _describe(error: BaseException, place: str) -> str:
    """``FILE:LINE: TYPE: what it says``, with ``place`` where no line of the user's is known. If
    there are several calls, each is a line behind it, the outermost first."""
    where, calls = place, []
    for frame in traceback.extract_tb(error.__traceback__):
        if _is_users(frame.filename):
            where = f"{frame.filename}:{frame.lineno}"
            calls.append(f"  {where}, in {frame.name}: {frame.line or '?'}")
    said = str(error)
    if isinstance(error, SyntaxError) and error.filename:  # it has no frame of its own
        where, said = f"{error.filename}:{error.lineno}", error.msg
    if isinstance(error, ModuleNotFoundError) and _is_beside(error.name or "", place):
        said += f"; what lies beside this file is found where PYTHONPATH names {_folder(place)}"
    name = type(error).__name__
    lines = [f"{where}: {name}: {said}" if said else f"{where}: {name}"]
    return "\n".join(lines + calls if len(calls) > 1 else lines)
