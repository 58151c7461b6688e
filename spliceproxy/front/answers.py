"""The proxy's own answers on a client's connection: files, TRACE and OPTIONS, and errors."""

from __future__ import annotations

from spliceproxy.errors import Denied, ErrorType, Failure, PeerGone
from spliceproxy.forward.services import Services
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.relay.interface import CLIENT_RESET
from spliceproxy.site import files
from spliceproxy.site.pages import Denial, error_page, options_answer, trace_answer

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
        await self._send(answer)
        return keep

    async def file(self, head: RequestHead, record: Record) -> bool:
        """With a file of ``--serve``."""
        site = self._services.site
        assert site is not None
        idle = self._services.config.timeouts.idle
        keep = self._may_continue(head)
        with site.find(head) as answer:
            record.status = answer.status
            self._stream.write_limit.set(
                "connection_write_timeout", "the client does not take the file", idle
            )
            record.content_type = answer.content_type
            page = answer.head(self._services.date(), head.minor, not keep) + answer.body
            await self._stream.send(page)
            if answer.fd is not None:
                await files.send_file(self._stream, answer.fd, answer.offset, answer.length, idle)
        return keep

    async def error(
        self, error: Failure | HeadError, head: RequestHead | None, record: Record, *, keep: bool
    ) -> bool:
        """To a request that failed; ``head`` is None where it had none. Not ``keep``: the
        connection ends in any case. Where it ends, the caller has to close it gently."""
        kind = error.error
        record.status = error.status
        record.blame(kind, error.where if isinstance(error, Failure) else "")
        if isinstance(error, Denied):
            record.rule = error.rule
        challenge = error.fields if isinstance(error, Unauthenticated) else None
        keep = (
            keep
            and head is not None
            and kind != "http_request_error"
            and self._may_continue(head, challenge=challenge is not None)
        )
        page = error_page(
            error.status,
            kind,
            error.detail,
            minor=head.minor if head is not None else 1,
            close=not keep,
            head_only=head is not None and head.method == "HEAD",
            date=self._services.date(),
            extra=challenge or (),
            denial=_denial(head, error) if isinstance(error, Denied) else None,
            why=self._why(error, kind),
        )
        try:
            await self._send(page)
        except (PeerGone, Failure):
            record.reason = CLIENT_RESET
            return False
        return keep

    def _why(self, error: Failure | HeadError, kind: ErrorType) -> str:
        """For the reason phrase. The statuses of most bad heads say it by themselves."""
        if isinstance(error, Failure):
            return error.why or self._services.reasons[kind]
        return self._services.reasons[kind] if error.status in (400, 502) else ""

    async def _send(self, answer: bytes) -> None:
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


def _denial(head: RequestHead | None, denied: Denied) -> Denial:
    """The page for a denial in the form that the client prefers."""
    accept = head.values(b"accept") if head is not None else []
    return Denial(denied.rule, denied.reason, denied.advice, accept)
