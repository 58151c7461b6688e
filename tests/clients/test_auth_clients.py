"""Clients and a proxy that wants to know who they are: through the challenge, with credentials
sent at once, with wrong ones."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from conftest import BIG, TlsNginx, wait_line
from curling import Got
from devtools import Page, chromium
from git_server import git_server
from harness import ProxyProcess, need, wait_for
from passlib.hash import apr_md5_crypt, bcrypt, sha512_crypt

SECRET = "sécret: 1%"
QUOTED = "s%C3%A9cret%3A%201%25"
SMALL = b"a small file\n"


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An htpasswd file of three users, each with a hash of another kind."""
    path = tmp_path_factory.mktemp("users") / "htpasswd"
    path.write_text(
        f"alice:{bcrypt.using(rounds=4).hash(SECRET)}\n"
        f"bob:{sha512_crypt.using(rounds=1000).hash(SECRET)}\n"
        f"carol:{apr_md5_crypt.hash(SECRET)}\n"
    )
    return path


@pytest.fixture
def guarded(new_proxy: Callable[..., ProxyProcess], users: Path) -> ProxyProcess:
    return new_proxy("--htpasswd", str(users))


def with_user(proxy: ProxyProcess, user: str = "alice", password: str = QUOTED) -> str:
    return f"http://{user}:{password}@127.0.0.1:{proxy.port}"


def basic(password: str, user: str = "alice") -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {pair}"}


def refused(proxy: ProxyProcess) -> int:
    """Wrong passwords that are told of, at least one; a thread of the worker tells of them."""
    told = "authentication failed: client 127.0.0.1, user alice, wrong pass"
    wait_for(lambda: told in proxy.stderr(), "a line about a wrong password")
    return proxy.stderr().count(told)


def denials(proxy: ProxyProcess) -> int:
    return sum("TCP_DENIED/407 " in line for line in proxy.access())


# ---- connections that are kept ---------------------------------------------------------


def test_every_request_is_asked(guarded: ProxyProcess, site: TlsNginx) -> None:
    """On one connection: nothing that was right before makes a later request right."""
    client = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)
    client.connect()
    first = client.sock
    for fields, status in (
        ({}, 407),
        (basic(SECRET), 200),
        (basic("wrong"), 407),
        (basic(SECRET), 200),
        ({}, 407),
        (basic(SECRET[:-1]), 407),
        (basic(SECRET, "Alice"), 407),
        ({"Proxy-Authorization": "Basic x"}, 407),
        (basic(SECRET, "bob"), 200),
        (basic("", "bob"), 407),
    ):
        client.request("GET", f"{site.url}/small", headers=fields)
        response = client.getresponse()
        body = response.read()
        assert (response.status, body == SMALL) == (status, status == 200), fields
        challenge = 'Basic realm="spliceproxy", charset="UTF-8"'
        assert response.getheader("Proxy-Authenticate") == (challenge if status == 407 else None)
        assert client.sock is first  # http.client connects anew when it is closed
    client.close()
    lines = guarded.wait_access(10)
    assert [line.split()[7] for line in lines if "/200 " in line] == ["alice", "alice", "bob"]
    assert all("TCP_DENIED/407 " in line for line in lines if "/200 " not in line)


def test_connect_after_its_challenge(
    guarded: ProxyProcess, site: TlsNginx, certificates: Certificates
) -> None:
    """Challenged, wrong, then right: all on one connection, which becomes the tunnel."""
    with guarded.connect() as s:
        for fields, status in (({}, 407), (basic("wrong"), 407), (basic(SECRET), 200)):
            lines = [f"CONNECT localhost:{site.tls_port} HTTP/1.1", f"Host: localhost:{site.port}"]
            lines += [f"{name}: {value}" for name, value in fields.items()]
            s.sendall("\r\n".join([*lines, "", ""]).encode())
            response = http.client.HTTPResponse(s, method="CONNECT")
            response.begin()
            assert response.status == status
            if status == 407:
                assert b"407" in response.read()
        context: ssl.SSLContext = certificates.client_context()
        with context.wrap_socket(s, server_hostname="localhost") as tls:
            tls.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while got := tls.recv(65536):
                answer += got
    assert answer.endswith(SMALL)


