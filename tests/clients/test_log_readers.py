"""The access log as programs for such logs read it: they count what has happened."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, refused_port

from spliceproxy.observe import json_line

ENGINES = ("native", "copy")
GOACCESS = ("--log-format=%x.%^ %~%L %h %^/%s %b %m %U %e %^ %M", "--date-format=%s",
            "--time-format=%s")  # fmt: skip
"""As docs/log.md has it for the format ``squid``."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def origin() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client:
        while client.recv(65536):
            client.sendall(ANSWER)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def log_of(folder: Path, form: str, engine: str, origin: tuple[str, int]) -> list[str]:
    """A log of ten requests and tunnels: some went well, some were refused or have failed, and some
    are hostile."""
    folder.mkdir(exist_ok=True)
    (folder / "proxy.toml").write_text(
        "[[rule]]\nid = 'no'\naction = 'deny'\nhosts = ['denied.test']\n"
    )
    proxy = ProxyProcess(
        folder, "--engine", engine, "--log-format", form, "--config", str(folder / "proxy.toml")
    )
    where = "{}:{}".format(*origin)
    agent = 'User-Agent: Mozilla/5.0 "x" (y; z)\\'
    try:
        with refused_port() as port:
            for target in (
                *(f"GET http://{where}/{path}" for path in ("", "a?b=c", "%22'%5C%0A", "\"'<[]>|")),
                f"GET http://{where}/",
                "GET http://denied.test/",
                f"GET http://127.0.0.1:{port}/",
                "GET ftp://a.test/",
                "BAD",
            ):
                with proxy.connect() as client:
                    head = f"{target} HTTP/1.1\r\nHost: x\r\n{agent}\r\nConnection: close\r\n\r\n"
                    client.sendall(head.encode())
                    while client.recv(65536):
                        pass
        with proxy.connect() as client:
            client.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
            assert b" 200 " in client.recv(65536)
        return proxy.wait_access(10)
    finally:
        proxy.kill()


@pytest.mark.parametrize("engine", ENGINES)
def test_goaccess(tmp_path: Path, engine: str, origin: tuple[str, int]) -> None:
    goaccess = program("goaccess")
    # One could not be read: squid's word for its method is NONE, which goaccess does not know.
    for form, flags, read in (
        ("squid", GOACCESS, 9),
        ("combined", ("--log-format=COMBINED",), 10),
    ):
        lines = log_of(tmp_path / form, form, engine, origin)
        log = tmp_path / form / "log"
        log.write_text("".join(f"{line}\n" for line in lines))
        report = tmp_path / form / "report.json"
        done = subprocess.run(
            [goaccess, str(log), "--no-global-config", *flags, "-o", str(report)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        general = json.loads(report.read_text())["general"]
        assert (general["valid_requests"], general["failed_requests"]) == (read, 10 - read)


@pytest.mark.parametrize("engine", ENGINES)
def test_calamaris(tmp_path: Path, engine: str, origin: tuple[str, int]) -> None:
    calamaris = program("calamaris")
    lines = log_of(tmp_path, "squid", engine, origin)
    done = subprocess.run(
        [calamaris, "-a"], input="".join(f"{line}\n" for line in lines),
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert re.search(r"lines parsed: +lines +10 *\n", done.stdout)
    assert re.search(r"invalid lines: +lines +0 *\n", done.stdout)
    assert re.search(r" TCP_DENIED +1 ", done.stdout)
    assert re.search(r" TCP_TUNNEL +1 ", done.stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_lnav(
    tmp_path: Path, engine: str, origin: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lnav = program("lnav")
    monkeypatch.setenv("HOME", str(tmp_path))
    form = Path(json_line.__file__).with_name("spliceproxy.lnav.json")
    subprocess.run([lnav, "-i", str(form)], check=True, capture_output=True, timeout=60)
    assert _lnav([lnav, "-C"]).returncode == 0
    lines = log_of(tmp_path / "proxy", "json", engine, origin)
    log = tmp_path / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    asked = ";SELECT status, termination, method, rule, log_level FROM spliceproxy_log"
    done = _lnav([lnav, "-n", "-c", asked, "-c", ":write-csv-to -", str(log)])
    found = [tuple(row.values()) for row in csv.DictReader(io.StringIO(done.stdout))]
    logged = [json.loads(line) for line in lines]
    levels = {"--": "info", "CD": "warning"}
    assert found == [
        (
            str(line["status"]),
            line["termination"],
            line["method"] or "<NULL>",
            line["rule"] or "<NULL>",
            levels.get(line["termination"], "error"),
        )
        for line in logged
    ]
    assert len(found) == 10


def _lnav(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ}
    )
