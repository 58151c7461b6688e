"""What a kind of value is: how a text becomes one, what is allowed, how it is written again.

Flags, the environment and TOML share one parser per kind. A TOML number or boolean is
turned into its text first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spliceproxy.policy import listfile


class Invalid(ValueError):
    """A value that its setting does not allow; the text says what is."""


@dataclass(frozen=True)
class Kind:
    """``parse`` takes a text and the folder that relative paths start from, "" for the
    current one; ValueError, with a reason or without, for what is not ``allowed``."""

    parse: Callable[[str, str], Any]
    allowed: str
    metavar: str = ""
    types: tuple[type, ...] = (str,)  # in TOML
    schema: Mapping[str, Any] = field(default_factory=dict)  # what JSON Schema can say of it
    write: Callable[[Any], str | int | float | bool] = str  # as in TOML
    choices: tuple[str, ...] = ()
    secret: bool = False  # never shown in a message
    shown: Callable[[str], str] = repr  # what a message shows of a text

    def read(self, text: str, folder: str) -> Any:
        """The value of a text; Invalid, listfile.Wrong for a list that it names."""
        try:
            return self.parse(text, folder)
        except listfile.Wrong:
            raise
        except ValueError as error:
            shown = "" if self.secret else f" {self.shown(text)}"
            reason = f" ({error})" if error.args else ""
            raise Invalid(f"invalid value{shown}{reason}; allowed: {self.allowed}") from None

    def read_toml(self, value: object, folder: str) -> Any:
        """The value of what tomllib made of it; Invalid."""
        if type(value) not in self.types:
            shown = "" if self.secret else f" {_shown(value)}"
            wanted = " or ".join(TOML_TYPES[one] for one in self.types)
            raise Invalid(
                f"expected {wanted}, not {toml_type(value)}{shown}; allowed: {self.allowed}"
            )
        return self.read(str(value).lower() if type(value) is bool else str(value), folder)


TOML_TYPES: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "a table",
}


def toml_type(value: object) -> str:
    """What a TOML value is, in words."""
    return TOML_TYPES.get(type(value), "a date or time")


def _shown(value: object) -> str:
    return str(value).lower() if type(value) is bool else repr(value)


def choice(*values: str) -> Kind:
    """One of a few words."""
    return Kind(
        parse=lambda text, _: text if text in values else refuse(),
        allowed=", ".join(values),
        schema={"enum": list(values)},
        choices=values,
    )


def refuse(reason: str = "") -> Any:
    """For a parser: the value is not allowed."""
    raise ValueError(*([reason] if reason else []))
