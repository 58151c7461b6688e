"""What has to see each request sees it, and the client stays in the lane: rules that only report,
--learn, and users by the process behind a Unix socket."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from socket import create_server

import pytest
from harness import serving
from library_rig import answer, ask, connected, lane_of, run, tunnel

from spliceproxy import (
    Allow,
    AuthConfig,
    Config,
    PolicyConfig,
    Proxy,
    Record,
    Request,
    Timeouts,
)
from spliceproxy.config import RuleConfig
from spliceproxy.policy.lockfile import parse

ROUNDS = 10
REPORTS = RuleConfig("later", "deny", ports=("1-65535",), report_only=True)


def config(engine: str, policy: PolicyConfig, auth: AuthConfig | None = None) -> Config:
    return Config(
        listen=(),
        via=f"test-{os.urandom(4).hex()}",
        timeouts=Timeouts(drain=2.0),
        access_log="off",
        engine=engine,
        policy=policy,
        auth=auth or AuthConfig(),
    )


async def ask_all(proxy: Proxy, origin: str) -> None:
    """Requests on one connection, and a tunnel."""
    await ask(proxy, origin, ROUNDS)
    await tunnel(proxy, origin)


def check_lane(proxy: Proxy, engine: str, count: int = ROUNDS) -> None:
    """All of it was served in the lane, if there is one."""
    if engine == "native":
        assert lane_of(proxy) == (count, 0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "(report only)" in text]


def test_a_rule_that_only_reports(
    engine: str, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of each request, and each record names it."""
    seen: list[Record] = []

    async def main() -> None:
        policy = PolicyConfig(rules=(REPORTS,))
        async with Proxy(config=config(engine, policy), on_close=seen.append) as proxy:
            await ask_all(proxy, origin)
            check_lane(proxy, engine)
        assert told(caplog) == [
            f"rule later (report only) would deny: client 127.0.0.1, {method} {origin}"
            for method in ("GET",) * ROUNDS + ("CONNECT",)
        ]
        assert [record.reported for record in seen] == [("later",)] * (ROUNDS + 1)
        assert [record.rule for record in seen] == [""] * (ROUNDS + 1)

    with caplog.at_level(logging.INFO):
        run(main)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_report_is_made_once_where_the_client_leaves_the_lane(
    engine: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever goes on with it decides again, but has been told what was reported."""
    seen: list[Record] = []
    with create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    async def main() -> None:
        policy = PolicyConfig(rules=(REPORTS,))
        async with Proxy(config=config(engine, policy), on_close=seen.append) as proxy:
            reader, writer = await connected(proxy)
            target = f"127.0.0.1:{port}"
            url = target if method == "CONNECT" else f"http://{target}/"
            writer.write(f"{method} {url} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 502 ")
            writer.close()
        assert len(told(caplog)) == 1
        assert [(record.status, record.reported) for record in seen] == [(502, ("later",))]

    with caplog.at_level(logging.INFO):
        run(main)


def test_learning(engine: str, origin: str, tmp_path: Path) -> None:
    """Each destination is learned, though routes may be repeated."""
    file = tmp_path / "learned.toml"

    async def main() -> None:
        policy = PolicyConfig(learn=file)
        with serving(answer) as (host, port):
            async with Proxy(config=config(engine, policy)) as proxy:
                await ask_all(proxy, origin)
                await ask_all(proxy, f"{host}:{port}")
                check_lane(proxy, engine, 2 * ROUNDS)
        rules = parse(file.read_bytes(), str(file))
        ports = {text for rule in rules if rule.action == "allow" for text in rule.ports or ()}
        assert ports == {origin.rpartition(":")[2], str(port)}

    run(main)


def test_users_by_the_process_behind_a_unix_socket(
    engine: str, origin: str, tmp_path: Path
) -> None:
    asked: list[str] = []
    seen: list[Record] = []

    def authorize(request: Request) -> Allow:
        asked.append(request.user)
        return Allow()

    async def main() -> None:
        auth = AuthConfig(peers={str(os.getuid()): "builder"})
        async with Proxy(
            listen=[f"unix:{tmp_path}/socket"],
            config=config(engine, PolicyConfig(), auth),
            policy=authorize,
            on_close=seen.append,
        ) as proxy:
            await ask_all(proxy, origin)
            check_lane(proxy, engine)
        assert asked == ["builder"] * (ROUNDS + 1)
        assert [(record.user, record.client) for record in seen] == [("builder", "")] * len(asked)

    run(main)
