"""``GET /``: the status page. It is one file: style, script and the library that draws are in it.

uPlot (https://github.com/leeoniya/uPlot, MIT) is in ``page/`` as it was published, with its
licence. The page may run what is in it and nothing else, and may ask only where it came from: its
Content-Security-Policy says so, by the hashes of its parts.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

_FOLDER = files("spliceproxy.admin") / "page"


class Page(NamedTuple):
    """``policy`` is the value of Content-Security-Policy."""

    text: bytes
    policy: str


@lru_cache(maxsize=1)
def page() -> Page:
    """The page, which is the same for everybody."""
    style = _read("uPlot.min.css") + _read("page.css")
    plot = _read("uPlot.iife.min.js")
    parts = [_read(f"{name}.js") for name in ("numbers", "tables", "charts", "tunnels", "page")]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    for part in (style, plot, script):
        if "</script" in part or "</style" in part or "<!--" in part:
            raise ValueError("a part of the page would end early")
    text = _read("page.html")
    for mark, part in (("@STYLE@", style), ("@PLOT@", plot), ("@SCRIPT@", script)):
        text = text.replace(mark, part, 1)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(plot)} {_hash(script)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Page(text.encode(), policy)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _hash(part: str) -> str:
    """As of CSP level 3, section 6.7.2.3."""
    digest = hashlib.sha256(part.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
