"""``spliceproxy ctl``: for people and scripts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from admin_rig import Admin, NewAdmin, token_file
from harness import ProxyProcess, command, read_head, serving, wait_for


def ctl(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "SPLICEPROXY" not in name}
    return command("ctl", *arguments, env={**clean, **(env or {})})


def where(admin: Admin) -> Sequence[str]:
    """The options by which ctl finds this proxy."""
    if admin.path:
        return ("--admin", f"unix:{admin.path}")
    token = str(admin.proxy.stderr_path.with_name("token"))
    return ("--admin", f"127.0.0.1:{admin.port}", "--admin-token-file", token)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A proxy that nothing changes."""
    folder = tmp_path_factory.mktemp("one")
    options = "--admin", "127.0.0.1:0", "--admin-token-file", str(token_file(folder))
    proxy = ProxyProcess(folder, *options)
    yield Admin(proxy)
    proxy.kill()


@pytest.mark.parametrize("unix", [True, False])
def test_tunnels_and_kill(new_admin: NewAdmin, unix: bool) -> None:
    admin = new_admin(unix=unix, workers=2)
    options = where(admin)

    def wait(s: object) -> None:
        with contextlib.suppress(OSError):
            s.recv(1)  # type: ignore[attr-defined]

    with serving(wait) as (host, port), contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admin.proxy.tunnel(host, port))
        done = ctl(*options, "tunnels")
        head, *lines = done.stdout.splitlines()
        assert head.split() == [
            "ID",
            "AGE",
            "CLIENT",
            "USER",
            "IN",
            "OUT",
            "IN/s",
            "OUT/s",
            "TARGET",
        ]
        assert len(lines) == 3
        assert all(line.endswith(f"CONNECT {host}:{port}") for line in lines)
        found = json.loads(ctl(*options, "--json", "tunnels", f"port={port}").stdout)
        assert len(found["tunnels"]) == 3
        ident = found["tunnels"][0]["id"]
        assert ident in {line.split()[0] for line in lines}
        done = ctl(*options, "kill", ident)
        assert (done.returncode, done.stdout) == (0, "ended: 1\n")
        done = ctl(*options, "kill", ident)
        assert done.returncode == 1
        assert "there is no tunnel or request with this id (404)" in done.stderr
        done = ctl(*options, "kill", f"port={port}", f"host={host}", "--json")
        assert (done.returncode, json.loads(done.stdout)["killed"]) == (0, 2)
        done = ctl(*options, "kill", f"port={port}")
        assert (done.returncode, done.stdout) == (1, "ended: 0\n")


def test_workers_that_drain(new_admin: NewAdmin) -> None:
    """They are not down, and no alert has anything to say about them."""
    admin = new_admin("--guard", "off", "--timeout-drain", "60", workers=2)
    options = where(admin)
    with serving(lambda s: s.recv(1)) as (host, port):
        tunnels = [admin.proxy.tunnel(host, port) for _ in range(12)]  # some for each worker
        assert ctl(*options, "drain").returncode == 0
        wait_for(lambda: ctl(*options, "workers").stdout.count("  draining  ") == 2, "the drain")
        done = ctl(*options, "workers")
        assert done.returncode == 0, done
        text = admin.ask("/metrics").text
        for worker in range(2):
            assert f'spliceproxy_worker_up{{worker="{worker}"}} 1' in text
            assert f'spliceproxy_worker_draining{{worker="{worker}"}} 1' in text
        for tunnel in tunnels:
            tunnel.close()


