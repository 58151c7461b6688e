"""Evaluates a PAC file in a process of its own: the script is a program, and may hang or crash.

``python -m spliceproxy.upstream.pac_helper`` reads lines from standard input and writes one line
for each to standard output, all of them JSON (RFC 8259):

    "function FindProxyForURL(url, host) { ... }"     the script, first of all
    {"ready": true}, or {"fault": "why not"}
    ["http://x.test/", "x.test"]                      a question
    {"found": "PROXY a:1; DIRECT"}, or {"fault": "why not"}
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

MEMORY = 1 << 29
"""Bytes of address space that it may have beyond what it has at its start."""


MESSAGE = 200
"""Characters of what is said of a fault."""


def main() -> int:
    """Serves until its input ends."""
    # What the script prints, or the engine, is no answer, and no message as it is.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    printed = os.memfd_create("printed")
    os.dup2(printed, 1)
    os.dup2(printed, 2)

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    import pacparser

    used = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    most = used * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ready = False
    for line in sys.stdin:
        asked: Any = json.loads(line)
        try:
            if isinstance(asked, str):
                pacparser.init()
                pacparser.parse_pac_string(asked)
                # A script that has no such function is found out now.
                pacparser.find_proxy("http://pac.invalid/", "pac.invalid")
                ready = True
                say(ready=True)
            elif ready:
                url, host = asked
                say(found=str(pacparser.find_proxy(url, host)))
        except Exception as error:  # noqa: BLE001 - it is the script's, and told
            said = os.pread(printed, 4 * MESSAGE, 0).decode("ascii", "replace").splitlines()
            why = next((line for line in said if line.startswith("JSERROR")), "")
            say(fault=_shown(f"{error or type(error).__name__} {why}"))
        os.ftruncate(printed, 0)
        os.lseek(printed, 0, os.SEEK_SET)
    return 0


def _shown(text: str) -> str:
    """It may quote what a client has asked for."""
    return "".join(c if " " <= c <= "~" else "?" for c in text.strip())[:MESSAGE]


if __name__ == "__main__":
    sys.exit(main())