def test_what_follows_a_refused_connect_is_no_request(
    guarded: ProxyProcess, site: TlsNginx
) -> None:
    """A client that does not wait for the answer sends what is for the origin."""
    inside = f"GET {site.url}/small HTTP/1.1\r\nHost: x\r\nProxy-Authorization: "
    inside += basic(SECRET)["Proxy-Authorization"]
    with guarded.connect() as s:
        s.sendall(f"CONNECT localhost:443 HTTP/1.1\r\nHost: x\r\n\r\n{inside}\r\n\r\n".encode())
        answer = b""
        while got := s.recv(65536):
            answer += got
    assert answer.startswith(b"HTTP/1.1 407 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert SMALL not in answer


# ---- curl --------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["alice", "bob", "carol"])
@pytest.mark.parametrize("where", ["nginx:/big", "tls:/big"])
def test_curl_at_once(
    guarded: ProxyProcess,
    curl: Callable[..., Got],
    urls: Callable[[str], str],
    certificates: Certificates,
    user: str,
    where: str,
) -> None:
    arguments = ("--proxy-user", f"{user}:{SECRET}", "--cacert", certificates.ca)
    got = curl(guarded.url, *arguments, urls(where))
    assert (got.status, len(got.body)) == (200, BIG)
    assert " 407 " not in got.head
    assert wait_line(guarded, "/200 ").split()[7] == user


@pytest.mark.parametrize("where", ["nginx:/small", "tls:/small"])
def test_curl_through_the_challenge(
    guarded: ProxyProcess,
    curl: Callable[..., Got],
    urls: Callable[[str], str],
    certificates: Certificates,
    where: str,
) -> None:
    arguments = ("--proxy-user", f"alice:{SECRET}", "--cacert", certificates.ca)
    got = curl(guarded.url, "--proxy-anyauth", *arguments, urls(where))
    assert (got.status, got.body) == (200, SMALL)
    assert " 407 " in got.head
    assert got.log.count("Connected to 127.0.0.1") == 1  # the challenge kept the connection


def test_curl_posts_through_the_challenge(
    guarded: ProxyProcess, curl: Callable[..., Got], origin: int, tmp_path: Path
) -> None:
    body = tmp_path / "upload"
    body.write_bytes(b"x" * 2_000_000)
    arguments = ("--proxy-anyauth", "--proxy-user", f"alice:{SECRET}", "--data-binary", f"@{body}")
    got = curl(guarded.url, *arguments, f"http://127.0.0.1:{origin}/seen")
    assert got.status == 200
    assert b'"size": 2000000,' in got.body
    assert SECRET.encode() not in got.body
    assert b"proxy-authorization" not in got.body.lower()


@pytest.mark.parametrize("where", ["nginx:/small", "tls:/small"])
@pytest.mark.parametrize("how", ["--proxy-basic", "--proxy-anyauth"])
def test_curl_with_a_wrong_password(
    guarded: ProxyProcess,
    curl: Callable[..., Got],
    urls: Callable[[str], str],
    certificates: Certificates,
    where: str,
    how: str,
) -> None:
    arguments = ("--proxy-user", "alice:wrong", "--cacert", certificates.ca, how)
    got = curl(guarded.url, *arguments, urls(where))
    assert got.info["http_connect" if where.startswith("tls") else "http_code"] == 407
    assert got.body != SMALL
    assert refused(guarded) == 1


# ---- Python ------------------------------------------------------------------------------


def test_requests(guarded: ProxyProcess, site: TlsNginx, certificates: Certificates) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(certificates.ca)
        good = dict.fromkeys(("http", "https"), with_user(guarded))
        wrong = dict.fromkeys(("http", "https"), with_user(guarded, password="wrong"))
        for _ in range(2):
            assert session.get(f"{site.url}/small", proxies=good).content == SMALL
            assert session.get(f"{site.tls_url}/small", proxies=good).content == SMALL
            assert session.get(f"{site.url}/small", proxies=wrong).status_code == 407
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.exceptions.ProxyError, match="407"):
            session.get(f"{site.tls_url}/small", proxies=wrong)
    assert refused(guarded) == 1  # the same pair again is no new guess


def test_httpx(guarded: ProxyProcess, site: TlsNginx, certificates: Certificates) -> None:
    httpx = pytest.importorskip("httpx")
    context = certificates.client_context()
    arguments = {"verify": context, "trust_env": False}
    with httpx.Client(proxy=with_user(guarded), **arguments) as client:
        for url in (site.url, site.tls_url) * 2:
            assert client.get(f"{url}/small").content == SMALL
    with httpx.Client(proxy=with_user(guarded, password="wrong"), **arguments) as client:
        for _ in range(2):
            assert client.get(f"{site.url}/small").status_code == 407
        with pytest.raises(httpx.ProxyError, match="407"):
            client.get(f"{site.tls_url}/small")
    assert refused(guarded) == 1  # the same pair again is no new guess


# ---- Node.js, git ------------------------------------------------------------------------