def test_settings_level_health_and_drain(new_admin: NewAdmin) -> None:
    admin = new_admin("--auth", "ada:secret-word")
    options = where(admin)
    wait_for(lambda: admin.ask("/healthz").status == 200, "health")
    done = ctl(*options, "health")
    assert (done.returncode, done.stdout) == (0, "ok: workers that answer: 1\n")
    done = ctl(*options, "config")
    assert 'log-level = "info"' in done.stdout
    assert "secret-word" not in done.stdout
    assert json.loads(ctl(*options, "config", "--json").stdout)["log-level"] == "info"
    assert ctl(*options, "log-level").stdout == "info\n"
    assert ctl(*options, "log-level", "warning").stdout == "warning, before info\n"
    done = ctl(*options, "drain")
    assert (done.returncode, done.stdout) == (0, "it drains\n")
    assert admin.proxy.process.wait(20) == 0
    done = ctl(*options, "health")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("log-level", "loud"), "log-level: level: 'loud'; allowed: debug, info, warning, error"),
        (
            ("tunnels", "age=1"),
            "tunnels: there is no filter 'age'; allowed: id, client, via, user,",
        ),
        (("tunnels", "older=soon"), "tunnels: older: 'soon'; allowed: seconds"),
        (("kill", "port=http"), "kill: port: 'http'; allowed: a port"),
        (("kill", "peer=10.0.0.0/40"), "kill: peer: '10.0.0.0/40' does not appear to be"),
        (("kill", "port=1", "kind=x"), "kill: kind: 'x'; allowed: tunnel, request"),
    ],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_what_the_proxy_cannot_make_sense_of_is_wrong_usage(
    one: Admin, arguments: Sequence[str], as_json: Sequence[str], why: str
) -> None:
    done = ctl(*where(one), *as_json, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"spliceproxy ctl: {why}"), done.stderr


def test_an_option_overrides_a_variable_and_that_the_file(one: Admin, tmp_path: Path) -> None:
    """Each of the address and the token by itself; what stands behind is not looked at."""
    token = str(one.proxy.stderr_path.with_name("token"))
    right, wrong = f"127.0.0.1:{one.port}", "127.0.0.1:1"
    bad = tmp_path / "bad"
    bad.write_text("another-token-of-tests\n")

    def file(admin: str, tokens: str) -> str:
        path = tmp_path / "proxy.toml"
        path.write_text(f'admin = "{admin}"\nadmin-token-file = "{tokens}"\n')
        return str(path)

    def status(*flags: str, **env: str) -> int:
        names = {"admin": "SPLICEPROXY_ADMIN", "token": "SPLICEPROXY_ADMIN_TOKEN_FILE"}
        variables = {names.get(name, name): value for name, value in env.items()}
        return ctl(*flags, "log-level", env=variables).returncode

    other = ("--config", file(wrong, str(bad)))
    assert status(*other) == 1
    assert status(*other, admin=right, token=token) == 0
    assert status(*other, "--admin", right, "--admin-token-file", token) == 0
    assert status(*other, "--admin", right, token=token) == 0
    assert status("--admin", right, "--admin-token-file", token, admin=wrong, token=str(bad)) == 0
    assert status("--admin", wrong, "--admin-token-file", token, admin=right) == 1
    good = file(right, token)
    assert status("--config", good) == 0
    assert status("--config", good, admin=wrong) == 1
    assert status("--config", good, token=str(bad)) == 1
    assert status("--config", good, SPLICEPROXY_CONFIG="/absent") == 0
    assert status("--config", good, "--admin", wrong) == 1


def test_a_variable_that_is_wrong_is_not_passed_over(one: Admin, tmp_path: Path) -> None:
    """The file may be that of another proxy."""
    token = str(one.proxy.stderr_path.with_name("token"))
    path = tmp_path / "proxy.toml"
    path.write_text(f'admin = "127.0.0.1:{one.port}"\nadmin-token-file = "{token}"\n')
    done = ctl("--config", str(path), "drain", env={"SPLICEPROXY_ADMIN": "localhost:1"})
    assert done.returncode == 2
    assert "spliceproxy ctl: SPLICEPROXY_ADMIN: invalid value 'localhost:1'; allowed: " in (
        done.stderr
    )
    assert one.proxy.process.poll() is None
    done = ctl(*where(one), "log-level", env={"SPLICEPROXY_ADMIN": "localhost:1"})
    assert (done.returncode, done.stdout) == (0, "info\n")


