"""Real proxies as parents, and taps that show what they are sent.

A tap stands in front of a parent: it passes everything on, and keeps what comes from the proxy.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from certificates import Certificates
from harness import ProxyProcess, free_port, need, wait_for

OURS = "machine:the password of the proxy"
"""What parents want of the proxy."""

THEIRS = "ada:the password of the client"
"""What the proxy wants of its clients: no parent and no origin may see it."""

THEIR_SECRET = base64.b64encode(THEIRS.encode())


class Tap:
    """``port`` leads to ``target``. ``seen`` is all that came from there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.seen = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as both:
            both.enter_context(client)
            server = both.enter_context(socket.create_connection(("127.0.0.1", self.target), 20))
            client.settimeout(60)
            server.settimeout(60)
            down = threading.Thread(target=self._pump, args=(server, client, None), daemon=True)
            down.start()
            self._pump(client, server, self.seen)
            down.join(60)

    def _pump(self, source: socket.socket, target: socket.socket, seen: bytearray | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if seen is not None:
                    seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for one in (source, target):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def running(command: list[str], port: int, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server until the end, from when it accepts."""
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(output.read_text(errors="replace"))
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(up, f"the start of {command[0]}")
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def spliceproxy(folder: Path) -> Iterator[int]:
    """Another proxy of this kind, which wants a password."""
    proxy = ProxyProcess(folder, "--auth", OURS, "--via", "parent")
    try:
        yield proxy.port
    finally:
        proxy.kill()
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


@contextlib.contextmanager
def open_proxy(folder: Path) -> Iterator[int]:
    """The same without a password."""
    proxy = ProxyProcess(folder, "--via", "parent")
    try:
        yield proxy.port
    finally:
        proxy.kill()
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


@contextlib.contextmanager
def tinyproxy(folder: Path) -> Iterator[int]:
    program = need("tinyproxy")
    folder.mkdir(parents=True)
    port, conf = free_port(), folder / "tinyproxy.conf"
    user, password = OURS.split(":")
    conf.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\n"
        f'LogLevel Info\nLogFile "{folder}/log"\nBasicAuth {user} {password.replace(" ", "_")}\n'
    )
    with running([program, "-d", "-c", str(conf)], port, folder / "out"):
        yield port


@contextlib.contextmanager
def squid(folder: Path) -> Iterator[int]:
    """Without a cache on disk, and without a password: its helpers take a second to start."""
    program = need("squid")
    folder.mkdir(parents=True)
    port, conf = free_port(), folder / "squid.conf"
    user = "cache_effective_user nobody\n" if os.getuid() == 0 else ""
    conf.write_text(
        f"http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\n{user}"
        "pid_filename none\naccess_log none\ncache_log /dev/null\ncoredump_dir /\n"
        "shutdown_lifetime 0 seconds\nnetdb_filename none\npinger_enable off\n"
    )
    # Its name is a part of those of its shared memory, of which each has its own.
    with running([program, "-N", "-n", f"t{port}", "-f", str(conf)], port, folder / "out"):
        yield port


@contextlib.contextmanager
def microsocks(folder: Path) -> Iterator[int]:
    program = need("microsocks")
    folder.mkdir(parents=True)
    port = free_port()
    user, password = OURS.split(":")
    command = [program, "-i", "127.0.0.1", "-p", str(port), "-u", user, "-P", password]
    with running(command, port, folder / "out"):
        yield port


@contextlib.contextmanager
def tls(folder: Path, certificates: Certificates, target: int) -> Iterator[int]:
    """TLS in front of ``target``."""
    program = need("stunnel4")
    folder.mkdir(parents=True)
    port, conf = free_port(), folder / "stunnel.conf"
    conf.write_text(
        f"foreground = yes\npid =\n[parent]\naccept = 127.0.0.1:{port}\n"
        f"connect = 127.0.0.1:{target}\ncert = {certificates.cert}\nkey = {certificates.key}\n"
    )
    with running([program, str(conf)], port, folder / "out"):
        yield port


@contextlib.contextmanager
def tls_by_haproxy(folder: Path, certificates: Certificates, target: int) -> Iterator[int]:
    program = need("haproxy")
    folder.mkdir(parents=True)
    port, conf, pem = free_port(), folder / "haproxy.cfg", folder / "pem"
    pem.write_bytes(certificates.cert.read_bytes() + certificates.key.read_bytes())
    conf.write_text(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 600s\n timeout server 600s\n"
        f"listen parent\n bind 127.0.0.1:{port} ssl crt {pem}\n server one 127.0.0.1:{target}\n"
    )
    with running([program, "-f", str(conf)], port, folder / "out"):
        yield port


Start = Callable[[Path], contextlib.AbstractContextManager[int]]
Secure = Callable[[Path, Certificates, int], contextlib.AbstractContextManager[int]]


def settings_of(
    name: str, url: str, folder: Path, ca: Path | None = None, password: str = "", through: str = ""
) -> str:
    """A table [parent.NAME]."""
    lines = [f"[parent.{name}]", f'url = "{url}"']
    if password:
        path = folder / f"{name}.auth"
        path.write_text(password + "\n")
        lines.append(f'auth-file = "{path}"')
    if ca is not None:
        lines.append(f'ca-file = "{ca}"')
    if through:
        lines.append(f'through = "{through}"')
    return "\n".join(lines) + "\n"


class Ways:
    """A proxy, and what stands before each of its parents."""

    def __init__(self, kind: str, proxy: ProxyProcess, config: Path, taps: list[Tap]) -> None:
        self.kind = kind
        self.config = config
        self.proxy = proxy
        self.taps = taps

    @property
    def url(self) -> str:
        """With a client's user and password."""
        user, _, password = THEIRS.partition(":")
        return f"http://{user}:{password.replace(' ', '%20')}@127.0.0.1:{self.proxy.port}"


@contextlib.contextmanager
def way(kind: str, folder: Path, certificates: Certificates) -> Iterator[Ways]:
    """A proxy whose requests go by a way of this kind (of KINDS)."""
    with contextlib.ExitStack() as stack:
        taps: list[Tap] = []

        def tap(start: Start, name: str, secure: Secure | None = None) -> int:
            port = stack.enter_context(start(folder / name))
            taps.append(Tap(port))
            stack.callback(taps[-1].close)
            port = taps[-1].port
            if secure is not None:
                port = stack.enter_context(secure(folder / f"{name}-tls", certificates, port))
            return port

        text = KINDS[kind](tap, folder, certificates)
        first = text.partition("[parent.")[2].partition("]")[0]
        config = folder / "settings.toml"
        config.write_text(f'[[route]]\nto = "{first}"\n{text}')
        args = "--config", str(config), "--auth", THEIRS, "--log-format", "json"
        proxy = ProxyProcess(folder / "proxy", *args)
        stack.callback(proxy.kill)
        yield Ways(kind, proxy, config, taps)
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


Make = Callable[[Callable[..., int], Path, Certificates], str]

TINY = OURS.replace(" ", "_")


def _http(start: Start, password: str) -> Make:
    def make(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
        port = tap(start, "parent")
        return settings_of("a", f"http://127.0.0.1:{port}", folder, password=password)

    return make


def _https(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
    port = tap(spliceproxy, "parent", tls)
    return settings_of("a", f"https://localhost:{port}", folder, certificates.ca, OURS)


def _socks(scheme: str) -> Make:
    def make(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
        port = tap(microsocks, "parent")
        return settings_of("a", f"{scheme}://127.0.0.1:{port}", folder, password=OURS)

    return make


def _socks4a(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
    return settings_of("a", f"socks4a://127.0.0.1:{tap(open_proxy, 'parent')}", folder)


def _chain(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
    """An HTTP proxy by way of SOCKS."""
    last, first = tap(tinyproxy, "last"), tap(microsocks, "first")
    return settings_of(
        "a", f"http://127.0.0.1:{last}", folder, password=TINY, through="b"
    ) + settings_of("b", f"socks5h://127.0.0.1:{first}", folder, password=OURS)


def _chain_with_tls(tap: Callable[..., int], folder: Path, certificates: Certificates) -> str:
    """SOCKS by way of an HTTP proxy with TLS."""
    last, first = tap(microsocks, "last"), tap(spliceproxy, "first", tls_by_haproxy)
    return settings_of(
        "a", f"socks5://127.0.0.1:{last}", folder, password=OURS, through="b"
    ) + settings_of("b", f"https://localhost:{first}", folder, certificates.ca, OURS)


KINDS: dict[str, Make] = {
    "spliceproxy": _http(spliceproxy, OURS),
    "tinyproxy": _http(tinyproxy, TINY),
    "squid": _http(squid, ""),
    "https": _https,
    "socks5": _socks("socks5"),
    "socks5h": _socks("socks5h"),
    "socks4a": _socks4a,
    "http-through-socks5h": _chain,
    "socks5-through-https": _chain_with_tls,
}
