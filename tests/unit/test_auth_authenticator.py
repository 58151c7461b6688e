"""Who a request comes from: passwords, networks, uids, and what wrong ones cost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from passing_time import Clock
from passlib.hash import bcrypt, sha512_crypt

from spliceproxy.config import AuthConfig
from spliceproxy.errors import Failure
from spliceproxy.policy.auth import (
    Authenticator,
    Unauthenticated,
    authenticator,
    cache,
    hashing,
    htpasswd,
    throttle,
    turns,
)

ALICE = bcrypt.using(rounds=4).hash("secret")
BOB = sha512_crypt.using(rounds=1000).hash("secret")

FAILREGEX = r"^\s*\d+ WARNING authentication failed: client <ADDR>, user \S+, .+$"
"""As in docs/users.md, for what fail2ban leaves of a line when it has taken the time out."""


def basic(user: str, password: str) -> list[bytes]:
    return [b"Basic " + base64.b64encode(f"{user}:{password}".encode())]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes only where everything waits."""
    clock = Clock()
    monkeypatch.setattr(asyncio, "run", clock.run)
    return clock


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, str]]:
    """Every hash computed: password and what it was compared with."""
    seen: list[tuple[bytes, str]] = []
    verify = htpasswd.verify

    def spy(password: bytes, hashed: str) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        seen.append((password, hashed))
        return verify(password, hashed)

    monkeypatch.setattr(htpasswd, "verify", spy)
    return seen


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    return path


@pytest.fixture
def new(clock: Clock) -> Iterator[Callable[..., Authenticator]]:
    made: list[Authenticator] = []

    def build(**settings: Any) -> Authenticator:
        made.append(Authenticator(AuthConfig(**settings), clock))
        return made[-1]

    yield build
    for auth in made:
        auth.close()


async def ask(
    auth: Authenticator, credentials: list[bytes], client: str = "192.0.2.1", uid: int = -1
) -> str:
    """The user, at once or later."""
    user = auth.identify(credentials, client, uid)
    return user if isinstance(user, str) else await user


async def refused(auth: Authenticator, *args: Any) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        await ask(auth, *args)
    return caught.value


New = Callable[..., Authenticator]


def test_nothing_configured(new: New) -> None:
    auth = new()
    assert not auth.enabled
    assert auth.identify([], "192.0.2.1") == ""
    assert auth.identify(basic("a", "b"), "192.0.2.1") == ""


def test_one_user(new: New) -> None:
    auth = new(user=("alice", "se:cret"))

    async def main() -> None:
        for _ in range(3):
            assert auth.identify(basic("alice", "se:cret"), "192.0.2.1") == "alice"
        challenge = await refused(auth, [])
        assert challenge.status == 407
        assert challenge.error == "http_request_denied"
        assert challenge.fields == (
            b'Proxy-Authenticate: Basic realm="spliceproxy", charset="UTF-8"',
        )
        for user, password in (("alice", "se"), ("alice", ""), ("bob", "se:cret"), ("", "")):
            assert (await refused(auth, basic(user, password))).status == 407
        assert auth.identify(basic("alice", "se:cret"), "192.0.2.1") == "alice"

    assert auth.enabled
    assert not auth.uses_peers
    asyncio.run(main())


def test_a_hash_costs_once(new: New, users: Path, hashes: list[tuple[bytes, str]]) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        for user in ("alice", "bob"):
            first = auth.identify(basic(user, "secret"), "192.0.2.1")
            assert isinstance(first, Awaitable)
            assert await first == user
            for _ in range(3):  # at once, and from anywhere
                assert auth.identify(basic(user, "secret"), "192.0.2.2") == user
        assert hashes == [(b"secret", ALICE), (b"secret", BOB)]

    asyncio.run(main())


