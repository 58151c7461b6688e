#!/usr/bin/env bash
# What: an exception in a callback of pycares goes nowhere, whichever it is: neither the call that
#   runs the callback raises it nor the event loop, and SystemExit ends nothing.
# Which: pycares 5.2.1 from PyPI (its callbacks are called by C through cffi).
# Behaviour: cffi gives the exception to sys.unraisablehook, which prints it. A resolver that waits
#   for a future which the callback should have settled waits for ever. asyncio, whose callbacks
#   report to the loop's exception handler and let SystemExit through, leads one to expect more.
# Output seen:
#   KeyError: the call returned; unraisablehook got KeyError
#   SystemExit: the call returned; unraisablehook got SystemExit
# Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pycares==5.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import threading

import pycares


def tried(error):
    """What becomes of this exception in a callback."""
    heard, told = [], threading.Event()

    def hook(unraisable):
        heard.append(unraisable.exc_type.__name__)
        told.set()

    def callback(result, status):
        raise error

    sys.unraisablehook = hook
    channel = pycares.Channel(servers=["127.0.0.1"])
    try:
        channel.getaddrinfo("127.0.0.1", 80, callback=callback)
        how = "the call returned"
    except BaseException as raised:
        how = f"the call raised {type(raised).__name__}"
    told.wait(5)
    print(f"{type(error).__name__}: {how}; unraisablehook got {', '.join(heard) or 'nothing'}")
    return how == "the call returned" and heard == [type(error).__name__]


found = [tried(KeyError("mine")), tried(SystemExit(3))]
sys.exit(0 if all(found) else 1)
PYTHON
