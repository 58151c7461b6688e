"""What a decision of the policy costs, alone: no socket, no event loop's turn.

    python perf/policy.py [-o out.json] [--fast]

``none`` is the default policy (the guard on, no rules); what the others cost more than it is
the price of what they add. ``unseen`` asks for a host that has never been asked for. It is asked
for outside of any task, as the lane does: a coroutine function is the case of ``hook-async``.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pyperf

from spliceproxy.config import AuthConfig, Config, PolicyConfig, RuleConfig
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy import Allow, Request
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.verdict import Verdict

HOSTS = [f"www{n}.example{n % 7}.com" for n in range(64)]
"""As many are asked for by turns."""

CREDENTIALS = base64.b64encode(b"ann:secret").decode()


class Names:
    """A resolver that knows every name."""

    addresses = ("192.0.2.1", "2001:db8::1")

    def cached(self, host: str) -> tuple[str, ...] | None:
        return self.addresses

    async def resolve(self, host: str) -> tuple[str, ...]:
        return self.addresses


def rules(number: int) -> tuple[RuleConfig, ...]:
    """Rules of all kinds, none of which matches."""
    kinds: list[Callable[[int], RuleConfig]] = [
        lambda n: RuleConfig(f"exact-{n}", "deny", hosts=(f"host{n}.test",)),
        lambda n: RuleConfig(f"suffix-{n}", "deny", hosts=(f"*.domain{n}.test",)),
        lambda n: RuleConfig(f"user-{n}", "allow", users=(f"user{n}",), hosts=("*.test",)),
        lambda n: RuleConfig(f"client-{n}", "deny", clients=(f"10.{n % 256}.0.0/16",)),
        lambda n: RuleConfig(f"port-{n}", "deny", ports=(f"{9000 + n}",), methods=("CONNECT",)),
        lambda n: RuleConfig(f"network-{n}", "deny", networks=(f"172.16.{n % 256}.0/24",)),
        lambda n: RuleConfig(f"range-{n}", "deny", ports=(f"{20000 + n}-{21000 + n}",)),
        lambda n: RuleConfig(f"regex-{n}", "deny", hosts=(rf"/ads{n}[.].*[.]test/",)),
    ]
    return tuple(kinds[n % len(kinds)](n) for n in range(number))


def heads(hosts: Sequence[str], fields: str = "") -> list[RequestHead]:
    form = "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\nUser-Agent: curl/8\r\nAccept: */*\r\n{1}\r\n"
    return [parse_request(form.format(host, fields).encode()) for host in hosts]


def timed(policy: Policy, asked: list[RequestHead]) -> Callable[[int], float]:
    """Makes decisions one after the other, none of which waits."""
    client = policy.standing("127.0.0.1", None)
    record = Record("127.0.0.1", 0.0)
    loop = asyncio.new_event_loop()
    first = client, asked[0], asked[0].host, asked[0].port, record

    def ask(loops: int) -> float:
        decision = policy.decision
        before = time.perf_counter()
        for n in range(loops):
            head = asked[n % len(asked)]
            found = decision(client, head, head.host, head.port, record)
            assert isinstance(found, Verdict)
        return time.perf_counter() - before

    async def outside(call: Callable[[], Any]) -> Any:
        """What it returns where no task is running."""
        ended: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(lambda: ended.set_result(call()))
        return await ended

    async def warm() -> None:
        """The first coroutine waits until there is a task to begin in."""
        found = await outside(lambda: policy.decision(*first))
        if not isinstance(found, Verdict):
            await found
        await asyncio.sleep(0)

    loop.run_until_complete(warm())
    atexit.register(lambda: loop.run_until_complete(policy.finish()))
    return lambda loops: loop.run_until_complete(outside(lambda: ask(loops)))


def unseen(policy: Policy) -> Callable[[int], float]:
    numbers = count()

    def run(loops: int) -> float:
        first = next(numbers) * loops
        asked = heads([f"www{n}.example.com" for n in range(first, first + loops)])
        return timed(policy, asked)(loops)

    return run


def main() -> None:
    def policy(
        number: int = 0,
        hook: Callable[[Request], object] | None = None,
        user: tuple[str, str] | None = None,
    ) -> Policy:
        config = Config(
            listen=(), policy=PolicyConfig(rules=rules(number)), auth=AuthConfig(user=user)
        )
        functions = Functions(hook) if hook is not None else None  # type: ignore[arg-type]
        return Policy(config, Names(), functions)

    allow = Allow()

    async def asynchronous(request: Request) -> Allow:
        return allow

    runner = pyperf.Runner()
    runner.metadata["description"] = "Cost of one decision"
    asked = heads(HOSTS)
    known = heads(HOSTS, f"Proxy-Authorization: Basic {CREDENTIALS}\r\n")
    runner.bench_time_func("none", timed(policy(), asked))
    runner.bench_time_func("auth", timed(policy(user=("ann", "secret")), known))
    runner.bench_time_func("rules-100", timed(policy(100), asked))
    runner.bench_time_func("rules-1000", timed(policy(1000), asked))
    runner.bench_time_func("rules-1000-unseen", unseen(policy(1000)))
    runner.bench_time_func("hook", timed(policy(hook=lambda _: allow), asked))
    runner.bench_time_func("hook-async", timed(policy(hook=asynchronous), asked))


if __name__ == "__main__":
    main()
