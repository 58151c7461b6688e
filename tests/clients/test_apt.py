"""apt: an index and packages from a repository of our own, over kept-alive and pipelined
connections. A body cut short or mixed up would be a "Hash Sum mismatch"."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Nginx, ProxyProcess, need, wait_for

PACKAGES = 12


def build_package(folder: Path, number: int) -> Path:
    """A real .deb with some hundred KiB of noise in it."""
    name = f"noise{number}"
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.{number}\nArchitecture: all\n"
        f"Maintainer: Nobody <nobody@example.org>\nDescription: noise\n"
    )
    (tree / "noise").write_bytes(os.urandom(50_000 * (number + 1)))
    deb = folder / f"{name}_1.{number}_all.deb"
    subprocess.run(
        [need("dpkg-deb"), "--root-owner-group", "-b", str(tree), str(deb)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return deb


def build_repository(www: Path, folder: Path) -> dict[str, bytes]:
    """A flat repository in www; the SHA-256 of its packages by name."""
    index = ""
    digests = {}
    for number in range(PACKAGES):
        deb = build_package(folder, number)
        data = deb.read_bytes()
        (www / deb.name).write_bytes(data)
        digest = hashlib.sha256(data)
        digests[deb.name] = digest.digest()
        control = (folder / f"noise{number}/DEBIAN/control").read_text()
        index += (
            f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest.hexdigest()}\n\n"
        )
    (www / "Packages").write_text(index)
    packages = index.encode()
    (www / "Release").write_text(
        "Suite: stable\nArchitectures: all amd64 arm64\nSHA256:\n"
        f" {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )
    return digests


@pytest.mark.parametrize("pipeline", [0, 5])
def test_update_and_download(
    new_proxy: Callable[..., ProxyProcess],
    each_loop: bool,
    nginx: Nginx,
    tmp_path: Path,
    pipeline: int,
) -> None:
    apt = need("apt-get")
    digests = build_repository(nginx.www, tmp_path)
    proxy = new_proxy(uvloop=each_loop)
    root = tmp_path / "apt"
    for folder in ("etc/apt", "state/lists/partial", "cache/archives/partial", "downloads"):
        (root / folder).mkdir(parents=True)
    (root / "state/status").touch()
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] {nginx.url}/ ./\n")
    options = {
        "Acquire::http::Proxy": proxy.url,
        "Acquire::http::Pipeline-Depth": str(pipeline),
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "Dir::Cache": str(root / "cache"),
        "Dir::Etc": str(root / "etc/apt"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::State": str(root / "state"),
        "Dir::State::status": str(root / "state/status"),
    }
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]

    def run(*args: str) -> None:
        done = subprocess.run(
            [apt, *flags, *args],
            cwd=root / "downloads",
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "no_proxy": ""},
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("update")
    run("download", *(f"noise{number}" for number in range(PACKAGES)))
    got = {
        path.name: hashlib.sha256(path.read_bytes()).digest()
        for path in (root / "downloads").iterdir()
    }
    assert got == digests

    def lines() -> list[str]:
        return [line for line in proxy.access() if ".deb" in line]

    wait_for(lambda: len(lines()) >= PACKAGES, "a line for each package")
    assert len(lines()) == PACKAGES
    assert all(" TCP_MISS/200 " in line for line in lines())
