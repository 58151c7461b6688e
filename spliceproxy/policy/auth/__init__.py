"""Who a client is: Basic credentials, its network, or the uid behind a Unix socket."""

from spliceproxy.policy.auth.authenticator import Authenticator
from spliceproxy.policy.auth.basic import Unauthenticated
from spliceproxy.policy.auth.identities import peer_uid

__all__ = ["Authenticator", "Unauthenticated", "peer_uid"]
