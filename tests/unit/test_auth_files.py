"""htpasswd files, mapping files, and files that change."""

from __future__ import annotations

import ipaddress
import logging
import os
import pwd
import socket
import time
from pathlib import Path

import pytest
from passlib.hash import bcrypt, sha512_crypt

from spliceproxy.config import AuthConfig
from spliceproxy.policy.auth import Authenticator, htpasswd, identities
from spliceproxy.policy.auth.identities import Identities, peer_uid
from spliceproxy.watched import SETTLED, Mistakes, WatchedFile

BCRYPT = "$2y$04$" + bcrypt.using(rounds=4, salt="abcdefghijklmnopqrstuu").hash("secret")[7:]
SHA512 = sha512_crypt.using(rounds=1000).hash("secret")
# Of `openssl passwd -apr1 -salt saltsalt secret` and `-6`, for the library is not ours.
APR1 = "$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0"
OPENSSL6 = (
    "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN"
    ".Pq.H91p5hVO1"
)


@pytest.mark.parametrize("hashed", [BCRYPT, SHA512, APR1, OPENSSL6])
def test_verify(hashed: str) -> None:
    users = htpasswd.parse(f"alice:{hashed}\n").hashes
    assert users == {"alice": hashed}
    assert htpasswd.verify(b"secret", hashed)
    assert not htpasswd.verify(b"Secret", hashed)
    assert not htpasswd.verify(b"", hashed)


def test_long_and_odd_passwords() -> None:
    long = b"\xff\xe4" * 100
    assert htpasswd.verify(long, bcrypt.using(rounds=4).hash(long[:72]))
    assert htpasswd.verify(long, sha512_crypt.using(rounds=1000).hash(long))
    assert not htpasswd.verify(long[:72], sha512_crypt.using(rounds=1000).hash(long))


def test_lines() -> None:
    text = f"# users\r\n\n  \nalice:{SHA512}:a comment\r\njörg:{APR1}"
    assert htpasswd.parse(text).hashes == {"alice": SHA512, "jörg": APR1}
    assert htpasswd.parse("# nobody\n").decoy == ""


def test_decoy_costs_what_most_cost() -> None:
    cheap = bcrypt.using(rounds=4).hash("a")
    dear = [bcrypt.using(rounds=5).hash("b") for _ in range(2)]
    text = f"a:{cheap}\nb:{APR1}\nc:{dear[0]}\nd:{dear[1]}\n"
    assert htpasswd.parse(text).decoy in dear


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "not of the form user:hash"),
        (":x", "not of the form user:hash"),
        ("alice:Passw0rd", "user 'alice': the hash is of an unknown kind; allowed: bcrypt"),
        ("alice:", "the hash is of an unknown kind"),
        ("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "the hash is of an unknown kind"),
        ("alice:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", "the hash is of an unknown kind"),
        ("alice:rqXexS6ZhobKA", "the hash is of an unknown kind"),
        (f"alice:{BCRYPT[:-1]}", "is damaged"),
        ("alice:$6$salt", "is damaged"),
        ("alice:$apr1$saltsalt$", "is damaged"),
        (f"bob:{APR1}", "user 'bob' is listed twice"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"# first\nbob:{SHA512}\n{line}\n")
    with pytest.raises(ValueError, match=why) as caught:
        WatchedFile(path, htpasswd.parse)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "Passw0rd" not in str(caught.value).removeprefix(str(path))


def parse_numbers(text: str) -> list[int]:
    try:
        return [int(line) for line in text.split()]
    except ValueError as error:
        raise Mistakes([f":1: {error}"]) from None


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"bob\nalice:{SHA512}\ncarol:secret\nalice:{APR1}\n")
    with pytest.raises(ValueError, match="not of the form") as caught:
        WatchedFile(path, htpasswd.parse)
    assert str(caught.value).split("\n") == [
        f"{path}:1: not of the form user:hash",
        f"{path}:3: user 'carol': the hash is of an unknown kind; allowed: bcrypt ($2y$), "
        "SHA-512 crypt ($6$), apr1 ($apr1$)",
        f"{path}:4: user 'alice' is listed twice",
    ]
    path.write_text("1 a b\n10.0.0.0/8 lab\n10.0.0.0/33 x\n10.0.0.0/8 x\n7 a:b\n")
    with pytest.raises(ValueError, match="not of the form") as caught:
        WatchedFile(path, lambda text: identities.parse(text, AuthConfig()))
    lines = str(caught.value).split("\n")
    assert [line.removeprefix(f"{path}:").partition(":")[0] for line in lines] == list("1345")


def test_a_file_of_another_kind_is_told_in_short(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("nonsense\n" * 1000)
    with pytest.raises(ValueError, match="980 more such lines") as caught:
        WatchedFile(path, htpasswd.parse)
    assert str(caught.value).count("\n") == 20


def test_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"\xef\xbb\xbf" + f"alice:{SHA512}\r\n".encode())
    assert list(WatchedFile(path, htpasswd.parse).value.hashes) == ["alice"]
    path.write_bytes(f"alice:{SHA512}\r\n".encode("utf-16"))
    with pytest.raises(ValueError, match="it is UTF-16; save it as UTF-8"):
        WatchedFile(path, htpasswd.parse)


