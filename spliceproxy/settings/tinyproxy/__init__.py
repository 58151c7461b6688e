"""Converts a tinyproxy.conf(5) into settings.

What the settings allow, tinyproxy allows, too. Where something that restricts has no
counterpart here, the result has a rule that denies everything and says why. Read after
tinyproxy 1.11.1; where 1.8 or what came later takes more, that is taken as well.
"""

from spliceproxy.settings.imported import CLOSED, Converted, Refused
from spliceproxy.settings.tinyproxy.clients import permitted
from spliceproxy.settings.tinyproxy.converting import convert

__all__ = ["CLOSED", "Converted", "Refused", "convert", "permitted"]
