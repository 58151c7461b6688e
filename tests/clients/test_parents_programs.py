"""Programs that people use, through a proxy that goes by way of other proxies: git, pip, npm, apt,
ssh and Chromium, all at once."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx
from git_server import git_server
from harness import ProxyProcess, need
from parents_rig import KINDS, THEIR_SECRET, THEIRS, Ways, way
from test_browser import FLAGS
from test_socks_clients import sshd

NOISE = os.urandom(1 << 20)


@pytest.fixture(scope="module", params=list(KINDS))
def ways(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
) -> Iterator[Ways]:
    with way(request.param, tmp_path_factory.mktemp("ways"), certificates) as found:
        yield found
        for tap in found.taps:
            assert THEIR_SECRET not in tap.seen


class Programs:
    """They run side by side."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "HOME": str(folder),
        }

    def begin(self, name: str, *command: str, data: bytes = b"", **env: str) -> None:
        given, out = self.folder / f"{name}.in", self.folder / f"{name}.out"
        given.write_bytes(data)
        with given.open("rb") as stdin, out.open("wb") as stdout:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env={**self._env, **env},
                cwd=self.folder,
            )
        self._stack.callback(process.kill)
        self._running[name] = process, out

    def output(self, name: str, status: int = 0) -> bytes:
        """Of one that ends with this status."""
        process, out = self._running[name]
        _, errors = process.communicate(timeout=90)
        assert process.returncode == status, f"{name}: {errors.decode(errors='replace')}"
        return out.read_bytes()


def begin_git(programs: Programs, url: str, proxy: str, ca: Path) -> None:
    git, bare = need("git"), programs.folder / "bare" / "one.git"
    subprocess.run([git, "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    tree = subprocess.run(
        [git, "hash-object", "-t", "tree", "-w", "--stdin"],
        cwd=bare, input=b"", capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    who = {f"GIT_{r}_{k}": "x" for r in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    commit = subprocess.run(
        [git, "commit-tree", "-m", "noise", tree],
        cwd=bare, capture_output=True, check=True, env={**os.environ, **who},
    ).stdout.decode().strip()  # fmt: skip
    subprocess.run([git, "update-ref", "refs/heads/main", commit], cwd=bare, check=True)
    programs.begin(
        "git", git, "-c", f"http.proxy={proxy}", "clone", "-q", f"{url}/one.git", "cloned",
        GIT_SSL_CAINFO=str(ca), GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0",
    )  # fmt: skip


def begin_pip(programs: Programs, site: TlsNginx, proxy: str) -> None:
    """A wheel from an index of our own, by TLS."""
    folder = site.www / "simple" / "noise"
    folder.mkdir(parents=True, exist_ok=True)
    name = "noise-1-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("noise/__init__.py", "")
        wheel.writestr("noise/noise", NOISE)
        wheel.writestr(
            "noise-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: noise\nVersion: 1\n"
        )
        wheel.writestr("noise-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("noise-1.dist-info/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')
    programs.begin(
        "pip", sys.executable, "-m", "pip", "--isolated", "download", "-q", "--no-deps", "--proxy",
        proxy, "--retries", "0", "--no-cache-dir", "--disable-pip-version-check",
        "--trusted-host", f"localhost:{site.tls_port}", "-i", f"{site.tls_url}/simple", "noise",
    )  # fmt: skip


def begin_npm(programs: Programs, site: TlsNginx, proxy: str, ca: Path) -> None:
    """A package from a registry of our own, which is two files."""
    folder = site.www / "npm"
    folder.mkdir(exist_ok=True)
    about = {"name": "noise", "version": "1.0.0"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (("package.json", json.dumps(about).encode()), ("noise", NOISE)):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (folder / "noise.tgz").write_bytes(buffer.getvalue())
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    dist = {"tarball": f"{site.tls_url}/npm/noise.tgz", "integrity": f"sha512-{digest}"}
    versions = {"1.0.0": {**about, "dist": dist}}
    text = {"name": "noise", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
    (folder / "noise").write_text(json.dumps(text))
    prefix = programs.folder / "npm"
    prefix.mkdir()
    programs.begin(
        "npm", need("npm"), "install", "--silent", "--no-audit", "--no-fund",
        "--no-update-notifier", "--fetch-retries", "0", "--prefix", str(prefix), "--cache",
        str(prefix / "cache"), "--registry", f"{site.tls_url}/npm/", "--proxy", proxy,
        "--https-proxy", proxy, "--cafile", str(ca), "noise",
    )  # fmt: skip


def begin_ssh(programs: Programs, port: int, key: Path, proxy: ProxyProcess) -> None:
    ncat = (
        f"{need('ncat')} --proxy 127.0.0.1:{proxy.port} --proxy-type http --proxy-auth '{THEIRS}'"
    )
    programs.begin(
        "ssh", need("ssh"), "-F", "none", "-i", str(key), "-p", str(port), "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
        f"ProxyCommand={ncat} %h %p", f"{getpass.getuser()}@127.0.0.1", "cat; exit 7", data=NOISE,
    )  # fmt: skip


def begin_chromium(programs: Programs, site: TlsNginx, proxy: ProxyProcess) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    (site.www / "parents.html").write_text("<p>by way of others</p>")
    programs.begin(
        "chromium", program, *FLAGS.split(), f"--user-data-dir={programs.folder}/profile",
        f"--proxy-server={proxy.url}", f"{site.tls_url}/parents.html",
    )  # fmt: skip


def test_programs(ways: Ways, site: TlsNginx, certificates: Certificates, tmp_path: Path) -> None:
    (site.www / "parents-noise").write_bytes(NOISE)
    helper = Path("/usr/lib/apt/apt-helper")
    with contextlib.ExitStack() as stack:
        programs = Programs(tmp_path, stack)
        open_to_all = ProxyProcess(tmp_path / "open", "--config", str(ways.config))
        stack.callback(open_to_all.kill)
        url = stack.enter_context(git_server(tmp_path / "bare", certificates.server_context()))
        port, key = stack.enter_context(sshd(tmp_path))
        begin_git(programs, url, ways.url, certificates.ca)
        begin_pip(programs, site, ways.url)
        begin_npm(programs, site, ways.url, certificates.ca)
        begin_ssh(programs, port, key, ways.proxy)
        begin_chromium(programs, site, open_to_all)
        if need("apt-get"):
            programs.begin(
                "apt", str(helper), "-o", f"Acquire::http::Proxy={ways.url}", "-o",
                "APT::Sandbox::User=", "download-file", f"{site.url}/parents-noise", "apt-got",
            )  # fmt: skip
        programs.output("git")
        programs.output("pip")
        programs.output("npm")
        programs.output("apt")
        assert programs.output("ssh", 7) == NOISE
        assert b"by way of others" in programs.output("chromium")
    assert (tmp_path / "cloned" / ".git").is_dir()
    assert (tmp_path / "apt-got").read_bytes() == NOISE
    with zipfile.ZipFile(tmp_path / "noise-1-py3-none-any.whl") as wheel:
        assert wheel.read("noise/noise") == NOISE
    assert (tmp_path / "npm" / "node_modules" / "noise" / "noise").read_bytes() == NOISE
    # Some ask without a password before they are told that one is wanted.
    lines = [json.loads(line) for line in ways.proxy.access()]
    assert {line["route"] for line in lines if line["status"] != 407} == {"a"}
