"""The threads that compute hashes of passwords, beside the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

THREADS = 2
"""That compute hashes for everybody. One more is for passwords that were right before, and for
networks with a success: however many other networks guess, their users do not wait for it."""

QUEUE = 256
"""Hashes that may be computed, or wait for it, in the threads for everybody: at 50 ms each the
last one comes after six seconds."""

_START_SECONDS = 10.0


class Full(Exception):
    """There are too many tries of all networks together."""


class _Pool:
    """Threads that are made with the first hash, or by :meth:`start`."""

    __slots__ = ("_executor", "_threads", "hashes")

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self.hashes = 0  # being computed, or waiting for it

    @property
    def is_busy(self) -> bool:
        return self.hashes >= self._threads

    def executor(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="auth")
        return self._executor

    def start(self) -> None:
        together = Barrier(self._threads + 1)  # else one thread would do all that is asked
        for _ in range(self._threads):
            self.executor().submit(together.wait, _START_SECONDS)
        together.wait(_START_SECONDS)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class Hashing:
    """Call from the event loop's thread."""

    __slots__ = ("_ahead", "_all", "_running")

    def __init__(self) -> None:
        self._all = _Pool(THREADS)
        self._ahead = _Pool(1)
        self._running: dict[tuple[bytes, str, bool], asyncio.Future[bool]] = {}

    def start(self) -> None:
        """Makes the threads now. Idempotent."""
        self._all.start()
        self._ahead.start()

    async def verify(self, password: bytes, hashed: str, *, ahead: bool, same: bytes) -> bool:
        """Whether a hash is the password's; Full. ``ahead``: in the thread that is not for all,
        unless another is free. ``same``: a digest of the password; those who ask the same at the
        same time share an answer, for a fleet may have one password."""
        key = same, hashed, ahead
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = self._begin(password, hashed, ahead=ahead)
            running.add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(running)

    def _begin(self, password: bytes, hashed: str, *, ahead: bool) -> asyncio.Future[bool]:
        from spliceproxy.policy.auth import htpasswd  # loaded where there are hashes

        use_it = ahead and (self._all.is_busy or not self._ahead.is_busy)
        pool = self._ahead if use_it else self._all
        if not ahead and pool.hashes >= QUEUE:
            raise Full
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(pool.executor(), htpasswd.verify, password, hashed)
        pool.hashes += 1

        def ended(_: object) -> None:
            pool.hashes -= 1

        running.add_done_callback(ended)
        return running

    def close(self) -> None:
        """Ends them, without waiting. Idempotent."""
        self._all.close()
        self._ahead.close()
