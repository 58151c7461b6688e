"""processes/landlock.py: which files a configuration needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from spliceproxy.config import (
    AdminConfig,
    AuthConfig,
    Config,
    ParentConfig,
    PolicyConfig,
    RoutingConfig,
    Url,
)
from spliceproxy.processes import landlock
from spliceproxy.processes.landlock import READ, WRITE, Confinement, Domain


def domain(**settings: object) -> Domain:
    return Confinement().domain(Config(listen=(), **settings))  # type: ignore[arg-type]


def access(found: Domain, path: Path | str) -> int:
    """What may be done with a file: by the folders above it."""
    name = os.path.realpath(path)
    granted = 0
    for one in found:
        if name == one.path or name.startswith(f"{one.path.rstrip('/')}/"):
            granted |= one.access
    return granted


def test_what_every_process_needs() -> None:
    found = domain()
    for path in ("/etc/resolv.conf", "/etc/hosts", os.__file__, sys.executable, landlock.__file__):
        assert access(found, path) & READ == READ, path
    assert not access(found, "/etc/hosts") & landlock.WRITE_FILE
    assert access(found, "/dev/null") == landlock.USE
    for path in ("/", "/var/lib/x", "/dev/sda", "/dev/shm/x", "/srv", "/boot/x"):
        assert access(found, path) == 0, path


def test_what_the_settings_name(tmp_path: Path) -> None:
    for name in (
        "policy",
        "users",
        "map",
        "locked",
        "token",
        "ca",
        "site",
        "more",
        "log",
        "seen",
        "kept",
    ):
        (tmp_path / name).mkdir()
    found = domain(
        serve=tmp_path / "site",
        access_log=str(tmp_path / "log" / "access"),
        auth=AuthConfig(htpasswd=tmp_path / "users" / "x", users_file=tmp_path / "map" / "x"),
        admin=AdminConfig(token_file=tmp_path / "token" / "x"),
        policy=PolicyConfig(
            hook=f"{tmp_path}/policy/x.py:decide",
            locked=tmp_path / "locked" / "x",
            learn=tmp_path / "seen" / "x",
        ),
        routing=RoutingConfig(
            parents={"a": ParentConfig(Url("https", "p", 1), ca_file=tmp_path / "ca" / "x")}
        ),
        landlock_read=(tmp_path / "more",),
        landlock_write=(tmp_path / "kept",),
    )
    for name in ("policy", "users", "map", "locked", "token", "ca", "site", "more"):
        assert access(found, tmp_path / name / "x") == READ, name
    for name in ("log", "seen", "kept"):
        assert access(found, tmp_path / name / "x") == WRITE, name
    assert access(found, tmp_path / "other") == 0


@pytest.mark.parametrize("log", ["/dev/null", "-", "off", "/dev/stdout", "syslog:"])
def test_a_log_that_is_no_file_opens_no_folder(log: str) -> None:
    found = domain(access_log=log)
    assert access(found, "/dev/sda") == access(found, "/dev/shm/x") == 0


def test_what_lies_within_another_is_no_other() -> None:
    """A reload that names it replaces no worker."""
    assert domain(auth=AuthConfig(htpasswd=Path("/etc/spliceproxy/users"))) == domain()


def test_a_folder_that_takes_anothers_place_is_another(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    before = domain(serve=site)
    assert domain(serve=site) == before
    site.rename(tmp_path / "old")
    site.mkdir()
    assert not domain(serve=site) <= before


def test_both_configurations_while_one_is_coming(tmp_path: Path) -> None:
    now, coming = tmp_path / "now", tmp_path / "coming"
    now.mkdir()
    coming.mkdir()
    confinement = Confinement()
    confinement.coming = Config(listen=(), serve=coming)
    found = confinement.domain(Config(listen=(), serve=now))
    assert access(found, now) == access(found, coming) == READ


def test_the_working_folder_may_be_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/", *sys.path])
    assert access(domain(), "/srv/x") == 0
