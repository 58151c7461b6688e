"""Rules, users and the hook in a real proxy: what clients are answered, and what is logged."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import ProxyProcess, read_all, read_head, serving, wait_for
from policy_rig import ANSWERS, Answer, allowing, ask, connect, get

from spliceproxy.settings.table import BY_NAME

NewProxy = Callable[..., ProxyProcess]

RULES = """
guard-allow = ["127.0.0.1"]

[[rule]]
id = "no-metadata"
action = "deny"
hosts = ["*.internal", "169.254.169.254"]

[[rule]]
id = "office-hours"
action = "deny"
hosts = ["localhost"]
report-only = true

[[rule]]
id = "no-post"
action = "deny"
methods = ["POST"]

[[rule]]
id = "gone"
action = "deny"
hosts = [".gone.test"]
status = 451

[[rule]]
id = "no-doors"
action = "deny"
networks = ["127.0.0.66"]
"""


HOWEVER_ASKED = pytest.mark.parametrize("answers", ANSWERS)
"""Also with a function that is asked and says yes, at once or after a while."""


def answering(s: socket.socket) -> None:
    """An origin that says who is asking."""
    peer = s.getpeername()[0].encode()
    while read_head(s):
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(peer), peer))


def configured(folder: Path, new_proxy: NewProxy, text: str, *args: str) -> ProxyProcess:
    path = folder / "config.toml"
    path.write_text(text)
    return new_proxy("--config", str(path), *args)


@HOWEVER_ASKED
def test_a_denial(tmp_path: Path, new_proxy: NewProxy, answers: str) -> None:
    proxy = configured(tmp_path, new_proxy, RULES, *allowing(answers, tmp_path))
    with proxy.connect() as s:
        s.sendall(get("metadata.google.internal", 80).encode())
        answer = Answer(s)
        assert answer.status == 403
        assert answer.fields["proxy-status"] == (
            'spliceproxy; error=http_request_denied; details="rule no-metadata"'
        )
        assert answer.fields["content-type"] == "text/plain; charset=utf-8"
        assert b"Rule: no-metadata\n" in answer.body
        # The connection goes on.
        request = get("169.254.169.254", 80)[:-2] + "Accept: application/json\r\n\r\n"
        s.sendall(request.encode())
        assert json.loads(Answer(s).body)["rule"] == "no-metadata"
        s.sendall(b"HEAD http://a.internal/ HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n")
        answer = Answer(s, head_only=True)
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        s.sendall(b"POST http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
        answer = Answer(s)
        assert answer.fields["proxy-status"].endswith('details="rule no-post"')
        assert answer.fields["connection"] == "close"  # a body is not read to be refused
    lines = proxy.wait_access(4)
    assert all(" TCP_DENIED/403 " in line for line in lines)
    assert [line.split()[10] for line in lines] == ["rule=no-metadata"] * 3 + ["rule=no-post"]


def test_the_status_of_a_rule(tmp_path: Path, new_proxy: NewProxy) -> None:
    """And a name with a dot before it stands for itself and all below it."""
    proxy = configured(tmp_path, new_proxy, RULES)
    for host in ("gone.test", "very.Gone.test."):
        for make in (get, connect):
            answer = ask(proxy, make(host, 80))
            assert answer.status == 451
            assert answer.fields["proxy-status"] == (
                'spliceproxy; error=http_request_denied; details="rule gone"'
            )
    lines = proxy.wait_access(4)
    assert all(" TCP_DENIED/451 " in line and "rule=gone" in line for line in lines)


@pytest.mark.parametrize("condition", [one.name for one in BY_NAME["rule"].fields if one.many])
def test_an_empty_condition_lets_nobody_in(tmp_path: Path, condition: str) -> None:
    """It does not even start."""
    path = tmp_path / "config.toml"
    rule = f'[[rule]]\nid = "open"\naction = "allow"\n{condition} = []\n'
    path.write_text(f'auth = "ann:x"\nrule-default = "deny"\n{rule}')
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"rule 1 'open': {condition}: is empty; leave it out, or name" in done.stderr


def test_a_denied_tunnel_closes(tmp_path: Path, new_proxy: NewProxy) -> None:
    proxy = configured(tmp_path, new_proxy, RULES)
    with proxy.connect() as s:
        s.sendall(connect("a.internal", 443).encode() + b"early data")
        answer = Answer(s)
        assert (answer.status, answer.fields["connection"]) == (403, "close")
        assert read_all(s) == b""


@HOWEVER_ASKED
def test_rules_on_addresses(tmp_path: Path, new_proxy: NewProxy, answers: str) -> None:
    proxy = configured(tmp_path, new_proxy, RULES, *allowing(answers, tmp_path))
    with serving(answering) as (host, port):
        assert ask(proxy, get(host, port)).status == 200
        for address in ("127.0.0.66", "[::ffff:127.0.0.66]"):
            answer = ask(proxy, connect(address, port))
            assert answer.fields["proxy-status"].endswith('details="rule no-doors"')
        proxy.stop()  # with its idle connections


@HOWEVER_ASKED
def test_report_only(tmp_path: Path, new_proxy: NewProxy, answers: str) -> None:
    proxy = configured(tmp_path, new_proxy, RULES, *allowing(answers, tmp_path))
    assert ask(proxy, get("localhost", 1)).status == 502  # refused, but not by us
    # Its thread may write it behind the answer.
    told = "rule office-hours (report only) would deny: client 127.0.0.1, GET localhost:1"
    wait_for(lambda: told in proxy.stderr(), "the report")
    proxy.stop()
    assert proxy.stderr().count(told) == 1


# ---- users ---------------------------------------------------------------------------------


def credentials(text: str) -> str:
    return f"Proxy-Authorization: Basic {base64.b64encode(text.encode()).decode()}\r\n\r\n"


@HOWEVER_ASKED
def test_the_challenge_keeps_the_connection(
    tmp_path: Path, new_proxy: NewProxy, answers: str
) -> None:
    proxy = new_proxy("--auth", "ann:secret", *allowing(answers, tmp_path))
    with serving(answering) as (host, port):
        for make in (get, connect):
            with proxy.connect() as s:
                for wrong in ("", credentials("ann:wrong"), credentials("bob:secret")):
                    s.sendall((make(host, port)[:-2] + (wrong or "\r\n")).encode())
                    answer = Answer(s)
                    assert answer.status == 407
                    assert "connection" not in answer.fields
                    assert answer.fields["proxy-authenticate"].startswith("Basic realm=")
                s.sendall((make(host, port)[:-2] + credentials("ann:secret")).encode())
                assert Answer(s).status == 200
                if make is get:  # what was right once is asked again
                    s.sendall(make(host, port).encode())
                    assert Answer(s).status == 407
        proxy.stop()
    lines = proxy.wait_access(8)
    assert sum(" TCP_DENIED/407 " in line for line in lines) == 7
    assert sum(line.split()[7] == "ann" for line in lines) >= 2


def test_a_tunnel_that_does_not_wait_for_the_challenge(new_proxy: NewProxy) -> None:
    """What it has sent would be read as a request."""
    proxy = new_proxy("--auth", "ann:secret")
    with proxy.connect() as s:
        s.sendall((connect("a.test", 443) + get("b.test", 80)).encode())
        answer = Answer(s)
        assert (answer.status, answer.fields["connection"]) == (407, "close")
        assert read_all(s) == b""


def test_files_and_options_too(tmp_path: Path, new_proxy: NewProxy) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.txt").write_text("a")
    for proxy in (
        new_proxy("--auth", "ann:secret", "--serve", str(tmp_path / "www")),
        new_proxy("--auth", "ann:secret"),
    ):
        with proxy.connect() as s:
            for request in ("GET /a.txt", "OPTIONS *", "TRACE /"):
                s.sendall(f"{request} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n".encode())
                status = Answer(s).status
                assert status in (407, 400)  # 400: there is nothing to serve
                if status == 400:
                    break


# ---- the hook ------------------------------------------------------------------------------

HOOK = """
import asyncio, json, os
from spliceproxy.policy import Allow, Deny

