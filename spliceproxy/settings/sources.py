"""Reads settings from a TOML file and from the environment, by the table.

Nothing stops at the first mistake: each is a line in ``problems``, and the setting is left
out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spliceproxy import toml
from spliceproxy.config import EMPTY
from spliceproxy.policy.listfile import Wrong
from spliceproxy.settings.kind import Invalid, Kind, toml_type
from spliceproxy.settings.table import BY_NAME, PREFIX, SETTINGS, Setting
from spliceproxy.textfile import text_of

CONFIG_VARIABLE = f"{PREFIX}CONFIG"


@dataclass(frozen=True)
class Found:
    """A setting's value, and where it was given: ``--via``, ``SPLICEPROXY_VIA`` or
    ``FILE: via``."""

    value: Any
    where: str
    in_file: bool = False


# What Kubernetes sets for services of our name: {NAME}_SERVICE_HOST, {NAME}_PORT_80_TCP_ADDR.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_OF_THE_BUILD = (f"{PREFIX}REQUIRE_NATIVE", f"{PREFIX}DEBUG")
_OF_IMAGES = f"{PREFIX}VERSION"  # what is in the image of a container: no SPLICEPROXY_IP_VERSION


def strangers(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each SPLICEPROXY_* variable that is neither a setting nor a misspelt one. It
    may be anybody's. Variables that Kubernetes makes of a service of our name are left out."""
    for variable in environ:
        if not variable.startswith(PREFIX) or _SERVICE_LINK.fullmatch(variable):
            continue
        ours = variable in _known() or variable in (CONFIG_VARIABLE, *_OF_THE_BUILD)
        if not ours and not _near(variable):
            yield f"{variable}: there is no such variable, and it has no effect"


def _known() -> dict[str, Setting]:
    return {one.variable: one for one in SETTINGS if one.in_environment}


def _near(variable: str) -> str:
    """The variable that an unknown one is likely meant to be, or ""."""
    if _SERVICE_LINK.fullmatch(variable) or variable in (*_OF_THE_BUILD, _OF_IMAGES):
        return ""
    from difflib import get_close_matches

    return next(iter(get_close_matches(variable, [*_known(), CONFIG_VARIABLE], 1, 0.9)), "")


def from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Found]:
    """The settings of SPLICEPROXY_*, by name; lists have commas between their values.

    Other variables of this prefix may be anybody's (a Kubernetes service of our name
    makes several), so only those that look like a misspelt one of ours are problems; see
    :func:`strangers` for the others.
    """
    known = _known()
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        setting = known.get(variable)
        if setting is None:
            if near := _near(variable):
                problems.append(f"{variable}: no such variable; did you mean {near}?")
            continue
        parts = [part.strip() for part in text.split(",")] if setting.many else [text]
        read = []
        for part in parts:
            try:
                read.append(setting.kind.read(part, ""))
            except Invalid as error:
                problems.append(f"{variable}: {error}")
        if len(read) == len(parts):
            found[setting.name] = Found(tuple(read) if setting.many else read[0], variable)
    return found


def from_file(path: str, named_by: str, problems: list[str]) -> dict[str, Found]:
    """The settings of a TOML file, by name. Paths in it start from its folder. ``named_by``:
    the flag or variable that the path is from."""
    try:
        with open(path, "rb") as file:
            text = text_of(file.read())
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 (byte {error.start})")
        return {}
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return {}
    except OSError as error:
        problems.append(
            f"{named_by} {path}: cannot read it ({error.strerror}); allowed: a file in TOML"
        )
        return {}
    try:
        document = toml.loads(text)
    except ValueError as error:
        problems.append(f"{path}: not TOML: {error}")
        return {}
    reader = _Reader(os.path.dirname(os.path.abspath(path)), problems)
    values = reader.table(document, SETTINGS, f"{path}: ")
    return {name: Found(value, f"{path}: {name}", True) for name, value in values.items()}


