"""What a process needs for the relay that was built with SPLICEPROXY_DEBUG (setup.py).

``python tests/sanitizer.py`` prints the value of LD_PRELOAD: the runtime of AddressSanitizer,
which must be there before all others, that of UndefinedBehaviorSanitizer, and the C++ library,
whose exceptions AddressSanitizer can only follow if it is there from the start.
"""

from __future__ import annotations

import os
import subprocess

LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")


def preload(compiler: str = os.environ.get("CC", "gcc")) -> str:
    """The libraries of this compiler."""
    return " ".join(
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in LIBRARIES
    )


if __name__ == "__main__":
    print(preload())
