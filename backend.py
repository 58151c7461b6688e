"""The build backend (PEP 517): that of setuptools, which asks for Cython only where there is
something for it to do. A source distribution has the C code that Cython has made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.modified import newer_group

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NATIVE = Path("native")
SOURCE = NATIVE / "relay.pyx"
DEPENDS = sorted(str(path) for path in NATIVE.rglob("*.px[di]"))

MADE = NATIVE / "relay.c"
"""What Cython has made of it. Only a source distribution has that; a build of a checkout keeps its
own among what is temporary."""

CYTHON = ["cython>=3.1"]

Settings = Mapping[str, Any] | None


def is_made() -> bool:
    """Whether the C code is there, and of these sources."""
    return MADE.exists() and not newer_group([str(SOURCE), *DEPENDS], str(MADE))


def _needed(others: list[str]) -> list[str]:
    return others if is_made() else [*others, *CYTHON]


def get_requires_for_build_wheel(settings: Settings = None) -> list[str]:
    return _needed(build_meta.get_requires_for_build_wheel(settings))


def get_requires_for_build_editable(settings: Settings = None) -> list[str]:
    return _needed(build_meta.get_requires_for_build_editable(settings))


def get_requires_for_build_sdist(settings: Settings = None) -> list[str]:
    return _needed(build_meta.get_requires_for_build_sdist(settings))
