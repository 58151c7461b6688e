"""SOCKS as programs speak it: curl, ssh by ncat and nc, git, Chromium, PySocks, python-socks,
requests, Java."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import socks
from certificates import Certificates
from conftest import TlsNginx, wait_line
from curling import Got
from git_server import git_server
from harness import ProxyProcess, free_port, need, read_exactly, serving, wait_for
from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy as AsyncProxy
from python_socks.sync import Proxy
from test_browser import FLAGS

SCHEMES = ("socks4", "socks4a", "socks5", "socks5h")
SMALL = b"a small file\n"


def wait_both(proxy: ProxyProcess, middle: str, end: str) -> None:
    """For a line that has one and ends with the other."""
    wait_for(
        lambda: [one for one in proxy.access() if middle in one and one.endswith(end)],
        f"a line with {middle!r} and {end!r}",
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_curl(
    any_proxy: ProxyProcess,
    curl: Callable[..., Got],
    site: TlsNginx,
    certificates: Certificates,
    scheme: str,
) -> None:
    """All four, plain and TLS; the last letter says who looks names up."""
    host = "localhost" if scheme.endswith(("a", "h")) else "127.0.0.1"
    proxy = f"{scheme}://127.0.0.1:{any_proxy.port}"
    got = curl(proxy, f"http://{host}:{site.port}/big")
    assert (got.exit, got.status, got.body) == (0, 200, (site.www / "big").read_bytes()), got.log
    tls = ["--cacert", certificates.ca, f"https://{host}:{site.tls_port}/small"]
    got = curl(proxy, *tls)
    assert (got.exit, got.status, got.body) == (0, 200, SMALL), got.log
    wait_both(any_proxy, f" CONNECT {host}:{site.tls_port} - HIER_DIRECT/", f" socks={scheme[5]}")


def test_curl_is_told_why(
    curl: Callable[..., Got], new_proxy: Callable[..., ProxyProcess], site: TlsNginx
) -> None:
    proxy = new_proxy("--auth", "ann:secret")
    address = f"127.0.0.1:{proxy.port}"
    url = f"http://localhost:{site.port}/small"
    assert curl(f"socks5h://ann:secret@{address}", url).body == SMALL
    for scheme in ("socks4a", "socks5h"):
        got = curl(f"{scheme}://{address}", url)
        assert got.exit == 97, got.log  # CURLE_PROXY
    got = curl(f"socks5h://ann:wrong@{address}", url)
    assert got.exit == 97
    assert "rejected" in got.log
    got = curl(f"socks5h://ann:secret@{address}", "http://169.254.169.254/")
    assert got.exit == 97
    assert "(2)" in got.log
    assert "TCP_DENIED/403" in wait_line(proxy, "CONNECT 169.254.169.254:80 ann ")


def test_git(new_proxy: Callable[..., ProxyProcess], tmp_path: Path) -> None:
    proxy = new_proxy()
    git = [need("git"), "-c", f"http.proxy=socks5h://127.0.0.1:{proxy.port}"]
    subprocess.run([*git, "init", "-q", "--bare", str(tmp_path / "bare" / "one.git")], check=True)
    with git_server(tmp_path / "bare") as url:
        clone = [*git, "clone", "-q", f"{url}/one.git", str(tmp_path / "cloned")]
        subprocess.run(clone, check=True, timeout=60, env={**os.environ, "no_proxy": ""})
    assert wait_line(proxy, "CONNECT localhost:").endswith(" socks=5")


@contextmanager
def sshd(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server that lets this user in; its port, and the key."""
    program = shutil.which("sshd") or need("/usr/sbin/sshd")
    for name in ("host", "user"):
        subprocess.run(
            [need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
            check=True,
        )
    port = free_port()
    conf = folder / "sshd_config"
    conf.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([program, "-D", "-e", "-f", str(conf)], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        wait_for(lambda: b"listening" in process.stderr.readline(), "sshd")  # type: ignore[union-attr]
        yield port, folder / "user"
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    "command",
    [
        "ncat --proxy {proxy} --proxy-type socks5 %h %p",
        "ncat --proxy {proxy} --proxy-type socks4 %h %p",
        "nc -X 5 -x {proxy} %h %p",
        "nc -X 4 -x {proxy} %h %p",
    ],
)
def test_ssh(new_proxy: Callable[..., ProxyProcess], tmp_path: Path, command: str) -> None:
    """A megabyte both ways, and the status of what was run."""
    need(command.split(" ")[0])
    proxy = new_proxy()
    data = os.urandom(1 << 20)
    with sshd(tmp_path) as (port, key):
        done = subprocess.run(
            [
                need("ssh"), "-F", "none", "-i", str(key), "-p", str(port), "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                f"ProxyCommand={command.format(proxy=f'127.0.0.1:{proxy.port}')}",
                f"{getpass.getuser()}@127.0.0.1", "cat; exit 7",
            ],
            input=data, capture_output=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stdout == data) == (7, True), done.stderr
    assert f" CONNECT 127.0.0.1:{port} " in wait_line(proxy, " socks=")


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_chromium(
    new_proxy: Callable[..., ProxyProcess], site: TlsNginx, tmp_path: Path, scheme: str
) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    (site.www / "socks.html").write_text("<p>by SOCKS</p>")
    proxy = new_proxy()
    host = "127.0.0.1" if scheme == "socks4" else "localhost"
    command = [program, *FLAGS.split(), f"--user-data-dir={tmp_path}/profile"]
    command += [f"--proxy-server={scheme}://127.0.0.1:{proxy.port}"]
    command += [f"https://{host}:{site.tls_port}/socks.html"]
    done = subprocess.run(command, capture_output=True, timeout=90)
    assert b"by SOCKS" in done.stdout, done.stderr
    wait_both(proxy, f" CONNECT {host}:{site.tls_port} ", f" socks={scheme[5]}")


@pytest.mark.parametrize("kind", [socks.SOCKS4, socks.SOCKS5])
def test_pysocks(any_proxy: ProxyProcess, site: TlsNginx, kind: int) -> None:
    """It looks no name up: SOCKS4 is 4a then."""
    with socks.socksocket() as client:
        client.settimeout(20)
        client.set_proxy(kind, "127.0.0.1", any_proxy.port, rdns=True)
        client.connect(("localhost", site.port))
        client.sendall(b"GET /small HTTP/1.0\r\n\r\n")
        assert b"200 OK" in client.recv(4096)


def test_pysocks_is_told_why(new_proxy: Callable[..., ProxyProcess], site: TlsNginx) -> None:
    proxy = new_proxy("--auth", "ann:secret")
    for user, password in (("ann", "wrong"), (None, None)):
        with socks.socksocket() as client:
            client.settimeout(20)
            client.set_proxy(
                socks.SOCKS5, "127.0.0.1", proxy.port, username=user, password=password
            )
            with pytest.raises(socks.ProxyError, match="authentication"):
                client.connect(("127.0.0.1", site.port))
    with socks.socksocket() as client:
        client.settimeout(20)
        client.set_proxy(socks.SOCKS5, "127.0.0.1", proxy.port, username="ann", password="secret")
        client.connect(("127.0.0.1", site.port))
    assert " ann " in wait_line(proxy, "TCP_TUNNEL/200")


def test_python_socks(any_proxy: ProxyProcess, site: TlsNginx) -> None:
    for kind in (ProxyType.SOCKS4, ProxyType.SOCKS5):
        proxy = Proxy(kind, "127.0.0.1", any_proxy.port, rdns=True)
        with proxy.connect("localhost", site.port, timeout=20) as client:
            client.sendall(b"GET /small HTTP/1.0\r\n\r\n")
            assert b"200 OK" in client.recv(4096)
    refused = Proxy(ProxyType.SOCKS5, "127.0.0.1", any_proxy.port, rdns=True)
    with pytest.raises(ProxyError, match="not allowed"):
        refused.connect("169.254.169.254", 80, timeout=20)


def test_python_socks_of_asyncio(any_proxy: ProxyProcess, site: TlsNginx) -> None:
    """Many at once, with a password that nobody has asked for."""

    async def one() -> bytes:
        proxy = AsyncProxy(
            ProxyType.SOCKS5, "127.0.0.1", any_proxy.port, "ann", "secret", rdns=True
        )
        client = await proxy.connect("localhost", site.port, timeout=20)
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"GET /small HTTP/1.0\r\n\r\n")
        data = await reader.read()
        writer.close()
        return data

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*[one() for _ in range(50)])

    assert all(data.endswith(SMALL) for data in asyncio.run(all_of_them()))


