"""A function for --policy that gives a tag to each record, and is told each end."""

from __future__ import annotations

import mmap
import os

from spliceproxy.policy import Allow, Request

ALLOW = Allow(tags={"team": "web"})


def _counter(name: str) -> memoryview:
    # In the folder that the proxy was started in; rig.proxies.Proxy.count reads it.
    with open(f"{name}.{os.getpid()}", "w+b") as file:
        file.truncate(8)
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")


CALLS = _counter("calls")
ENDS = _counter("ends")


def authorize(request: Request) -> Allow:
    CALLS[0] += 1
    return ALLOW


def on_close(record: object) -> None:
    ENDS[0] += 1
