"""The JSON Schema of the TOML file, from the table: ``schema.json`` beside it is its output.

``python -m spliceproxy.settings.schema > spliceproxy/settings/schema.json`` renews it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from spliceproxy.settings.kind import Kind
from spliceproxy.settings.table import SETTINGS, Setting, default_words

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """As JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "spliceproxy",
        **_table(SETTINGS, default_words),
    }


def _table(settings: Iterable[Setting], words: Callable[[Setting], str]) -> dict[str, Any]:
    """``words`` has the default of a setting."""
    table: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    required = []
    for setting in settings:
        table["properties"][setting.name] = _property(setting, words(setting))
        if setting.required:
            required.append(setting.name)
    return {**table, "required": required} if required else table


def _property(setting: Setting, default: str) -> dict[str, Any]:
    text = f"{setting.help} (default: {default})" if default else setting.help
    if setting.fields:
        table = _table(setting.fields, lambda _: "")
        shape: dict[str, Any] = {"type": "array", "items": table}
        if setting.keys is not None:
            names = _kind(setting.keys)
            shape = {"type": "object", "propertyNames": names, "additionalProperties": table}
    else:
        shape = _kind(setting.kind)
        if setting.many:
            many = {"type": "array", "items": shape, **_least(setting, "minItems")}
            shape = {"anyOf": [shape, many]} if setting.alone else many
        if setting.keys is not None:
            least = _least(setting, "minProperties")
            shape = {"type": "object", "additionalProperties": shape, **least}
    return {"description": text, **shape}


def _least(setting: Setting, word: str) -> dict[str, int]:
    return {} if setting.empty else {word: 1}


def _kind(kind: Kind) -> dict[str, Any]:
    types = [_TYPES[one] for one in kind.types]
    return {"type": types[0] if len(types) == 1 else types, **kind.schema}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