def test_many_at_once_share_a_hash(
    new: New, users: Path, hashes: list[tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        several = [ask(auth, basic("alice", "secret")) for _ in range(6)]
        assert await asyncio.gather(*several) == ["alice"] * 6
        several = [ask(auth, basic("alice", "wrong")) for _ in range(6)]
        answers = await asyncio.gather(*several, return_exceptions=True)
        assert all(isinstance(answer, Unauthenticated) for answer in answers)
        assert len(hashes) == 2

    asyncio.run(main())
    assert caplog.text.count("authentication failed") == 1


def test_one_that_leaves_does_not_end_the_hash_of_others(new: New, users: Path) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        leaves = asyncio.ensure_future(ask(auth, basic("alice", "secret")))
        stays = asyncio.ensure_future(ask(auth, basic("alice", "secret")))
        await asyncio.sleep(0)
        assert auth._attempts
        leaves.cancel()
        assert await stays == "alice"

    asyncio.run(main())


def test_unknown_user_costs_the_same(
    new: New, users: Path, hashes: list[tuple[bytes, str]]
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        # The decoy is alice's hash: her password does not open it for others.
        for password in ("wrong", "secret"):
            for user in ("nobody", "", "ALICE"):
                await refused(auth, basic(user, password), f"192.0.2.{len(hashes)}")
        assert {hashed for _, hashed in hashes} == {ALICE}
        assert len(hashes) == 6

    asyncio.run(main())


def test_wrong_after_right_is_refused(new: New, users: Path) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        for _ in range(3):
            assert await ask(auth, basic("alice", "secret")) == "alice"
            for bad in (basic("alice", "secreT"), basic("alice", ""), basic("Alice", "secret")):
                assert (await refused(auth, bad)).status == 407
            assert (await refused(auth, [])).status == 407

    asyncio.run(main())


@pytest.mark.parametrize(
    "credentials",
    [
        basic("alice", "secret") * 2,
        basic("alice", "secret") + basic("x", "y"),
        [b"Bearer abc"],
        [b"Basic !"],
        [b""],
    ],
)
def test_not_sound(new: New, users: Path, credentials: list[bytes]) -> None:
    auth = new(htpasswd=users, user=("x", "y"), networks={"192.0.2.0/24": "lab"})

    async def main() -> None:
        await ask(auth, basic("alice", "secret"))
        with pytest.raises(Unauthenticated) as caught:
            auth.identify(credentials, "192.0.2.1")
        assert caught.value.status == 407

    asyncio.run(main())


def test_line_changes(new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]]) -> None:
    auth = new(htpasswd=users)

    def change(text: str) -> None:
        users.write_text(text)
        clock.now += authenticator.LOOK_SECONDS

    async def main() -> None:
        await ask(auth, basic("alice", "secret"))
        await ask(auth, basic("bob", "secret"))
        change(f"alice:{bcrypt.using(rounds=4).hash('other')}\nbob:{BOB}\n")
        assert auth.identify(basic("bob", "secret"), "192.0.2.1") == "bob"
        await refused(auth, basic("alice", "secret"))
        assert await ask(auth, basic("alice", "other")) == "alice"
        change(f"bob:{BOB}\n")
        await refused(auth, basic("alice", "other"))

    asyncio.run(main())


def test_line_changes_during_the_hash(
    new: New, users: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = new(htpasswd=users)
    verify = htpasswd.verify

    def slow(password: bytes, hashed: str) -> bool:
        users.write_text(f"bob:{BOB}\n")
        assert auth._users is not None
        auth._users.look()
        return verify(password, hashed)

    monkeypatch.setattr(htpasswd, "verify", slow)

    async def main() -> None:
        await refused(auth, basic("alice", "secret"))

    asyncio.run(main())


def test_files_are_looked_at_once_a_second(
    new: New, users: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = new(htpasswd=users)
    assert auth._users is not None
    looks: list[float] = []
    monkeypatch.setattr(type(auth._users), "look", lambda _: looks.append(clock.now))
    for _ in range(40):
        with pytest.raises(Unauthenticated):
            auth.identify([], "192.0.2.1")
        clock.now += 0.1
    assert len(looks) in (3, 4)


def test_cache_expires_and_its_user_is_not_slowed(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]]
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        await ask(auth, basic("alice", "secret"))
        clock.now += cache.SECONDS - 1
        assert auth.identify(basic("alice", "secret"), "192.0.2.1") == "alice"
        for _ in range(8):
            await refused(auth, basic("alice", "wrong"))
        clock.now += cache.SECONDS
        await refused(auth, basic("alice", "wrong"))  # so that the network is an offender now
        before = clock.now
        assert await ask(auth, basic("alice", "secret")) == "alice"
        assert clock.now == before
        assert hashes.count((b"secret", ALICE)) == 2

    asyncio.run(main())


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 3)
    kept = cache.VerifiedCache()
    names = [kept.digest(bytes([i])) for i in range(4)]
    for name in names[:3]:
        kept.put(name, cache.Verified("u", "h", 0.0))
    kept.get(names[0])
    kept.put(names[3], cache.Verified("u", "h", 0.0))
    assert [kept.get(name) is not None for name in names] == [True, False, True, True]


def test_cache_has_room_for_every_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 3)
    monkeypatch.setattr(cache, "PLACES", 3)
    kept = cache.VerifiedCache()
    names = [kept.digest(bytes([i])) for i in range(8)]
    kept.make_room(4)
    for name in names:
        kept.put(name, cache.Verified("u", "h", 0.0))
        kept.place("192.0.2.0", name)
    assert all(kept.get(name) for name in names)
    assert all(kept.came_from("192.0.2.0", name) for name in names)
    kept.make_room(1)  # most are gone from the file
    kept.put(names[0], cache.Verified("u", "h", 0.0))
    kept.place("192.0.2.0", names[0])
    assert [kept.get(name) is not None for name in names] == [True] + [False] * 5 + [True] * 2
    places = [kept.came_from("192.0.2.0", name) for name in names]
    assert places == [True] + [False] * 4 + [True] * 3


