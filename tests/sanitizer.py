"""What a process needs for the relay that was built with SPLICEPROXY_DEBUG (setup.py).

``python tests/sanitizer.py`` prints the value of LD_PRELOAD: the runtime of AddressSanitizer,
which must be there before all others, that of UndefinedBehaviorSanitizer, and the C++ library,
whose exceptions AddressSanitizer can only follow if it is there from the start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

import pytest

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

FEW = SANITIZED or os.environ.get("FEW_TESTS") == "1"
"""Whether one engine and one event loop are enough, where another run has them all."""

LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")


def preload(compiler: str = os.environ.get("CC", "gcc")) -> str:
    """The libraries of this compiler."""
    return " ".join(
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in LIBRARIES
    )


def release_only(why: str) -> pytest.MarkDecorator:
    """For a test that cannot pass there: ``why`` is a sentence that tests/skips.txt has."""
    return pytest.mark.skipif(SANITIZED, reason=f"under the sanitizers {why}")


def quick(params: Sequence[str], first: str) -> list[str]:
    """All parameters of a fixture; under the sanitizers, and on another version of Python, the one
    that reaches C, alone."""
    return [first] if FEW else list(params)


if __name__ == "__main__":
    print(preload())
