"""The reason phrases of refusals: many clients show them, and nothing else of the answer. They
say which of several things it is, and hold nothing of the client's."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ProxyProcess, refused_port

NewProxy = Callable[..., ProxyProcess]


def line_and_fields(proxy: ProxyProcess, target: str, *fields: str) -> tuple[str, dict[str, str]]:
    """The status line without its version, and the fields, of the answer to CONNECT."""
    with proxy.connect() as client:
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(4096)
    first, *rest = answer.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")
    pairs = (line.split(": ", 1) for line in rest)
    return first.removeprefix("HTTP/1.1 "), {name.lower(): value for name, value in pairs}


def basic(pair: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(pair.encode()).decode()


def test_passwords(new_proxy: NewProxy) -> None:
    proxy = new_proxy("--auth", "alice:secret")
    for fields, why in (
        ((), "no user name and password given"),
        ((basic("alice:wrong"),), "wrong user name or password"),
        ((basic("mallory:secret"),), "wrong user name or password"),
        (("Proxy-Authorization: Bearer x",), "malformed Basic credentials"),
    ):
        line, _ = line_and_fields(proxy, "a.test:443", *fields)
        assert line == f"407 Proxy Authentication Required: {why}"


RULES = """
rule-default = "allow"

[[rule]]
id = "no-metadata"
action = "deny"
hosts = ["refused.test"]

[[rule]]
id = "slow-down"
action = "deny"
status = 429
hosts = ["often.test"]

[[rule]]
id = "ask-us"
action = "deny"
reason = "Ask \\"the\\" platform team in #egr\u00e8ss"
hosts = ["asked.test"]
"""

HOOK = """
from spliceproxy.policy import Allow, Deny

def authorize(request):
    if request.host == "raises.test":
        raise ValueError("not for the client")
    if request.host == "unnamed.test":
        return Deny("why in many words")
    if request.host == "named.test":
        return Deny("why in many words", rule="r\\u00e8gle\\r\\nX: 1", status=451)
    return Allow()
"""


def test_rules_and_functions(new_proxy: NewProxy, tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text(RULES)
    (tmp_path / "hook.py").write_text(HOOK)
    config, hook = str(tmp_path / "proxy.toml"), str(tmp_path / "hook.py")
    proxy = ProxyProcess(tmp_path / "proxy", "--config", config, "--policy", hook)
    try:
        for host, expected, again in (
            ("refused.test", "403 Forbidden by rule no-metadata", None),
            ("127.0.0.1", "502 Bad Gateway: connection refused", None),
            ("169.254.169.254", "403 Forbidden by rule guard", None),
            ("often.test", "429 Too Many Requests: rule slow-down", "10"),
            (
                "asked.test",
                '403 Forbidden by rule ask-us: Ask "the" platform team in #egr?ss',
                None,
            ),
            ("unnamed.test", "403 Forbidden by policy", None),
            ("named.test", "451 Unavailable For Legal Reasons: rule r?gle??X: 1", None),
            ("raises.test", "500 Internal Server Error: the policy function failed", None),
            ("a..test", "502 Bad Gateway: no valid host name", None),
        ):
            with refused_port() as port:
                line, fields = line_and_fields(proxy, f"{host}:{port}")
            assert line == expected
            assert fields.get("retry-after") == again
        _, fields = line_and_fields(proxy, "asked.test:443")
        assert fields["proxy-status"] == (
            "spliceproxy; error=http_request_denied; "
            'details="rule ask-us: Ask \\"the\\" platform team in #egr?ss"'
        )
    finally:
        proxy.kill()


@pytest.mark.parametrize("seconds", ["0.5"])
def test_numbers_of_the_settings(new_proxy: NewProxy, seconds: str) -> None:
    with socket.socket() as listener, socket.socket() as filler, socket.socket() as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # nobody accepts: with a full queue it answers no SYN
        for one in (filler, other):
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        proxy = new_proxy("--timeout-dial", seconds)
        line, _ = line_and_fields(proxy, f"127.0.0.1:{listener.getsockname()[1]}")
    assert line == "504 Gateway Timeout: no connection within 0.5 s"
