"""Who may go where: identity, rules, the guard and the user's hook, joined in ``engine``.

The values that a hook or a test of a policy needs are here; the rest is in the modules.
"""

from __future__ import annotations

from spliceproxy.config import RuleConfig as RuleConfig
from spliceproxy.policy.clients import ClientNetworks as ClientNetworks
from spliceproxy.policy.decision import Allow as Allow
from spliceproxy.policy.decision import Deny as Deny
from spliceproxy.policy.guard import Guard as Guard
from spliceproxy.policy.names import canonical as canonical
from spliceproxy.policy.request import Request as Request
from spliceproxy.policy.rules import Match as Match
from spliceproxy.policy.rules import RuleSet as RuleSet