async def authorize(request):
    if request.host == "slow.test":
        await asyncio.sleep(3600)
    if request.host == "bad.test":
        raise LookupError("a secret")
    if request.field("X-Deny"):
        return Deny("Because.", "because", 451)
    if request.host == "elsewhere.test":
        return Allow(source_address="127.0.0.5", addresses=("127.0.0.1",), tags={"a": "b"})
    if request.host == "metadata.test":
        return Allow(addresses=("169.254.169.254",))
    return Allow()

async def on_close(record):
    await asyncio.sleep(0)
    with open(os.environ["CLOSED"], "a") as file:
        values = [record.method, record.status, record.bytes_out, record.rule, dict(record.tags)]
        print(json.dumps(values), file=file)
"""


def hooked(tmp_path: Path, new_proxy: NewProxy, *args: str) -> ProxyProcess:
    (tmp_path / "hook.py").write_text(HOOK)
    names = "slow.test bad.test elsewhere.test metadata.test"
    (tmp_path / "hosts").write_text(f"127.0.0.1 {names}\n")
    env = {
        "CLOSED": str(tmp_path / "closed"),
        "SPLICEPROXY_HOSTS_FILE": str(tmp_path / "hosts"),
    }
    return new_proxy("--policy", str(tmp_path / "hook.py"), *args, env=env)


def closed(tmp_path: Path, count: int) -> list[list[object]]:
    path = tmp_path / "closed"
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) >= count, "on_close")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_hook(tmp_path: Path, new_proxy: NewProxy) -> None:
    proxy = hooked(tmp_path, new_proxy)
    with serving(answering) as (host, port):
        assert ask(proxy, get(host, port)).body == b"127.0.0.1"
        request = get(host, port)[:-2] + "X-Deny: 1\r\n\r\n"
        answer = ask(proxy, request)
        assert (answer.status, b"Because." in answer.body) == (451, True)
        with proxy.connect() as s:
            for _ in range(2):  # the second on the same connection to the origin
                s.sendall(get("elsewhere.test", port).encode())
                assert Answer(s).body == b"127.0.0.5"
        with proxy.tunnel("elsewhere.test", port) as s:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert Answer(s).body == b"127.0.0.5"
        answer = ask(proxy, connect("metadata.test", 80))
        assert answer.error == "destination_ip_prohibited"
        proxy.stop()
    records = closed(tmp_path, 6)
    assert [record[:2] for record in records[:2]] == [["GET", 200], ["GET", 451]]
    assert records[1][3] == "because"
    # The tunnel's end and the last request come in either order.
    assert [record[4] for record in records].count({"a": "b"}) == 3
    assert all(record[2] for record in records)


def test_a_hook_that_fails(tmp_path: Path, new_proxy: NewProxy) -> None:
    """Nothing gets through, the fault is logged once, and the client is told no details."""
    path = tmp_path / "config.toml"
    path.write_text("policy-timeout = 0.2\n")
    proxy = hooked(tmp_path, new_proxy, "--config", str(path))
    with serving(answering) as (host, port):
        with proxy.connect() as s:
            for name in ("slow.test", "bad.test", "bad.test", "slow.test"):
                s.sendall(get(name, port).encode())
                answer = Answer(s)
                assert (answer.status, answer.error) == (500, "proxy_internal_error")
                assert b"secret" not in answer.body
            s.sendall(get(host, port).encode())
            assert Answer(s).status == 200
        proxy.stop()
    text = proxy.stderr()
    assert text.count("LookupError: a secret") == 1
    assert text.count("took more than 0.2 s") == 1
    assert "failures 4" in text
    proxy.stderr_path.write_text("")  # its traceback is meant to be there


def test_a_client_that_leaves_the_hook(tmp_path: Path, new_proxy: NewProxy) -> None:
    proxy = hooked(tmp_path, new_proxy)
    with proxy.connect() as s:
        s.sendall(connect("slow.test", 1).encode())
    assert " NONE_ABORTED/000 " in proxy.wait_access(1)[0]


@pytest.mark.parametrize(
    ("source", "text"), [("1 /", "SyntaxError"), ("def authorise(r): ...", "no function authorize")]
)
def test_a_hook_that_cannot_be_loaded(tmp_path: Path, source: str, text: str) -> None:
    path = tmp_path / "hook.py"
    path.write_text(source)
    command = [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--policy", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert text in done.stderr


def test_on_close_at_the_end(tmp_path: Path, new_proxy: NewProxy) -> None:
    """A tunnel that is cut off by the end of the proxy is told too."""
    proxy = hooked(tmp_path, new_proxy, "--timeout-drain", "0.1")
    with serving(read_all_of) as (host, port), proxy.tunnel(host, port):
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.wait(20)
    assert [record[:2] for record in closed(tmp_path, 1)] == [["CONNECT", 200]]


def read_all_of(s: socket.socket) -> None:
    try:
        read_all(s)
    except ConnectionResetError:
        pass


def test_the_advice_is_true(tmp_path: Path, new_proxy: NewProxy) -> None:
    """The flags and the keys that denials name exist."""
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--help"], capture_output=True, text=True, check=True
    )
    source = Path(__file__).parents[2] / "spliceproxy" / "policy" / "refusals.py"
    flags = re.findall(r"--[a-z]+(?:-[a-z]+)*", source.read_text())
    assert flags
    for flag in flags:
        assert flag in done.stdout
    advice = re.findall(r'advice="(.+)"', source.read_text())
    keys = [key for text in advice for key in re.findall(r"(?<![-\w])[a-z]+[-_][a-z]+", text)]
    assert keys
    assert set(keys) <= set(BY_NAME)


# ---- what is decided for one client and repeated for others ---------------------------------

NEIGHBOURS = """
guard-allow = ["127.0.0.1"]
allow-clients = ["127.0.0.1", "127.0.0.3", "127.0.0.4"]

