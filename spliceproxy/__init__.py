"""spliceproxy: an HTTP and CONNECT forward proxy whose bytes stay in the kernel.

A program that embeds it, and a test of a policy, import from here::

    import spliceproxy

    async with spliceproxy.Proxy(listen=["127.0.0.1:0"]) as proxy: ...   # on your event loop
    with spliceproxy.run(environment=True) as proxy: ...                 # in a thread

Each name is loaded when it is first used: the command line starts without most of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from spliceproxy.version import __version__

if TYPE_CHECKING:
    from spliceproxy.config import AuthConfig as AuthConfig
    from spliceproxy.config import Config as Config
    from spliceproxy.config import PolicyConfig as PolicyConfig
    from spliceproxy.config import RuleConfig as RuleConfig
    from spliceproxy.config import Timeouts as Timeouts
    from spliceproxy.embed.explaining import explain as explain
    from spliceproxy.embed.library import Proxy as Proxy
    from spliceproxy.embed.library import run as run
    from spliceproxy.observe.record import Record as Record
    from spliceproxy.policy import Allow as Allow
    from spliceproxy.policy import Deny as Deny
    from spliceproxy.policy import Request as Request
    from spliceproxy.policy.explain import Explanation as Explanation
    from spliceproxy.settings.loading import load_config as load_config

_HOME = {
    "Allow": "policy",
    "AuthConfig": "config",
    "Config": "config",
    "Deny": "policy",
    "Explanation": "policy.explain",
    "PolicyConfig": "config",
    "Proxy": "embed.library",
    "Record": "observe.record",
    "Request": "policy",
    "RuleConfig": "config",
    "Timeouts": "config",
    "explain": "embed.explaining",
    "load_config": "settings.loading",
    "run": "embed.library",
}

__all__ = ["__version__", *_HOME]

if not TYPE_CHECKING:  # for a type checker there are the imports above, and no other name

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
