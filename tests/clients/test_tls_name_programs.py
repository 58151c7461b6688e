"""Real programs behind ``--tls-name``: what they say first has the name that they have asked for,
and is refused where it has another one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx, wait_line
from harness import ProxyProcess, need, read_all, wait_for

RESET = (35, 56)
"""What curl ends with, as early or late as it notices."""


@pytest.fixture(params=["native", "copy"])
def proxy(request: pytest.FixtureRequest, new_proxy: Callable[..., ProxyProcess]) -> ProxyProcess:
    return new_proxy("--tls-name", "require", "--engine", request.param)


def curl(proxy: ProxyProcess, certificates: Certificates, *args: str) -> tuple[int, bytes]:
    command = [need("curl"), "-sS", "--cacert", str(certificates.ca), "-x", proxy.url, *args]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_curl(proxy: ProxyProcess, certificates: Certificates, site: TlsNginx) -> None:
    """By each version of HTTP and of TLS; and domain fronting, which it does when it is told to."""
    url = f"{site.tls_url}/small"
    for more in ((), ("--http1.1",), ("--http2",), ("--tls-max", "1.2"), ("--proxytunnel",)):
        assert curl(proxy, certificates, *more, url) == (0, b"a small file\n")
    assert curl(proxy, certificates, f"{site.tls_url}/big")[1] == (site.www / "big").read_bytes()
    other = f"https://other.localhost:{site.tls_port}/small"
    there = f"other.localhost:{site.tls_port}:localhost:{site.tls_port}"
    status, said = curl(proxy, certificates, "-k", "--connect-to", there, other)
    assert (status in RESET, said) == (True, b"")
    wait_line(proxy, " tls=mismatch")
    wait_for(lambda: len(proxy.access()) >= 7, "the lines")
    assert sum(" tls=match" in line for line in proxy.access()) == 6


def test_python(proxy: ProxyProcess, certificates: Certificates, site: TlsNginx) -> None:
    def get(name: str) -> bytes:
        context = certificates.client_context()
        with proxy.tunnel("localhost", site.tls_port) as plain:
            context.check_hostname = False
            with context.wrap_socket(plain, server_hostname=name) as secure:
                secure.sendall(b"GET /small HTTP/1.0\r\n\r\n")
                return read_all(secure)

    assert get("localhost").endswith(b"\r\n\r\na small file\n")
    with pytest.raises((ConnectionError, ssl.SSLError)):
        get("example.com")
    wait_line(proxy, " rule=tls-name ")


def test_openssl(proxy: ProxyProcess, certificates: Certificates, site: TlsNginx) -> None:
    command = [need("openssl"), "s_client", "-quiet", "-CAfile", str(certificates.ca)]
    command += ["-proxy", f"127.0.0.1:{proxy.port}", "-connect", f"localhost:{site.tls_port}"]
    for more, wanted in (
        (("-servername", "localhost"), True),
        (("-servername", "localhost", "-groups", "P-384:P-256"), True),
        (("-servername", "example.com"), False),
        (("-noservername",), False),
    ):
        asked = b"GET /small HTTP/1.0\r\n\r\n"
        done = subprocess.run([*command, *more], input=asked, capture_output=True, timeout=60)
        assert (b"a small file" in done.stdout) is wanted, more
    wait_line(proxy, " tls=no-name")


JAVA = """
import java.net.Socket;
import java.security.cert.X509Certificate;
import javax.net.ssl.*;

public class Get {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[1]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String kind) {}
            public void checkServerTrusted(X509Certificate[] chain, String kind) {}
            public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
        }}, null);
        for (int i = 2; i < args.length; i += 2) {
            Socket plain = new Socket("127.0.0.1", Integer.parseInt(args[0]));
            String asked = "CONNECT " + args[i] + ":" + port + " HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n";
            plain.getOutputStream().write(asked.getBytes());
            StringBuilder head = new StringBuilder();
            while (head.indexOf("\\r\\n\\r\\n") < 0)
                head.append((char) plain.getInputStream().read());
            try (Socket secure = context.getSocketFactory().createSocket(
                    plain, args[i + 1], port, true)) {
                secure.getOutputStream().write("GET /small HTTP/1.0\\r\\n\\r\\n".getBytes());
                String answer = new String(secure.getInputStream().readAllBytes());
                System.out.println(answer.contains("a small file"));
            } catch (java.io.IOException refused) {
                System.out.println(false);
            }
        }
    }
}
"""


def test_java(proxy: ProxyProcess, site: TlsNginx, tmp_path: Path) -> None:
    """It has no name for a host without a dot (findings/java-leaves-names-out.sh)."""
    if shutil.which("java") is None or shutil.which("javac") is None:
        pytest.skip("java is not installed")
    (tmp_path / "Get.java").write_text(JAVA)
    names = "www.localhost", "www.localhost", "www.localhost", "a.localhost", *["localhost"] * 2
    done = subprocess.run(
        ["java", str(tmp_path / "Get.java"), str(proxy.port), str(site.tls_port), *names],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.stdout.split() == ["true", "false", "false"], done.stderr
    wait_line(proxy, " tls=no-name")
    wait_line(proxy, " tls=mismatch sni=a.localhost")


def test_what_is_no_tls(proxy: ProxyProcess, site: TlsNginx) -> None:
    with proxy.tunnel("localhost", site.port) as client:
        client.sendall(b"GET /small HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.recv(4096)
    wait_line(proxy, " tls=not-tls")
