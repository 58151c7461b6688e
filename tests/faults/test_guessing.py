"""Who guesses passwords is slowed, and nobody else: many clients at once on a real proxy."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ProxyProcess, refused_port
from passlib.hash import bcrypt

GUESSES = 200
NEAR, FAR = "127.0.0.2", "127.0.0.3"

SLOW = bcrypt.using(rounds=9).hash("secret")
"""About 20 ms each."""


class Answer(NamedTuple):
    status: int
    seconds: float
    fields: str


@pytest.fixture
def guarded(new_proxy: Callable[..., ProxyProcess], tmp_path: Path) -> ProxyProcess:
    users = tmp_path / "users"
    users.write_text("".join(f"{user}:{SLOW}\n" for user in ("alice", "bob", "carol", "dora")))
    return new_proxy("--htpasswd", str(users))


async def ask(proxy: ProxyProcess, client: str, pair: str, port: int) -> Answer:
    """One request on a connection of its own, from an address of loopback. What is let in
    has a 502, for nobody listens there."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, local_addr=(client, 0))
    token = base64.b64encode(pair.encode()).decode()
    writer.write(
        f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Proxy-Authorization: Basic {token}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return Answer(int(head.split()[1]), time.monotonic() - begun, head)


def test_many_guesses_at_once(guarded: ProxyProcess) -> None:
    """Of 200 at once no more are checked than one after the other, and they keep nobody
    waiting: neither a user of another network, nor one of the same who was right lately, nor
    one of the same at the first try."""

    async def main(port: int) -> None:
        assert (await ask(guarded, NEAR, "bob:secret", port)).status == 502
        guesses = [
            asyncio.ensure_future(ask(guarded, NEAR, f"alice:guess{i}", port))
            for i in range(GUESSES)
        ]
        await asyncio.sleep(0.1)  # they are under way
        honest = {
            "another network": await ask(guarded, FAR, "carol:secret", port),
            "right lately": await ask(guarded, NEAR, "bob:secret", port),
            "right at the first try": await ask(guarded, NEAR, "dora:secret", port),
        }
        answers = await asyncio.gather(*guesses)
        print({who: round(answer.seconds, 3) for who, answer in honest.items()})
        assert [answer.status for answer in honest.values()] == [502] * 3
        assert max(answer.seconds for answer in honest.values()) < 2
        found = Counter(answer.status for answer in answers)
        print(found)
        assert set(found) == {407, 429}
        assert found[407] <= 7  # 0, 1/4, 3/4, 7/4, 15/4, 31/4 s, and a little patience
        assert all("Retry-After: " in one.fields for one in answers if one.status == 429)

    with refused_port() as port:
        asyncio.run(main(port))


def test_a_password_that_a_client_repeats(guarded: ProxyProcess) -> None:
    """HttpURLConnection sends the same wrong one twenty times. That is one guess: it takes no
    time, and a colleague of the same network does not notice."""

    async def main(port: int) -> None:
        begun = time.monotonic()
        for _ in range(20):
            assert (await ask(guarded, NEAR, "alice:old", port)).status == 407
        seconds = time.monotonic() - begun
        colleague = await ask(guarded, NEAR, "bob:secret", port)
        herself = await ask(guarded, NEAR, "alice:secret", port)
        print(round(seconds, 3), round(colleague.seconds, 3), round(herself.seconds, 3))
        assert (colleague.status, herself.status) == (502, 502)
        assert seconds < 4
        assert colleague.seconds < 2

    with refused_port() as port:
        asyncio.run(main(port))
    assert guarded.stderr().count("authentication failed") == 1


def test_networks_that_guess_keep_no_user_out(guarded: ProxyProcess) -> None:
    """A hundred networks with six guesses each: others get no 503."""

    async def main(port: int) -> None:
        assert (await ask(guarded, FAR, "carol:secret", port)).status == 502
        guesses = [
            asyncio.ensure_future(ask(guarded, f"127.0.1.{n}", f"user{i}:guess{n}", port))
            for n in range(100)
            for i in range(6)
        ]
        await asyncio.sleep(0.1)
        known = await ask(guarded, FAR, "carol:secret", port)
        new = await ask(guarded, FAR, "dora:secret", port)
        print(round(known.seconds, 3), round(new.seconds, 3))
        assert (known.status, new.status) == (502, 502)
        found = Counter(answer.status for answer in await asyncio.gather(*guesses))
        assert 503 not in found

    with refused_port() as port:
        asyncio.run(main(port))
