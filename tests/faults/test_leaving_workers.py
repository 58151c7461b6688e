"""Workers that drain because there will be fewer of them, when the settings change once more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, all_ended
from harness import serving, stop, wait_for

DENIES = '[[rule]]\nid = "no"\naction = "deny"\nhosts = ["127.0.0.1"]\n'
DRAINS = "timeout-drain = 60\nreload-tunnels = 'recheck'\n"
OF_THE_FILE = "at = sys.argv.index('--workers')\ndel sys.argv[at : at + 2]\n"


def echo(connection: socket.socket) -> None:
    connection.settimeout(None)
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def echoing() -> Iterator[tuple[str, int]]:
    with serving(echo, idle=True) as address:
        yield address


class Leaving:
    """A proxy of two workers with a tunnel each, of which the second has begun to leave."""

    def __init__(self, folder: Path, echoing: tuple[str, int], patch: str = "") -> None:
        self.file = folder / "settings.toml"
        self.file.write_text("workers = 2\n" + DRAINS)
        self.proxy = ChangingProxy(folder, "--config", str(self.file), patch=OF_THE_FILE + patch)
        self.tunnels: dict[int, socket.socket] = {}
        known: set[str] = set()
        while len(self.tunnels) < 2:
            tunnel = self.proxy.tunnel(*echoing)
            flows = self.proxy.admin.get("/tunnels")["tunnels"]
            (new,) = [flow for flow in flows if flow["id"] not in known]
            known.add(new["id"])
            if new["worker"] in self.tunnels:
                tunnel.close()
            else:
                self.tunnels[new["worker"]] = tunnel
        pids = {one["index"]: one["pid"] for one in self.proxy.admin.get("/stats.json")["workers"]}
        self.leaves = pids[1]
        self.reload("workers = 1\n" + DRAINS)
        self.speaks(0)
        self.speaks(1)

    def reload(self, text: str) -> str:
        self.file.write_text(text)
        answer = self.proxy.admin.ask("/reload", "POST")
        assert answer.status == 200, answer
        return answer.text

    def speaks(self, worker: int) -> None:
        tunnel = self.tunnels[worker]
        tunnel.sendall(b"message")
        assert tunnel.recv(100) == b"message"

    def ended(self, worker: int) -> bool:
        """Waits for the end of a tunnel."""
        try:
            return self.tunnels[worker].recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with all_ended(str(tmp_path)):
        yield tmp_path


def test_they_go_by_the_next_settings_too(folder: Path, echoing: tuple[str, int]) -> None:
    proxy = Leaving(folder, echoing)
    proxy.reload("workers = 1\n" + DRAINS + DENIES)
    assert proxy.ended(0)
    assert proxy.ended(1)
    wait_for(lambda: len(proxy.proxy.workers()) == 1, "the end of the one that leaves")
    proxy.proxy.end()


def test_one_that_does_not_answer_is_no_reason_to_refuse(
    folder: Path, echoing: tuple[str, int]
) -> None:
    patch = "from spliceproxy.processes import reloading\nreloading.PREPARE_SECONDS = 1.0\n"
    proxy = Leaving(folder, echoing, patch)
    stop(proxy.leaves)
    told = proxy.reload("workers = 1\n" + DRAINS + DENIES)
    assert f"worker 1 (pid {proxy.leaves}), which drains, does not go by it" in told
    assert proxy.ended(0)
    os.kill(proxy.leaves, signal.SIGCONT)
    proxy.speaks(1)
    proxy.reload("workers = 1\n" + DRAINS + DENIES)  # and the next one it hears of
    assert proxy.ended(1)
    proxy.proxy.end()


def test_one_that_dies_meanwhile_is_no_reason_to_refuse(
    folder: Path, echoing: tuple[str, int]
) -> None:
    patch = (
        "from spliceproxy.processes import reconfigured\n"
        "before = reconfigured.Reconfigured.prepare\n"
        "def prepare(self, question):\n"
        "    if self._instance.services.draining:\n"
        "        os._exit(0)\n"
        "    return before(self, question)\n"
        "reconfigured.Reconfigured.prepare = prepare\n"
    )
    proxy = Leaving(folder, echoing, patch)
    proxy.reload("workers = 1\n" + DRAINS + DENIES)
    assert proxy.ended(0)
    assert proxy.ended(1)
    proxy.proxy.end()