def test_where_it_finds_the_address(new_admin: NewAdmin, tmp_path: Path) -> None:
    admin = new_admin()
    token = admin.proxy.stderr_path.with_name("token")
    file = tmp_path / "proxy.toml"
    # Whoever asks need not be able to read or write all that the proxy can.
    file.write_text(
        f'admin = "127.0.0.1:{admin.port}"\nadmin-token-file = "{token}"\n'
        'htpasswd = "absent"\naccess-log = "/absent/log"\n'
    )
    assert ctl("--config", str(file), "log-level").stdout == "info\n"
    assert ctl("log-level", env={"SPLICEPROXY_CONFIG": str(file)}).stdout == "info\n"
    variables = {
        "SPLICEPROXY_ADMIN": f"127.0.0.1:{admin.port}",
        "SPLICEPROXY_ADMIN_TOKEN_FILE": str(token),
    }
    assert ctl("log-level", env=variables).stdout == "info\n"
    other = tmp_path / "other"
    other.write_text("another-token-of-tests\n")
    done = ctl("--admin-token-file", str(other), "log-level", env=variables)
    assert done.returncode == 1
    assert f"not know the token that was sent, the first in {other} (401)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("tunnels",), "nothing says where the proxy is; give --admin, or --config with a file"),
        (("--admin", "localhost", "tunnels"), "--admin: invalid value 'localhost'; allowed: 127"),
        (("--admin", "127.0.0.1:1", "tunnels"), "a token is needed; give --admin-token-file"),
        (("--admin", "off", "tunnels"), "--admin off: no proxy is there; allowed: the address of"),
        (("--admin", "unix:/absent", "explode"), "no such verb: 'explode'; allowed: tunnels, kill"),
        (("--admin", "unix:/absent", "drain", "now"), "drain: it takes no argument, but was given"),
        (("--admin", "unix:/absent", "tunnels", "x"), "tunnels: 'x' is no filter; allowed: NAME="),
        (("--admin", "unix:/absent", "kill"), "kill: give an id or a filter; spliceproxy ctl tun"),
        (
            ("--admin", "127.0.0.1:0", "tunnels"),
            "--admin: 127.0.0.1:0 does not say at which port i",
        ),
        (("--config", "/absent", "drain"), "--config /absent: cannot read it (No such file or"),
        (("--adminn", "x", "drain"), "--adminn: no such option; did you mean --admin"),
        ((), "a VERB is missing; allowed: tunnels, kill, "),
    ],
)
def test_wrong_usage(arguments: Sequence[str], why: str) -> None:
    done = ctl(*arguments)
    assert done.returncode == 2, done
    assert f"spliceproxy ctl: {why}" in done.stderr


def test_nobody_is_there(tmp_path: Path) -> None:
    done = ctl("--admin", f"unix:{tmp_path}/absent", "drain")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr


def test_denials_and_top_users(new_admin: NewAdmin) -> None:
    admin = new_admin("--auth", "ada:word", workers=2)
    options = where(admin)
    credentials = "Proxy-Authorization: Basic YWRhOndvcmQ=\r\n"

    def ask(text: str) -> None:
        with admin.proxy.connect() as s:
            s.sendall(f"{text} HTTP/1.1\r\nHost: x\r\n{credentials}\r\n".encode())
            read_head(s)

    ask("GET http://169.254.169.254/a")

    def answer(s: socket.socket) -> None:
        read_head(s)
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)

    with serving(answer) as (host, port):
        ask(f"GET http://{host}:{port}/")
    wait_for(lambda: "169.254.169.254" in ctl(*options, "denials").stdout, "the denial", 60)
    head, line = ctl(*options, "denials").stdout.splitlines()
    assert head.split() == ["TIME", "RULE", "CLIENT", "USER", "REQUEST", "REASON"]
    assert " guard " in line
    assert " ada " in line
    assert json.loads(ctl(*options, "--json", "denials").stdout)[0]["rule"] == "guard"
    wait_for(lambda: " 5." in ctl(*options, "top-users").stdout, "the bytes", 60)
    head, line = ctl(*options, "top-users").stdout.splitlines()
    assert head.split()[:2] == ["USER", "BYTES"]
    assert line.split()[0] == "ada"
