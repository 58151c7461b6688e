"""What cannot move drains in the process that was replaced: it is shown, and can be ended."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

from changing_proxy import ChangingProxy, all_ended
from harness import alive, read_head, wait_for
from moving_load import ask_once

SIZE = 1 << 30
"""Of a file, more than the kernel keeps for a client that does not read."""


def served(proxy: ChangingProxy) -> socket.socket:
    """A client that does not read the file that it gets."""
    s = proxy.connect()
    s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 " in read_head(s)
    return s


def worker(proxy: ChangingProxy) -> dict[str, Any]:
    (found,) = proxy.admin.get("/stats.json")["workers"]
    return dict(found)


def requests(proxy: ChangingProxy) -> int:
    text = proxy.admin.ask("/metrics").text
    found = re.search(r'^spliceproxy_worker_requests_total\{worker="0"\} (\d+)', text, re.M)
    assert found is not None
    assert len(re.findall(r'^spliceproxy_process_open_fds\{process="0"\}', text, re.M)) <= 1
    return int(found[1])


def test_it_is_shown_and_ended_as_ever(tmp_path: Path, address: tuple[str, int]) -> None:
    www = tmp_path / "www"
    www.mkdir()
    with (www / "large").open("wb") as file:
        file.truncate(SIZE)
    with all_ended(str(tmp_path)):
        proxy = ChangingProxy(tmp_path, "--serve", str(www), "--timeout-drain", "60")
        old = proxy.worker
        with proxy.connect() as s:
            for _ in range(20):
                ask_once(s, address)
        client = served(proxy)
        (before,) = proxy.admin.get("/tunnels")["tunnels"]
        wait_for(lambda: requests(proxy) >= 20, "what it has counted")
        (replaced,) = proxy.recycle()
        assert replaced["left"] == 1

        def shown() -> list[str]:
            found = proxy.admin.get("/tunnels")
            assert (found["silent"], found["why"]) == ([], [])
            assert proxy.admin.ask("/healthz").text == "ok: workers that answer: 1\n"
            return [one["id"] for one in found["tunnels"]]

        assert shown() == [before["id"]]
        # The place has another process, whose numbers begin anew and never go back.
        wait_for(lambda: worker(proxy)["pid"] == replaced["new"], "its place")
        assert requests(proxy) == 0
        with proxy.connect() as s:
            ask_once(s, address)
        wait_for(lambda: requests(proxy) == 1, "its request")

        admin = proxy.admin_process()
        os.kill(admin, signal.SIGKILL)
        wait_for(lambda: proxy.admin_process() != admin, "another admin process")
        wait_for(lambda: len(proxy.admin.get("/tunnels")["tunnels"]) == 1, "those that drain")
        wait_for(lambda: "answer: 1" in proxy.admin.ask("/healthz").text, "the worker")
        assert shown() == [before["id"]]
        said = proxy.admin.ask(f"/tunnels/{before['id']}", "DELETE")
        assert said.json["killed"] == 1, said
        wait_for(lambda: not alive(old), "the end of the old process")
        assert shown() == []
        assert requests(proxy) == 1
        assert worker(proxy)["requests_per_second"] in (None, 0)
        client.close()
        assert proxy.stop() == 0
