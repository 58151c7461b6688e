"""Who a client is: Basic credentials, its network, or the uid behind a Unix socket.

Each name is loaded when it is first used: most proxies have no users.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spliceproxy.policy.auth.authenticator import Authenticator as Authenticator
    from spliceproxy.policy.auth.basic import Unauthenticated as Unauthenticated
    from spliceproxy.policy.auth.identities import peer_uid as peer_uid

_HOME = {"Authenticator": "authenticator", "Unauthenticated": "basic", "peer_uid": "identities"}

__all__ = [*_HOME]

if not TYPE_CHECKING:  # for a type checker there are the imports above, and no other name

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
