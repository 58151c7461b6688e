"""The names of the formats of the access log."""

from __future__ import annotations

from spliceproxy.relay.lane import JSON, NATIVE, SQUID

NAMES = (NATIVE, SQUID, "common", "combined", JSON)

NAMELESS = (NATIVE, SQUID, "common", "combined")
"""Those whose lines do not say what they are about: they are all of what is over."""
