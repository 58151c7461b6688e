"""Messages of the program itself: one line each, on standard error.

Until the proxy runs they are written as they come. From then on nothing waits for their reader. The
supervisor writes as much as there is room for and keeps a little for later. In a worker a thread
writes them, as it is with the access log. What does not fit is dropped and counted, and the number
is told as soon as there is room again. What a worker could not tell before its end, the supervisor
tells. Whatever else is written to ``sys.stderr`` goes the same way. So does what is printed,
because standard output is for the access log.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, Protocol

from spliceproxy.observe import losses
from spliceproxy.observe.linewriter import SLOW, LineWriter
from spliceproxy.observe.trywriter import TryWriter

LEVELS = ("debug", "info", "warning", "error")

MAX_PENDING = 256 << 10
"""Bytes of messages that may wait in a worker."""

FINISH_SECONDS = 1.0
"""Seconds that a worker waits at its end until its last messages are written."""

LAST_SECONDS = 0.5
"""The same for the supervisor."""

RETRY_SECONDS = 0.5
"""Seconds between two attempts of the supervisor to write what waits."""

ENDED = "their worker ended before it had written them"
"""Why lines of the access log are lost that the supervisor tells of."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


class LineFormatter(logging.Formatter):
    """Keeps a message on its line: control characters that came in with a request, such
    as line ends and terminal escapes, are written as ``\\xNN``. Tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        return super().formatMessage(record)


_FORMAT = LineFormatter("%(asctime)s %(process)d %(levelname)s %(message)s")


class _Sink(Protocol):
    def put(self, text: bytes, lines: int) -> None: ...


class _Handler(logging.Handler):
    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self.sink = sink
        self.setFormatter(_FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.sink.put(_encode(f"{self.format(record)}\n"), 1)
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)


class _Lines(io.BufferedIOBase):
    """What is beneath sys.stderr: whole lines go to the sink."""

    name = "<stderr>"

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._rest = b""

    def write(self, data: Any) -> int:
        data = bytes(data)
        lines, end, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > io.DEFAULT_BUFFER_SIZE:
            lines, end, self._rest = lines + end + self._rest, b"\n", b""
        if end:
            self._sink.put(lines + end, lines.count(b"\n") + 1)
        return len(data)

    def end_line(self) -> None:
        """Ends a line that has begun, because nothing more will come."""
        if self._rest:
            self.write(b"\n")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _FD


_FD = 2
_handler: _Handler | None = None
_lines: _Lines | None = None
_lost_lines = 0  # of the access logs of workers that have ended, and not told yet


def set_up(level: str) -> None:
    """Sends messages of ``level`` (one of LEVELS) and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMAT)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def in_supervisor() -> None:
    """From now on this process, which has no thread, does not wait for a reader of its messages.
    It must call :func:`flush` every RETRY_SECONDS while :func:`waits` is true, and :func:`finish`
    at its end."""
    if sys.stderr is None:  # it is closed, and its descriptor may be anything's
        return
    sys.stderr.flush()
    _use(TryWriter(_FD, _told))


def in_worker(row: memoryview) -> None:
    """The same in a process that was just forked. ``row`` is its own on the board."""
    global _lost_lines
    _lost_lines = 0  # the supervisor tells
    losses.use(row)
    if _handler is None:
        return
    before = _handler.sink
    _use(
        LineWriter(
            lambda: _FD,
            close=False,
            limit=MAX_PENDING,
            told=_told,
            failed=lambda _: None,  # there is nowhere to say it
            name="messages",
            account=losses.Messages(),
        )
    )
    if isinstance(before, TryWriter):
        before.close()


def beside(text: bytes, lines: int, name: str) -> LineWriter | None:
    """Writes whole lines that are too many to be messages. A thread does it, in a worker; what
    has been returned says when it has ended. None: standard error is closed."""
    if _handler is None:
        return None
    writer = LineWriter(
        lambda: _FD,
        close=False,
        limit=len(text),
        told=_told,
        failed=lambda _: None,
        name=name,
    )
    writer.put(text, lines)
    writer.stop()
    return writer


def waits() -> bool:
    """Whether the supervisor has messages that nobody has read."""
    return isinstance(sink := _sink(), TryWriter) and sink.waits


def flush() -> None:
    """Writes what there is room for."""
    if isinstance(sink := _sink(), TryWriter):
        sink.flush()


def count(messages: int, lines: int) -> None:
    """Tells, as soon as there is room, how much a worker that has ended did not write."""
    global _lost_lines
    if (messages or lines) and isinstance(sink := _sink(), TryWriter):
        _lost_lines += lines
        sink.lost += messages + lines
        sink.flush()


def finish() -> None:
    """To be called before the process ends: waits a moment until the rest is written."""
    if _lines is not None:
        _lines.end_line()
    sink = _sink()
    if isinstance(sink, TryWriter):
        sink.finish(LAST_SECONDS)
    elif isinstance(sink, LineWriter):
        sink.stop()
        sink.wait(FINISH_SECONDS)


def _sink() -> _Sink | None:
    return _handler.sink if _handler is not None else None


def _use(sink: _Sink) -> None:
    global _handler, _lines
    _handler, _lines = _Handler(sink), _Lines(sink)
    logging.basicConfig(level=logging.getLogger().level, handlers=[_handler], force=True)
    sys.stdout = sys.stderr = io.TextIOWrapper(
        _lines, encoding="utf-8", errors="backslashreplace", write_through=True
    )


def _told(lost: int, why: str = SLOW) -> bytes:
    """The message that lines are lost."""
    global _lost_lines
    lines, _lost_lines = _lost_lines, 0
    what = [f"{lost - lines} messages were lost: {why}"] if lost > lines else []
    what += [f"{lines} lines of the access log were lost: {ENDED}"] if lines else []
    text = "; ".join(what)
    record = logging.LogRecord("spliceproxy", logging.WARNING, __file__, 0, text, None, None)
    return _encode(f"{_FORMAT.format(record)}\n")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
