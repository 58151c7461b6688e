"""Workers that do not answer: what they cost an answer, how they are named, and how they come
back."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin
from harness import command, stop, wait_for

SLOW = 4.0
"""Seconds, so many more than a silent worker may cost that no machine is too slow for it."""


def health(admin: Admin) -> str:
    return admin.ask("/healthz", token=None).text


def up(admin: Admin) -> dict[str, str]:
    """worker_up of each worker."""
    text = admin.ask("/metrics", token=None).text
    return dict(re.findall(r'spliceproxy_worker_up\{worker="(\d+)"\} (\d)', text))


def timed(admin: Admin, path: str, method: str = "GET") -> Any:
    begun = time.monotonic()
    answer = admin.ask(path, method)
    assert time.monotonic() - begun < SLOW, path
    return answer.json


def ctl(admin: Admin, *arguments: str) -> subprocess.CompletedProcess[str]:
    token = str(admin.proxy.stderr_path.with_name("token"))
    where = ("--admin", f"127.0.0.1:{admin.port}", "--admin-token-file", token)
    return command("ctl", *where, *arguments)


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        stop(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def all_answer(admin: Admin, workers: int) -> None:
    wait_for(lambda: f"answer: {workers}\n" in health(admin), "all workers")


def test_a_stopped_worker_is_named_in_every_answer(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    all_answer(admin, 2)
    wait_for(lambda: up(admin) == {"0": "1", "1": "1"}, "both up")
    assert admin.get("/stats.json")["silent"] == []
    worker = admin.proxy.workers()[1]
    line = f"worker 1 (pid {worker}) does not answer"
    with stopped([worker]):
        for path, method in (
            ("/tunnels", "GET"),
            ("/stats.json", "GET"),
            ("/tunnels?kind=tunnel", "DELETE"),
            ("/log-level?level=info", "POST"),
        ):
            said = timed(admin, path, method)
            assert (said["silent"], said["why"]) == ([1], [line]), path
        assert health(admin) == f"{line}\n"
        assert [one["up"] for one in admin.get("/stats.json")["workers"]] == [True, False]
        assert up(admin) == {"0": "1", "1": "0"}
        answer = admin.ask("/tunnels/0000000000000001")  # whose it is, nobody knows
        assert (answer.status, line in answer.text) == (503, True)
        for verb in ("tunnels", "denials", "failures", "top-users", "workers"):
            done = ctl(admin, verb)
            assert (done.returncode, line in done.stderr) == (1, True), done
            assert done.stdout
    all_answer(admin, 2)
    wait_for(lambda: up(admin) == {"0": "1", "1": "1"}, "both up")
    wait_for(lambda: admin.get("/stats.json")["silent"] == [], "lists that are whole")
    assert ctl(admin, "denials").returncode == 0


def test_it_is_down_also_where_nobody_asks(new_admin: NewAdmin) -> None:
    """/metrics asks no worker, and knows it all the same."""
    admin = new_admin()
    all_answer(admin, 1)
    with stopped(admin.proxy.workers()):
        wait_for(lambda: up(admin) == {"0": "0"}, "it is down")
        assert admin.ask("/readyz", token=None).text == "no worker answers\n"
    wait_for(lambda: up(admin) == {"0": "1"}, "it is up")


def test_many_cost_as_little_as_one(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=6)
    all_answer(admin, 6)
    with stopped(admin.proxy.workers()[:5]):
        assert timed(admin, "/tunnels")["silent"] == [0, 1, 2, 3, 4]
        for _ in range(10):  # and nothing, once they are known
            assert timed(admin, "/stats.json")["silent"] == [0, 1, 2, 3, 4]
    all_answer(admin, 6)


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """This process can open none, whatever it closes meanwhile."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def another_admin(admin: Admin, old: int) -> bool:
    return admin.proxy.admin_process() != old


def test_a_worker_without_a_descriptor_is_met_later(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    all_answer(admin, 2)
    worker = admin.proxy.workers()[0]
    with without_descriptors(worker):
        os.kill(old := admin.proxy.admin_process(), signal.SIGKILL)
        wait_for(lambda: another_admin(admin, old), "another")
        line = f"worker 0 (pid {worker}) cannot be asked yet"
        wait_for(lambda: health(admin) == f"ok: workers that answer: 1; {line}\n", "its name")
        said = timed(admin, "/tunnels")
        assert (said["silent"], said["why"]) == ([0], [line])
        assert admin.get("/stats.json")["silent"] == [0]
        told = "worker 0 may open no more descriptors, so nobody can ask worker 0 for now"
        wait_for(lambda: told in admin.proxy.stderr(), "the message")
    all_answer(admin, 2)
    assert admin.get("/tunnels")["silent"] == []
    assert admin.proxy.stderr().count("may open no more") == 1


def test_nor_is_it_forgotten_where_the_admin_process_has_none(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    all_answer(admin, 2)
    old = admin.proxy.workers()
    with without_descriptors(admin.proxy.admin_process()):
        os.kill(old[0], signal.SIGKILL)
        told = "admin process may open no more descriptors, so nobody can ask worker 0 for now"
        wait_for(lambda: told in admin.proxy.stderr(), "the message")
    all_answer(admin, 2)


def test_one_that_has_ended_is_named_until_another_answers(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    all_answer(admin, 2)
    # The next starts need a descriptor for each channel.
    with without_descriptors(admin.proxy.process.pid):
        os.kill(admin.proxy.workers()[1], signal.SIGKILL)
        wait_for(lambda: "worker 1 does not run" in health(admin), "its name")
        assert timed(admin, "/tunnels")["silent"] == [1]
    all_answer(admin, 2)


LATE = """
from spliceproxy.processes import supervisor
supervisor.LOAD_SECONDS, supervisor.LOAD_AGAIN_SECONDS = 1e9, 0.1
"""


def test_a_supervisor_without_a_descriptor_loads_the_rest_later(
    new_admin: NewAdmin, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    admin = new_admin(env={"PYTHONPATH": str(tmp_path)})
    all_answer(admin, 1)
    with without_descriptors(admin.proxy.process.pid):
        answer = admin.ask("/recycle", "POST")
        assert (answer.status, "Too many open files" in answer.text) == (409, True), answer
        admin.proxy.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "no upgrade: what it needs" in admin.proxy.stderr(), "the message")
    wait_for(lambda: admin.ask("/recycle", "POST").status == 200, "another worker")


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_has_drained_is_not_missed(new_admin: NewAdmin, workers: int) -> None:
    admin = new_admin("--drain-delay", "1", workers=workers)
    all_answer(admin, workers)
    assert admin.ask("/drain", "POST").status == 202
    said = admin.get("/tunnels")
    assert (said["silent"], said["why"]) == ([], [])
    assert admin.proxy.process.wait(20) == 0
