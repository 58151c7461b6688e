"""The values of settings that say which way requests go."""

from __future__ import annotations

import os
import re

from spliceproxy.config import DIRECT, PAC, REFUSE, SCHEMES, Url
from spliceproxy.policy.hosts import parse_pattern
from spliceproxy.policy.networks import parse_network
from spliceproxy.settings.kind import Kind, refuse
from spliceproxy.settings.values import ip_of, name_of, port_of

RESERVED = (DIRECT, REFUSE, PAC)
"""No names of parents."""

IMPLIED = "proxy"
"""The name of the parent that --proxy makes; those of the environment begin with it and a dash."""

SECRETS = (
    "a user and password do not belong in a URL, which others may see; they go into the "
    "variable SPLICEPROXY_PROXY_AUTH for --proxy, and into auth-file or auth-env for a [parent]"
)

# Few have a use for these: they are compiled when they are needed.
_URL = r"([A-Za-z0-9+.-]+)://([^/?#]*)/?"
_NAME = r"[A-Za-z0-9._-]{1,64}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_USERINFO = r"(?s)//.*@"


def without_userinfo(text: str) -> str:
    """For messages: a URL without user and password."""
    return repr(re.sub(_USERINFO, "//***@", text))


def _url(text: str, _: str) -> Url:
    found = re.fullmatch(_URL, text)
    if "@" in text:
        refuse(SECRETS)
    if found is None or found[1].lower() not in SCHEMES:
        refuse()
        raise ValueError
    host, _, digits = found[2].rpartition(":")
    name = ip_of(host) or name_of(host)
    port = port_of(digits)
    if not name or port < 1:
        refuse("" if name or port > 0 else "a host and a port are needed")
    return Url(found[1].lower(), name, port)


def _parent(text: str, _: str) -> str:
    if text in RESERVED:
        refuse("it stands for no parent")
    return text if re.fullmatch(_NAME, text) else refuse()


def exception_of(text: str) -> tuple[str, str, str]:
    """What an entry of --no-proxy names: a pattern of hosts, or a network of addresses, and a port
    ("" for any). ValueError. As curl has it, a name stands for all names below it, too."""
    host, port = text, ""
    if text.count(":") == 1 or text.startswith("["):
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if port_of(port) < 1 and port:
            raise ValueError("its port is none")
        host = host.removeprefix("[").removesuffix("]")
    if host == "*":
        return "/.*/", "", port
    try:
        return "", str(parse_network(host)), port
    except ValueError:
        name = host.removeprefix("*").removeprefix(".")
        parse_pattern(name)
        return f".{name}", "", port


def _pac(text: str, folder: str) -> str:
    if not text:
        refuse()
    if text.startswith(("http://", "https://")):
        return text if "@" not in text else refuse("a user and password do not belong in a URL")
    return os.path.abspath(os.path.join(folder, text))


def _no_proxy(text: str, _: str) -> tuple[str, ...]:
    entries = tuple(one.strip() for one in text.split(",") if one.strip())
    if not entries:
        refuse()
    for one in entries:
        try:
            exception_of(one)
        except ValueError as error:
            refuse(f"{one!r}: {error}")
    return entries


PARENT_URL = Kind(
    _url,
    f"a URL with a host and a port, and nothing else: {', '.join(f'{s}://' for s in SCHEMES)}",
    metavar="URL",
    schema={"pattern": f"^({'|'.join(SCHEMES)})://[^@/]+:[0-9]{{1,5}}/?$"},
    shown=without_userinfo,
)
PARENT_NAME = Kind(
    _parent,
    f"letters, digits and ._-, at most 64, but not {', '.join(RESERVED)}",
    schema={"pattern": f"^{_NAME}$"},
)
SOURCE = Kind(
    lambda text, _: ip_of(f"[{text}]" if ":" in text else text) or refuse(),
    "an IP address of this machine, such as 192.0.2.1 or 2001:db8::1",
)
WAY = Kind(
    lambda text, _: text if re.fullmatch(_NAME, text) else refuse(),
    f"the name of a [parent], {DIRECT}, {REFUSE}, or {PAC}",
    schema={"pattern": f"^{_NAME}$"},
)
PAC_FILE = Kind(
    _pac, "a file, or a URL with http:// or https://", metavar="FILE", shown=without_userinfo
)
VARIABLE = Kind(
    lambda text, _: text if re.fullmatch(_VARIABLE, text) else refuse(),
    "the name of an environment variable",
)
NO_PROXY = Kind(
    _no_proxy,
    "names, addresses and networks with commas between them, each with :PORT or without, or *",
    metavar="LIST",
    write=",".join,
)
