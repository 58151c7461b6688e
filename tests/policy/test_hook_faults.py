"""Functions of --policy that go wrong in a real proxy: each costs one request its answer, and
nobody else anything."""

from __future__ import annotations

import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import wait_for
from policy_rig import Answer, Origins, ask, connect, get, world

HOOK = """
import asyncio, sys, time
from spliceproxy.policy import Allow, Deny

async def swallow():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def wrong(what):
    if what == "cancelled":
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
    if what == "task":
        task = asyncio.ensure_future(asyncio.sleep(3600))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
    if what == "exit":
        sys.exit(3)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "status":
        return Deny("no", status=403.5)
    if what == "object":
        return Deny(object())
    if what == "swallow":
        await swallow()
    if what == "nested":
        await asyncio.gather(swallow(), swallow())
    if what == "itself":
        asyncio.current_task().cancel()
        await asyncio.sleep(3600)
    if what == "timeout":
        async with asyncio.timeout(0.01):  # cancels the task, and waits for an end that never comes
            await swallow()
    if what == "hold":
        time.sleep(0.5)
    return Allow()

def authorize(request):
    what, _, when = request.host.removesuffix(".test").partition("-")
    if when == "later":
        async def later():
            await asyncio.sleep(0.001)
            return await wrong(what)
        return later()
    if what == "exit":
        sys.exit(3)
    return wrong(what)

def on_close(record):
    if record.host.startswith("exit"):
        sys.exit(4)
    if record.host.startswith("interrupt"):
        raise KeyboardInterrupt
"""

FAULTS = [
    *("cancelled", "task", "exit", "interrupt", "status", "object", "swallow", "nested", "itself"),
    *(["timeout"] if sys.version_info >= (3, 11) else []),
]
HOSTS = [f"{fault}{when}.test" for fault in FAULTS for when in ("", "-later")]


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_function_that_goes_wrong(tmp_path: Path, engine: str) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1")
        made.names.zone.update({host: [["127.0.0.1"]] for host in (*HOSTS, "good.test")})
        (tmp_path / "hook.py").write_text(HOOK)
        config = tmp_path / "config.toml"
        config.write_text("policy-timeout = 0.3\n")
        proxy = made.proxy(
            "--config", str(config), "--policy", str(tmp_path / "hook.py"), "--engine", engine
        )
        worker = proxy.workers()
        with proxy.tunnel("good.test", origins.port) as tunnel:
            for host in HOSTS:
                before = time.monotonic()
                for make in (get, connect):
                    answer = ask(proxy, make(host, origins.port))
                    assert (answer.status, answer.error) == (500, "proxy_internal_error"), host
                assert time.monotonic() - before < 15
                assert ask(proxy, get("good.test", origins.port)).status == 200
            # The tunnel of before is there, so the worker is, too.
            tunnel.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert Answer(tunnel).status == 200
        assert proxy.workers() == worker
        lines = proxy.wait_access(3 * len(HOSTS) + 1)
        assert sum(" NONE/500 " in line for line in lines) == 2 * len(HOSTS)
        assert sum(" TCP_MISS/200 " in line for line in lines) == len(HOSTS)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(30) == 0
        text = proxy.stderr()
        proxy.stderr_path.write_text("")  # their tracebacks are meant to be there
    assert "Task exception was never retrieved" not in text
    assert "Task was destroyed" not in text
    for words in (
        "SystemExit: 3",
        "SystemExit: 4",
        "KeyboardInterrupt",
        "TypeError: Deny: status 403.5; allowed: a whole number from 400 to 599, not 407",
        "TypeError: Deny: reason <object object at",
        "authorize took more than 0.3 s",
        "it has awaited something that was cancelled",
    ):
        assert words in text, words


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_the_end_waits_for_no_function(tmp_path: Path, engine: str) -> None:
    """One that swallows its cancellation has had the worker killed, and the log's lines lost."""
    if sys.version_info < (3, 11):
        pytest.skip("whether a task is still cancelled is known since Python 3.11")
    with world(tmp_path) as made, ExitStack() as stack:
        made.names.zone.update({f"{what}.test": [["127.0.0.1"]] for what in ("swallow", "nested")})
        log = tmp_path / "called"
        slow = "\nasync def on_close(record):\n    await swallow()\n"
        told = f"    open({str(log)!r}, 'a').write('x')\n    await old()\n"
        entered = f"\nasync def swallow(old=swallow):\n{told}"
        (tmp_path / "hook.py").write_text(HOOK + entered + slow)
        config = tmp_path / "config.toml"
        config.write_text("policy-timeout = 600\ntimeout-drain = 0.2\n")
        proxy = made.proxy(
            "--config", str(config), "--policy", str(tmp_path / "hook.py"), "--engine", engine
        )
        for host in ("swallow.test", "nested.test"):
            for make in (get, connect):
                s = stack.enter_context(proxy.connect())
                s.sendall(make(host, 1).encode())
        ask(proxy, get("status.test", 1))
        wait_for(lambda: log.exists() and len(log.read_text()) >= 7, "the calls")
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(30) == 0
        text = proxy.stderr()
        assert len(proxy.access()) == 5
        proxy.stderr_path.write_text("")
    assert "did not end in time" not in text
    assert "was never awaited" not in text


def test_a_function_that_holds_the_loop(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1")
        made.names.zone["hold-later.test"] = [["127.0.0.1"]]
        (tmp_path / "hook.py").write_text(HOOK)
        proxy = made.proxy("--policy", str(tmp_path / "hook.py"))
        for _ in range(2):
            assert ask(proxy, get("hold-later.test", origins.port)).status == 200
        wait_for(lambda: "held the event loop" in proxy.stderr(), "the message")
        proxy.stop()
        (seconds,) = re.findall(r"authorize held the event loop for (\d\.\d) s,", proxy.stderr())
        assert 0.4 < float(seconds) < 3
