"""What operators see of a tunnel that was reset for the name inside TLS."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest
from admin_rig import Admin, NewAdmin
from harness import read_exactly, serving, wait_for
from hellos import MADE

ANOTHER = "evil.example"
"""The name in MADE["another"]."""


def _say(admin: Admin, port: int, said: bytes) -> None:
    with admin.proxy.tunnel("www.localhost", port) as client, contextlib.suppress(ConnectionError):
        client.sendall(said)
        client.recv(1)


def _take(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError, AssertionError):
        read_exactly(connection, 1)


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_mismatch_is_among_the_denials(new_admin: NewAdmin, engine: str) -> None:
    admin = new_admin("--tls-name", "check", "--engine", engine, workers=1)
    with serving(_take) as (_, port), admin.socket() as events:
        token = "Authorization: Bearer 0123456789abcdef-tests"
        events.sendall(f"GET /events HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n".encode())
        heard = b""
        while b": spliceproxy" not in heard:
            heard += events.recv(4096)
        wait_for(lambda: _heard_of(admin, port, events), "an event")
        _say(admin, port, MADE["ssh"].said)
    denials: list[dict[str, str]] = []

    def listed() -> bool:  # who asks gets lists that are a second old at most
        denials[:] = admin.get("/stats.json")["denials"]
        return bool(denials)

    wait_for(listed, "the list")
    for denial in denials:
        assert denial["rule"] == "tls-name"
        assert denial["reason"] == f"The name inside TLS is {ANOTHER}, and not www.localhost."
        assert (denial["method"], denial["target"]) == ("CONNECT", f"www.localhost:{port}")
    metrics = admin.ask("/metrics").text
    assert 'spliceproxy_tls_names_total{result="mismatch",action="refused"} ' in metrics
    assert 'spliceproxy_tls_names_total{result="not-tls",action="passed"} 1' in metrics
    assert 'spliceproxy_tunnels_ended_total{reason="tls-name"} ' in metrics


def _heard_of(admin: Admin, port: int, events: socket.socket) -> bool:
    """Whether an event tells of one more; the workers may not know yet that somebody listens."""
    _say(admin, port, MADE["another"].said)
    events.settimeout(2)
    try:
        text = events.recv(1 << 16).decode()
    except TimeoutError:
        return False
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    told = [json.loads(line.removeprefix("data: ")) for line in lines]
    return any(one["rule"] == "tls-name" and one["reason"] == "tls-name" for one in told)
