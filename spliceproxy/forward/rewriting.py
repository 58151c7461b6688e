"""How the heads of one configuration are rewritten on their way, and whether the lane can do it."""

from __future__ import annotations

from dataclasses import dataclass

from spliceproxy.config import Config
from spliceproxy.http1.chain import forwarded_lines
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.http1.rewrite import client_response, interim_response, origin_request


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Made once from the settings. ``via`` is our pseudonym, b"" for none; ``forwarded`` is one of
    :data:`http1.chain.FORWARDED_MODES`.

    The lane knows the rules of :mod:`http1.rewrite` and our Via line. Whatever else is written
    has a field here, whose default is that nothing is written.
    """

    via: bytes = b""
    forwarded: str = "transparent"

    @classmethod
    def of(cls, config: Config) -> Rewriting:
        """As this configuration has it."""
        return cls(via=config.via.encode("ascii"), forwarded=config.forwarded_for)

    @property
    def repeatable(self) -> bool:
        """Whether the lane can rewrite requests by itself: there is nothing to write but Via. A
        field that is added to this class shuts the lane as soon as it is set."""
        return self == type(self)(via=self.via)

    def request(self, head: RequestHead, body: Body, client: str) -> bytes:
        """The head for the origin. ``client`` is the client's IP address, "" for none."""
        lines = forwarded_lines(head, self.forwarded, client)
        return origin_request(head, body, self.via, lines)

    def response(
        self, head: ResponseHead, body: Body, *, minor: int, close: bool, date: bytes
    ) -> bytes:
        """The head of a final response, or of a 101, for the client: as
        :func:`http1.rewrite.client_response`."""
        return client_response(head, body, minor=minor, close=close, via=self.via, date=date)

    def interim(self, head: ResponseHead) -> bytes:
        """The head of a 1xx other than 101."""
        return interim_response(head, self.via)
