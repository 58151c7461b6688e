"""Whether splice(2) works here, tried on a real connection and a real pipe."""

from __future__ import annotations

import os
import socket
import struct
from errno import errorcode

from spliceproxy.messages import plain

PROBE = b"splice"
PATIENCE = 2  # seconds; loopback delivers at once


def splice_works() -> str:
    """Sends a few bytes from a TCP socket through a pipe into another. Returns "" if they
    arrive unharmed, else why not, such as ``splice(2): EPERM``."""
    if not hasattr(os, "splice"):
        return "this Python has no os.splice"
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket() as near,
        ):
            near.settimeout(PATIENCE)
            near.connect(server.getsockname())
            with server.accept()[0] as far:
                return _through_pipe(near, far)
    except OSError as error:
        return f"no loopback connection to try splice(2) on: {plain(error)}"


def _through_pipe(near: socket.socket, far: socket.socket) -> str:
    """near -> far by send, far -> pipe -> far by splice, far -> near by recv."""
    r, w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        near.sendall(PROBE)
        try:
            # The bytes need not have come yet: ``far`` blocks, and splice(2) heeds SO_RCVTIMEO.
            limit = struct.pack("ll", PATIENCE, 0)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            got = os.splice(far.fileno(), w, len(PROBE))
            sent = os.splice(r, far.fileno(), got)
        except OSError as error:
            return f"splice(2): {_name(error)}"
        back = near.recv(len(PROBE), socket.MSG_WAITALL) if sent == len(PROBE) else b""
        return "" if back == PROBE else f"splice(2): {back!r} came out instead of {PROBE!r}"
    finally:
        os.close(r)
        os.close(w)


def _name(error: OSError) -> str:
    return errorcode.get(error.errno or 0, str(error))
