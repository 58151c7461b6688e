"""Messages of the program itself: one line each, on standard error."""

from __future__ import annotations

import logging
import sys

LEVELS = ("debug", "info", "warning", "error")

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


class LineFormatter(logging.Formatter):
    """Keeps a message on its line: control characters that came in with a request, such
    as line ends and terminal escapes, are written as ``\\xNN``. Tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        return super().formatMessage(record)


def set_up(level: str) -> None:
    """Sends messages of ``level`` (one of LEVELS) and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
