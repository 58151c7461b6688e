"""What a proxy loads before its first answer: with default settings, nothing that is for others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from harness import free_port, read_head, wait_for

NOT_AT_THE_START = {
    "aiodns": "the loop runs c-ares",
    "bcrypt": "users",
    "datetime": "files",
    "difflib": "mistakes",
    "email": "dates",
    "encodings.idna": "getaddrinfo(3) of a text",
    "html": "denials",
    "idna": "names that are not ASCII",
    "json": "denials",
    "mimetypes": "files",
    "passlib": "users",
    "platform": "--version",
    "pycares": "the first name",
    "random": "temporary files",
    "shutil": "temporary files",
    "tempfile": "--learn",
    "tomli_w": "--learn",
    "tomllib": "--config",
    "spliceproxy.embed": "programs",
    "spliceproxy.forward.moving": "a worker that takes another's place",
    "spliceproxy.policy.auth.authenticator": "users",
    "spliceproxy.policy.explain": "explain",
    "spliceproxy.policy.fresh": "--policy",
    "spliceproxy.processes.judging_again": "reloads",
    "spliceproxy.processes.reconfigured": "reloads",
    "spliceproxy.processes.retired": "reloads",
    "spliceproxy.policy.learn": "--learn",
    "spliceproxy.processes.activation": "sockets of systemd",
    "spliceproxy.processes.alive": "service managers",
    "spliceproxy.processes.kernel": "--user",
    "spliceproxy.processes.landlock": "--user",
    "spliceproxy.processes.notify": "service managers",
    "ctypes": "--user",
    "grp": "--group",
    "spliceproxy.processes.pidfile": "--pid-file",
    "spliceproxy.processes.rights": "--user",
    "spliceproxy.processes.service": "service managers",
    "spliceproxy.policy.routed": "routes",
    "spliceproxy.policy.routes": "routes",
    "spliceproxy.relay.moving": "a worker that takes another's place",
    "spliceproxy.relay.portable": "engines without C",
    "spliceproxy.settings.parents": "routes",
    "spliceproxy.settings.tinyproxy": "import",
    "spliceproxy.site.files": "files",
    "spliceproxy.upstream.pac": "--pac",
    "spliceproxy.upstream.parent": "routes",
    "spliceproxy.upstream.parents": "routes",
    "spliceproxy.upstream.tls": "routes",
}
"""Modules, and what each is for."""

RUN = """
import sys
from spliceproxy.processes import rest
from spliceproxy.processes import supervisor
rest.AFTER = supervisor.LOAD_SECONDS = 3600.0  # what is loaded later is not of the start
from spliceproxy.__main__ import main
sys.exit(main())
"""


def loaded(errors: Path) -> set[str]:
    """The modules that ``-X importtime`` tells."""
    lines = errors.read_text(errors="replace").splitlines()
    told = (line for line in lines if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in told}


def test_what_is_not_loaded_at_the_start(tmp_path: Path) -> None:
    port = free_port()
    errors = tmp_path / "stderr"
    options = ["--listen", f"127.0.0.1:{port}", "--workers", "1", "--access-log", "off"]
    environment = {name: value for name, value in os.environ.items() if "SPLICEPROXY" not in name}
    with errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-c", RUN, *options], stderr=err, env=environment
        )
    try:
        wait_for(lambda: "event loop" in errors.read_text(errors="replace"), "the proxy's start")
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_head(client).startswith(b"HTTP/1.1 400 ")
        found = loaded(errors)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert {"asyncio", "spliceproxy.processes.worker", "spliceproxy.site.pages"} <= found
    named = {name for name in NOT_AT_THE_START if name in found}
    if sys.version_info >= (3, 13):
        named.discard("grp")  # its pathlib loads it
    assert not {f"{name} is for {NOT_AT_THE_START[name]}" for name in named}
