"""A worker takes what another worker has served until now (:mod:`spliceproxy.processes.giving`).

What has come waits, and no byte of it moves, until the giver says that it has let go of it: until
then the giver may take it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from spliceproxy.admin.channel import Closed, close_all
from spliceproxy.messages import log, plain
from spliceproxy.processes.parcels import RETRY_SECONDS, Line, Nonsense, Parcel, Party
from spliceproxy.relay.handoff import Handoff, between
from spliceproxy.relay.moving import Unmovable


class Moving(Protocol):
    """Tunnels that can be taken (forward.moving)."""

    def adopt(self, state: bytes, fds: Sequence[int]) -> int: ...
    def thaw(self, ident: int) -> None: ...
    def release(self, ident: int) -> None: ...


class Clients(Protocol):
    """Who serves clients (front.server)."""

    def take(self, handoff: Handoff) -> None: ...


class Taker(Party):
    """Of one worker, from the giver at the other end of ``line``, which is this object's. ``ended``
    is called with how much was taken when nothing more comes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: Line,
        clients: Clients,
        moving: Moving,
        ended: Callable[[Taker], None],
    ) -> None:
        super().__init__(loop, line)
        self._clients = clients
        self._moving = moving
        self._ended = ended
        self._held: dict[int, int | Handoff] = {}  # by the giver's number: a tunnel, or a client
        self._said: list[dict[str, Any]] = []
        self.back = -1  # a descriptor: what was taken is to be given back by it. The caller's
        self.taken = {"tunnels": 0, "clients": 0}

    def end(self, *, keep: bool = False) -> None:
        """Nothing more comes. What the giver has not let go of is served if ``keep``: the giver
        is gone, so it is nobody else's; else it stays the giver's. Idempotent."""
        if not self._cease():
            return
        self._line.close()
        for ident in list(self._held):
            if keep:
                self._serve(ident)
            else:
                self._drop(ident)
        self._ended(self)

    def _read(self) -> None:
        came: list[int] = []
        end: Callable[[], None] | None = None
        try:
            for parcel in self._line.some():
                if "abort" in parcel.head:
                    self.back = parcel.fds.pop() if parcel.fds else -1
                    close_all(parcel.fds)
                    end = self.end
                    break
                for ident in parcel.head.get("go", ()):
                    self._serve(ident)
                if "flow" in parcel.head:
                    self._take(parcel.head["flow"], parcel, self._adopt, came)
                elif "client" in parcel.head:
                    self._take(parcel.head["client"], parcel, self._client, came)
                else:
                    close_all(parcel.fds)
        except Nonsense:  # the giver is there, and takes back what has not been confirmed
            log.error("another worker gives what nobody understands")
        except Closed:
            end = self._go_on
        if came:
            self._said.append({"ok": came})
        if end is not None:
            end()
        else:
            self._say()

    def _go_on(self) -> None:
        self.end(keep=True)

    # ---- what comes --------------------------------------------------------------------

    def _take(
        self,
        ident: int,
        parcel: Parcel,
        make: Callable[[Parcel], int | Handoff],
        came: list[int],
    ) -> None:
        """Makes what it is, dormant; what cannot be made stays the giver's."""
        try:
            if "torn" in parcel.head:
                raise OSError("no free descriptor")
            self._held[ident] = make(parcel)
        except (OSError, MemoryError) as error:
            self._refuse(ident, parcel, plain(error), later=True)
        except Unmovable as error:
            self._refuse(ident, parcel, str(error))
        except Exception as error:
            log.exception("what another worker gives cannot be taken")
            self._refuse(ident, parcel, repr(error))
        else:
            came.append(ident)

    def _refuse(self, ident: int, parcel: Parcel, why: str, *, later: bool = False) -> None:
        close_all(parcel.fds)
        self._said.append({"no": ident, "why": why, **({"later": True} if later else {})})

    def _adopt(self, parcel: Parcel) -> int:
        return self._moving.adopt(parcel.data, parcel.fds)

    @staticmethod
    def _client(parcel: Parcel) -> Handoff:
        (fd,) = parcel.fds
        head = parcel.head
        return between(fd, head["address"], head["requests"], parcel.data, head["via"])

    def _serve(self, ident: int) -> None:
        """It is nobody else's any more."""
        found = self._held.pop(ident, None)
        if found is None:
            return
        if isinstance(found, Handoff):
            self.taken["clients"] += 1
            if not self._safely(self._clients.take, found):
                found.close()
        else:
            self.taken["tunnels"] += 1
            self._safely(self._moving.thaw, found)

    def _drop(self, ident: int) -> None:
        """It stays the giver's."""
        found = self._held.pop(ident)
        if isinstance(found, Handoff):
            found.close()
        else:
            self._safely(self._moving.release, found)

    # ---- answers -----------------------------------------------------------------------

    def _say(self) -> None:
        try:
            while self._said:
                if not self._line.send(self._said[0]):
                    self._later(RETRY_SECONDS, self._say)
                    return
                del self._said[0]
        except (Closed, OSError):
            self._said.clear()  # the giver's last word is to be read yet
