"""Settings as TOML that loads back to the same Config."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from spliceproxy.config import Config, LimitConfig, ParentConfig, RouteConfig, RuleConfig, Url
from spliceproxy.settings.table import SETTINGS, Setting

_DEFAULTS: Mapping[str, object] = {
    "rule": RuleConfig(id="", action="allow"),
    "limit": LimitConfig(id=""),
    "route": RouteConfig(to=("",)),
    "parent": ParentConfig(Url("", "", 0)),
}
"""What is not written of the tables of a setting."""


def to_toml(config: Config, leave_out: Container[str] = ()) -> str:
    """Every setting with its value, except those that are not set and those to leave out (by
    name). ValueError for a text that is not Unicode, as file names may be."""
    import tomli_w

    text = tomli_w.dumps(to_plain(config, leave_out))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = error.object[error.start : error.end]
        raise ValueError(f"cannot be written as TOML: {bad!r} is not Unicode") from None
    return text


def to_plain(config: Config, leave_out: Container[str] = ()) -> dict[str, Any]:
    """The same as tables, lists and plain values."""
    settings = (setting for setting in SETTINGS if setting.name not in leave_out)
    return _plain(config, settings, Config(listen=()))


def _plain(owner: object, settings: Iterable[Setting], defaults: object) -> dict[str, Any]:
    plain = {}
    for setting in settings:
        value = setting.of(owner)
        unset = value is None or (value in ("", (), {}) and value == setting.of(defaults))
        if not unset:
            plain[setting.name] = _value(setting, value)
    return plain


def _value(setting: Setting, value: Any) -> Any:
    if setting.fields:
        default = _DEFAULTS[setting.name]
        if setting.keys is not None:
            return {name: _plain(one, setting.fields, default) for name, one in value.items()}
        return [_plain(one, setting.fields, default) for one in value]
    write = setting.kind.write
    if setting.keys is not None:
        return {
            key: [write(one) for one in item] if setting.many else write(item)
            for key, item in value.items()
        }
    return [write(one) for one in value] if setting.many else write(value)
