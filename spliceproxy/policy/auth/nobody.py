"""The authenticator of a proxy without users."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spliceproxy.config import AuthConfig


def is_nobody(config: AuthConfig) -> bool:
    """Whether the settings say nothing of users."""
    return config == AuthConfig()


class Nobody:
    """What :class:`authenticator.Authenticator` is where the settings name no users, without what
    that has to load."""

    enabled = False
    takes_passwords = False
    uses_peers = False
    repeat_for = math.inf

    def start(self) -> None:
        pass

    def identify(self, credentials: Sequence[bytes], client: str, uid: int = -1) -> str:
        """Nobody."""
        return ""

    def knows(self, user: str, client: str) -> bool:
        return True

    def look(self) -> None:
        pass

    def groups_of(self, user: str) -> frozenset[str]:
        return frozenset()

    def close(self) -> None:
        pass