[[rule]]
id = "not-you"
action = "deny"
clients = ["127.0.0.4"]
hosts = ["127.0.0.1"]
"""


@HOWEVER_ASKED
def test_a_decision_is_repeated_only_for_clients_that_are_treated_alike(
    tmp_path: Path, new_proxy: NewProxy, answers: str
) -> None:
    """Whatever the others have just been allowed, by the same worker and within a second."""
    proxy = configured(tmp_path, new_proxy, NEIGHBOURS, *allowing(answers, tmp_path))
    statuses = {"127.0.0.1": 200, "127.0.0.2": 403, "127.0.0.3": 200, "127.0.0.4": 403}
    asked = dict.fromkeys(statuses, 0)

    def meet(address: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", proxy.port), 20, (address, 0))

    with serving(answering) as (host, port), ExitStack() as stack:
        kept = {address: stack.enter_context(meet(address)) for address in statuses}
        for _ in range(10):
            for address, status in statuses.items():
                kept[address].sendall(get(host, port).encode())
                assert Answer(kept[address]).status == status
                with meet(address) as s:
                    s.sendall(connect(host, port).encode())
                    assert Answer(s, head_only=True).status == status
                asked[address] += 2
            # The worker knows this one, too: other requests of it are allowed.
            kept["127.0.0.4"].sendall(get("localhost", port).encode())
            assert Answer(kept["127.0.0.4"]).status == 200
            asked["127.0.0.4"] += 1
        proxy.stop()
    lines = proxy.wait_access(90)
    assert {a: sum(line.split()[2] == a for line in lines) for a in statuses} == asked
