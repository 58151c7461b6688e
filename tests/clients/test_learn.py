"""--learn and --locked with a real proxy: what curl and git did once is what they may do."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx
from curling import Got, field
from git_server import git_server
from harness import ProxyProcess, need, read_head, refused_port, wait_for

import spliceproxy
from spliceproxy import Config, PolicyConfig
from spliceproxy.policy.lockfile import read

OTHER = "http://localhost.localdomain:9/"
"""Where no test but that of a refusal goes."""


@pytest.fixture
def repository(tmp_path: Path, certificates: Certificates) -> Iterator[str]:
    """The URL of a git repository, by https."""
    bare = tmp_path / "bare" / "one.git"
    subprocess.run([need("git"), "init", "-q", "--bare", bare], check=True)
    with git_server(bare.parent, certificates.server_context()) as url:
        yield f"{url}/one.git"


@pytest.fixture
def build(
    curl: Callable[..., Got],
    site: TlsNginx,
    repository: str,
    certificates: Certificates,
    tmp_path: Path,
) -> Callable[[ProxyProcess], tuple[int, int, int]]:
    """Something that needs three destinations; how each of them ended."""

    def run(proxy: ProxyProcess) -> tuple[int, int, int]:
        plain = curl(proxy.url, f"{site.url}/small")
        tls = curl(proxy.url, "--cacert", certificates.ca, f"{site.tls_url}/small")
        env = {**os.environ, "HOME": str(tmp_path), "GIT_SSL_CAINFO": str(certificates.ca)}
        env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "no_proxy": ""}
        command = [need("git"), "-c", f"http.proxy={proxy.url}", "ls-remote", repository]
        git = subprocess.run(command, env=env, capture_output=True, timeout=60)
        return plain.status, tls.status, git.returncode

    return run


def ports(path: Path) -> dict[str, set[int]]:
    """By action the ports of a file's rules."""
    found: dict[str, set[int]] = {"allow": set(), "deny": set()}
    for rule in read(path):
        found[rule.action].update(map(int, rule.ports))
    return found


