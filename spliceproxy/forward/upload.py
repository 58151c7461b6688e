"""The body of a request on its way to the origin, while the response is awaited or comes already.

It is a task of its own, which finds out what becomes of the client meanwhile. What ends the request
is told by ``abort``; what only ends the body is left to whoever reads the response, for the origin
may have answered before it closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spliceproxy.errors import ClientGone, Failure
from spliceproxy.forward.body import SourceFailed, TargetFailed
from spliceproxy.forward.responses import expect_answer
from spliceproxy.forward.resumed import Resumed
from spliceproxy.forward.services import Services
from spliceproxy.forward.waited import Waited
from spliceproxy.http1.chunked import ChunkedDecoder
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.net.stream import Stream
from spliceproxy.relay.handoff import Chunks
from spliceproxy.relay.interface import IDLE, SOURCE_ERROR, TARGET_IDLE


class Upload:
    """A body of this kind, of which not all has been read from ``client``. ``abort(cause)`` is the
    connection's. ``answered`` is for the exchange to say: the final response has begun.

    ``over``: all of it has been sent; ``broken``: the origin takes no more.
    """

    __slots__ = (
        "_abort",
        "_body",
        "_client",
        "_services",
        "_task",
        "_waited",
        "answered",
        "broken",
        "over",
    )

    def __init__(
        self,
        services: Services,
        client: Stream,
        body: Body,
        waited: Waited,
        abort: Callable[[Exception], None],
    ) -> None:
        self._services = services
        self._client = client
        self._body = body
        self._waited = waited
        self._abort = abort
        self._task: asyncio.Task[None] | None = None
        self.answered = False
        self.over = False
        self.broken = False

    def begin(self, origin: Stream, head: bytes, length: int, begun: Chunks | None = None) -> None:
        """Sends ``head``, and behind it ``length`` bytes if the body is not chunked. ``begun``: how
        far a chunked one has come."""
        self._waited.uploading()
        # From here on the task finds out that the client has left. It begins a turn later, when an
        # answer that was there may have made the client end already.
        self._client.unwatch()
        self._task = asyncio.ensure_future(self._send(origin, head, length, begun))

    async def stop(self) -> None:
        """Ends it, whatever happens: until the task has ended, the relay may be using the sockets,
        and they must not be closed."""
        # The end of a task has a traceback, which has this object.
        task, self._task = self._task, None
        if task is None:
            return
        again = False
        task.cancel()
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                again = True
        if again:
            raise asyncio.CancelledError

    def late(self, resumed: Resumed) -> Failure:
        """Who had to go on when the relay's time limit was over."""
        chunks = resumed.chunks
        waits = self._client.buffer if chunks is None else chunks.owed
        return _origin_takes_none() if waits else _body_stalled()

    async def _send(self, origin: Stream, head: bytes, length: int, begun: Chunks | None) -> None:
        """The task."""
        try:
            await self._move(origin, head, length, begun)
            self.over = True
            self._waited.uploaded()
            self._client.watch(self._client_gone)
        except TargetFailed as error:
            if error.reason == TARGET_IDLE and not self.answered:
                self._abort(_origin_takes_none())
                return
            self.broken = True
        except SourceFailed as error:
            # With an early answer on its way, the client may well stop sending.
            if not self.answered or error.reason == SOURCE_ERROR:
                self._abort(_client_failed(error))
        except (Failure, HeadError) as error:
            self._abort(error)
        except Exception as error:  # noqa: BLE001 - the connection answers and tells it
            self._abort(error)
        if not self.answered:
            expect_answer(origin, self._services.config.timeouts.idle)

    async def _move(self, origin: Stream, head: bytes, length: int, begun: Chunks | None) -> None:
        mover, client = self._services.mover, self._client
        if self._body == Body.CHUNKED:
            decoder = ChunkedDecoder(400) if begun is None else ChunkedDecoder(400, begun.rest)
            await mover.chunked(
                client, origin, decoder, head, framed=True, begun=begun, to_client=False
            )
        else:
            await mover.length(client, origin, length, head, to_client=False)

    def _client_gone(self) -> None:
        self._abort(ClientGone())


def _client_failed(error: SourceFailed) -> Exception:
    """What becomes of a request whose body did not come."""
    if error.reason == IDLE:
        return _body_stalled()
    return ClientGone(error.reason)


def _body_stalled() -> Failure:
    why = "the body stalled"
    return Failure("connection_read_timeout", "the request's body stalled", 408, why=why)


def _origin_takes_none() -> Failure:
    return Failure("connection_write_timeout", "the origin does not read on")
