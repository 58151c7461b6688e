"""/healthz and /readyz, and the life of the admin process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest
from admin_rig import Admin, NewAdmin
from harness import Nginx, alive, descriptors, read_all, read_head, serving, wait_for


def test_a_proxy_that_serves(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    wait_for(lambda: admin.ask("/healthz", token=None).status == 200, "health")
    assert admin.ask("/healthz", token=None).text == "ok: workers that answer: 2\n"
    assert admin.ask("/readyz", token=None).text == "ready\n"
    assert admin.ask("/readyz", "HEAD", token=None).body == b""


def healthy(admin: Admin) -> None:
    wait_for(lambda: admin.ask("/healthz", token=None).status == 200, "health")


def test_a_worker_that_is_stopped_makes_it_ill(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    healthy(admin)
    worker = admin.proxy.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        answer = admin.ask("/healthz", token=None)
        assert answer.status == 503
        assert f"(pid {worker}) does not answer" in answer.text
        assert time.monotonic() - begun < 5
        assert admin.ask("/readyz", token=None).status == 200  # the other one serves
    finally:
        os.kill(worker, signal.SIGCONT)
    healthy(admin)


def test_a_worker_that_was_killed_is_met_again(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    healthy(admin)
    old = admin.proxy.workers()
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: len(set(admin.proxy.workers()) - set(old)) == 1, "another worker")
    wait_for(lambda: "answer: 2" in admin.ask("/healthz", token=None).text, "both workers")


def test_the_admin_process_may_be_killed_under_load(new_admin: NewAdmin, nginx: Nginx) -> None:
    admin = new_admin(workers=2)
    healthy(admin)
    (nginx.www / "a.txt").write_text("hello")
    ended = threading.Event()
    served = [0]
    failed: list[object] = []

    def load() -> None:
        request = f"GET {nginx.url}/a.txt HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with admin.proxy.connect() as s:
            while not ended.is_set():
                s.sendall(request)
                head = read_head(s)
                if b" 200 " not in head or s.recv(5, 0x100) != b"hello":
                    failed.append(head)
                    return
                served[0] += 1

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        killed = []
        for _ in range(3):
            pid = admin.proxy.admin_process()
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            before = served[0]
            wait_for(lambda pid=pid: admin.proxy.admin_process() != pid, "another one")  # type: ignore[misc]
            healthy(admin)
            wait_for(lambda before=before: served[0] > before + 20, "load")  # type: ignore[misc]
        assert "answer: 2" in admin.ask("/healthz", token=None).text
    finally:
        ended.set()
        for client in clients:
            client.join()
    assert not failed
    assert admin.proxy.stderr().count("starting another") == 3
    assert admin.proxy.stop() == 0


def test_it_holds_no_socket_of_the_proxy(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2, listen=("127.0.0.1:0", "127.0.0.1:0"))
    healthy(admin)
    own = kernel_objects(admin.proxy.admin_process())
    for worker in admin.proxy.workers():
        assert not own & kernel_objects(worker)


def kernel_objects(pid: int) -> set[str]:
    """The sockets and pipes that a process has open."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_supervisor(new_admin: NewAdmin, how: signal.Signals) -> None:
    admin = new_admin()
    pid = admin.proxy.admin_process()
    workers = admin.proxy.workers()
    admin.proxy.process.send_signal(how)
    admin.proxy.process.wait(20)
    wait_for(lambda: not alive(pid), "its end")
    wait_for(lambda: not any(map(alive, workers)), "the end of the workers")


def test_it_ignores_what_the_whole_group_gets(new_admin: NewAdmin) -> None:
    admin = new_admin()
    healthy(admin)
    pid = admin.proxy.admin_process()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
        os.kill(pid, number)
    assert admin.ask("/healthz", token=None).status == 200
    assert admin.proxy.admin_process() == pid