class _Reader:
    """``where`` is the text before a key in a problem."""

    def __init__(self, folder: str, problems: list[str]) -> None:
        self._folder = folder
        self._problems = problems

    def table(
        self, table: Mapping[str, object], settings: Iterable[Setting], where: str
    ) -> dict[str, Any]:
        """The values of a table that could be read, by the settings' names."""
        known = {setting.name: setting for setting in settings}
        values = {}
        for key, value in table.items():
            if key not in known:
                self._unknown(key, known, where)
                continue
            before = len(self._problems)
            read = self._value(known[key], value, where + key)
            if len(self._problems) == before:
                values[key] = read
        for name, setting in known.items():
            if setting.required and name not in table:
                self._problems.append(f"{where}{name}: missing; allowed: {setting.kind.allowed}")
        return values

    def _unknown(self, key: str, known: Mapping[str, Setting], where: str) -> None:
        from difflib import get_close_matches

        near = get_close_matches(key, known, 1)
        if near:
            hint = f"did you mean {near[0]}?"
        elif key in BY_NAME:
            hint = "move it above the first table of the file"
        else:
            hint = f"allowed: {', '.join(known)}"
        self._problems.append(f"{where}{key}: no such key; {hint}")

    def _value(self, setting: Setting, value: object, where: str) -> Any:
        if setting.fields and setting.keys is not None:
            return self._named(setting, setting.keys, value, where)
        if setting.fields:
            return self._tables(setting, value, where)
        if setting.keys is not None:
            return self._map(setting, value, where)
        return self._one_or_many(setting, value, where)

    def _one_or_many(self, setting: Setting, value: object, where: str) -> Any:
        if not setting.many:
            return self._one(setting, value, where)
        if setting.alone and not isinstance(value, list):
            value = [value]
        if not isinstance(value, list):
            self._problems.append(
                f"{where}: expected a list, not {toml_type(value)}; "
                f"allowed: a list, each {setting.kind.allowed}"
            )
            return None
        if not value and not setting.empty:
            self._problems.append(f"{where}: {EMPTY}")
        return tuple(self._one(setting, item, where) for item in value)

    def _one(self, setting: Setting, value: object, where: str) -> Any:
        try:
            return setting.kind.read_toml(value, self._folder)
        except Invalid as error:
            self._problems.append(f"{where}: {error}")
        except Wrong as error:
            self._problems.extend(f"{where}: {problem}" for problem in error.problems)

    def _map(self, setting: Setting, value: object, where: str) -> dict[str, Any]:
        keys = setting.keys
        if not isinstance(value, dict) or keys is None:
            self._problems.append(
                f"{where}: expected a table, not {toml_type(value)}; allowed: [{setting.name}] "
                "and lines NAME = VALUE below it"
            )
            return {}
        if not value and not setting.empty:
            self._problems.append(f"{where}: {EMPTY}")
        read = {}
        for key, item in value.items():
            try:
                name = keys.read(key, self._folder)
            except Invalid as error:
                self._problems.append(f"{where}: {error}")
                continue
            read[name] = self._one_or_many(setting, item, f"{where}: {key}")
        return read

    def _tables(self, setting: Setting, value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self._problems.append(f"{where}: expected [[{setting.name}]], not {toml_type(value)}")
            return ()
        found = []
        for number, table in enumerate(value, 1):
            found += self._made(setting, table, rule_where(where, number, table.get("id")))
        return tuple(found)

    def _named(self, setting: Setting, keys: Kind, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
            self._problems.append(
                f"{where}: expected [{setting.name}.NAME], not {toml_type(value)}"
            )
            return {}
        found = {}
        for name, table in value.items():
            start = f"{where}.{name}: "
            try:
                keys.read(name, self._folder)
            except Invalid as error:
                self._problems.append(f"{start}{error}")
                continue
            for one in self._made(setting, table, start):
                found[name] = one
        return found

    def _made(self, setting: Setting, table: Mapping[str, object], where: str) -> list[Any]:
        """What a table becomes, if nothing of it is wrong."""
        before = len(self._problems)
        values = self.table(table, setting.fields, where)
        if len(self._problems) > before or setting.made is None:
            return []
        paths = {field.name: field.path for field in setting.fields}
        return [setting.made(**{paths[name]: one for name, one in values.items()})]


def rule_where(where: str, number: int, name: object) -> str:
    """What stands before a key of a rule: ``FILE: rule 7 'no-ads': ``."""
    return f"{where} {number} {name!r}: " if isinstance(name, str) else f"{where} {number}: "
