"""Who may go where: identity, rules, the guard and the user's hook, joined in ``engine``.

The values that a hook or a test of a policy needs are here; the rest is in the modules.
"""

from __future__ import annotations

from spliceproxy.policy.decision import Allow as Allow
from spliceproxy.policy.decision import Deny as Deny
from spliceproxy.policy.request import Request as Request
