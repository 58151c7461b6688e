"""openssl s_client through a tunnel to openssl s_server."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import wait_line
from harness import ProxyProcess, free_port, need, wait_for

DATA = random.Random(3).randbytes(20_000_001)


@pytest.fixture
def s_server(
    certificates: Certificates, tmp_path: Path
) -> Iterator[Callable[..., tuple[int, subprocess.Popen[bytes]]]]:
    """Starts ``openssl s_server`` with more flags; its port and process. What it receives is
    in the file ``received``."""
    openssl = need("openssl")
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> tuple[int, subprocess.Popen[bytes]]:
        port = free_port()
        command = [openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1"]
        command += ["-cert", str(certificates.cert), "-key", str(certificates.key), *flags]
        log = tmp_path / "s_server.log"
        with (tmp_path / "received").open("wb") as out, log.open("wb") as err:
            process = subprocess.Popen(
                command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=out, stderr=err
            )
        started.append(process)
        wait_for(lambda: _listens(port) or process.poll() is not None, "s_server's start")
        assert process.poll() is None, log.read_text()
        return port, process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _listens(port: int) -> bool:
    """Without a connection, which -naccept would count."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} 00000000:0000 0A" in line for line in lines)


@pytest.fixture
def s_client(any_proxy: ProxyProcess, certificates: Certificates) -> Callable[..., list[str]]:
    """The command that connects to a port through the proxy, with more flags."""

    def command(port: int, *flags: str) -> list[str]:
        return [
            *(need("openssl"), "s_client", "-quiet", "-verify_return_error"),
            *("-proxy", f"127.0.0.1:{any_proxy.port}", "-connect", f"localhost:{port}"),
            *("-CAfile", str(certificates.ca), "-verify_hostname", "localhost", *flags),
        ]

    return command


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_lines_are_answered(
    s_server: Callable[..., tuple[int, subprocess.Popen[bytes]]],
    s_client: Callable[..., list[str]],
    any_proxy: ProxyProcess,
    version: str,
) -> None:
    port, server = s_server("-rev")
    pipe = subprocess.PIPE
    with subprocess.Popen(s_client(port, version), stdin=pipe, stdout=pipe, stderr=pipe) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for line in (b"hello\n", b"once more\n", b"x" * 1000 + b"\n"):
            client.stdin.write(line)
            client.stdin.flush()
            assert client.stdout.readline() == line[-2::-1] + b"\n"
        client.stdin.write(b"CLOSE\n")  # -rev ends at this word
        client.stdin.flush()
        assert client.stdout.read() == b""
        client.stdin.close()
        assert client.wait(20) == 0
    assert server.wait(20) == 0
    assert " TCP_TUNNEL/200 " in wait_line(any_proxy, f" CONNECT localhost:{port} ")


def test_a_large_file_comes_down(
    s_server: Callable[..., tuple[int, subprocess.Popen[bytes]]],
    s_client: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """-WWW is a small web server; s_client waits for the server to end the connection."""
    (tmp_path / "big").write_bytes(DATA)
    port, _ = s_server("-WWW")
    request = b"GET /big HTTP/1.0\r\n\r\n"
    done = subprocess.run(s_client(port), input=request, capture_output=True, timeout=60)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 "), done.stderr
    assert body == DATA


def test_a_large_file_goes_up(
    s_server: Callable[..., tuple[int, subprocess.Popen[bytes]]],
    s_client: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """s_client is ended last: it resets a connection on which it has not read everything."""
    port, server = s_server("-quiet")
    received = tmp_path / "received"
    pipe = subprocess.PIPE
    with subprocess.Popen(s_client(port), stdin=pipe, stdout=pipe, stderr=pipe) as client:
        assert client.stdin is not None
        client.stdin.write(DATA)
        client.stdin.flush()
        wait_for(lambda: received.stat().st_size >= len(DATA), "all bytes")
        client.kill()
    server.wait(20)
    assert received.read_bytes() == DATA
