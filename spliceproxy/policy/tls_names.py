"""What is asked of the name inside TLS of a tunnel that is allowed (relay.checking).

``check`` lets pass what has the name that the client has asked for, and what has none to compare:
no name, or no TLS. ``require`` lets nothing pass but the name. ``off`` asks nothing. A rule, a
function or the settings say which of these, in the reverse order, and ``tls-refuse`` names what
``check`` is to refuse as well.

A tunnel to an address has no name to compare with. ``check`` lets it pass where somebody has named
that address: the rule that has allowed it, or the file of --locked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spliceproxy.config import PolicyConfig, RuleConfig
from spliceproxy.policy.decision import TLS_NAMES as TLS_NAMES
from spliceproxy.policy.hosts import is_address, named_address
from spliceproxy.policy.listfile import spelled_out
from spliceproxy.policy.lockfile import Locked
from spliceproxy.relay.checking import (
    ADDRESS,
    FOUND,
    LATE,
    MALFORMED,
    MATCH,
    MISMATCH,
    NameCheck,
    refusing,
)

_ALWAYS = (MISMATCH, MALFORMED, LATE)
_ALL_BUT_MATCH = refusing(word for word in FOUND if word not in ("", MATCH))


class Asked(NamedTuple):
    """``mode`` is one of TLS_NAMES; ``refused`` are bits as of NameCheck, and ``addresses`` those
    that a rule names."""

    mode: str
    refused: int
    addresses: frozenset[str] = frozenset()


class TlsNames:
    """Of one policy."""

    __slots__ = ("_default", "_enforce", "_locked", "_modes", "_rules")

    def __init__(self, policy: PolicyConfig, locked: Locked | None) -> None:
        self._locked = locked
        self._enforce = not policy.report_only
        self._default = _asked(policy.names_inside, policy.tls_refuse)
        self._modes: Mapping[str, Asked] = {
            mode: _asked(mode, policy.tls_refuse if mode == policy.names_inside else ())
            for mode in TLS_NAMES
        }
        self._rules = {
            rule.id or str(number): self._of_rule(rule)
            for number, rule in enumerate(policy.rules, 1)
        }

    def _of_rule(self, rule: RuleConfig) -> Asked:
        asked = self._default
        if rule.tls_name is not None:
            asked = _asked(rule.tls_name, rule.tls_refuse)
        named = map(named_address, spelled_out(rule.hosts or ()))
        return asked._replace(addresses=frozenset(filter(None, named)))

    def asked(self, rule: str, mode: str) -> Asked:
        """Of tunnels that this rule has allowed ("" or "default": none); ``mode`` is what the
        function has said, "" for nothing."""
        found = self._rules.get(rule, self._default)
        if not mode:
            return found
        return self._modes[mode]._replace(addresses=found.addresses)

    def check(self, asked: Asked, name: str) -> NameCheck | None:
        """For a tunnel to a canonical host; None: nothing is to be found. Of an address it is
        decided already, by :meth:`refuses`."""
        if asked.mode == "off":
            return None
        refused = asked.refused if self._enforce else 0
        return NameCheck("" if is_address(name) else name, refused)

    def refuses(self, asked: Asked, address: str, port: int) -> bool:
        """Whether a tunnel to an address is to be refused."""
        if asked.mode == "off" or not self._enforce:
            return False
        if NameCheck("", asked.refused).refuses(ADDRESS):
            return True
        if address in asked.addresses:
            return False
        return self._locked is None or not self._locked.names_address(address, port)


def _asked(mode: str, more: tuple[str, ...]) -> Asked:
    if mode == "off":
        return Asked(mode, 0)
    return Asked(mode, _ALL_BUT_MATCH if mode == "require" else refusing((*_ALWAYS, *more)))
