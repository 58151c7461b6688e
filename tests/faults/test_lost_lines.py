"""Lines of the access log that a worker had not written when it was killed: they are counted, and
told, whoever made them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from counting_load import board_of
from harness import ProxyProcess, read_exactly, read_head, serving, wait_for

NewProxy = Callable[..., ProxyProcess]

LATE = """
import spliceproxy.observe.accesslog as log

log.FLUSH_SECONDS = 3600.0  # nothing is written by itself
"""


def answer(s: object) -> None:
    while read_head(s):  # type: ignore[arg-type]
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [[], ["--engine", "copy"], ["--log-format", "common"]])
@pytest.mark.parametrize("count", [7, 700])
def test_those_of_a_killed_worker(
    new_proxy: NewProxy, tmp_path: Path, options: list[str], count: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    proxy = new_proxy(*options, env={"PYTHONPATH": path})
    board = board_of(proxy.process.pid)

    def totals(name: str, *labels: str) -> int:
        return board.totals()[name][labels]

    with serving(answer) as (host, port), proxy.connect() as s:
        for _ in range(count):
            s.sendall(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b" 200 " in read_head(s)
            assert read_exactly(s, 2) == b"ok"
        wait_for(lambda: totals("log_lines") == count, "all lines")
        wait_for(lambda: totals("log_lines_waiting", "access") == 0, "the thread")
        os.kill(old := proxy.worker, signal.SIGKILL)
    wait_for(lambda: proxy.workers() not in ([], [old]), "another worker")
    written = len(proxy.access())
    lost = count - written
    assert written == totals("log_lines_written")
    assert lost == totals("log_lines_lost", "access", "ended")
    assert lost > 0
    if count == 7:
        assert lost == count
    found = re.search(r"(\d+) lines of the access log were lost: their worker", proxy.stderr())
    assert found is not None
    assert int(found[1]) == lost


def test_nothing_is_lost_where_it_ends_in_order(new_proxy: NewProxy, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    proxy = new_proxy(env={"PYTHONPATH": path})
    with serving(answer) as (host, port), proxy.connect() as s:
        s.sendall(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_head(s)
    assert proxy.stop() == 0
    assert len(proxy.access()) == 1
    assert "lost" not in proxy.stderr()
