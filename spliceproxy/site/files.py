"""Files of one directory, answered to origin-form requests and sent with sendfile(2).

Made for a handful of small files (a PAC file, a CA certificate, a landing page): opening
one may wait for the disk, and the event loop waits with it.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import re
import stat
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote_to_bytes

from spliceproxy.errors import Failure
from spliceproxy.http1.dates import fixdate
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.site.conditional import Validators, byte_range, precondition
from spliceproxy.site.opening import open_below, open_folder

SLICE = 1 << 20
"""Bytes that one wake-up sends at most."""

INDEX = b"index.html"

Fields = list[tuple[bytes, bytes]]

# Well-formed: visible ASCII, and behind each % two hexadecimal digits.
_PATH = re.compile(r"/(?:[!-$&-~]|%[0-9A-Fa-f]{2})*").fullmatch

_FORBIDDEN = re.compile(rb"[\0/\\]").search

_TYPES: dict[str, str] = {
    # Built in, not the machine's: the same answer everywhere.
    **mimetypes.MimeTypes(()).types_map[1],
    ".gz": "application/gzip",
    ".js": "text/javascript",  # RFC 9239
    ".mjs": "text/javascript",
    # What browsers and phones offer to install, be it PEM or DER.
    ".cer": "application/x-x509-ca-cert",
    ".crt": "application/x-x509-ca-cert",
    ".der": "application/x-x509-ca-cert",
    ".pem": "application/x-x509-ca-cert",
    ".pac": "application/x-ns-proxy-autoconfig",
}

_ABSENT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,  # also a link where a directory should be
        errno.ELOOP,  # a link where the file should be
        errno.EXDEV,  # one that leads out of the folder
        errno.ENAMETOOLONG,
        errno.ENXIO,  # a socket, a FIFO without a reader
        errno.ENODEV,
    }
)


class FileAnswer:
    """The answer to one request. To be sent are ``head()``, then ``body``, then ``length`` bytes
    of ``fd`` from ``offset``. It is a context manager that closes ``fd``."""

    __slots__ = ("body", "content_type", "fd", "fields", "length", "offset", "status")

    def __init__(self, status: int, fields: Fields, content_type: str = "") -> None:
        self.status = status
        self.fields = fields
        self.content_type = content_type  # "" if it has none
        self.body = b""  # complete; b"" where a file is the body
        self.fd: int | None = None  # None where there is nothing to send from it
        self.offset = 0
        self.length = 0

    def head(self, date: bytes, minor: int, close: bool) -> bytes:
        """The complete head. ``date`` is now as an HTTP-date, ``minor`` the request's
        HTTP/1.minor, ``close`` whether the connection ends behind this answer."""
        lines = [b"HTTP/1.1 %d %s" % (self.status, HTTPStatus(self.status).phrase.encode())]
        lines.append(b"Date: " + date)
        if self.content_type:
            lines.append(b"Content-Type: " + self.content_type.encode())
        lines += [b"%s: %s" % field for field in self.fields]
        lines.append(b"X-Content-Type-Options: nosniff")
        if close:
            lines.append(b"Connection: close")
        elif minor == 0:
            lines.append(b"Connection: keep-alive")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def close(self) -> None:
        """Idempotent."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self) -> FileAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Site:
    """A directory tree to serve.

    Only regular files below ``root`` are ever opened. Each component of a path is opened
    in the directory before it (:mod:`spliceproxy.site.opening`), and no component can be ``..`` or
    hold a slash, so there is no way out. Names that begin with a dot are treated as missing, but
    a link may lead to one.
    """

    def __init__(self, root: Path, *, links: bool = False) -> None:
        """``links``: whether links that stay below ``root`` are followed. OSError if ``root``
        (itself or behind a link) is not a readable directory."""
        self._root = os.path.abspath(root)
        self._links = links
        os.close(open_folder(self._root))

    def find(self, head: RequestHead) -> FileAnswer:
        """The answer to a request in origin form. The caller must close it. A request that cannot
        be served has an answer, too: 301, 304, 400, 403, 404, 405, 412 or 416. OSError is a
        fault of the proxy's own."""
        if head.method not in ("GET", "HEAD"):
            return _text(head, 405, [(b"Allow", b"GET, HEAD")])
        path, mark, query = head.path.partition("?")
        try:
            fd = open_below(self._root, _names(path), links=self._links)
        except Failure as failure:
            return _text(head, failure.status)
        except OSError as error:
            return _text(head, _status(error))
        try:
            about = os.fstat(fd)
            if stat.S_ISREG(about.st_mode):
                answer = _file(head, _content_type(path), about)
                if answer.length:
                    answer.fd, fd = fd, -1
                return answer
        finally:
            if fd >= 0:
                os.close(fd)
        if stat.S_ISDIR(about.st_mode) and not path.endswith("/"):
            # _names() has refused //: this cannot name another host.
            return _text(head, 301, [(b"Location", f"{path}/{mark}{query}".encode())])
        return _text(head, 404)


