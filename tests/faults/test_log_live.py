"""Lines about tunnels that live (--log-live), on the lane and on Python's road."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import accept, connect_request, good_request, head
from harness import ProxyProcess, wait_for
from json_lines import LINE

from spliceproxy.observe.stalled import BRIEF

NewProxy = Callable[..., ProxyProcess]
MINE = "%{event}json %{id}json %rm %ru %>st %<st %{termination}json"


def lines_of(proxy: ProxyProcess, form: str) -> list[dict[str, str | int | None]]:
    found = []
    for line in proxy.access():
        if form == "json":
            found.append(json.loads(line))
            LINE.validate(found[-1])
            found[-1]["in"] = found[-1]["in_copied"] + found[-1]["in_spliced"]
            found[-1]["out"] = found[-1]["out_copied"] + found[-1]["out_spliced"]
        else:
            event, ident, method, target, got, sent, termination = line.split()
            found.append({"event": event, "id": ident, "method": method, "target": target,
                          "in": int(got), "out": int(sent),
                          "termination": None if termination == "-" else termination})  # fmt: skip
    return found


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize("form", ["json", MINE], ids=["json", "own"])
def test_a_tunnel_that_lives(
    new_proxy: NewProxy, origin: socket.socket, engine: str, form: str
) -> None:
    """It has a line at its start, one every so often with what has moved so far, and one at its
    end. Requests have theirs alone."""
    proxy = new_proxy("--engine", engine, "--log-format", form, "--log-live", "0.5")
    asked = connect_request(origin.getsockname())
    with proxy.connect() as client:
        client.sendall(asked)
        with accept(origin) as server:
            answer = head(client)
            proxy.wait_access(2)  # of a tunnel without a byte
            client.sendall(b"x" * 1000)
            assert len(server.recv(1000, socket.MSG_WAITALL)) == 1000
            count = len(proxy.access())
            proxy.wait_access(count + 2)
            good_request(proxy, origin)
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
    wait_for(
        lambda: sum(line["event"] == "end" for line in lines_of(proxy, form)) == 2, "both ends"
    )
    lines = lines_of(proxy, form)
    tunnel = [line for line in lines if line["method"] == "CONNECT"]
    (request,) = [line for line in lines if line["method"] != "CONNECT"]
    assert (request["event"], request["termination"]) == ("end", "--")
    assert len({line["id"] for line in tunnel}) == 1
    assert request["id"] != tunnel[0]["id"]
    events = [line["event"] for line in tunnel]
    assert events == ["start", *["live"] * (len(tunnel) - 2), "end"]
    assert len(events) >= 5
    assert [line["termination"] for line in tunnel] == [None] * (len(tunnel) - 1) + ["--"]
    got = [line["in"] for line in tunnel]
    assert (got[0], got[1], got[-2], got[-1]) == (
        len(asked), len(asked), len(asked) + 1000, len(asked) + 1000,
    )  # fmt: skip
    assert {line["out"] for line in tunnel} == {len(answer)}


@pytest.mark.parametrize(
    ("engine", "road"), [("native", "lane"), ("native", "Python"), ("copy", "Python")]
)
def test_what_was_found_inside(
    new_proxy: NewProxy, origin: socket.socket, engine: str, road: str, tmp_path: Path
) -> None:
    """Of the name inside TLS, as soon as it is known."""
    flags = ["--tls-name", "check", "--guard", "off", "--log-format", "json", "--log-live", "0.3"]
    if road == "Python":  # where the lane gives what has a rate of its own
        function = tmp_path / "paced.py"
        function.write_text(
            "from spliceproxy.policy import Allow\n"
            "def authorize(request):\n"
            "    return Allow(rate='1GB')\n"
        )
        flags += ["--policy", str(function)]
    proxy = new_proxy("--engine", engine, *flags)
    with proxy.tunnel("localhost", origin.getsockname()[1]) as client, accept(origin) as server:
        client.sendall(b"this is no TLS")
        assert server.recv(100)
        begun = len(proxy.access())
        proxy.wait_access(begun + 2)
        assert json.loads(proxy.access()[0])["tls_name"] is None
        assert json.loads(proxy.access()[begun + 1])["tls_name"] == "not-tls"


@pytest.mark.parametrize("form", ["native", "squid", "common", "combined", "%ts %>a %rm"])
def test_lines_that_cannot_say_what_they_are(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--log-format", form, "--log-live", "1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--log-live 1: " in done.stderr
    assert form in done.stderr


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_of_a_brief_tunnel_the_kernel_is_not_asked(
    new_proxy: NewProxy, origin: socket.socket, engine: str
) -> None:
    proxy = new_proxy("--engine", engine, "--log-format", "json")
    for seconds in (0.0, 1.5 * BRIEF):
        with proxy.connect() as client:
            client.sendall(connect_request(origin.getsockname()))
            with accept(origin):
                begun = time.monotonic()
                head(client)
                wait_for(lambda: time.monotonic() >= begun + seconds, "its time")  # noqa: B023
    for line in map(json.loads, proxy.wait_access(2)):
        for leg in ("client_tcp", "origin_tcp"):
            assert (line[leg] is None) == (line["total_us"] < BRIEF * 1e6), line
    assert line["client_tcp"]["rtt_us"] >= 0
