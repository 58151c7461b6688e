"""What people see of a request that a rule denies, in real programs: the rule's id where the
program shows a reason phrase or a body, and else what it shows instead, so that a change of it
is seen, too. docs/clients.md has the same as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ProxyProcess
from showing import CLIENTS, is_there

RULE = "no-metadata"

CONFIG = f"""
[[rule]]
id = "{RULE}"
action = "deny"
hosts = ["refused.test"]
"""

# The text of a refused CONNECT.
BY_PHRASE = "Forbidden by rule no-metadata"
TUNNEL = {
    "curl": "CONNECT tunnel failed, response 403",
    "wget": BY_PHRASE,
    "lftp": f"403 {BY_PHRASE}",
    "links": "HTTPS forwarding failed",
    "git": "CONNECT tunnel failed, response 403",
    "apt": f"403 {BY_PHRASE}",
    "pip": f"403 {BY_PHRASE}",
    "requests": f"403 {BY_PHRASE}",
    "httpx": f"403 {BY_PHRASE}",
    "undici": "Proxy response (403)",
    "go": BY_PHRASE,
}

# Those that show a number or less, whatever a proxy does.
MUTE = {"curl", "links", "git", "undici"}

# Of a refused request for an http:// URL: curl, links and git show the body.
FORWARDED = {
    **TUNNEL,
    "curl": "Rule: no-metadata",
    "links": "no-metadata",
    "git": "remote: Rule: no-metadata",
    "pip": BY_PHRASE,
}


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_shown(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path, name: str, scheme: str
) -> None:
    if not is_there(name):
        pytest.skip(f"{name} is not installed")
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG)
    proxy = new_proxy("--config", str(config))
    home = tmp_path / "home"
    home.mkdir()
    shown = CLIENTS[name](proxy.url, f"{scheme}://refused.test/x", home)
    expected = TUNNEL if scheme == "https" else FORWARDED
    assert expected[name] in " ".join(shown.split()), shown
    # undici makes a tunnel for http:// as well.
    mute = MUTE if scheme == "https" else {"undici"}
    assert (RULE in shown) == (name not in mute)
    assert all("TCP_DENIED/403 " in line for line in proxy.wait_access(1))