@pytest.fixture
def undici(guarded: ProxyProcess, certificates: Certificates) -> Callable[..., Any]:
    """Runs undici.js: ``undici(user:password or "-", times, url)``."""
    program = need("node")
    found = subprocess.run([program, "-e", "require('undici')"], capture_output=True, timeout=60)
    if found.returncode:
        pytest.skip("undici is not installed, or not in NODE_PATH")

    def run(pair: str, times: int, url: str) -> Any:
        script = Path(__file__).with_name("undici.js")
        command = [program, script, guarded.url, certificates.ca, pair, times, url]
        done = subprocess.run([str(one) for one in command], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_undici(
    guarded: ProxyProcess, undici: Callable[..., Any], site: TlsNginx, tls: bool
) -> None:
    url = f"{site.tls_url if tls else site.url}/big"
    result = undici(f"alice:{SECRET}", 3, url)
    assert result == {"statuses": [200] * 3, "sizes": [BIG] * 3, "refused": ""}
    for pair, times in (("alice:wrong", 2), ("-", 1)):
        before = denials(guarded)
        result = undici(pair, times, url)
        # It makes tunnels, and not every version says in its error why there is none.
        assert result["refused"] or result["statuses"] == [407] * times
        assert 200 not in result["statuses"]
        wait_for(lambda before=before: denials(guarded) > before, "a line of the access log")
    assert refused(guarded) >= 1


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("method", ["basic", "anyauth"])
def test_git(
    guarded: ProxyProcess, certificates: Certificates, tmp_path: Path, tls: bool, method: str
) -> None:
    """``basic`` sends the credentials at once, ``anyauth`` (git's default) after a challenge."""
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSL_CAINFO": str(certificates.ca),
        "no_proxy": "",
    }

    def git(*args: str, password: str = QUOTED) -> subprocess.CompletedProcess[bytes]:
        settings = [f"http.proxy={with_user(guarded, password=password)}"]
        settings += [f"http.proxyAuthMethod={method}", "user.name=a", "user.email=a@b"]
        command = [need("git")]
        for setting in settings:
            command += ["-c", setting]
        return subprocess.run(
            [*command, *args], cwd=tmp_path, env=env, capture_output=True, timeout=60
        )

    def ok(*args: str) -> None:
        done = git(*args)
        assert done.returncode == 0, done.stderr.decode()

    ok("init", "-q", "--bare", "-b", "main", "bare/one.git")
    with git_server(tmp_path / "bare", certificates.server_context() if tls else None) as url:
        ok("clone", "-q", f"{url}/one.git", "first")
        (tmp_path / "first/noise").write_bytes(os.urandom(2_000_000))
        ok("-C", "first", "add", "noise")
        ok("-C", "first", "commit", "-q", "-m", "noise")
        ok("-C", "first", "push", "-q", "origin", "HEAD:main")
        ok("clone", "-q", f"{url}/one.git", "second")
        wrong = git("ls-remote", f"{url}/one.git", password="wrong")
    noise = (tmp_path / "first/noise").read_bytes()
    assert (tmp_path / "second/noise").read_bytes() == noise
    assert wrong.returncode != 0
    assert b"407" in wrong.stderr or b"Proxy Authentication" in wrong.stderr
    assert refused(guarded) >= 1


# ---- Chromium ----------------------------------------------------------------------------


def visit(page: Page, url: str, passwords: list[str]) -> tuple[int, int]:
    """Opens a page, answers its challenges with these passwords in turn and gives up then.
    The status that the page came with, and how many challenges there were."""
    asked = status = 0
    page.call("Page.enable")
    page.call("Network.enable")
    page.call("Fetch.enable", handleAuthRequests=True)
    # It answers only when the page begins to load, and that waits for events.
    page.post("Page.navigate", url=url)
    while True:
        event = page.next_event()
        params = event["params"]
        if event["method"] == "Fetch.requestPaused":
            page.call("Fetch.continueRequest", requestId=params["requestId"])
        elif event["method"] == "Fetch.authRequired":
            assert params["authChallenge"]["source"] == "Proxy"
            assert params["authChallenge"]["realm"] == "spliceproxy"
            response = {"response": "CancelAuth"}
            if asked < len(passwords):
                response = {
                    "response": "ProvideCredentials",
                    "username": "alice",
                    "password": passwords[asked],
                }
            asked += 1
            page.call(
                "Fetch.continueWithAuth",
                requestId=params["requestId"],
                authChallengeResponse=response,
            )
        elif event["method"] == "Network.responseReceived" and params["type"] == "Document":
            status = params["response"]["status"]
        elif event["method"] == "Page.loadEventFired" and status:  # not of the blank page
            return status, asked


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_chromium(guarded: ProxyProcess, site: TlsNginx, tmp_path: Path, tls: bool) -> None:
    base = site.tls_url if tls else site.url
    (site.www / "auth.html").write_text("<!DOCTYPE html><title>in</title>")
    with chromium(tmp_path, guarded.url) as page:
        # Wrong, wrong, right; then it knows.
        assert visit(page, f"{base}/auth.html", ["wrong", "", SECRET]) == (200, 3)
        title = page.call("Runtime.evaluate", expression="document.title")
        assert title["result"]["value"] == "in"
        assert visit(page, f"{base}/auth.html?again", []) == (200, 0)
    assert wait_line(guarded, "/200 ").split()[7] == "alice"
    assert refused(guarded) == 2


def test_chromium_with_a_wrong_password(
    guarded: ProxyProcess, site: TlsNginx, tmp_path: Path
) -> None:
    with chromium(tmp_path, guarded.url) as page:
        assert visit(page, f"{site.url}/auth.html", ["wrong", "wronger"]) == (407, 3)
    assert not [line for line in guarded.access() if "/200 " in line]
