"""Downloads whose clients stop to read: how many bytes a proxy has taken that nobody reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import termios
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .load import Wrong
from .origins import Origins
from .proxies import Proxy
from .usage import tree

READING = 1.0  # seconds that all of the clients read, once they are there
SETTLING = 2.0  # seconds after which no queue grows any more
CHUNK = 1 << 20
PATIENCE = 10.0  # seconds for the answer to CONNECT


class Held(NamedTuple):
    """Bytes of all downloads together."""

    unread: int  # received from the origin, in the proxy's sockets
    unsent: int  # on the way to the client, in the proxy's sockets
    piped: int  # in the proxy's pipes


def measure(origins: Origins, proxy: Proxy, downloads: int) -> Held:
    """What the proxy holds of so many that were read for a second, and then no more."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(downloads):
            client = stack.enter_context(_opened(origins, proxy))
            selector.register(client, selectors.EVENT_READ)
        _read(selector, READING + downloads / 100)
        time.sleep(SETTLING)
        return held(proxy, origins.echo + 1)


def held(proxy: Proxy, chargen: int) -> Held:
    """By /proc/net/tcp (proc(5)) and the pipes' FIONREAD (pipe(7))."""
    client_side = {proxy.port, proxy.port + 2} if proxy.kind.relay else {proxy.port}
    with open("/proc/net/tcp") as table:
        unread, unsent = queues(table, client_side, chargen)
    return Held(unread, unsent, sum(map(_in_pipe, _pipes(proxy.pid))))


def queues(table: Iterable[str], client_side: set[int], origin: int) -> tuple[int, int]:
    """Of /proc/net/tcp: what was received on connections to the port ``origin`` and not read,
    and what was sent on those of the ports ``client_side`` and not acknowledged."""
    unread = unsent = 0
    for line in table:
        fields = line.split()
        if not fields[0].rstrip(":").isdigit():
            continue  # the heading
        local, remote = (int(text.partition(":")[2], 16) for text in fields[1:3])
        sent, received = (int(text, 16) for text in fields[4].split(":"))
        if local in client_side:
            unsent += sent
        elif remote == origin:
            unread += received
    return unread, unsent


def _opened(origins: Origins, proxy: Proxy) -> socket.socket:
    target = origins.echo + 1
    relay = proxy.kind.relay
    port = proxy.port + 2 if relay else proxy.port
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    if relay:
        return client
    head = f"CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: 127.0.0.1:{target}\r\n\r\n"
    client.sendall(head.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = client.recv(1)  # what follows is the download
        if not byte:
            raise Wrong(f"CONNECT: closed after {answer!r}")
        answer += byte
    if b" 200" not in answer.partition(b"\r\n")[0]:
        raise Wrong(f"CONNECT: {answer[:60]!r}")
    return client


def _read(selector: selectors.BaseSelector, seconds: float) -> None:
    buffer, end = bytearray(CHUNK), time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            if not key.fileobj.recv_into(buffer):
                raise Wrong("a download has ended")


def _pipes(top: int) -> set[tuple[str, str]]:
    """A descriptor of each pipe of the tree: its name, and its path in /proc."""
    found: dict[str, str] = {}
    for pid in tree(top):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(entry)
                if name.startswith("pipe:"):
                    found[name] = str(entry)
    return set(found.items())


def _in_pipe(pipe: tuple[str, str]) -> int:
    try:
        descriptor = os.open(pipe[1], os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # closed meanwhile, or it is another user's
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])
    except OSError:
        return 0
    finally:
        os.close(descriptor)
