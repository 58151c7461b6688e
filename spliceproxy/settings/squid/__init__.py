"""Converts a squid.conf into settings.

What the settings allow, squid allows, too. Where something that restricts has no counterpart here,
a rule stands in for it that denies more, and says why. Read after squid 5.7; directives of other
versions are known, as far as they restrict.
"""

from spliceproxy.settings.imported import CLOSED, Converted, Refused
from spliceproxy.settings.squid.converting import convert
from spliceproxy.settings.squid.reading import is_one

__all__ = ["CLOSED", "Converted", "Refused", "convert", "is_one"]
