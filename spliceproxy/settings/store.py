"""The values of settings that say where machines share limits, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from spliceproxy.config import PolicyConfig
from spliceproxy.settings.kind import Kind, refuse
from spliceproxy.settings.routing import without_userinfo
from spliceproxy.settings.values import ip_of, name_of, port_of

if TYPE_CHECKING:
    from spliceproxy.settings.sources import Found

_TCP = r"(rediss?)://([^/?#]*)(?:/([0-9]{1,4})?)?"
_UNIX = r"unix://(/[^?#]+)(?:\?db=([0-9]{1,4}))?"


def _url(text: str, _: str) -> str:
    if "@" in text:
        refuse(
            "a user and password do not belong in a URL, which others may see; they go into the "
            "variable SPLICEPROXY_LIMITS_STORE_AUTH"
        )
    found = re.fullmatch(_UNIX, text)
    if found is not None:
        return f"unix://{found[1]}?db={int(found[2] or 0)}"
    found = re.fullmatch(_TCP, text)
    if found is None:
        refuse()
        raise ValueError
    host, _, digits = found[2].rpartition(":")
    name, port = ip_of(host) or name_of(host), port_of(digits)
    if not name or port < 1:
        refuse("" if name or port > 0 else "a host and a port are needed")
    shown = f"[{name}]" if ":" in name else name
    return f"{found[1]}://{shown}:{port}/{int(found[3] or 0)}"


def _auth(text: str, _: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not password or not text.isprintable():
        refuse()
    return user, password


STORE = Kind(
    _url,
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB for TLS, or unix:///PATH?db=DB",
    metavar="URL",
    schema={"pattern": "^(rediss?://[^@/]+:[0-9]{1,5}(/[0-9]*)?|unix:///[^@]+)$"},
    shown=without_userinfo,
)
STORE_AUTH = Kind(
    _auth,
    "USER:PASSWORD, or :PASSWORD for the default user",
    metavar="USER:PASSWORD",
    schema={"pattern": "^[^:]*:."},
    write=":".join,
    secret=True,
)


def faults(policy: PolicyConfig, found: Mapping[str, Found]) -> Iterator[str]:
    """What is wrong with them together, and here."""
    if policy.limits_store_auth is not None and not policy.limits_store:
        yield f"{found['limits-store-auth'].where}: there is no limits-store that it could be for"
    elif policy.limits_store and find_spec("redis") is None:
        where = found["limits-store"].where
        yield f"{where} {policy.limits_store}: it needs redis; pip install 'spliceproxy[redis]'"