def test_a_file_without_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is a mistake where nobody could use the proxy, at the start and later."""
    path = tmp_path / "users"
    for text in ("", "\n", "# nobody\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="users: it has no user"):
            Authenticator(AuthConfig(htpasswd=path))
        Authenticator(AuthConfig(htpasswd=path, required=False)).close()
        Authenticator(AuthConfig(htpasswd=path, user=("a", "b"))).close()
    path.write_text(f"alice:{SHA512}\n")
    auth = Authenticator(AuthConfig(htpasswd=path))
    path.write_text("")
    assert auth._users is not None
    for _ in range(3):
        assert not auth._users.look()
    assert list(auth._users.value.hashes) == ["alice"]
    (message,) = caplog.messages
    assert message.startswith(f"{path}: it has no user")
    assert message.endswith("what the file said before stays in force")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"/none: cannot be read: No such file or directory"):
        WatchedFile(tmp_path / "none", parse_numbers)


def test_file_that_is_taken_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "numbers"
    path.write_text("1\n")
    watched = WatchedFile(path, parse_numbers)
    path.unlink()
    for _ in range(3):
        assert not watched.look()
    why = "cannot be read: No such file or directory; what the file said before stays in force"
    assert caplog.messages == [f"{path}: {why}"]
    path = tmp_path / "latin"
    path.write_bytes(b"1\n2\n\xe4\n")
    with pytest.raises(ValueError, match=":3: not UTF-8"):
        WatchedFile(path, parse_numbers)


def test_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "numbers"
    path.write_text("1")
    os.utime(path, (1000, 1000))
    file = WatchedFile(path, parse_numbers)
    assert not file.look()
    path.write_text("2")
    assert file.look()
    assert file.value == [2]
    # An editor puts another file in its place, with the same size and times.
    other = tmp_path / "other"
    other.write_text("3")
    os.utime(path, (1000, 1000))
    assert file.look()
    os.utime(other, (1000, 1000))
    other.replace(path)
    assert file.look()
    assert file.value == [3]
    for _ in range(3):
        path.write_text("x")
        assert not file.look()
    path.unlink()
    assert not file.look()
    assert file.value == [3]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "stays in force" in caplog.text
    path.write_text("4")
    assert file.look()
    assert file.value == [4]


def test_mistakes_may_pass_without_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short of descriptors the system knows no user: getpwnam(3) cannot open its files."""
    path = tmp_path / "map"
    path.write_text("7 bob\n")
    file = WatchedFile(path, lambda text: identities.parse(text, AuthConfig()))
    path.write_text("root admin\n")
    os.utime(path, (1000, 1000))
    with monkeypatch.context() as patched:
        patched.setattr(pwd, "getpwnam", short_of_descriptors)
        assert not file.look()
    assert not file.look()  # not every second
    file._retry_at = 0.0
    assert file.look()
    assert file.value.of("", 0) == "admin"


def short_of_descriptors(name: str) -> object:
    """What the real one does then."""
    raise KeyError(f"getpwnam(): name not found: {name!r}")


def test_fresh_file_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of the file system's clock look like one."""
    path = tmp_path / "numbers"
    path.write_text("1")
    file = WatchedFile(path, parse_numbers)
    assert file.look()
    then = time.time() - 2 * SETTLED
    os.utime(path, (then, then))
    assert file.look()
    assert not file.look()


def identities_of(text: str = "", **config: object) -> Identities:
    return identities.parse(text, AuthConfig(**config))  # type: ignore[arg-type]


def test_longest_prefix() -> None:
    named = identities_of(
        "192.0.2.7 one\n",
        networks={"192.0.2.0/24": "lab", "0.0.0.0/0": "all", "2001:db8::/32": "six"},
    )
    for client, user in {
        "192.0.2.7": "one",
        "192.0.2.8": "lab",
        "198.51.100.1": "all",
        "2001:db8::1": "six",
        "2001:db9::1": "",
        "fe80::1%eth0": "",
    }.items():
        for _ in range(2):  # found, then remembered
            assert named.of(client, -1) == user
    assert named.of("", 0) == ""


def test_remembers_a_bounded_number() -> None:
    named = identities_of(networks={"10.0.0.0/8": "lab"})
    for number in range(identities.REMEMBERED + 10):
        assert named.of(str(ipaddress.IPv4Address((10 << 24) + number)), -1) == "lab"
    assert len(named._remembered) <= identities.REMEMBERED


def test_uids() -> None:
    root = pwd.getpwuid(0).pw_name
    named = identities_of(f"# who\n\n{root} admin\n4711\tbob\n", peers={"4712": "carol"})
    assert [named.of("", uid) for uid in (0, 4711, 4712, 4713, -1)] == [
        "admin",
        "bob",
        "carol",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10.0.0.0/8", "not of the form"),
        ("10.0.0.0/8 a b", "not of the form"),
        ("10.0.0.1/8 a", "10.0.0.1/8: it is neither a network .* host bits set"),
        ("no-such-user a", "no-such-user: it is neither a network"),
        ("10.0.0.0/33 a", "neither a network"),
        ("fe80::1%eth0 a", "neither a network .* a zone names one link .*; allowed: fe80::1"),
        ("1 a:b", "'a:b' is not a valid user name"),
        ("192.0.2.0/24 other", "192.0.2.0/24: is listed twice"),
        ("7 other", "7: is listed twice"),
    ],
)
def test_bad_mapping_lines(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "map"
    path.write_text(f"192.0.2.0/24 lab\n7 bob\n{line}\n")
    with pytest.raises(ValueError, match=why) as caught:
        WatchedFile(path, lambda text: identities.parse(text, AuthConfig()))
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("key", "why"),
    [("networks", "networks: 10.0.0.1/8: it is neither"), ("peers", "peers: nemo: it is neither")],
)
def test_bad_settings(key: str, why: str) -> None:
    config = AuthConfig(**{key: {"10.0.0.1/8" if key == "networks" else "nemo": "a"}})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=why):
        identities.build(identities.entries(config))


def test_peer_uid() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_uid(one) == os.getuid()
