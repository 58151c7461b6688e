"""The one request of a client that speaks SOCKS: it becomes a CONNECT, and is asked about, dialled
and logged as one.

    V5   greeting ─► a method ─► password, if that is the method ─► request ─► reply
    V4   request ─► reply

The method: with a password where the proxy has users with passwords and the client offers one,
else none. A client that offers none and would be refused for that is told so at once; so is one
whose password is wrong. Whatever else is wrong is the reply to the request.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import TypeVar

from spliceproxy.config import HTTP, SOCKS
from spliceproxy.errors import ClientGone, Failure
from spliceproxy.forward.resumed import Page, Spoken
from spliceproxy.front.cycle import Cycle
from spliceproxy.front.http1 import FRESH_SECONDS, Connection
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import RequestHead
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.socks import reading, replies
from spliceproxy.socks.reading import (
    BIND,
    CONNECT,
    MOST,
    NO_METHOD,
    NO_PASSWORD,
    PASSWORD,
    UDP_ASSOCIATE,
    V4,
    V5,
    AddressType,
    Request,
)

Message = TypeVar("Message", reading.Greeting, reading.Password, Request)

_COMMANDS = {BIND: "BIND", UDP_ASSOCIATE: "UDP-ASSOCIATE"}


class NoCommand(Failure):
    """Not a CONNECT."""

    def __init__(self, name: str) -> None:
        super().__init__("http_request_error", f"SOCKS {name} is not served, CONNECT is", 501)


def begin(connection: Connection, received: int, spoken: str) -> Cycle:
    """The first request of a client, by its first byte and by what may be ``spoken`` where it has
    come in. No request of HTTP begins with the version of SOCKS."""
    if connection.stream.buffer[0] in (V4, V5):
        return SocksCycle(connection, received, spoken)
    return Misplaced(connection, received) if spoken == SOCKS else Cycle(connection, received)


class SocksCycle(Cycle):
    """Of a connection whose first byte is there, or of which the relay has ``read`` something."""

    __slots__ = ("_credentials", "_read", "_refusal", "_spoken", "_version")

    speaks_http = False

    def __init__(
        self, connection: Connection, received: int, spoken: str, read: Spoken | None = None
    ) -> None:
        super().__init__(connection, received)
        self._spoken = spoken
        self._read = read
        version = connection.stream.buffer[0] if read is None else read.version
        self._version = self._record.socks = version
        self._record.method = "CONNECT"  # until the request says what it is
        self._established = replies.granted(self._version)
        self._credentials: list[tuple[bytes, bytes]] = []
        self._refusal = b""  # the reply to a fault before there is a request; b"": as of REPLIES

    # ---- what the client says ----------------------------------------------------------

    async def _read_head(self) -> RequestHead:
        """The request. Raises as :meth:`HeadReader.rest`, and what the policy says."""
        if self._spoken == HTTP:
            self._refusal = replies.method(NO_METHOD) if self._version == V5 else b""
            raise HeadError(400, "SOCKS was received at an address that is for HTTP alone")
        if self._read is not None:
            self._go_on(self._read)
        if self._read is not None and self._read.spelled:
            head = await super()._read_head()
            self._record.target = head.target
            self._record.bytes_out = self._stream.sent - self._sent
            return head
        if self._version == V4:
            request = await self._message(reading.request_4)
        else:
            if self._read is None:
                await self._agree()
            request = await self._message(reading.request_5)
        self._record.target = request.target
        if request.command != CONNECT:
            name = _COMMANDS.get(request.command, f"command {request.command}")
            self._record.method = name if request.command in _COMMANDS else ""
            raise NoCommand(name)
        self._record.bytes_out = self._stream.sent - self._sent
        return self._head_of(request.target, request.host, request.port)

    def _go_on(self, read: Spoken) -> None:
        """What the relay has received and sent is this request's, too."""
        self._received -= read.more
        if self._version == V5:
            self._sent -= len(replies.method(NO_PASSWORD))
            self._stream.relayed_out += len(replies.method(NO_PASSWORD))
        if not self._stream.buffer:  # its time is up, or it is to leave soon
            self._connection.heads.seconds = FRESH_SECONDS
            self._connection.heads.limit()

    def _head_of(self, target: str, host: str, port: int) -> RequestHead:
        """The same request as HTTP has it."""
        fields = [(b"Host", target.encode("ascii")), *self._credentials]
        return RequestHead("CONNECT", target, 1, fields, "authority", "", host, port, "")

    async def _message(self, read: Callable[[bytes], Message | None]) -> Message:
        """The next message, which is taken from the front of the buffer."""
        buffer = self._stream.buffer
        while True:
            found = read(bytes(buffer[: MOST + 1]))
            if found is not None:
                del buffer[: found.size]
                return found
            try:
                more = await self._stream.fill()
            except Failure as error:
                raise Failure(error.error, "no SOCKS request within the time limit", 408) from error
            if not more:
                raise ClientGone

    async def _agree(self) -> None:
        """Chooses a method of authentication, and does what that needs."""
        offered = (await self._message(reading.greeting)).methods
        takes = self._services.asking.takes_passwords
        if PASSWORD in offered and (takes or NO_PASSWORD not in offered):
            # Java offers both, always.
            await self._say(replies.method(PASSWORD))
            await self._take_password()
        elif NO_PASSWORD in offered:
            self._refusal = replies.method(NO_METHOD)
            try:
                await self._identify()
            except Unauthenticated:
                raise
            except Failure:
                pass  # it will be the reply to the request, and its line has a target then
            self._refusal = b""
            await self._say(replies.method(NO_PASSWORD))
        else:
            self._refusal = replies.method(NO_METHOD)
            shown = ", ".join(str(method) for method in offered[:8])
            raise HeadError(400, f"SOCKS5 methods of authentication that are not served: {shown}")

    async def _take_password(self) -> None:
        """The user and the password go where those of an HTTP request are. They are checked now,
        for only here the client can be told; the request then finds them known."""
        self._refusal = replies.WRONG
        _, user, password = await self._message(reading.password)
        # A user with a colon would be another one in Basic credentials (RFC 7617 section 2):
        # without a colon these are no credentials.
        pair = user + b":" + password if b":" not in user else b""
        self._credentials = [(b"Proxy-Authorization", b"Basic " + b64encode(pair))]
        await self._identify()
        self._refusal = b""
        await self._say(replies.RIGHT)

    async def _identify(self) -> None:
        """Whether the client may be who it says. Raises what the policy says."""
        head = self._head_of("", "", 0)
        self._stream.watch(self._connection.client_gone)
        await self._services.asking.identify(self._connection.standing, head, self._record)
        self._connection.heads.limit()  # the client has not waited for itself

    async def _say(self, data: bytes) -> None:
        """A step towards the request."""
        await self._connection.answers.send(data)
        self._stream.message_start = self._stream.sent  # it is no part of an answer to be cut

    # ---- what it is told ---------------------------------------------------------------

    def _show_head(self, head: RequestHead) -> None:
        if self._record.trace is not None:
            self._record.trace.socks(self._version, head.target)

    def _page_of(self, error: Failure | HeadError) -> Page:
        """The reply to a fault, or what is left of it."""
        if self._page is not None:
            return self._page
        if isinstance(error, AddressType):
            code = replies.NO_ADDRESS_TYPE
        elif isinstance(error, NoCommand):
            code = replies.NO_COMMAND
        else:
            code = replies.REPLIES[error.error]
        return Page(self._refusal or replies.refused(self._version, code), False)


class Misplaced(Cycle):
    """A request of HTTP where clients may speak SOCKS alone. It gets an answer of HTTP: some
    programs take ``socks5h://`` for the address of an HTTP proxy."""

    async def _dispatch(self, head: RequestHead) -> bool:
        self._head = head
        self._connection.answering()
        self._note(head)
        detail = "an HTTP request was received at an address that is for SOCKS alone"
        raise Failure("http_request_error", detail, why="this is a SOCKS proxy")
