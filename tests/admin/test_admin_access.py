"""Who may ask at the admin address: tokens, names, pages of others, and files."""

from __future__ import annotations

import base64
import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from admin_rig import TOKEN, Admin, NewAdmin, token_file
from changing_proxy import PROGRAM
from harness import ProxyProcess, wait_for


@pytest.fixture
def admin(new_admin: NewAdmin) -> Admin:
    return new_admin()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_without_a_token_nothing_is_told(admin: Admin) -> None:
    for path in ("/config", "/nothing-here"):
        answer = admin.ask(path, token=None)
        assert answer.status == 401
        assert answer.fields["WWW-Authenticate"].startswith("Basic realm=")
    assert admin.ask("/config").status == 200
    assert admin.ask("/nothing-here").status == 404


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ",
        "Bearer",
        f"Digest {TOKEN}",
        TOKEN,
        basic("wrong"),
        basic(""),
        "Basic ???",
        "Bearer \xff\xff",
    ],
)
def test_a_wrong_token(shared_admin: Admin, value: str) -> None:
    assert shared_admin.ask("/config", Authorization=value).status == 401


def test_bearer_and_basic(admin: Admin) -> None:
    assert admin.ask("/config", Authorization=f"bearer {TOKEN}").status == 200
    assert admin.ask("/config", Authorization=basic(TOKEN)).status == 200


def test_two_tokens_are_none(admin: Admin) -> None:
    with admin.socket() as s:
        s.sendall(
            f"GET /config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert s.recv(1000).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "OWN"}, 403),
        ({"Origin": "http://attacker.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 404),
        ({"Origin": "OWN"}, 404),
    ],
)
def test_a_browser_changes_things_from_our_own_page_only(
    shared_admin: Admin, fields: dict[str, str], status: int
) -> None:
    """The path does not exist: 404 says that the request was let in."""
    admin = shared_admin
    own = {
        name: value.replace("OWN", f"http://127.0.0.1:{admin.port}")
        for name, value in fields.items()
    }
    assert admin.ask("/nothing", "POST", Authorization=basic(TOKEN), **own).status == status
    assert admin.ask("/nothing", "POST", **own).status == 404  # no browser sends Bearer by itself


CROSS = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}
LINK = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


PAGES: tuple[tuple[dict[str, str], int, int], ...] = (
    (CROSS, 403, 403),
    ({**CROSS, "Sec_Fetch_Site": "same-site"}, 403, 403),  # another port of this machine
    ({**LINK, "Sec_Fetch_Dest": "iframe"}, 403, 403),
    (LINK, 404, 403),
    ({**LINK, "Sec_Fetch_Site": "none"}, 404, 403),
    ({"Sec_Fetch_Site": "cross-site", "Origin": "OWN"}, 403, 403),
    ({"Origin": "http://attacker.test"}, 403, 403),
    ({"Origin": "null"}, 403, 403),
    ({"Sec_Fetch_Site": "same-origin"}, 404, 404),
    ({"Origin": "OWN"}, 404, 404),
)
"""What a browser says of the page that has sent a request; what is answered then to GET, and to
what changes something."""


@pytest.mark.parametrize("unix", [False, True])
def test_a_page_of_others_may_lead_here_and_no_more(new_admin: NewAdmin, unix: bool) -> None:
    """Also where its browser reaches a Unix socket, by a port that ssh forwards. The path does not
    exist: 404 says that the request was let in."""
    admin = new_admin(unix=unix)
    host = "localhost:9810"
    for fields, get, post in PAGES:
        sent = {name: value.replace("OWN", f"http://{host}") for name, value in fields.items()}
        if not unix:
            sent["Authorization"] = basic(TOKEN)
        found = [
            admin.ask("/nothing", method, Host=host, **sent).status
            for method in ("GET", "POST", "DELETE")
        ]
        assert found == [get, post, post], fields
        assert admin.ask("/metrics", Host=host, **sent).status == 200


