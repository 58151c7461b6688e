"""POST /drain and /log-level, and GET /events."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from admin_rig import TOKEN, Admin, NewAdmin
from harness import Nginx, read_all, read_head, serving, wait_for
from steady_load import steady_load

from spliceproxy.admin.events import FIELDS

CLOSE = "Host: x\r\nConnection: close\r\n\r\n"
LISTEN = (
    f"GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
)


class Events:
    """A listener. Iterating over it gives (kind, data)."""

    def __init__(self, admin: Admin, query: str = "") -> None:
        self._connection = admin.connection()
        self._connection.request(
            "GET", f"/events{query}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert self._answer.readline() == b": spliceproxy\n"

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, object]]]:
        kind = ""
        while line := self._answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                event = json.loads(value)
                assert set(event) == {"time", *FIELDS[kind]}, event  # as docs/admin.md has it
                yield kind, event

    def next(self, wanted: str) -> dict[str, object]:
        """The next event of this kind."""
        return next(data for kind, data in self if kind == wanted)


def test_drain(new_admin: NewAdmin) -> None:
    admin = new_admin("--drain-delay", "0.5")
    with closing(Events(admin)) as events:
        assert admin.ask("/drain", "POST").json == {"draining": True, "before": False}
        assert events.next("state")["state"] == "draining"
        again = admin.ask("/drain", "POST")
        assert (again.status, again.json) == (202, {"draining": True, "before": True})
        assert admin.ask("/readyz").status == 503
        # A stop signal is the second request to stop, and ends it at once.
        assert admin.proxy.process.wait(20) == 0
    assert "an operator: draining in 0.5 s" in admin.proxy.stderr()


def test_a_request_that_is_open_ends_in_peace(new_admin: NewAdmin) -> None:
    admin = new_admin()
    with serving(lambda s: s.sendall(read_head(s))) as origin, admin.proxy.tunnel(*origin) as s:
        assert admin.ask("/drain", "POST").status == 202
        s.sendall(b"x\r\n\r\n")
        assert read_all(s) == b"x\r\n\r\n"
    assert admin.proxy.process.wait(20) == 0


def test_log_level(new_admin: NewAdmin, nginx: Nginx) -> None:
    """The lane, which has a route by then, gives every request back for as long as it is traced."""
    admin = new_admin(workers=2)
    (nginx.www / "a.txt").write_text("hello")
    traced = lambda: len(re.findall(r"DEBUG #\d+ head GET", admin.proxy.stderr()))  # noqa: E731

    def fetch(times: int) -> None:
        for _ in range(times):
            with admin.proxy.connect() as s:
                s.sendall(f"GET {nginx.url}/a.txt HTTP/1.1\r\n{CLOSE}".encode())
                assert read_all(s).endswith(b"hello")

    fetch(8)
    assert traced() == 0
    assert admin.get("/log-level") == {"level": "info"}
    for _ in range(2):
        assert admin.ask("/log-level", "POST", b'{"level": "debug"}').json["silent"] == []
        before = traced()
        fetch(8)
        wait_for(lambda before=before: traced() == before + 8, "eight traces")  # type: ignore[misc]
        os.kill(admin.proxy.workers()[0], signal.SIGKILL)  # the next one knows, too
        wait_for(lambda: len(admin.proxy.workers()) == 2, "another worker")
        fetch(8)
        wait_for(lambda before=before: traced() == before + 16, "eight more")  # type: ignore[misc]
        answer = admin.ask("/log-level?level=info", "POST")
        assert answer.json == {"level": "info", "before": "debug", "silent": [], "why": []}
        before = traced()
        fetch(8)
        assert traced() == before
    answer = admin.ask("/log-level?level=loud", "POST")
    assert (answer.status, answer.text) == (
        400,
        "level: 'loud'; allowed: debug, info, warning, error\n",
    )


def test_events_of_requests(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    with closing(Events(admin, "?kinds=denied,failed,worker")) as events:
        _ask(admin, "GET http://169.254.169.254/x HTTP/1.1\r\nHost: h\r\n\r\n")
        denied = events.next("denied")
        assert denied["target"] == "http://169.254.169.254/x"
        assert (denied["rule"], denied["status"], denied["client"]) == ("guard", 403, "127.0.0.1")
        assert "link-local" in str(denied["why"])
        with socket.socket() as refused:
            refused.bind(("127.0.0.1", 0))
            port = refused.getsockname()[1]
            _ask(admin, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: h\r\n\r\n")
        failed = events.next("failed")
        assert (failed["error"], failed["target"]) == ("connection_refused", f"127.0.0.1:{port}")
        assert failed["where"] == f"127.0.0.1:{port}"
        assert failed["why"]
        old = admin.proxy.workers()[0]
        os.kill(old, signal.SIGKILL)
        gone = events.next("worker")
        assert (gone["what"], gone["pid"], gone["how"]) == ("ended", old, "ended by SIGKILL")
        came = events.next("worker")
        assert (came["what"], came["index"], came["how"]) == ("started", gone["index"], "")
        # Whoever has answered this knows that somebody listens.
        wait_for(lambda: "answer: 2" in admin.ask("/healthz").text, "both")
        for _ in range(8):  # the new one tells as well
            _ask(admin, "GET http://169.254.169.254/y HTTP/1.1\r\nHost: h\r\n\r\n")
            assert events.next("denied")["target"] == "http://169.254.169.254/y"


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_each_kind_of_refusal_says_why(new_admin: NewAdmin, engine: str, tmp_path: Path) -> None:
    """A password that is missing is a denial, as in the numbers; its number is that of the log."""
    log = tmp_path / "log"
    admin = new_admin(
        *("--auth", "ada:word", "--engine", engine),
        *("--log-format", "json", "--access-log", str(log)),
    )
    right = "Proxy-Authorization: Basic YWRhOndvcmQ=\r\n"
    asked = {
        f"GET http://h/ HTTP/1.1\r\n{CLOSE}": ("denied", "http_request_denied"),
        f"GET http://h..h/ HTTP/1.1\r\n{right}{CLOSE}": ("failed", "dns_error"),
        f"GET ftp://h/ HTTP/1.1\r\n{right}{CLOSE}": ("failed", "http_request_error"),
        f"GET /\r\n{CLOSE}": ("failed", "http_request_error"),
    }
    with closing(Events(admin)) as events:
        each = iter(events)
        for head, wanted in asked.items():
            _ask(admin, head)
            kind, event = next(each)
            assert (kind, event["error"]) == wanted
            assert event["why"], event
            with_line(log, str(event["id"]))


def with_line(log: Path, ident: str) -> None:
    """Waits for a line of this number."""
    wait_for(lambda: f'"id":"{ident}"' in log.read_text(), f"the line of {ident}")


def test_events_have_no_query_where_the_log_has_none(new_admin: NewAdmin, tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("log-query = false\n")
    admin = new_admin("--config", str(config))
    with closing(Events(admin)) as events:
        for where in ("http://169.254.169.254/?secret", "ftp://h/?secret"):
            _ask(admin, f"GET {where} HTTP/1.1\r\n{CLOSE}")
            _, event = next(iter(events))
            assert "secret" not in str(event)
            assert event["why"]


def _ask(admin: Admin, text: str) -> bytes:
    with admin.proxy.connect() as s:
        s.sendall(text.encode("latin-1"))
        return read_head(s)


@pytest.mark.parametrize("target", ["/%0a%0aevent:%20fake", "/\xff\xfe", "/<script>", '/"}'])
def test_hostile_requests_make_no_event_of_their_own(new_admin: NewAdmin, target: str) -> None:
    admin = new_admin()
    with closing(Events(admin, "?kinds=denied")) as events:
        _ask(admin, f"GET http://169.254.169.254{target} HTTP/1.1\r\nHost: h\r\n\r\n")
        kind, data = next(iter(events))
        assert kind == "denied"
        assert str(data["target"]).startswith("http://169.254.169.254/")


def test_a_listener_that_stops_is_cut_off(new_admin: NewAdmin) -> None:
    admin = new_admin("--access-log", "off", workers=2)
    with admin.socket() as silent, closing(Events(admin, "?kinds=worker,state")) as events:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.sendall(LISTEN)
        assert b" 200 " in read_head(silent)
        ended = threading.Event()

        def deny() -> None:
            text = f"GET http://169.254.169.254/{'x' * 4000} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            with admin.proxy.connect() as s:
                while not ended.is_set():
                    s.sendall(text)
                    head = read_head(s)
                    length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
                    s.recv(length, socket.MSG_WAITALL)

        client = threading.Thread(target=deny)
        client.start()
        try:
            with steady_load(admin.proxy) as load:
                wait_for(lambda: "does not read, and was cut off" in admin.proxy.stderr(), "it", 60)
                load.goes_on()
        finally:
            ended.set()
            client.join()
        assert admin.ask("/drain", "POST").status == 202
        assert events.next("state")["state"] == "draining"  # the other one goes on


def test_listeners_are_bounded_and_leave(new_admin: NewAdmin) -> None:
    admin = new_admin()
    assert admin.ask("/events?kinds=gossip").status == 400
    for _ in range(3):
        held = [Events(admin) for _ in range(16)]
        assert admin.ask("/events").status == 503
        for one in held:
            one.close()
        wait_for(lambda: _may_listen(admin), "their places")


def _may_listen(admin: Admin) -> bool:
    with admin.socket() as s:
        s.sendall(LISTEN)
        return b" 200 " in read_head(s)
