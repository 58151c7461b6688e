"""Git's smart HTTP: ``git http-backend`` (a CGI program) behind Python's http.server."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

from harness import need
from py_origin import Handler


class GitHandler(Handler):
    """Runs http-backend for each request (RFC 3875, githttp-backend(1))."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = b"".join(self.read_body())
        variables = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "tester",  # with a user it takes pushes
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            [need("git"), "http-backend"], env=variables, input=body, capture_output=True
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = dict(fields).get("Status", "200 OK")
        self.send_response(int(status[:3]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


@contextlib.contextmanager
def git_server(root: Path, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL where the repositories of ``root`` are, by https with a ``context``."""
    handler = type("Handler", (GitHandler,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            scheme = "https" if context else "http"
            yield f"{scheme}://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
