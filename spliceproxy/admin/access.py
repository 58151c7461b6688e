"""Who may ask at the admin address.

On a Unix socket the permissions of its file decide. On TCP a request needs a token: as Bearer
(RFC 6750), or as the password of Basic (RFC 7617), for which a browser asks its user. A browser
sends the latter again by itself, whatever page has made it ask. So a request that may change
something must come from a page of our own then. And since a page may have a name that leads to our
address, requests must not come to a name that is not ours (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging

from spliceproxy.admin.http import Refusal
from spliceproxy.config import AdminConfig
from spliceproxy.http1.head import RequestHead
from spliceproxy.messages import log
from spliceproxy.policy.auth.basic import split, user_pass
from spliceproxy.seldom import Seldom
from spliceproxy.settings import token

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

_CHALLENGE = 'Basic realm="spliceproxy", charset="UTF-8", Bearer realm="spliceproxy"'


class Gate:
    """Of the address in ``config``, whose files were found to be right."""

    def __init__(self, config: AdminConfig) -> None:
        path = config.token_file
        by_file = config.address is None or config.address.path
        self._tokens = None if by_file or path is None else token.watch(path)
        self._names = {"localhost", *(name.rstrip(".") for name in config.hosts)}
        self._seldom = Seldom(log)

    def check(self, head: RequestHead, *, open: bool) -> None:
        """Refusal where it may not be answered. ``open``: anybody may ask this."""
        if open or self._tokens is None:
            return
        if not self._is_ours(head.host):
            raise Refusal(
                421,
                "the Host field is not an address, localhost or a name in admin-hosts; "
                "another page may have sent this request",
            )
        if self._proves(head) == "basic" and head.method not in SAFE and not _is_same_origin(head):
            raise Refusal(
                403,
                "no page of this address has sent this request; a program gives the token as "
                "Authorization: Bearer",
            )

    def _is_ours(self, host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host.rstrip(".") in self._names
        return True

    def _proves(self, head: RequestHead) -> str:
        """The scheme by which the request gives a token, in lower case; Refusal."""
        values = head.values(b"authorization")
        scheme, _, rest = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        given = b""
        if scheme.lower() == b"bearer":
            given = rest.strip()
        elif scheme.lower() == b"basic":
            pair = user_pass(values[0])
            given = split(pair)[1] if pair is not None else b""
        assert self._tokens is not None
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
