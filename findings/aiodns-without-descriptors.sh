#!/usr/bin/env bash
# aiodns 4.0.4 with pycares 5.2.1: without a free descriptor a look-up fails with ARES_ECONNREFUSED,
# "Could not contact DNS servers", as if the name server were down. No OSError, no EMFILE. A new
# resolver can still be made, with a warning that speaks of inotify watches, of which there are
# enough. With descriptors again the same resolver gets as far as asking.
#
#     with no descriptor left: DNSError(11, 'Could not contact DNS servers')
#     a new resolver: made; warned of inotify watches
#
# So a caller cannot tell its own shortage from a dead server by the error: it has to try for a
# descriptor itself before it remembers the failure.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check aiodns==4.0.4 pycares==5.2.1 2> /dev/null
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import logging
import os
import resource
import socket
import sys

import aiodns


async def main() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("aiodns").addHandler(handler)
    logging.getLogger("aiodns").propagate = False
    first = aiodns.DNSResolver(nameservers=["192.0.2.53"], timeout=0.2, tries=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError as error:
        print("os.dup:", error)
    try:
        await first.getaddrinfo("a.example", socket.AF_INET)
        code = 0
    except aiodns.error.DNSError as error:
        code = error.args[0]
        print("with no descriptor left:", repr(error))
    second = aiodns.DNSResolver(nameservers=["192.0.2.53"], timeout=0.2, tries=1)
    inotify = any("inotify" in text for text in said)
    print("a new resolver: made;", "warned of inotify watches" if inotify else f"said {said}")
    for fd in held:
        os.close(fd)
    sys.exit(0 if code == aiodns.error.ARES_ECONNREFUSED and inotify else 1)


asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/ask.py" < /dev/null
