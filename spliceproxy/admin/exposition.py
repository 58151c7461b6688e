"""Metrics as text: the Prometheus text format 0.0.4, and OpenMetrics 1.0.

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/

The two differ in little that matters here: what the family of a counter or an info is called, how
the bounds of a histogram are written, the unit, and the end. prometheus_client would do this, too;
but it counts by itself what the board has counted already, and its writer takes longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

Labels = Mapping[str, str]
Kind = Literal["counter", "gauge", "histogram", "info"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Known(dict[str, str]):
    """Labels that are written again and again: how, is made once."""

    @cached_property
    def text(self) -> str:
        """Between the braces."""
        return _pairs(tuple(self.items()))


_UNITS = ("seconds", "bytes", "ratio", "info")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_HELP_ESCAPES = {"\\": "\\\\", "\n": "\\n"}


@dataclass(frozen=True)
class Histogram:
    """How often values were at most each of ``bounds``, but more than the one before; the last of
    ``counts`` is of those beyond all of them. ``total`` is the sum of the values."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Value = int | float | Histogram


@dataclass(frozen=True)
class Family:
    """A metric family. ``name`` is without the suffix that its type adds (``_total``, ``_info``),
    and ends with the unit, if it has one."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[tuple[Labels, Value]]


def render(families: Iterable[Family], *, openmetrics: bool) -> bytes:
    """The whole text. A family without a sample is left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        name, front = _front(family.name, family.kind, family.help, openmetrics)
        lines.append(front)
        for labels, value in family.samples:
            pairs = labels.text if type(labels) is Known else _pairs(tuple(labels.items()))
            if isinstance(value, int):
                lines.append(f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}")
            elif isinstance(value, Histogram):
                lines.extend(_histogram(name, pairs, value))
            else:
                lines.append(f"{name}{_braces(pairs)} {_number(value)}")
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode()


@lru_cache(maxsize=1024)
def _front(name: str, kind: Kind, help: str, openmetrics: bool) -> tuple[str, str]:
    """What the samples of a family are called, and the lines before them."""
    suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
    family = name if openmetrics else name + suffix
    called = "gauge" if kind == "info" and not openmetrics else kind
    lines = [f"# HELP {family} {_escaped_help(help)}", f"# TYPE {family} {called}"]
    unit = name.rpartition("_")[2]
    if openmetrics and unit in _UNITS and kind != "info":
        lines.append(f"# UNIT {family} {unit}")
    return name + suffix, "\n".join(lines)


def _histogram(name: str, pairs: str, value: Histogram) -> Iterable[str]:
    count = 0
    comma = "," if pairs else ""
    for bound, more in zip((*value.bounds, None), value.counts, strict=True):
        count += more
        le = "+Inf" if bound is None else repr(float(bound))
        yield f'{name}_bucket{{{pairs}{comma}le="{le}"}} {count}'
    yield f"{name}_sum{_braces(pairs)} {_number(value.total)}"
    yield f"{name}_count{_braces(pairs)} {count}"


def _braces(pairs: str) -> str:
    return f"{{{pairs}}}" if pairs else ""


@lru_cache(maxsize=8192)
def _pairs(labels: tuple[tuple[str, str], ...]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels])


def _escaped(text: str) -> str:
    # A lone surrogate has no UTF-8 form, and must not cost the others their numbers.
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join([_ESCAPES.get(character, character) for character in text])


def _escaped_help(text: str) -> str:
    return "".join([_HELP_ESCAPES.get(character, character) for character in text])


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


# ---- which of the two --------------------------------------------------------------------------

_RANGE = re.compile(r"\s*([^;,\s]+)\s*((?:;[^,]*)?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([^;,\s]*)", re.IGNORECASE)


def wants_openmetrics(accept: str) -> bool:
    """Whether a value of Accept (RFC 9110 section 12.5.1) names OpenMetrics, and likes it no less
    than plain text. Who names neither gets the older one."""
    return _quality(accept, "application/openmetrics-text") > 0.0 and (
        _quality(accept, "application/openmetrics-text") >= _quality(accept, "text/plain")
    )


def _quality(accept: str, media_type: str) -> float:
    """The largest one of the ranges that name this type; 0.0 without one."""
    found = 0.0
    for part in accept.split(","):
        match = _RANGE.match(part)
        if match is None or match[1].lower() != media_type:
            continue
        quality = _QUALITY.search(match[2])
        try:
            found = max(found, float(quality[1]) if quality else 1.0)
        except ValueError:
            continue
    return found
