"""A decision is the same whatever has to be waited for, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.config import AuthConfig, Config, PolicyConfig, RuleConfig
from spliceproxy.errors import Failure
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.auth import Authenticator, Unauthenticated
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.verdict import Verdict

ZONE = {
    "a.test": ("192.0.2.1", "2001:db8::1"),
    "b.test": ("198.51.100.7", "192.0.2.9"),
    "guarded.test": ("169.254.169.254",),
    "none.test": (),
}


@pytest.fixture(autouse=True)
def no_coroutine_is_forgotten(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    gc.collect()  # what tests before this one have left is theirs
    recwarn.clear()
    yield
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


class Names:
    def __init__(self, waits: bool) -> None:
        self.waits = waits
        self.resolved: list[str] = []

    def cached(self, host: str) -> tuple[str, ...] | None:
        return None if self.waits else ZONE[host] or None

    async def resolve(self, host: str) -> tuple[str, ...]:
        self.resolved.append(host)
        if self.waits:
            await asyncio.sleep(0)
        if not ZONE[host]:
            raise Failure("dns_error", host)
        return ZONE[host]


class Auth(Authenticator):
    """Takes the field's value for the user; "wait" in it makes it wait."""

    def identify(self, credentials: Any, client: str, uid: int = -1) -> Any:
        (value,) = credentials or [b""]
        return self.later(value) if b"wait" in value else self.now(value)

    def now(self, value: bytes) -> str:
        if value.startswith(b"bad"):
            raise Unauthenticated("no", 407, (), why="wrong")
        return value.decode().partition("-")[0]

    async def later(self, value: bytes) -> str:
        await asyncio.sleep(0)
        return self.now(value)


class Asked(NamedTuple):
    host: str
    user: str
    own: bool
    rules: int
    function: str  # "", "allows", "denies", "fails", or "other" for addresses of its own
    wants: bool
    users: bool
    cache: float


RULES = (
    RuleConfig("no-b", "deny", hosts=("b.test",), users=("ann",)),
    RuleConfig("net", "deny", networks=("198.51.100.0/24",)),
    RuleConfig("report", "deny", networks=("192.0.2.0/24",), report_only=True),
)

ASKED = st.builds(
    Asked,
    host=st.sampled_from(sorted(ZONE)),
    user=st.sampled_from(["", "ann", "bob", "bad"]),
    own=st.booleans(),
    rules=st.integers(0, 3),
    function=st.sampled_from(["", "allows", "denies", "fails", "other"]),
    wants=st.booleans(),
    users=st.booleans(),
    cache=st.sampled_from([0.0, 30.0]),
)


class Outcome(NamedTuple):
    answer: object
    user: str
    tags: object
    reported: tuple[str, ...]
    calls: tuple[object, ...]
    resolved: tuple[str, ...]


def function(asked: Asked, waits: str, calls: list[object]) -> Functions:
    def plain(request: Request) -> Allow | Deny:
        assert request.field("x") == "y"
        calls.append((request.user, request.host, request.addresses))
        if asked.function == "fails":
            raise LookupError
        if asked.function == "denies" and (request.addresses or not asked.wants):
            return Deny("no", "f", 451)
        if asked.function == "other":
            return Allow("192.0.2.200", ("192.0.2.9", "169.254.0.1"), {"n": str(len(calls))})
        return Allow(tags={"n": str(len(calls))})

    async def at_once(request: Request) -> Allow | Deny:
        return plain(request)

    async def later(request: Request) -> Allow | Deny:
        await asyncio.sleep(0)
        return plain(request)

    if not asked.function:
        return Functions()
    made: Any = later if "f" in waits else at_once if "F" in waits else plain
    made.wants_addresses = asked.wants
    return Functions(made)


async def begin(policy: Policy, args: tuple[Any, ...], *, outside: bool) -> Any:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Any] = loop.create_future()

    def turn() -> None:
        try:
            made = policy.decision(*args)
        except Failure as failure:
            found.set_exception(failure)
        else:
            found.set_result(made)

    loop.call_soon(turn) if outside else turn()
    return await found


def outcome(asked: Asked, *, waits: str, outside: bool) -> Outcome:
    """``waits`` names what has to be waited for: a of users, f of the function, n of names; with
    an F the function is asynchronous, and does not wait."""
    calls: list[object] = []
    auth = AuthConfig(user=("ann", "x"), required=False) if asked.users else AuthConfig()
    rules = PolicyConfig(rules=RULES[: asked.rules], hook_cache=asked.cache)
    config = Config(listen=(), auth=auth, policy=rules)
    names = Names("n" in waits)
    policy = Policy(config, names, function(asked, waits, calls), authenticator=Auth(auth))
    notes = Record("127.0.0.1", 0.0)
    user = f"{asked.user}-wait" if "a" in waits else asked.user
    text = f"GET http://{asked.host}/ HTTP/1.1\r\nHost: {asked.host}\r\nX: y\r\n"
    head = parse_request(f"{text}Proxy-Authorization: {user}\r\n\r\n".encode())
    client = policy.standing("127.0.0.1", None)

    async def ask() -> object:
        args = client, head, asked.host, 80, notes, asked.own
        try:
            answer = await begin(policy, args, outside=outside)
            if not isinstance(answer, Verdict):
                assert waits or asked.host == "none.test"
                answer = await answer
            # Only for how long it holds depends on what was waited for.
            return answer[:4]
        except Failure as failure:
            return type(failure), failure.detail, failure.status
        finally:
            await policy.finish()

    answer = asyncio.run(ask())
    return Outcome(
        answer, notes.user, dict(notes.tags), notes.reported, tuple(calls), tuple(names.resolved)
    )


@settings(deadline=None, max_examples=150)
@given(ASKED, st.sets(st.sampled_from("afFn")), st.booleans())
def test_waiting_changes_nothing(asked: Asked, waits: set[str], outside: bool) -> None:
    at_once = outcome(asked, waits="", outside=False)
    other = outcome(asked, waits="".join(waits), outside=outside)
    assert other[:5] == at_once[:5]
    assert len(at_once.calls) <= 1 + asked.wants
    assert len(other.resolved) <= 1
