"""A function for --policy that says yes, and counts its calls."""

from __future__ import annotations

import mmap
import os

from spliceproxy.policy import Allow, Request

ALLOW = Allow()

# In the folder that the proxy was started in; rig.proxies.Proxy.count reads it.
with open(f"calls.{os.getpid()}", "w+b") as _file:
    _file.truncate(8)
    CALLS = memoryview(mmap.mmap(_file.fileno(), 8)).cast("Q")


def authorize(request: Request) -> Allow:
    CALLS[0] += 1
    return ALLOW
