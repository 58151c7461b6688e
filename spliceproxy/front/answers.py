"""The proxy's own answers on a client's connection: files, TRACE and OPTIONS, and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.errors import Failure, PeerGone
from spliceproxy.forward.refusing import challenge, note_refusal, refusal
from spliceproxy.forward.resumed import Page
from spliceproxy.forward.services import Services
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.observe.termination import DATA
from spliceproxy.relay.interface import CLIENT_RESET
from spliceproxy.site.pages import options_answer, trace_answer

if TYPE_CHECKING:
    from spliceproxy.site.files import Site

PAGE_SECONDS = 10.0
"""How long a client may take to receive one of our short answers."""


class Answers:
    """Those on one connection; each returns whether the connection goes on. ``last``: it never
    does."""

    __slots__ = ("_last", "_services", "_stream")

    def __init__(self, services: Services, stream: Stream, *, last: bool) -> None:
        self._services = services
        self._stream = stream
        self._last = last

    async def here(self, head: RequestHead, record: Record) -> bool:
        """To TRACE or OPTIONS that goes no further (RFC 9110 sections 9.3.7 and 9.3.8)."""
        keep = self._may_continue(head)
        record.status = 200
        if head.method == "TRACE":
            record.content_type = "message/http"
            answer = trace_answer(head, close=not keep, date=self._services.date())
        else:
            answer = options_answer(head, close=not keep, date=self._services.date())
        await self.send(answer)
        return keep

    async def file(self, head: RequestHead, record: Record, site: Site) -> bool:
        """With a file of ``--serve``."""
        idle = self._services.config.timeouts.idle
        keep = self._may_continue(head)
        record.stage = DATA
        with site.find(head) as answer:
            record.status = answer.status
            self._stream.write_limit.set(
                "connection_write_timeout", "the client does not take the file", idle
            )
            record.content_type = answer.content_type
            page = answer.head(self._services.date(), head.minor, not keep) + answer.body
            await self._stream.send(page)
            if answer.fd is not None:
                from spliceproxy.site.files import send_file  # which the site has loaded

                await send_file(self._stream, answer.fd, answer.offset, answer.length, idle)
        return keep

    async def error(
        self,
        error: Failure | HeadError,
        head: RequestHead | None,
        record: Record,
        *,
        keep: bool,
        page: Page | None = None,
    ) -> bool:
        """To a request that failed; ``head`` is None where it had none. Not ``keep``: the
        connection ends in any case. Where it ends, the caller has to close it gently. ``page``:
        what is left of the answer, if that has begun."""
        note_refusal(record, error, self._services.counts)
        if page is None:
            keep = (
                keep
                and head is not None
                and error.error != "http_request_error"
                and self._may_continue(head, challenge=bool(challenge(error)))
            )
            page = Page(self._refusal(error, head, keep=keep), keep)
        try:
            await self.send(page.data)
        except (PeerGone, Failure):
            record.reason = CLIENT_RESET
            return False
        return keep and page.keep

    def _refusal(
        self, error: Failure | HeadError, head: RequestHead | None, *, keep: bool
    ) -> bytes:
        minor = head.minor if head is not None else 1
        date = self._services.date()
        return refusal(error, head, self._services.reasons, minor=minor, close=not keep, date=date)

    async def send(self, answer: bytes) -> None:
        """Sends what is short."""
        self._stream.write_limit.set(
            "connection_write_timeout", "the client takes no answer", PAGE_SECONDS
        )
        await self._stream.send(answer)

    def _may_continue(self, head: RequestHead, *, challenge: bool = False) -> bool:
        """Whether the connection can go on after an answer of ours: a body, or what was
        meant for a tunnel or another protocol and comes before our answer is read, would be
        taken for the next request. Clients answer a challenge to CONNECT on the same
        connection; one that has already sent more does not wait for an answer."""
        if self._services.draining or self._last:
            return False
        if not head.persistent or head.upgrade:
            return False
        if head.method == "CONNECT" and (not challenge or self._stream.buffer):
            return False
        try:
            return head.body() == (Body.NONE, 0)
        except HeadError:
            return False
