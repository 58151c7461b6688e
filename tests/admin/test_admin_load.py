"""What goes on at the admin address while clients are served costs none of them an answer, and the
counters are what the clients have counted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from admin_rig import Admin, NewAdmin
from harness import wait_for
from steady_load import SteadyLoad, steady_load

SCRAPES = 100
"""As many as there are to be in a second."""


def scraped(admin: Admin, load: SteadyLoad) -> None:
    """A hundred scrapes, one every hundredth of a second where there is time for that. No counter
    goes back from one to the next."""
    before: dict[str, float] = {}
    begun = time.monotonic()
    for number in range(SCRAPES):
        time.sleep(max(0.0, begun + number / SCRAPES - time.monotonic()))
        answer = admin.ask("/metrics")
        assert answer.status == 200
        now = {
            name: float(value)
            for name, value in re.findall(
                r"^(\S+_(?:total|count|bucket)\S*) (\S+)$", answer.text, re.M
            )
        }
        assert {name for name, value in before.items() if now[name] < value} == set()
        before = now
    print(f"{SCRAPES} scrapes in {time.monotonic() - begun:.2f} s")


def killed(admin: Admin, load: SteadyLoad) -> None:
    """The admin process, three times; what was counted before is still known."""
    for _ in range(3):
        pid = admin.proxy.admin_process()
        os.kill(pid, signal.SIGKILL)
        load.goes_on()
        wait_for(lambda pid=pid: admin.proxy.admin_process() != pid, "another one")  # type: ignore[misc]
        assert admin.ask("/metrics").status == 200


def stopped(admin: Admin, load: SteadyLoad) -> None:
    """It does nothing any more, and many want to know something of it."""
    pid = admin.proxy.admin_process()
    os.kill(pid, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(64):
                one = stack.enter_context(admin.socket())
                one.sendall(b"GET /tunnels HTTP/1.1\r\nHost: localhost\r\n\r\n")
            load.goes_on(100)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: admin.ask("/readyz").status == 200, "that it goes on")


def listed(admin: Admin, load: SteadyLoad) -> None:
    """Several ask for all there is, again and again, and go before they have it."""
    for number in range(40):
        with admin.socket() as one:
            path = ("/tunnels", "/stats.json", "/config", "/")[number % 4]
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if number % 2:
                one.recv(1)
    load.goes_on()
    assert len(admin.get("/tunnels")["tunnels"]) >= 1  # the tunnel of the load


Fault = Callable[[Admin, SteadyLoad], None]


@pytest.fixture
def admin(new_admin: NewAdmin) -> Iterator[Admin]:
    made = new_admin("--access-log", "off", unix=True, workers=2)
    wait_for(lambda: "answer: 2" in made.ask("/healthz").text, "both workers")
    yield made
    assert made.proxy.stop() == 0


@pytest.mark.parametrize("fault", [scraped, killed, stopped, listed])
def test_it_costs_no_client_an_answer(admin: Admin, fault: Fault) -> None:
    with steady_load(admin.proxy, clients=4) as load:
        fault(admin, load)
        load.goes_on()
    wanted = load.requests

    def counted() -> bool:
        text = admin.ask("/metrics").text
        found = re.search(
            r'^spliceproxy_requests_total{method="GET",status="2xx"} (\d+)', text, re.M
        )
        return found is not None and int(found[1]) == wanted

    wait_for(counted, f"{wanted} requests")
