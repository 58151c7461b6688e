"""Whom a real proxy asks for names, and where it connects to, by its settings."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness import ProxyProcess, wait_for
from policy_rig import NameServer, Origins, World, ask, connect, get, world

ENGINES = pytest.mark.parametrize("engine", ["native", "copy"])


def settings(made: World, text: str) -> str:
    path = made.folder / "config.toml"
    path.write_text(text)
    return str(path)


def reload(proxy: ProxyProcess) -> None:
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "generation 2 is in force" in proxy.stderr(), "the reload")


@ENGINES
@pytest.mark.parametrize(
    ("version", "dialled"),
    [
        ("4", ["127.0.0.1"]),
        ("6", ["::1"]),
        ("prefer4", ["127.0.0.1"]),
        ("prefer6", ["::1"]),
    ],
)
def test_the_version_of_ip(tmp_path: Path, engine: str, version: str, dialled: list[str]) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1", "::1")
        if len(origins.hits) < 2:
            pytest.skip("no IPv6 here")
        made.names.zone["both.test"] = [["127.0.0.1", "::1"]]
        proxy = made.proxy("--ip-version", version, "--engine", engine)
        for request in (connect("both.test", origins.port), get("both.test", origins.port)):
            assert ask(proxy, request).status == 200
        assert [address for address, hits in origins.hits.items() if hits] == dialled
        other = "[::1]" if version.endswith("4") else "127.0.0.1"
        answer = ask(proxy, connect(other, origins.port))
        if version in "46":
            assert answer.status == 502
            assert answer.head.startswith(f"HTTP/1.1 502 Bad Gateway: only IPv{version} is used")
            assert answer.error == "dns_error"
        else:
            assert answer.status == 200


@ENGINES
def test_a_reload_asks_others(tmp_path: Path, engine: str) -> None:
    with world(tmp_path) as made:
        other = NameServer()
        made.stack.callback(other.close)
        origins = Origins(made.stack, "127.0.0.1", "127.0.0.2")
        made.names.zone["a.test"] = [["127.0.0.1"]]
        other.zone["a.test"] = [["127.0.0.2"]]
        hosts = made.folder / "hosts"
        hosts.write_text("127.0.0.1 b.test\n")
        config = settings(made, f'dns-server = ["{made.names.address}"]\nhosts-file = "none"\n')
        proxy = made.proxy("--config", config, "--engine", engine, names=False)
        assert ask(proxy, get("a.test", origins.port)).body == b"127.0.0.1"
        settings(made, f'dns-server = ["{other.address}"]\nhosts-file = "{hosts}"\n')
        reload(proxy)
        assert ask(proxy, get("a.test", origins.port)).body == b"127.0.0.2"
        assert ask(proxy, get("b.test", origins.port)).body == b"127.0.0.1"


@ENGINES
def test_servers_that_have_gone(tmp_path: Path, engine: str) -> None:
    """An old answer is judged as any other."""
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.1")
        made.names.zone["a.test"] = [["127.0.0.1"]]
        made.names.zone["b.test"] = [["127.0.0.1"]]
        config = settings(made, "dns-stale = 60\ntimeout-dns = 1\n")
        proxy = made.proxy("--config", config, "--engine", engine)
        for name in ("a.test", "b.test"):
            assert ask(proxy, get(name, origins.port)).status == 200
        made.names.silent = True  # and its answers have no time to live
        assert ask(proxy, get("a.test", origins.port)).body == b"127.0.0.1"
        assert "no answer for a.test; the one whose time is over" in proxy.stderr()
        settings(
            made,
            "dns-stale = 60\ntimeout-dns = 1\n"
            '[[rule]]\nid = "not-there"\naction = "deny"\nnetworks = ["127.0.0.1"]\n',
        )
        reload(proxy)
        assert ask(proxy, get("b.test", origins.port)).status == 403
