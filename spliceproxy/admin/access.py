"""Who may ask at the admin address.

On a Unix socket the permissions of its file decide. On TCP a request needs a token: as Bearer
(RFC 6750), or as the password of Basic (RFC 7617), for which a browser asks its user. A browser
sends the latter again by itself, whatever page has made it ask, and to a Unix socket that is
forwarded to it (ssh -L) it needs none. So what a browser sends must come from a page of our own
then, but that others may lead to ours. And since a page may have a name that leads to our address,
requests must not come to a name that is not ours (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging

from spliceproxy.admin.http import Refusal
from spliceproxy.config import AdminConfig
from spliceproxy.http1.head import RequestHead
from spliceproxy.kept import Kept
from spliceproxy.messages import log
from spliceproxy.policy.auth.basic import split, user_pass
from spliceproxy.seldom import Seldom
from spliceproxy.settings import token

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

_CHALLENGE = 'Basic realm="spliceproxy", charset="UTF-8", Bearer realm="spliceproxy"'


class Gate:
    """Of the address in ``config``. What its file said before may be ``kept``. ValueError."""

    def __init__(self, config: AdminConfig, kept: Kept) -> None:
        path = config.token_file
        by_file = config.address is None or config.address.path
        self._tokens = None if by_file or path is None else token.watch(path, kept)
        self._names = {"localhost", *(name.rstrip(".") for name in config.hosts)}
        self._seldom = Seldom(log)

    def check(self, head: RequestHead, *, open: bool) -> None:
        """Refusal where it may not be answered. ``open``: anybody may ask this."""
        if open:
            return
        if not self._is_ours(head.host):
            raise Refusal(
                421,
                "the Host field is not an address, localhost or a name in admin-hosts; "
                "another page may have sent this request",
            )
        proven = self._proves(head)
        if proven != "bearer" and not _is_wanted(head, said=proven == "basic"):
            raise Refusal(
                403,
                "a page of another address has sent this request, or may have; a program gives "
                "the token as Authorization: Bearer, and sends neither Origin nor Sec-Fetch-Site",
            )

    def _is_ours(self, host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host.rstrip(".") in self._names
        return True

    def _proves(self, head: RequestHead) -> str:
        """The scheme by which the request gives a token, in lower case; "" where none is needed.
        Refusal."""
        if self._tokens is None:
            return ""
        values = head.values(b"authorization")
        scheme, _, rest = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        given = b""
        if scheme.lower() == b"bearer":
            given = rest.strip()
        elif scheme.lower() == b"basic":
            pair = user_pass(values[0])
            given = split(pair)[1] if pair is not None else b""
        self._tokens.look()
        # Each is compared, and as a whole, so that the time tells nothing.
        equal = [hmac.compare_digest(given, one.encode("ascii")) for one in self._tokens.value]
        if given and any(equal):
            return scheme.lower().decode("ascii")
        if values:
            self._seldom.say(
                "token", logging.WARNING, "a request to the admin address had a wrong token"
            )
        raise Refusal(
            401,
            "a token is required: Authorization: Bearer TOKEN, or the token as the password",
            {"WWW-Authenticate": _CHALLENGE},
        )


def _is_wanted(head: RequestHead, *, said: bool) -> bool:
    """Whether the one who is at the browser, if it is one, wants this. A browser says which page
    has made it ask; what changes something must be ``said`` to come from a page of ours."""
    site, origins = head.values(b"sec-fetch-site"), head.values(b"origin")
    safe = head.method in SAFE
    if not (site or origins):
        return safe or not said
    if _is_same_origin(head):
        return True
    return safe and (site == [b"none"] or _leads_here(head))


def _leads_here(head: RequestHead) -> bool:
    """Whether the browser is to show what it gets in the place of the page that has asked."""
    mode, target = head.values(b"sec-fetch-mode"), head.values(b"sec-fetch-dest")
    return mode == [b"navigate"] and target == [b"document"]


def _is_same_origin(head: RequestHead) -> bool:
    """Whether a page of ours has sent it: a browser says so (Fetch Metadata), or names the page's
    origin (RFC 6454)."""
    site = head.values(b"sec-fetch-site")
    if site:
        return site == [b"same-origin"]
    origins, hosts = head.values(b"origin"), head.values(b"host")
    if len(origins) != 1 or len(hosts) != 1:
        return False
    host = hosts[0].lower()
    return origins[0].lower() in (b"http://" + host, b"https://" + host)
