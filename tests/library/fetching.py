"""Requests by urllib, in this process and in another."""

from __future__ import annotations

import subprocess
import sys
import urllib.request


def fetch(url: str, proxy: str | None = None) -> bytes:
    """By urllib, through ``proxy``, or the one that the environment names."""
    handler = urllib.request.ProxyHandler({"http": proxy} if proxy else None)
    with urllib.request.build_opener(handler).open(url, timeout=20) as response:
        return bytes(response.read())


def fetch_in_a_child(url: str) -> bytes:
    """The same in another process."""
    program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=20).read().decode())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.strip()