def test_requests(any_proxy: ProxyProcess, site: TlsNginx, certificates: Certificates) -> None:
    """urllib3 with PySocks: a second request on the same tunnel."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(certificates.ca)
        address = f"socks5h://127.0.0.1:{any_proxy.port}"
        session.proxies = {"http": address, "https": address}
        for url in (site.url, site.tls_url, site.tls_url):
            assert session.get(f"{url}/small", timeout=20).content == SMALL


JAVA = """
import java.net.*;
import java.io.*;

public class Get {
    public static void main(String[] args) throws Exception {
        Authenticator.setDefault(new Authenticator() {
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication("ann", "secret".toCharArray());
            }
        });
        Proxy proxy = new Proxy(Proxy.Type.SOCKS,
            new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
        Socket socket = new Socket(proxy);
        socket.connect(InetSocketAddress.createUnresolved("localhost", Integer.parseInt(args[1])));
        socket.getOutputStream().write("GET /small HTTP/1.0\\r\\n\\r\\n".getBytes());
        System.out.write(socket.getInputStream().readAllBytes());
        System.out.flush();
    }
}
"""


@pytest.mark.parametrize("users", [False, True])
def test_java(
    new_proxy: Callable[..., ProxyProcess], site: TlsNginx, tmp_path: Path, users: bool
) -> None:
    """It offers a password always."""
    if shutil.which("java") is None or shutil.which("javac") is None:
        pytest.skip("java is not installed")
    proxy = new_proxy(*(["--auth", "ann:secret"] if users else []))
    (tmp_path / "Get.java").write_text(JAVA)
    done = subprocess.run(
        ["java", str(tmp_path / "Get.java"), str(proxy.port), str(site.port)],
        capture_output=True, timeout=90,
    )  # fmt: skip
    assert done.stdout.endswith(SMALL), done.stderr
    assert f" {'ann' if users else '-'} HIER_DIRECT" in wait_line(proxy, " socks=5")


def test_tls_behind_everything_in_one_segment(
    any_proxy: ProxyProcess, site: TlsNginx, certificates: Certificates
) -> None:
    """Greeting, request and ClientHello: no real client does it, and none may lose a byte."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    host = b"localhost"
    request = b"\x05\x01\x00\x05\x01\x00\x03" + bytes((len(host),)) + host
    with any_proxy.connect() as client:
        client.sendall(request + site.tls_port.to_bytes(2, "big") + outgoing.read())
        assert read_exactly(client, 12) == b"\x05\x00\x05\x00\x00\x01" + bytes(6)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(1 << 16))
        assert tls.version() is not None


def test_first_bytes_that_are_neither(any_proxy: ProxyProcess) -> None:
    """TLS at a plain port gets an answer, as before."""
    with any_proxy.connect() as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_what_is_said_at_once_comes_first(any_proxy: ProxyProcess) -> None:
    """Of a server that greets: nothing overtakes the reply."""
    with serving(lambda s: s.sendall(b"220 welcome\r\n")) as (_, port), any_proxy.connect() as s:
        address = b"\x7f\0\0\1" + port.to_bytes(2, "big")
        s.sendall(b"\x05\x01\x00\x05\x01\x00\x01" + address)
        assert read_exactly(s, 25) == b"\x05\x00\x05\x00\x00\x01" + bytes(6) + b"220 welcome\r\n"
