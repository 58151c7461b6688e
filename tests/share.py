"""A part of the cases of the files that have thousands, for runs that have no time for all.

``SHARE=K/N`` in the environment leaves every N-th case of each of these files. Each case is in one
of the N shares, whatever the others are. With ``SHARE_OF=all`` that holds for all tests.
"""

from __future__ import annotations

import os
import zlib

import pytest

FILES = (
    "tests/clients/test_smuggling.py",
    "tests/policy/test_guard.py",
    "tests/relay/test_name_check.py",
    "tests/relay/test_relay_life.py",
    "tests/relay/test_relay_moving.py",
    "tests/relay/test_relay_resets.py",
    "tests/relay/test_relay_transfer.py",
    "tests/relay/test_relay_tunnel.py",
    "tests/wire/test_wire.py",
    "tests/wire/test_wire_plain.py",
)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is in another share."""
    given = os.environ.get("SHARE")
    if not given:
        return
    share, _, shares = given.partition("/")
    here: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (here if _is_in(item, int(share), int(shares)) else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = here


def _is_in(item: pytest.Item, share: int, shares: int) -> bool:
    file = item.nodeid.partition("::")[0]
    many = file.endswith(FILES) and hasattr(item, "callspec")
    if not many and os.environ.get("SHARE_OF") != "all":
        return True
    return zlib.crc32(item.nodeid.encode()) % shares == share