@pytest.mark.parametrize("why", ["locked", "broken"])
def test_what_cannot_be_written_at_the_end_is_kept_aside(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path, why: str
) -> None:
    """A foreign lock is not waited for without a limit, and nothing is lost."""
    seen = tmp_path / "egress.toml"
    proxy = new_proxy("--learn", str(seen))
    worker = proxy.worker
    with seen.open("a+b") as file, refused_port() as port:
        if why == "locked":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            file.write(b"[[")
            file.flush()
        with proxy.connect() as client:
            client.sendall(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: o\r\n\r\n".encode())
            assert read_head(client).startswith(b"HTTP/1.1 502 ")
        assert proxy.stop() == 0
    aside = tmp_path / f"egress.toml.{worker}"
    assert ports(aside) == {"allow": {port}, "deny": set()}
    told = proxy.stderr()
    assert f"1 destinations are not in it, but in {aside}" in told
    assert ("another process has held its lock for 1.5 s" in told) == (why == "locked")
    assert seen.read_bytes() == (b"" if why == "locked" else b"[[")


def test_learned_then_locked(
    new_proxy: Callable[..., ProxyProcess],
    build: Callable[[ProxyProcess], tuple[int, int, int]],
    curl: Callable[..., Got],
    site: TlsNginx,
    repository: str,
    tmp_path: Path,
) -> None:
    seen = tmp_path / "egress.toml"
    git_port = int(repository.split(":")[2].partition("/")[0])
    config = tmp_path / "proxy.toml"
    config.write_text('rule = [{ id = "no-nine", action = "deny", ports = [9] }]')
    learning = new_proxy("--learn", str(seen), "--config", str(config), workers=2)
    assert build(learning) == (200, 200, 0)
    assert curl(learning.url, OTHER).status == 403
    assert learning.stop() == 0
    learned = {site.port, site.tls_port, git_port}
    assert ports(seen) == {"allow": learned, "deny": {9}}
    first = seen.read_text()
    assert [rule.id for rule in read(seen)] == [
        *(
            f"{kind}-{port}"
            for port, kind in sorted([(9, "denied"), *((p, "learned") for p in learned)])
        )
    ]

    # The same run adds nothing, and leaves nothing else in the folder.
    again = new_proxy("--learn", str(seen), workers=2)
    assert build(again) == (200, 200, 0)
    assert again.stop() == 0
    assert seen.read_text() == first
    assert not [name for name in os.listdir(tmp_path) if "egress" in name and name != seen.name]

    locked = new_proxy("--locked", str(seen), workers=2)
    assert build(locked) == (200, 200, 0)
    for url in (OTHER, f"http://127.0.0.2:{site.port}/small", f"http://a..b:{site.port}/"):
        got = curl(locked.url, url)
        assert got.status in (403, 502), url
    for options in ((), ("-p",)):
        got = curl(locked.url, *options, OTHER)
        assert 'details="rule locked"' in field(got, "Proxy-Status")[0], got.head
    got = curl(locked.url, OTHER)
    assert got.status == 403
    assert b'can allow it: add "localhost.localdomain" to the hosts of a rule' in got.body
    assert b"a rule for port 9 in the file of --locked." in got.body
    # A spelling of a learned destination is that destination.
    assert curl(locked.url, f"http://0x7f.1:{site.port}/small").body == b"a small file\n"


def test_written_while_it_runs(
    new_proxy: Callable[..., ProxyProcess], site: TlsNginx, tmp_path: Path
) -> None:
    """A tunnel that is open for long is learned when it opens; two workers do not lose what
    the other has written."""
    seen = tmp_path / "egress.toml"
    proxy = new_proxy("--learn", str(seen), workers=2)
    hosts = {f"127.0.0.{n}" for n in range(1, 9)}
    nginx = site.port
    tunnels = [proxy.tunnel(host, site.tls_port) for host in ["127.0.0.1"]]

    def ask(host: str) -> None:
        with proxy.connect() as s:
            s.sendall(
                f"GET http://{host}:{nginx}/ HTTP/1.1\r\nHost: {host}:{nginx}\r\n\r\n".encode()
            )
            s.recv(1)

    for host in hosts:
        ask(host)
    wanted = {(host, nginx) for host in hosts} | {("127.0.0.1", site.tls_port)}

    def written() -> set[tuple[str, int]]:
        if not seen.exists():
            return set()
        return {(host, int(rule.ports[0])) for rule in read(seen) for host in rule.hosts}

    wait_for(lambda: written() == wanted, "all destinations in the file")
    for tunnel in tunnels:
        tunnel.close()
    assert proxy.stop() == 0
    assert written() == wanted


def test_in_a_program(curl: Callable[..., Got], site: TlsNginx, tmp_path: Path) -> None:
    seen = tmp_path / "egress.toml"
    learn = Config(listen=(), access_log="off", policy=PolicyConfig(learn=seen))
    lock = Config(listen=(), access_log="off", policy=PolicyConfig(locked=seen))
    with pytest.raises(ValueError, match="cannot read it"), spliceproxy.run(config=lock):
        pass
    with spliceproxy.run(config=learn) as proxy:
        assert curl(proxy.url, f"{site.url}/small").status == 200
    assert ports(seen) == {"allow": {site.port}, "deny": set()}
    with spliceproxy.run(config=lock) as proxy:
        assert curl(proxy.url, f"{site.url}/small").status == 200
        assert curl(proxy.url, OTHER).status == 403
        assert [record.rule for record in proxy.records] == ["", "locked"]


def test_no_start_without_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "egress.toml"
    for content in (None, b"[[rule]]\nid = 'x'\naction = 'allow'\n"):
        if content is not None:
            path.write_bytes(content)
        command = [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"]
        done = subprocess.run(
            [*command, "--locked", str(path)], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert str(path) in done.stderr
