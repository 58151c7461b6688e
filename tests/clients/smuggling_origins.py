"""Three origins with different parsers. Each writes a line "METHOD TARGET HOST BODY-LENGTH"
to its log for every complete request, and answers with that line and X-Origin."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import Nginx, need, wait_for

NODE = r"""
const fs = require('fs');
const log = (line) => fs.appendFileSync(process.argv[1], line + '\n');
const handle = (request, response) => {
  let size = 0;
  request.on('data', (part) => { size += part.length; });
  request.on('end', () => {
    const line = `${request.method} ${request.url} ${request.headers.host} ${size}`;
    log(line);
    response.writeHead(200, {'X-Origin': 'node', 'Content-Length': line.length});
    response.end(line);
  });
  request.on('error', () => {});
};
const server = require('http').createServer({requireHostHeader: false}, handle);
server.on('checkExpectation', handle);
server.on('clientError', (error, socket) => {
  // The proxy breaks off a body that turns out to be bad.
  if (error.code !== 'ECONNRESET' && error.code !== 'HPE_INVALID_EOF_STATE') {
    log(`REFUSED ${error.code}`);
  }
  socket.destroy();
});
server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));
"""

UVICORN = r"""
import asyncio, socket, sys, uvicorn
async def app(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    host = dict(scope["headers"]).get(b"host")
    line = b"%b %b %b %d" % (scope["method"].encode(), target, host, size)
    with open(sys.argv[1], "ab") as log:
        log.write(line + b"\n")
    headers = [(b"X-Origin", b"uvicorn"), (b"Content-Length", b"%d" % len(line))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": line})
listener = socket.create_server(("127.0.0.1", 0))
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print("port", listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="critical")
asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
"""

# The inner server sees what the parser of the outer one made of it, bodies read whole.
INNER = """
    log_format seen "$request_method $request_uri $http_host $content_length";
    server {{
        listen unix:{folder}/inner;
        location / {{
            access_log {folder}/seen seen;
            add_header X-Origin nginx always;
            return 200 "$request_method $request_uri $http_host $content_length";
        }}
    }}
"""
OUTER = "location / {{ proxy_pass http://unix:{folder}/inner; proxy_set_header Host $http_host; }}"


class Origin:
    """A server in a process of its own; ``authority`` is its address."""

    def __init__(self, log: Path, argv: Sequence[str]) -> None:
        self.log = log
        log.touch()
        self._process = subprocess.Popen(
            [*argv, str(log)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        found = re.match(r"port (\d+)", self._process.stdout.readline())
        assert found is not None, "the origin does not start"
        self.authority = b"127.0.0.1:" + found[1].encode()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class NginxOrigin:
    """The same with nginx."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.log = folder / "seen"
        self.log.touch()
        self._nginx = Nginx(
            folder, extra=INNER.format(folder=folder), server=OUTER.format(folder=folder)
        )
        self.authority = b"127.0.0.1:%d" % self._nginx.port

    def stop(self) -> None:
        self._nginx.stop()


AnyOrigin = Origin | NginxOrigin


def start(kind: str, folder: Path) -> AnyOrigin:
    """ "nginx", "node" or "uvicorn"."""
    if kind == "nginx":
        return NginxOrigin(folder / "nginx")
    if kind == "node":
        return Origin(folder / "node.log", [need("node"), "-e", NODE])
    return Origin(folder / "uvicorn.log", [sys.executable, "-c", UVICORN])


class Log:
    """Reads an origin's log as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def until(self, sentinel: bytes) -> list[bytes]:
        """The new lines before the one that has ``sentinel``."""
        wait_for(lambda: sentinel in self._new(), f"{sentinel!r} in the origin's log")
        lines = self._new().splitlines()
        self._at += len(self._new())
        return [line for line in lines if sentinel not in line]

    def _new(self) -> bytes:
        return self._path.read_bytes()[self._at :]
