"""curl through the proxy: methods, framings, uploads, reuse, errors."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx, Urls
from curling import Got, field
from harness import ProxyProcess, read_head, refused_port, serving
from py_origin import BODY

UPLOAD = random.Random(2).randbytes(10_000_003)

CURL_PARTIAL_FILE = 18
CURL_RECV_ERROR = 56


# ---- what comes down -------------------------------------------------------------------

DOWNLOADS = {
    "plain": ([], "nginx:/small", 200),
    "large": ([], "nginx:/big", 200),
    "length": ([], "python:/length", 200),
    "chunked": ([], "python:/chunked", 200),
    "until-close": ([], "python:/until-close", 200),
    "early-hints": ([], "python:/early-hints", 200),
    "empty": ([], "nginx:/empty", 204),
    "gzip": (["--compressed"], "nginx:/text", 200),
    "range": (["-r", "1000-4000999"], "nginx:/big", 206),
    "redirect": (["-L"], "nginx:/away", 200),
    "http1.0": (["--http1.0"], "nginx:/big", 200),
    "http1.0-chunked": (["--http1.0"], "python:/chunked", 200),
    "http1.0-until-close": (["--http1.0"], "python:/until-close", 200),
    "tunnel": (["-p"], "nginx:/big", 200),
    "tunnel-chunked": (["-p"], "python:/chunked", 200),
    "tunnel-http1.0": (["-p", "--proxy1.0", "PROXY"], "nginx:/big", 200),
    "https": (["--http1.1"], "tls:/big", 200),
    "https-h2": (["--http2"], "tls:/big", 200),
    "https-gzip": (["--compressed"], "tls:/text", 200),
}


def expected(name: str, args: list[str], site: TlsNginx) -> bytes:
    """The body of a row of DOWNLOADS."""
    path = name.partition(":")[2]
    if path in ("/length", "/chunked", "/until-close"):
        return BODY
    if path == "/early-hints":
        return b"hinted\n"
    if path == "/empty":
        return b""
    data = (site.www / {"/away": "small"}.get(path, path[1:])).read_bytes()
    return data[1000:4001000] if "-r" in args else data


@pytest.mark.parametrize("row", DOWNLOADS)
def test_download(
    row: str,
    curl: Callable[..., Got],
    any_proxy: ProxyProcess,
    urls: Urls,
    site: TlsNginx,
    certificates: Certificates,
) -> None:
    args, name, status = DOWNLOADS[row]
    args = [arg.replace("PROXY", any_proxy.url) for arg in args]
    got = curl(any_proxy.url, *args, "--cacert", certificates.ca, urls(name))
    assert (got.exit, got.status) == (0, status), got.log
    assert got.body == expected(name, args, site)
    tunnelled = "-p" in args or name.startswith("tls:")
    assert got.info["http_connect"] == (200 if tunnelled else 0)
    assert bool(field(got, "Via")) == (not tunnelled)


def test_interim_responses_pass(curl: Callable[..., Got], proxy: ProxyProcess, urls: Urls) -> None:
    got = curl(proxy.url, urls("python:/early-hints"))
    assert got.head.startswith("HTTP/1.1 103 ")
    assert field(got, "Link") == ["</a.css>; rel=preload"]
    got = curl(proxy.url, "--http1.0", urls("python:/early-hints"))
    assert "103" not in got.head  # HTTP/1.0 has no interim responses
    assert got.body == b"hinted\n"


@pytest.mark.parametrize("name", ["nginx:/big", "python:/length"])
def test_head(curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls, name: str) -> None:
    got = curl(any_proxy.url, "-I", urls(name), "-o", "/dev/null", urls("nginx:/small"))
    assert got.exit == 0, got.log
    assert len(field(got, "Content-Length")) == 2
    assert got.log.count("Re-using existing connection") == 1, got.log


def test_not_modified(curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls) -> None:
    (etag,) = field(curl(any_proxy.url, urls("nginx:/big")), "ETag")
    again = ["-H", f"If-None-Match: {etag}", urls("nginx:/big")]
    got = curl(any_proxy.url, *again, "-o", "/dev/null", urls("nginx:/small"))
    assert got.exit == 0, got.log
    assert got.head.startswith("HTTP/1.1 304 ")
    assert got.body == b""
    assert got.log.count("Re-using existing connection") == 1, got.log


@pytest.mark.parametrize(
    ("args", "names", "reuses"),
    [
        ([], ["nginx:/small", "nginx:/big", "nginx:/empty", "nginx:/small"], 3),
        ([], ["nginx:/small", "python:/chunked", "nginx:/big"], 2),
        ([], ["python:/until-close", "nginx:/small"], 0),
        (["--http1.0"], ["nginx:/small", "nginx:/small"], 0),
        (["-p"], ["nginx:/small", "nginx:/big"], 1),
        ([], ["tls:/small", "tls:/big"], 1),
    ],
    ids=["same-origin", "two-origins", "until-close", "http1.0", "tunnel", "https"],
)
def test_connections_are_used_again(
    curl: Callable[..., Got],
    any_proxy: ProxyProcess,
    urls: Urls,
    certificates: Certificates,
    args: list[str],
    names: list[str],
    reuses: int,
) -> None:
    """By curl, its connection to the proxy."""
    rest = [word for name in names[1:] for word in ("-o", "/dev/null", urls(name))]
    got = curl(any_proxy.url, *args, "--cacert", certificates.ca, urls(names[0]), *rest)
    assert got.exit == 0, got.log
    assert got.log.count("Re-using existing connection") == reuses, got.log


@pytest.mark.parametrize("path", ["/short", "/short-chunked"])
def test_a_body_cut_short_looks_cut_short(
    curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls, path: str
) -> None:
    got = curl(any_proxy.url, urls(f"python:{path}"))
    assert got.exit in (CURL_PARTIAL_FILE, CURL_RECV_ERROR), got.log
    assert got.body
    got = curl(any_proxy.url, "--http1.0", urls(f"python:{path}"))
    assert got.exit in (CURL_PARTIAL_FILE, CURL_RECV_ERROR), got.log


# ---- what goes up ----------------------------------------------------------------------

UPLOADS = {
    "post": (["--data-binary", "@FILE", "-H", "Expect:"], "content-length"),
    "put": (["-T", "FILE", "-H", "Expect:"], "content-length"),
    "expect": (
        ["--data-binary", "@FILE", "-H", "Expect: 100-continue", "--expect100-timeout", "50"],
        "content-length",
    ),
    "chunked": (["-T", "-", "-H", "Expect:"], "transfer-encoding"),
    "chunked-expect": (
        ["-T", "-", "-H", "Expect: 100-continue", "--expect100-timeout", "50"],
        "transfer-encoding",
    ),
    "chunked-post": (
        ["--data-binary", "@FILE", "-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
        "transfer-encoding",
    ),
    "http1.0": (["--http1.0", "--data-binary", "@FILE"], "content-length"),
    "tunnel": (["-p", "-T", "FILE", "-H", "Expect:"], "content-length"),
    "empty": (["-d", ""], "content-length"),
}


@pytest.mark.parametrize("row", UPLOADS)
def test_upload(
    row: str, curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls, tmp_path: Path
) -> None:
    args, framing = UPLOADS[row]
    file = tmp_path / "upload"
    file.write_bytes(UPLOAD)
    args = [arg.replace("FILE", str(file)) for arg in args]
    data = b"" if row == "empty" else UPLOAD
    stdin = UPLOAD if "-" in args else None
    got = curl(any_proxy.url, *args, urls("python:/seen"), stdin=stdin)
    assert (got.exit, got.status) == (0, 200), got.log
    seen = json.loads(got.body)
    assert (seen["size"], seen["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert framing in seen["fields"]
    assert ("HTTP/1.1 100 Continue" in got.head) == ("expect" in row)


def test_a_refused_upload_gets_its_answer(
    curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls, tmp_path: Path
) -> None:
    file = tmp_path / "upload"
    file.write_bytes(UPLOAD)
    expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "50"]
    got = curl(any_proxy.url, "--data-binary", f"@{file}", *expect, urls("python:/too-large"))
    assert (got.exit, got.status) == (0, 413), got.log
    assert "100 Continue" not in got.head


def test_the_request_that_the_origin_sees(
    curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls
) -> None:
    hop = ["-H", "Connection: X-Hop", "-H", "X-Hop: 1", "-H", "Keep-Alive: 5", "-H", "X-Kept: 2"]
    got = curl(any_proxy.url, *hop, "-U", "me:secret", urls("python:/seen"))
    seen = json.loads(got.body)
    assert seen["line"] == "GET /seen HTTP/1.1"
    assert seen["fields"]["host"] == urls("python:").removeprefix("http://")
    assert seen["fields"]["via"].startswith("1.1 ")
    assert seen["fields"]["x-kept"] == "2"
    for name in ("x-hop", "keep-alive", "proxy-connection", "proxy-authorization"):
        assert name not in seen["fields"]


# ---- errors ----------------------------------------------------------------------------

ERRORS = {
    "refused": ([], "http://127.0.0.1:REFUSED/", 502, "connection_refused"),
    # c-ares answers for .onion itself, without a name server (RFC 7686).
    "no-such-name": ([], "http://nothing.onion/", 502, "dns_error"),
    "silent": ([], "python:/silent", 502, "connection_terminated"),
    "garbage": ([], "python:/garbage", 502, "http_protocol_error"),
    "scheme": ([], "ftp://127.0.0.1/", 400, "http_request_error"),
    "userinfo": (
        ["--request-target", "http://me@127.0.0.1/"],
        "nginx:/small",
        400,
        "http_request_error",
    ),
    "long-target": ([], f"nginx:/{'x' * 20_000}", 414, "http_request_error"),
    "large-head": (["-H", "@LARGE"], "nginx:/small", 431, "http_request_error"),
}


@pytest.mark.parametrize("row", ERRORS)
def test_error_page(
    row: str, curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls, tmp_path: Path
) -> None:
    args, name, status, error = ERRORS[row]
    large = tmp_path / "large"
    large.write_text("".join(f"X-{i}: {'x' * 1000}\n" for i in range(900)))
    args = [arg.replace("LARGE", str(large)) for arg in args]
    url = urls(name) if name.startswith(("nginx:", "python:")) else name
    with refused_port() as port:
        got = curl(any_proxy.url, *args, url.replace("REFUSED", str(port)))
    assert (got.exit, got.status) == (0, status), got.log
    (proxy_status,) = field(got, "Proxy-Status")
    assert proxy_status.startswith(f"spliceproxy; error={error}; details=")
    assert field(got, "Content-Type") == ["text/plain; charset=utf-8"]
    assert got.body.startswith(b"%d " % status)


@pytest.mark.parametrize(
    ("host", "error"),
    [("127.0.0.1:REFUSED", "connection_refused"), ("nothing.onion:80", "dns_error")],
)
def test_connect_fails(
    curl: Callable[..., Got], any_proxy: ProxyProcess, host: str, error: str
) -> None:
    with refused_port() as port:
        got = curl(any_proxy.url, "-p", f"http://{host}/".replace("REFUSED", str(port)))
    assert got.exit == CURL_RECV_ERROR
    assert got.info["http_connect"] == 502
    assert f"error={error}" in field(got, "Proxy-Status")[0]


def test_dial_timeout(
    curl: Callable[..., Got], new_proxy: Callable[..., ProxyProcess], each_loop: bool
) -> None:
    """The kernel drops the SYN to a listener whose backlog is full."""
    proxy = new_proxy("--timeout-dial", "0.3", uvloop=each_loop)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            for args in ([], ["-p"]):
                got = curl(proxy.url, *args, f"http://127.0.0.1:{port}/")
                assert 504 in (got.status, got.info["http_connect"]), got.log
                assert "error=connection_timeout" in field(got, "Proxy-Status")[0]


def test_no_upgrade_to_http2(curl: Callable[..., Got], any_proxy: ProxyProcess) -> None:
    """curl asks for it; an origin that would switch is not asked (RFC 9113 section 3.1)."""
    heads = []

    def origin(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with serving(origin) as (host, port):
        got = curl(any_proxy.url, "--http2", f"http://{host}:{port}/")
    assert "Upgrade: h2c" in got.log
    assert (got.exit, got.status, got.body) == (0, 200, b"ok")
    assert b"upgrade" not in heads[0].lower()
    assert b"http2-settings" not in heads[0].lower()


def test_an_error_keeps_the_connection(
    curl: Callable[..., Got], any_proxy: ProxyProcess, urls: Urls
) -> None:
    with refused_port() as port:
        refused = f"http://127.0.0.1:{port}/"
        got = curl(any_proxy.url, refused, "-o", "/dev/null", urls("nginx:/small"))
    assert (got.exit, got.status) == (0, 200)
    assert got.log.count("Re-using existing connection") == 1, got.log


def test_origin_form_explains(curl: Callable[..., Got], any_proxy: ProxyProcess) -> None:
    got = curl(None, f"{any_proxy.url}/index.html")
    assert (got.exit, got.status) == (0, 400)
    assert b"curl -x http://HOST:PORT" in got.body
