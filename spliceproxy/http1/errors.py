"""The one exception of this package: a message that must not be acted on."""

from __future__ import annotations

from spliceproxy.errors import ErrorType

_SHOWN = 60  # characters of a peer's text that an error message quotes


class HeadError(Exception):
    """A head, its framing or a chunked body is not acceptable.

    ``status`` is what to answer: 400, 414, 431, 501 or 505 for a request, 502 for a
    response. ``detail`` is one short line of printable ASCII. ``error`` is the RFC 9209
    type, for a ``Proxy-Status`` field; without one it follows from the status.
    """

    def __init__(self, status: int, detail: str, error: ErrorType | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        if error is None:
            error = "http_protocol_error" if status == 502 else "http_request_error"
        self.error = error


def show(text: bytes | bytearray | str) -> str:
    """A peer's text, quoted, escaped and cut, for an error message."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")
    shown = ascii(bytes(text[:_SHOWN]))[1:]
    return shown + "..." if len(text) > _SHOWN else shown
