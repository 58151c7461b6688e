"""The answer to CONNECT is a bare 200 in one write: of 33 programs 27 fail with a 100 before
it, ffmpeg with a Content-Length, and some libraries where it comes in pieces."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import accept, connect_request
from harness import ProxyProcess, need, wait_for

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_bare_200(
    new_proxy: Callable[..., ProxyProcess], origin: socket.socket, engine: str, tmp_path: Path
) -> None:
    """The first CONNECT is Python's, with the native engine the later ones are the relay's."""
    proxy = new_proxy("--engine", engine)
    out, err = tmp_path / "strace", tmp_path / "strace.err"
    calls = "trace=sendto,sendmsg,write,writev,send"
    command = [need("strace"), "-f", "-p", str(proxy.worker), "-e", calls, "-s", "200"]
    with err.open("wb") as stderr:
        tracer = subprocess.Popen([*command, "-o", str(out)], stderr=stderr)
    try:
        wait_for(lambda: b"attached" in err.read_bytes() or tracer.poll(), "strace")
        for _ in range(3):
            with proxy.connect() as client:
                client.sendall(connect_request(origin.getsockname()))
                with accept(origin) as server:
                    assert client.recv(4096) == ESTABLISHED
                    server.sendall(b"hello")
                    assert client.recv(4096) == b"hello"
    finally:
        tracer.terminate()
        tracer.wait(20)
    written = re.escape(ESTABLISHED.decode().encode("unicode_escape").decode())
    assert len(re.findall(rf'"{written}", 39\b', out.read_text())) == 3
    assert out.read_text().count("HTTP/1.1") == 3
