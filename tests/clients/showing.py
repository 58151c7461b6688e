"""What a person sees of an answer that the proxy refuses: real programs and libraries ask for a
URL, and what they print, or the text of the exception, is returned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from harness import need

Show = Callable[[str, str, Path], str]
"""(URL of the proxy, URL to ask for, an empty folder): what is seen."""

_UNDICI = """
const { ProxyAgent, request } = require('undici');
const [proxy, url] = process.argv.slice(1);
const { username, password, origin } = new URL(proxy);
const pair = decodeURIComponent(`${username}:${password}`);
const token = username ? 'Basic ' + Buffer.from(pair).toString('base64') : undefined;
request(url, { dispatcher: new ProxyAgent({ uri: origin, token }) })
  .then((answer) => console.log(answer.statusCode, answer.statusText || ''))
  .catch((error) => console.log(error.message, error.cause ? error.cause.message : ''));
"""

_GO = """
package main

import ("fmt"; "net/http"; "os")

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Status)
}
"""


def _run(folder: Path, *command: str, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """The program's output; it has an empty home, and no proxy but the one it is given."""
    clean = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    clean = {k: v for k, v in clean.items() if not k.startswith(("GIT_", "PIP_"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**clean, "HOME": str(folder), "LC_ALL": "C.UTF-8", **(env or {})},
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.stdout.decode(errors="replace").strip()


def _by_variable(proxy: str) -> dict[str, str]:
    return {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}


def curl(proxy: str, url: str, folder: Path) -> str:
    return _run(folder, need("curl"), "-q", "-sS", "-x", proxy, url)


def wget(proxy: str, url: str, folder: Path) -> str:
    return _run(folder, need("wget"), "-nv", "-t1", "-O-", url, env=_by_variable(proxy))


def lftp(proxy: str, url: str, folder: Path) -> str:
    settings = f"set http:proxy {proxy}; set https:proxy {proxy}; set net:max-retries 1"
    return _run(folder, need("lftp"), "-c", f"{settings}; cat {url}")


def links(proxy: str, url: str, folder: Path) -> str:
    where = proxy.removeprefix("http://")
    options = ["-http-proxy", where, "-https-proxy", where, "-retries", "1"]
    return _run(folder, need("links"), *options, "-dump", url)


def git(proxy: str, url: str, folder: Path) -> str:
    env = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    return _run(folder, need("git"), "-c", f"http.proxy={proxy}", "ls-remote", url, env=env)


def apt(proxy: str, url: str, folder: Path) -> str:
    need("apt-get")
    options = [f"Acquire::{scheme}::Proxy={proxy}" for scheme in ("http", "https")]
    options += ["Acquire::Retries=0", "APT::Sandbox::User="]
    command = ["/usr/lib/apt/apt-helper"]
    for option in options:
        command += ["-o", option]
    return _run(folder, *command, "download-file", url, str(folder / "file"))


def pip(proxy: str, url: str, folder: Path) -> str:
    options = ["--proxy", proxy, "--retries", "1", "--no-cache-dir", "--disable-pip-version-check"]
    options += ["--trusted-host", urlsplit(url).hostname or ""]
    command = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", *options]
    return _run(folder, *command, f"{url}/a-1.tar.gz")


def requests(proxy: str, url: str, folder: Path) -> str:
    program = "import requests, sys\nprint((a := requests.get(sys.argv[1])).status_code, a.reason)"
    return _run(folder, sys.executable, "-c", program, url, env=_by_variable(proxy))


def httpx(proxy: str, url: str, folder: Path) -> str:
    program = "import httpx, sys\nprint(httpx.get(sys.argv[1]))"
    return _run(folder, sys.executable, "-c", program, url, env=_by_variable(proxy))


def undici(proxy: str, url: str, folder: Path) -> str:
    return _run(folder, need("node"), "-e", _UNDICI, proxy, url)


def go(proxy: str, url: str, folder: Path) -> str:
    """Debian's compiler is big: where it is not installed, nothing asks for it."""
    program = folder / "ask.go"
    program.write_text(_GO)
    env = {**_by_variable(proxy), "GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod"}
    built = folder / "ask"
    compiler = shutil.which("go") or "go"
    message = _run(folder, compiler, "build", "-o", str(built), str(program), env=env)
    assert built.exists(), message
    return _run(folder, str(built), url, env=_by_variable(proxy))


def is_there(name: str) -> bool:
    """Whether a client that .ci/run may leave out is installed."""
    if name == "go":
        return shutil.which("go") is not None
    if name == "undici":
        found = [need("node"), "-e", "require('undici')"]
        return not subprocess.run(found, capture_output=True, timeout=60).returncode
    return True


CLIENTS: dict[str, Show] = {
    show.__name__: show
    for show in (curl, wget, lftp, links, git, apt, pip, requests, httpx, undici, go)
}
