"""The directives that begin with Filter, as one rule."""

from __future__ import annotations

import os
from typing import Any

from spliceproxy.settings.imported import Report
from spliceproxy.settings.tinyproxy import filters
from spliceproxy.settings.tinyproxy.reading import Directive, is_on


class Filtering:
    """A switch that was once on stays so: tinyproxy never takes it back."""

    def __init__(self) -> None:
        self._file: Directive | None = None
        self._types: set[str] = set()
        self._urls: Directive | None = None
        self._default_deny = False
        self._case_counts = False

    @property
    def allows(self) -> bool:
        """Whether there is a filter, and it says what is allowed."""
        return self._default_deny and self._file is not None

    def take(self, directive: Directive) -> None:
        """Takes in one of the directives."""
        value = directive.values[0]
        if directive.name == "filter":
            self._file = directive
        elif directive.name == "filtertype":
            self._types.add(value)
        elif is_on(value) and directive.name == "filterextended":
            self._types.add("ere")
        elif is_on(value) and directive.name == "filterurls":
            self._urls = directive
        elif is_on(value) and directive.name == "filterdefaultdeny":
            self._default_deny = True
        elif is_on(value):
            self._case_counts = True

    def rule(self, report: Report) -> list[dict[str, Any]]:
        """One rule, or none: no pattern could be converted, or the report closes all."""
        if self._file is None:
            return []
        report.about = self._file
        path = os.path.join("/", self._file.values[0])  # where tinyproxy has gone then
        odd = [one for one in self._types if one != one.lower()]
        if self._urls:
            report.about = self._urls
            report.close("rules look at hosts, not at URLs; the filter is left out")
            return []
        if odd:
            report.close(f"FilterType {odd[0]} is another type in another version of tinyproxy")
            return []
        kind = next((one for one in ("fnmatch", "ere") if one in self._types), "bre")
        try:
            found = filters.read(path, kind, allows=self.allows, case_counts=self._case_counts)
        except OSError as error:
            report.close(f"{path}: cannot read it ({error.strerror}); the filter is left out")
            return []
        self._tell(report, path, kind, found)
        if not found.hosts:
            return []
        action = "allow" if self.allows else "deny"
        return [{"id": "filter", "action": action, "hosts": found.hosts}]

    def _tell(self, report: Report, path: str, kind: str, found: filters.Hosts) -> None:
        """What the patterns do not mean here, or mean beyond what one sees."""
        faults = found.faults
        if faults and not self.allows:
            line, fault = faults[0]
            report.close(fault, f"{path}:{line}")
            faults = faults[1:]
        for line, fault in faults:
            report.miss(fault, f"{path}:{line}")
        if found.loose and self.allows:
            line, pattern = found.loose[0]
            more = f" (and {len(found.loose) - 1} more like it)" if len(found.loose) > 1 else ""
            ends = "ends with *" if kind == "fnmatch" else "does not end with $"
            report.notes.append(
                f"{path}:{line}: {pattern!r}{more} {ends}, so it allows names that go on, such as "
                "example.com.evil.net for example.com"
            )