@pytest.mark.parametrize("unix", [False, True])
def test_the_host_field_is_ours(new_admin: NewAdmin, unix: bool) -> None:
    admin = new_admin(unix=unix, env={"SPLICEPROXY_ADMIN_HOSTS": "proxy.example"})
    for host, status in (
        ("127.0.0.1", 200),
        ("10.1.2.3:9810", 200),
        ("[::1]:9810", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("proxy.example", 200),
        ("Proxy.Example.:9810", 200),
        ("attacker.test", 421),
        ("attacker.test:9810", 421),
        ("127.0.0.1.attacker.test", 421),
        ("localhost.attacker.test", 421),
        ("0x7f.1", 421),
        ("", 421),
    ):
        assert admin.ask("/config", Host=host).status == status, host
        assert admin.ask("/metrics", token=None, Host=host).status == 200


def test_a_token_is_followed_when_its_file_changes(admin: Admin) -> None:
    path = admin.proxy.stderr_path.with_name("token")
    path.write_text("# two of them, while it is replaced\nanother-token-of-tests\n" + TOKEN)
    assert admin.ask("/config").status == 200
    wait_for(
        lambda: admin.ask("/config", token="another-token-of-tests").status == 200, "a new token"
    )
    path.write_text("another-token-of-tests")
    wait_for(lambda: admin.ask("/config").status == 401, "the end of the old token")


def test_permissions_decide_on_a_unix_socket(new_admin: NewAdmin) -> None:
    admin = new_admin(unix=True)
    assert admin.ask("/config").status == 200
    assert stat.S_IMODE(os.stat(admin.path).st_mode) == 0o600
    other = new_admin(unix=True, env={"SPLICEPROXY_ADMIN_MODE": "0660"})
    assert stat.S_IMODE(os.stat(other.path).st_mode) == 0o660
    other.proxy.stop()
    assert not Path(other.path).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_cannot_connect(new_admin: NewAdmin) -> None:
    admin = new_admin(unix=True)
    for folder in Path(admin.path).parents:  # nothing but the file itself stands in the way
        if folder == Path("/tmp"):
            break
        folder.chmod(folder.stat().st_mode | 0o111)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(admin.path)
        except PermissionError:
            status = 13
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13


def test_the_next_admin_process_goes_by_the_tokens_that_are_in_force(
    new_admin: NewAdmin, tmp_path: Path
) -> None:
    """Whatever somebody has written into their file meanwhile."""
    file, other = tmp_path / "tokens", f"{TOKEN}-other"
    file.write_text(TOKEN)
    admin = new_admin("--admin-token-file", str(file))

    def killed() -> None:
        before = admin.proxy.admin_process()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: admin.proxy.admin_process() != before, "another one")

    assert admin.ask("/config").status == 200
    for wrong in ("", "short\n"):
        file.write_text(wrong)
        killed()
        assert admin.ask("/healthz", token=None).status == 200
        assert admin.ask("/config").status == 200
        assert admin.ask("/config", token=None).status == 401
    file.unlink()
    killed()
    assert admin.ask("/config").status == 200
    file.write_text(other)
    wait_for(lambda: admin.ask("/config", token=other).status == 200, "the new token")
    assert admin.ask("/config").status == 401
    os.kill(admin.proxy.process.pid, signal.SIGHUP)
    wait_for(lambda: "generation 2 is in force" in admin.proxy.stderr(), "the reload")
    file.write_text("")
    killed()
    assert admin.ask("/config", token=other).status == 200
    assert "what the file said before stays in force" in admin.proxy.stderr()


class Overwritten(ProxyProcess):
    """The file of tokens is empty when the proxy has looked at it."""

    def program_of(self, uvloop: bool) -> list[str]:
        patch = (
            "from spliceproxy.processes import children\n"
            "begin = children.Children.__init__\n"
            "def overwritten(self, state, *args):\n"
            "    state.config.admin.token_file.write_text('')\n"
            "    begin(self, state, *args)\n"
            "children.Children.__init__ = overwritten\n"
        )
        return ["-c", PROGRAM.format(patch=patch)]


def test_the_first_admin_process_goes_by_the_tokens_that_were_checked(tmp_path: Path) -> None:
    """In an upgrade there may be a minute between the two."""
    args = "--admin", "127.0.0.1:0", "--admin-token-file", str(token_file(tmp_path))
    proxy = Overwritten(tmp_path, *args)
    try:
        admin = Admin(proxy)
        assert admin.ask("/healthz", token=None).status == 200
        assert admin.ask("/config").status == 200
        assert admin.ask("/config", token=None).status == 401
        assert "there is no token in it; what the file said before stays" in proxy.stderr()
        assert proxy.stop() == 0
    finally:
        proxy.kill()
    assert "Traceback" not in proxy.stderr()