def test_each_user_of_a_file_is_hashed_once(
    new: New, tmp_path: Path, hashes: list[tuple[bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # By turns, more users than are kept at least: at each turn of a user whose credentials had been
    # dropped a hash was computed again.
    monkeypatch.setattr(cache, "KEPT", 2)
    monkeypatch.setattr(cache, "PLACES", 2)
    path = tmp_path / "many"
    path.write_text("".join(f"user{n}:{ALICE}\n" for n in range(5)))
    auth = new(htpasswd=path)

    async def main() -> None:
        for _ in range(3):
            for n in range(5):
                assert await ask(auth, basic(f"user{n}", "secret")) == f"user{n}"

    asyncio.run(main())
    assert len(hashes) == 5


def test_digest_is_keyed() -> None:
    assert cache.VerifiedCache().digest(b"x") != cache.VerifiedCache().digest(b"x")


def test_failures_are_slowed(new: New, users: Path, clock: Clock) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        waits = []
        for i in range(5):
            before = clock.now
            await refused(auth, basic("alice", f"wrong{i}"))
            waits.append(clock.now - before)
        assert waits == pytest.approx([0, 0.25, 0.5, 1, 2], abs=0.01)
        before = clock.now
        await refused(auth, basic("alice", "wrong"), "192.0.2.2")
        await refused(auth, [])  # to ask for the challenge is no failure
        assert clock.now == before

    asyncio.run(main())


def test_too_many_attempts(
    new: New, users: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        for i in range(6):
            await refused(auth, basic("alice", f"wrong{i}"))
        guesses = [ask(auth, basic("alice", f"guess{i}")) for i in range(20)]
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        limited = [a for a in answers if isinstance(a, Unauthenticated) and a.status == 429]
        assert len(limited) == 19
        assert re.fullmatch(rb"Retry-After: [1-9]\d*", limited[0].fields[0])

    asyncio.run(main())
    assert caplog.text.count("too many attempts") == 1  # not a line for each


def test_too_many_attempts_are_said_once_a_second(
    new: New, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of each network, also of several that take turns."""
    auth = new(user=("alice", "secret"))
    clients = ["192.0.2.1", "192.0.2.2"]

    async def main() -> None:
        for i in range(6):
            for client in clients:
                await refused(auth, basic("alice", f"wrong{i}"), client)
        caplog.clear()
        guesses = [
            ask(auth, basic("alice", f"guess{i}"), client) for i in range(20) for client in clients
        ]
        await asyncio.gather(*guesses, return_exceptions=True)

    asyncio.run(main())
    said = [one for one in caplog.messages if "too many attempts" in one]
    assert len(said) == len(clients)


def test_guesses_at_once_are_checked_one_by_one(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]]
) -> None:
    """In 10 s as many as one after the other, whatever the number of connections."""
    auth = new(htpasswd=users)

    async def main() -> None:
        begun = clock.now
        guesses = [ask(auth, basic("alice", f"guess{i}")) for i in range(200)]
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        statuses = [a.status for a in answers if isinstance(a, Failure)]
        assert len(hashes) == statuses.count(407) <= 6
        assert statuses.count(429) == 200 - len(hashes)
        assert clock.now - begun < 11

    asyncio.run(main())
    assert not auth._attempts
    assert not auth._turns._lines


@pytest.mark.parametrize("single", [True, False])
def test_a_right_guess_among_others_waits_as_long(
    new: New, users: Path, clock: Clock, single: bool
) -> None:
    """The same guesses with a right one and without: each is answered at the same time."""

    async def times(fourth: str) -> list[float]:
        auth = new(user=("alice", "secret")) if single else new(htpasswd=users)
        begun = clock.now

        async def one(password: str) -> float:
            with contextlib.suppress(Unauthenticated):
                await ask(auth, basic("alice", password))
            return clock.now - begun

        passwords = ["a", "b", "c", fourth, "d"]
        return await asyncio.gather(*map(one, passwords))

    right, wrong = asyncio.run(times("secret")), asyncio.run(times("e"))
    assert right[:4] == pytest.approx(wrong[:4], abs=0.01)
    assert right[3] == pytest.approx(0.25 + 0.5 + 1, abs=0.01)


def test_a_right_guess_is_refused_like_the_wrong_ones(new: New, clock: Clock) -> None:
    """Without a hash to compute, too: its quick answer would tell it from the others."""
    auth = new(user=("alice", "secret"))
    right = basic("alice", "secret")

    async def main() -> None:
        for i in range(6):
            await refused(auth, basic("alice", f"wrong{i}"))
        guesses = [ask(auth, basic("alice", f"guess{i}")) for i in range(20)]
        answers = await asyncio.gather(*guesses, ask(auth, right), return_exceptions=True)
        assert isinstance(answers[-1], Unauthenticated)
        assert answers[-1].status == 429
        clock.now += 1000.0
        await refused(auth, basic("alice", "wrong"))
        before = clock.now
        assert await ask(auth, right) == "alice"
        assert clock.now > before
        assert auth.identify(right, "192.0.2.1") == "alice"  # it is known now

    asyncio.run(main())


@pytest.mark.parametrize("single", [True, False])
def test_a_right_guess_of_an_active_user_is_refused_like_the_wrong_ones(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]], single: bool
) -> None:
    """That somebody else is known by this password does not open it to guesses at any rate."""
    auth = new(user=("alice", "secret")) if single else new(htpasswd=users)
    right = basic("alice", "secret")

    async def main() -> None:
        assert await ask(auth, right, "198.51.100.1") == "alice"
        for i in range(6):
            await refused(auth, basic("alice", f"wrong{i}"))
        for passes in (0.0, cache.SECONDS + 1.0):  # it was right a moment ago, and long ago
            clock.now += passes
            guesses = [ask(auth, basic("alice", f"{passes} {i}")) for i in range(20)]
            answers = await asyncio.gather(*guesses, ask(auth, right), return_exceptions=True)
            assert isinstance(answers[-1], Unauthenticated)
            assert answers[-1].status == 429
            assert await ask(auth, right, "198.51.100.1") == "alice"  # who is not slowed
        before, computed = clock.now, len(hashes)
        await refused(auth, basic("alice", "wrong"))
        assert await ask(auth, right) == "alice"
        assert clock.now > before
        assert len(hashes) == (0 if single else computed + 1)  # of the wrong one
        for i in range(3):
            await refused(auth, basic("alice", f"more{i}"))
        assert auth.identify(right, "192.0.2.1") == "alice"  # it is known from here, too

    asyncio.run(main())


def test_many_networks_at_once_share_a_hash(
    new: New, users: Path, hashes: list[tuple[bytes, str]]
) -> None:
    """A fleet with one password, when the proxy starts."""
    auth = new(htpasswd=users)

    async def main() -> None:
        fleet = [ask(auth, basic("alice", "secret"), f"192.0.2.{n}") for n in range(100)]
        assert await asyncio.gather(*fleet) == ["alice"] * 100
        assert len(hashes) == 1
        wrong = [ask(auth, basic("bob", "old"), f"192.0.2.{n}") for n in range(100)]
        answers = await asyncio.gather(*wrong, return_exceptions=True)
        assert [a.status for a in answers if isinstance(a, Unauthenticated)] == [407] * 100
        assert not auth._hashing._running

    asyncio.run(main())
    assert len(hashes) <= 3


def test_hashes_that_wait_are_bounded(
    new: New, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many networks guess, such as those of an IPv6 /48; and one with a success does
    not notice."""
    monkeypatch.setattr(hashing, "QUEUE", 8)
    auth = new(htpasswd=users)

    async def main() -> None:
        assert await ask(auth, basic("alice", "secret"), "198.51.100.1") == "alice"
        tries = [ask(auth, basic("alice", f"{n}"), f"2001:db8:0:{n:x}::1") for n in range(40)]
        honest = ask(auth, basic("bob", "secret"), "198.51.100.1")
        *answers, user = await asyncio.gather(*tries, honest, return_exceptions=True)
        assert user == "bob"
        statuses = [a.status for a in answers if isinstance(a, Failure)]
        assert statuses == [407] * 8 + [503] * 32
        assert not auth._attempts
        assert not auth._turns._lines
        assert (await refused(auth, basic("alice", "39"), "2001:db8:0:27::1")).status == 407

    asyncio.run(main())


def test_a_wrong_pair_again_is_no_guess(
    new: New,
    users: Path,
    clock: Clock,
    hashes: list[tuple[bytes, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As HttpURLConnection repeats it; and its user is right the next time."""
    auth = new(htpasswd=users)

    async def main() -> None:
        begun = clock.now
        for _ in range(20):
            assert (await refused(auth, basic("alice", "wrong"))).status == 407
        assert clock.now - begun < 0.1
        assert await ask(auth, basic("alice", "secret")) == "alice"
        assert clock.now - begun < 0.3
        assert len(hashes) == 2
        await refused(auth, basic("alice", "wrong"), "192.0.2.2")  # of another, it is one
        assert len(hashes) == 3
        clock.now += cache.WRONG_SECONDS
        await refused(auth, basic("alice", "wrong"))
        assert len(hashes) == 4

    asyncio.run(main())
    assert caplog.text.count("wrong password") == 3


def test_unsound_credentials_again_are_told_once(
    new: New, caplog: pytest.LogCaptureFixture
) -> None:
    auth = new(user=("alice", "secret"))
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="malformed"):
            auth.identify([b"Basic !"], "192.0.2.1")
    assert caplog.text.count("malformed Basic credentials") == 1


def test_unsound_credentials_do_not_make_wrong_ones_forgotten(
    new: New, users: Path, hashes: list[tuple[bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cost nothing, so anybody may send any number of them."""
    monkeypatch.setattr(cache, "WRONG_KEPT", 4)
    auth = new(htpasswd=users)

    async def main() -> None:
        await refused(auth, basic("alice", "old"))
        for i in range(10):
            await refused(auth, [b"Basic !%d" % i], "198.51.100.1")
        await refused(auth, basic("alice", "old"))
        assert len(hashes) == 1

    asyncio.run(main())


def test_a_wrong_pair_is_tried_anew_when_its_line_changes(
    new: New, users: Path, clock: Clock
) -> None:
    auth = new(htpasswd=users)

    def change() -> None:
        other = bcrypt.using(rounds=4).hash("other")
        users.write_text(f"alice:{other}\nbob:{BOB}\ncarol:{other}\n")
        clock.now += authenticator.LOOK_SECONDS

    async def main() -> None:
        await refused(auth, basic("alice", "other"))
        await refused(auth, basic("carol", "other"))
        await refused(auth, basic("bob", "other"))
        change()
        assert await ask(auth, basic("alice", "other")) == "alice"
        assert await ask(auth, basic("carol", "other")) == "carol"
        await refused(auth, basic("bob", "other"))
        assert [entry.user for entry in auth._wrong._entries.values()] == ["bob"]

    asyncio.run(main())


def test_a_try_is_checked_by_the_file_of_its_turn(new: New, users: Path, clock: Clock) -> None:
    """However long it has stood in line."""
    auth = new(htpasswd=users)
    changed = f"alice:{bcrypt.using(rounds=4).hash('new')}\n"

    async def main() -> None:
        for i in range(6):
            await refused(auth, basic("alice", f"wrong{i}"))
        asyncio.get_running_loop().call_later(1.5, users.write_text, changed)
        assert await ask(auth, basic("alice", "new")) == "alice"

    asyncio.run(main())


def test_a_colleague_of_a_guesser_is_in_at_once(new: New, users: Path, clock: Clock) -> None:
    """Right at the first try, from the same address; and right before, with an old entry."""
    auth = new(htpasswd=users)

    async def main() -> None:
        assert await ask(auth, basic("bob", "secret"), "192.0.2.9") == "bob"
        clock.now += cache.SECONDS + 1
        guesses = [asyncio.ensure_future(ask(auth, basic("root", f"guess{i}"))) for i in range(200)]
        await asyncio.sleep(5)
        begun = clock.now
        assert await ask(auth, basic("alice", "secret")) == "alice"
        assert await ask(auth, basic("bob", "secret")) == "bob"
        assert clock.now - begun < 0.1
        await asyncio.gather(*guesses, return_exceptions=True)

    asyncio.run(main())


def test_spraying_names_is_bounded(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]]
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        end = clock.now + 600
        n = 0
        while clock.now < end:
            sprayed = [ask(auth, basic(f"user{n + i}", "winter")) for i in range(50)]
            n += 50
            await asyncio.gather(*sprayed, return_exceptions=True)
            await asyncio.sleep(0.5)

    asyncio.run(main())
    assert throttle.BURST <= len(hashes) <= throttle.BURST + 612 / throttle.LAST_DELAY


def test_a_network_stays_one_with_a_success(new: New, users: Path, clock: Clock) -> None:
    """As long as one of its users is there, who is checked again each ten minutes."""
    auth = new(htpasswd=users)

    async def main() -> None:
        for _ in range(6):
            assert await ask(auth, basic("alice", "secret")) == "alice"
            assert auth._turns.trusts("192.0.2.1")
            clock.now += cache.SECONDS + 1
        clock.now += turns.TRUSTED
        assert not auth._turns.trusts("192.0.2.1")

    asyncio.run(main())


def test_an_office_in_the_morning(new: New, clock: Clock, tmp_path: Path) -> None:
    """All behind one address, all at once, all of them right."""
    path = tmp_path / "many"
    path.write_text("".join(f"user{i}:{ALICE}\n" for i in range(200)))
    auth = new(htpasswd=path)

    async def main() -> None:
        everybody = [ask(auth, basic(f"user{i}", "secret")) for i in range(200)]
        assert await asyncio.gather(*everybody) == [f"user{i}" for i in range(200)]

    asyncio.run(main())


@pytest.mark.parametrize("client", ["192.0.2.1", "2001:db8::7", ""])
def test_networks_that_are_never_delayed(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]], client: str
) -> None:
    auth = new(htpasswd=users, no_delay=("192.0.2.0/24", "2001:db8::7", "unix"))

    async def main() -> None:
        begun = clock.now
        for i in range(30):
            assert (await refused(auth, basic("alice", f"wrong{i}"), client)).status == 407
        assert clock.now == begun
        assert len(hashes) == 30
        for i in range(3):
            await refused(auth, basic("alice", f"wrong{i}"), "2001:db8::8")
        assert clock.now > begun  # but others are

    asyncio.run(main())


def test_what_is_known_passes_guesses_of_a_network_that_is_never_delayed(
    new: New, users: Path, clock: Clock
) -> None:
    """A balancer brings both."""
    auth = new(htpasswd=users, no_delay=("192.0.2.0/24",))

    async def main() -> None:
        assert await ask(auth, basic("alice", "secret"), "198.51.100.1") == "alice"
        guesses = [ask(auth, basic(f"user{i}", "guess")) for i in range(20)]
        tasks = [asyncio.ensure_future(guess) for guess in guesses]
        await asyncio.sleep(0)
        assert auth.identify(basic("alice", "secret"), "192.0.2.1") == "alice"
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_who_leaves_the_line_is_not_checked(
    new: New, users: Path, clock: Clock, hashes: list[tuple[bytes, str]]
) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        await refused(auth, basic("alice", "wrong"))
        leaves = asyncio.ensure_future(ask(auth, basic("alice", "guess")))
        await asyncio.sleep(0.1)
        leaves.cancel()
        await asyncio.sleep(0)
        assert not auth._attempts
        same = ask(auth, basic("alice", "guess"))  # its place is free, also for the same again
        with pytest.raises(Unauthenticated):
            await same
        assert len(hashes) == 2

    asyncio.run(main())
    assert not auth._turns._lines


def test_tries_at_once_are_bounded(new: New, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all networks that have had no success; the others do not notice."""
    monkeypatch.setattr(turns, "TOTAL", 4)
    auth = new(htpasswd=users)

    async def main() -> None:
        assert await ask(auth, basic("alice", "secret"), "198.51.100.1") == "alice"
        tries = [
            ask(auth, basic(f"user{i}", f"guess{n}"), f"192.0.2.{n}")
            for n in range(4)
            for i in range(4)
        ]
        honest = ask(auth, basic("bob", "secret"), "198.51.100.1")
        *answers, user = await asyncio.gather(*tries, honest, return_exceptions=True)
        assert user == "bob"
        assert sorted(a.status for a in answers if isinstance(a, Failure)) == [407] * 8 + [503] * 8
        assert not auth._attempts

    asyncio.run(main())


def test_who_is_sent_away_leaves_nothing_behind(
    new: New, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client can have any number of networks, such as those of an IPv6 /48."""
    monkeypatch.setattr(turns, "TOTAL", 0)
    auth = new(htpasswd=users)

    async def main() -> None:
        for n in range(20):
            client = f"2001:db8:0:{n:x}::1"
            await refused(auth, basic("alice", "wrong"), client)
            with pytest.raises(Failure) as caught:
                await ask(auth, basic("alice", "guess"), client)
            assert caught.value.status == 503
        assert not auth._turns._lines

    asyncio.run(main())


def test_networks_and_passwords(new: New, users: Path) -> None:
    auth = new(htpasswd=users, networks={"192.0.2.0/24": "lab"}, groups={"staff": ("lab", "x")})

    async def main() -> None:
        assert auth.identify([], "192.0.2.9") == "lab"
        assert await ask(auth, basic("alice", "secret"), "192.0.2.9") == "alice"
        assert (await refused(auth, basic("alice", "wrong"), "192.0.2.9")).status == 407
        assert (await refused(auth, [], "198.51.100.1")).status == 407

    asyncio.run(main())
    assert auth.groups_of("lab") == {"staff"}
    assert auth.groups_of("alice") == frozenset()


def test_networks_alone(new: New) -> None:
    """Nothing to compare a password with: credentials are not looked at."""
    auth = new(networks={"192.0.2.0/24": "lab"})
    assert auth.identify(basic("root", "x"), "192.0.2.9") == "lab"
    assert auth.identify(basic("lab", "x"), "198.51.100.1") == ""


def test_not_required(new: New) -> None:
    auth = new(user=("alice", "secret"), required=False)
    assert auth.identify([], "192.0.2.1") == ""
    with pytest.raises(Unauthenticated):
        asyncio.run(ask(auth, basic("alice", "wrong")))


def test_peers_and_mapping_file(new: New, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "map"
    path.write_text("192.0.2.0/24 lab\n")
    auth = new(users_file=path, peers={"0": "admin"})
    assert auth.uses_peers
    assert auth.identify([], "", 0) == "admin"
    assert auth.identify([], "", 4711) == ""
    assert auth.identify([], "192.0.2.1") == "lab"
    path.write_text("192.0.2.0/24 other\n4711 bob\n")
    clock.now += authenticator.LOOK_SECONDS
    assert auth.identify([], "", 4711) == "bob"
    assert auth.identify([], "", 0) == "admin"
    assert auth.identify([], "192.0.2.1") == "other"


@pytest.mark.parametrize("setting", ["htpasswd", "users_file"])
def test_bad_file_at_start(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "file"
    path.write_text("what is this\n")
    with pytest.raises(ValueError, match=rf"{path}:1: not of the form"):
        Authenticator(AuthConfig(**{setting: path}))  # type: ignore[arg-type]


def test_password_is_in_no_text(new: New, caplog: pytest.LogCaptureFixture) -> None:
    auth = new(user=("alice", "secret"))

    async def main() -> None:
        error = await refused(auth, basic("alice", "hunter2"))
        assert "hunter2" not in error.detail

    asyncio.run(main())
    assert "hunter2" not in caplog.text


def fail2ban(line: str) -> list[str]:
    """The addresses that fail2ban finds; its <ADDR> in short."""
    pattern = FAILREGEX.replace("<ADDR>", r"(?P<host>\d+(?:\.\d+){3}|[0-9a-fA-F:]+)")
    rest = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "", line)
    return [found["host"] for found in re.finditer(pattern, rest)]


@pytest.mark.parametrize("client", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize(
    "user",
    [
        "alice",
        "",
        "x" * 500,
        "a, wrong\n 1 WARNING authentication failed: client 198.51.100.1, user ",
    ],
)
def test_log_line_for_fail2ban(
    new: New, caplog: pytest.LogCaptureFixture, client: str, user: str
) -> None:
    auth = new(user=("alice", "secret"))
    pair = f"{user.replace(chr(10), ' ')}:x".encode()
    asyncio.run(refused(auth, [b"Basic " + base64.b64encode(pair)], client))
    (record,) = caplog.records
    line = logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s").format(record)
    assert fail2ban(line) == [client]
    assert line.count("authentication failed") == 1  # wherever a pattern looks
    assert len(line) < 400


def test_fail2ban_pattern_is_on_the_page() -> None:
    page = Path(__file__).parents[2] / "docs" / "users.md"
    assert f"failregex = {FAILREGEX}\n" in page.read_text()


def test_close_with_a_hash_under_way(new: New, users: Path) -> None:
    auth = new(htpasswd=users)

    async def main() -> None:
        waiting = asyncio.ensure_future(ask(auth, basic("alice", "secret")))
        await asyncio.sleep(0)
        assert auth._attempts
        auth.close()
        auth.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    gc.collect()
