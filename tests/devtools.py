"""Headless Chromium, driven by the DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import need, wait_for

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --ignore-certificate-errors --proxy-bypass-list=<-loopback>"
    " --remote-debugging-port=0"
    " about:blank"  # the first document would be the distribution's home page
)


class Page:
    """One page. ``events`` are those that came, in order."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def post(self, method: str, **params: Any) -> int:
        """Calls a method whose result nobody waits for; the call's number."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        return number

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method; its result."""
        number = self.post(method, **params)
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            if "method" in message:
                self.events.append(message)

    def next_event(self) -> dict[str, Any]:
        """The oldest event that was not taken yet."""
        while not self.events:
            message = json.loads(self._connection.recv(timeout=60))
            if "method" in message:
                self.events.append(message)
        return self.events.pop(0)


@contextmanager
def chromium(folder: Path, proxy: str) -> Iterator[Page]:
    """A page of a Chromium that goes through the proxy for everything."""
    from websockets.sync.client import connect

    program = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    profile = folder / "profile"
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    process = subprocess.Popen(
        [program, *FLAGS.split(), f"--user-data-dir={profile}", f"--proxy-server={proxy}"],
        env={**env, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        wait_for(
            lambda: port_file.exists() and port_file.read_text().count("\n") >= 1,
            "Chromium's start",
            60,
        )
        port = int(port_file.read_text().split()[0])
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def pages() -> list[str]:
            with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                targets = json.load(answer)
            return [t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"]

        wait_for(pages, "a page", 60)
        with connect(pages()[0], proxy=None, max_size=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(20)
