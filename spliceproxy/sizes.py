"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

PATTERN = "^([0-9]{1,16})(?: ?([kMGT]B|[KMGT]iB))?$"
_SIZE = re.compile(PATTERN)
_UNITS = "kMGT"

LEAST, MOST = 1000, 10**15

ALLOWED = (
    "bytes from 1000 to 10^15, as a whole number or with kB, MB, GB, TB, KiB, MiB, GiB or TiB, "
    'such as "10MB"'
)


def read(text: str) -> int | None:
    """So many bytes; None for what is none of ALLOWED."""
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    number, unit = int(found[1]), found[2] or ""
    if unit:
        base = 1024 if unit.endswith("iB") else 1000
        number *= base ** (1 + _UNITS.index(unit[0].replace("K", "k")))
    return number if LEAST <= number <= MOST else None
