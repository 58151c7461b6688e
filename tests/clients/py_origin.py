"""An origin on Python's http.server: the answers that nginx does not give of itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = bytes(range(256)) * 256
"""64 KiB, of which the bodies are made."""

COUNT = 48
"""Blocks in a body: 3 MiB."""

BODY = BLOCK * COUNT


class Handler(BaseHTTPRequestHandler):
    """GET and POST by path; see ``_PATHS`` at the end."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # so that a head leaves together with what follows it
    timeout = 30
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        _PATHS[self.path](self)

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_expect_100(self) -> bool:
        if self.path != "/too-large":
            super().handle_expect_100()
            self.wfile.flush()
            return True
        self.send_response(413)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        return False

    def log_message(self, *_: object) -> None:
        pass

    def read_body(self) -> Iterator[bytes]:
        """The request's body in parts."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                raise ConnectionError("the request's body was cut short")
            left -= len(part)
            yield part

    def answer(self, body: bytes, content_type: str = "text/plain") -> None:
        """200 with a body of known length."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _seen(handler: Handler) -> None:
    """JSON of the request as it came: line, fields, the body's size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    for part in handler.read_body():
        digest.update(part)
        size += len(part)
    report = {
        "line": handler.requestline,
        "fields": {name.lower(): value for name, value in handler.headers.items()},
        "size": size,
        "sha256": digest.hexdigest(),
    }
    handler.answer(json.dumps(report).encode(), "application/json")


def _chunked(handler: Handler) -> None:
    """Chunks of 1, 2, 3... bytes, then of a block, then a trailer."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    parts = [BLOCK[i * (i - 1) // 2 : i * (i + 1) // 2] for i in range(1, 101)]
    parts.append(BLOCK[5050:])
    for part in [*parts, *[BLOCK] * (COUNT - 1)]:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\nX-Sum: 1\r\n\r\n")


def _until_close(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    for _ in range(COUNT):
        handler.wfile.write(BLOCK)


def _early_hints(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
    handler.answer(b"hinted\n")


def _short(handler: Handler) -> None:
    """Half the body that Content-Length promises."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[: len(BODY) // 2])
    handler.close_connection = True


def _short_chunked(handler: Handler) -> None:
    """Chunks without an end."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK))
    handler.close_connection = True


def _silent(handler: Handler) -> None:
    handler.close_connection = True


def _garbage(handler: Handler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
    handler.close_connection = True


_PATHS: dict[str, Callable[[Handler], None]] = {
    "/seen": _seen,
    "/too-large": _silent,
    "/length": lambda handler: handler.answer(BODY),
    "/chunked": _chunked,
    "/until-close": _until_close,
    "/early-hints": _early_hints,
    "/short": _short,
    "/short-chunked": _short_chunked,
    "/silent": _silent,
    "/garbage": _garbage,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that leaves early is part of some tests


class _Server6(_Server):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def py_origin(host: str = "127.0.0.1") -> Iterator[int]:
    """The port where it listens."""
    with (_Server6 if ":" in host else _Server)((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