async def send_file(stream: Stream, fd: int, offset: int, length: int, idle: float) -> None:
    """Sends ``length`` bytes of a file after what ``stream.send`` has sent.

    Failure("connection_write_timeout") when the peer takes nothing for ``idle`` seconds;
    PeerGone; OSError where the file cannot be read or ended early. After any of them the
    message is cut short, and the caller must close the connection.
    """
    end = offset + length
    while offset < end:
        stream.write_limit.set("connection_write_timeout", "the client takes no data", idle)
        asked = min(SLICE, end - offset)
        try:
            sent = stream.send_file(fd, offset, asked)
        except BlockingIOError:
            await stream.writable()
            continue
        if sent == 0:
            raise OSError(errno.ESTALE, f"a file ended {end - offset} bytes early")
        offset += sent
        if sent < asked:
            await stream.writable()
        elif offset < end:
            await asyncio.sleep(0)


def _names(path: str) -> list[bytes]:
    """The components to open one by one. Failure(400) for a path that is not well-formed,
    Failure(404) for one that no file here can have."""
    if not _PATH(path):
        raise Failure("http_request_error", "a malformed path")
    # Split first, decode once: an encoded slash stays in its component and is refused.
    names = [unquote_to_bytes(name) for name in path[1:].split("/")]
    if not names[-1]:
        names[-1] = INDEX
    for name in names:
        if not name or name.startswith(b".") or _FORBIDDEN(name):
            raise Failure("http_request_error", "no such file", 404)
    return names


def _status(error: OSError) -> int:
    if error.errno in _ABSENT:
        return 404
    if error.errno in (errno.EACCES, errno.EPERM):
        return 403
    raise error  # no descriptors or a broken disk: a fault of our own, answered and logged as such


def _file(head: RequestHead, content_type: str, about: os.stat_result) -> FileAnswer:
    """The answer with a regular file or a part of it. ``fd`` stays the caller's."""
    size = about.st_size
    now = int(time.time())
    # RFC 9110 section 8.8.2.1: never later than the Date field.
    modified = max(0, min(now, about.st_mtime_ns // 10**9))
    etag = b'"%x-%x-%x"' % (about.st_mtime_ns, size, about.st_ino)
    version = Validators(etag, modified, now)
    fields: Fields = [
        (b"ETag", etag),
        (b"Last-Modified", fixdate(modified).encode()),
        (b"Accept-Ranges", b"bytes"),
    ]
    status = precondition(head, version)
    if status == 304:
        return FileAnswer(304, fields)
    if status:
        return _text(head, status)
    part = byte_range(head, size, version)
    if part is None:
        answer = FileAnswer(200, fields, content_type)
        offset, length = 0, size
    else:
        offset, length = part
        if not length:
            return _text(head, 416, [(b"Content-Range", b"bytes */%d" % size)])
        answer = FileAnswer(206, fields, content_type)
        span = b"bytes %d-%d/%d" % (offset, offset + length - 1, size)
        fields.append((b"Content-Range", span))
    fields.append((b"Content-Length", b"%d" % length))
    if head.method == "GET":
        answer.offset, answer.length = offset, length
    return answer


def _text(head: RequestHead, status: int, fields: Fields | None = None) -> FileAnswer:
    """A short answer whose text is its status."""
    body = f"{status} {HTTPStatus(status).phrase}\n".encode()
    answer = FileAnswer(status, fields or [], "text/plain; charset=utf-8")
    answer.fields.append((b"Content-Length", b"%d" % len(body)))
    if head.method != "HEAD":
        answer.body = body
    return answer


def _content_type(path: str) -> str:
    name = unquote_to_bytes(path.rpartition("/")[2]) or INDEX
    if name == b"wpad.dat":
        return _TYPES[".pac"]
    suffix = os.path.splitext(name)[1].decode("ascii", "replace").lower()
    kind = _TYPES.get(suffix, "application/octet-stream")
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