def test_one_that_is_stopped_holds_up_nothing(new_admin: NewAdmin) -> None:
    """Nobody waits for it: neither the workers that are born meanwhile, nor the end."""
    admin = new_admin(workers=2)
    healthy(admin)
    os.kill(admin.proxy.admin_process(), signal.SIGSTOP)
    with serving(lambda s: s.sendall(read_head(s))) as origin:
        for _ in range(5):
            old = admin.proxy.workers()
            os.kill(old[0], signal.SIGKILL)
            wait_for(lambda old=old: len(set(admin.proxy.workers()) - {old[0]}) == 2, "a worker")  # type: ignore[misc]
        with admin.proxy.tunnel(*origin) as s:
            s.sendall(b"x\r\n\r\n")
            assert read_all(s) == b"x\r\n\r\n"
    assert admin.proxy.stop() == 0


def test_draining_shows_first_in_readyz(new_admin: NewAdmin) -> None:
    admin = new_admin("--drain-delay", "1.5")
    healthy(admin)
    admin.proxy.process.send_signal(signal.SIGTERM)
    wait_for(lambda: admin.ask("/readyz", token=None).status == 503, "draining")
    assert admin.ask("/readyz", token=None).text == "draining\n"
    assert admin.ask("/healthz", token=None).status == 200
    with serving(lambda s: s.sendall(read_head(s))) as origin, admin.proxy.tunnel(*origin) as s:
        # New clients are still welcome; this one stays for as long as it may.
        wait_for(lambda: "draining in 1.5 s, for at most 8 s" in admin.proxy.stderr(), "the word")
        wait_for(lambda: _refuses(admin), "the end of the delay")
        assert admin.ask("/readyz", token=None).status == 503
        os.kill(admin.proxy.admin_process(), signal.SIGKILL)
        wait_for(lambda: _status(admin) == 503, "another that knows of it")
        s.sendall(b"x\r\n\r\n")
        assert read_all(s) == b"x\r\n\r\n"
    assert admin.proxy.process.wait(20) == 0


def test_a_second_signal_ends_the_delay(new_admin: NewAdmin) -> None:
    admin = new_admin("--drain-delay", "3600")
    admin.proxy.process.send_signal(signal.SIGTERM)
    wait_for(lambda: admin.ask("/readyz", token=None).status == 503, "draining")
    time.sleep(0.3)  # within a quarter of a second two signals are one
    admin.proxy.process.send_signal(signal.SIGTERM)
    assert admin.proxy.process.wait(20) == 128 + signal.SIGTERM


def test_a_worker_that_dies_in_the_delay_is_replaced(new_admin: NewAdmin) -> None:
    admin = new_admin("--drain-delay", "3600")
    admin.proxy.process.send_signal(signal.SIGTERM)
    wait_for(lambda: admin.ask("/readyz", token=None).status == 503, "draining")
    old = admin.proxy.worker
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: admin.proxy.workers() not in ([], [old]), "another")
    with serving(lambda s: s.sendall(read_head(s))) as origin, admin.proxy.tunnel(*origin) as s:
        s.sendall(b"x\r\n\r\n")
        assert read_all(s) == b"x\r\n\r\n"


def test_channels_and_descriptors_do_not_add_up(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    healthy(admin)
    pid = admin.proxy.process.pid
    wait_for(lambda: "answer: 2" in admin.ask("/healthz", token=None).text, "both")
    before = descriptors(pid), [descriptors(one) for one in admin.proxy.workers()]
    for _ in range(3):
        os.kill(old := admin.proxy.admin_process(), signal.SIGKILL)
        wait_for(lambda old=old: admin.proxy.admin_process() != old, "another")  # type: ignore[misc]
        wait_for(lambda: "answer: 2" in admin.ask("/healthz", token=None).text, "both")
    wait_for(
        lambda: (descriptors(pid), [descriptors(one) for one in admin.proxy.workers()]) == before,
        "the same descriptors",
    )


def _status(admin: Admin) -> int:
    try:
        return admin.ask("/readyz", token=None).status
    except OSError:
        return 0


def _refuses(admin: Admin) -> bool:
    try:
        admin.proxy.connect().close()
    except ConnectionRefusedError:
        return True
    return False
