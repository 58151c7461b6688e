"""What the proxy would do with a request, found out without sending it: for people, programs
and tests."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

from spliceproxy.config import DIRECT, PAC, Address, Config
from spliceproxy.errors import Failure
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.fields import TOKEN
from spliceproxy.http1.head import parse_request
from spliceproxy.http1.target import escaped, split_target
from spliceproxy.policy.clients import ClientNetworks
from spliceproxy.policy.explain import Explanation, Step, ended_by, walk
from spliceproxy.policy.networks import UNIX, canonical_address
from spliceproxy.policy.request import Request
from spliceproxy.settings.listening import LISTENER
from spliceproxy.upstream.resolver import Resolver, unasked

_METHOD = re.compile(TOKEN.decode()).fullmatch


def explain(
    config: Config, request: Request, balancer: str = "", listener: Address | None = None
) -> Explanation:
    """Whether the settings allow a request, and why::

        config = spliceproxy.load_config("proxy.toml")
        request = Request(client="10.0.8.3", host="github.com", addresses=("192.0.2.1",))
        assert explain(config, request).allowed

    ``addresses`` of the request stand for what its name resolves to. Without any the DNS is
    asked; nothing else is sent. ``user`` needs no password, and its groups are looked up. The
    policy function is called on an event loop of its own, so do not call this within one.
    ``balancer`` has brought the client by the PROXY protocol: its address, or "unix". It has come
    in at the ``listener``, which is one of ``config.listen`` or ``config.forwards``.
    ValueError for settings, or an address, that make no sense.
    """
    return asyncio.run(_explain(config, request, balancer, listener))


async def _explain(
    config: Config, request: Request, balancer: str, listener: Address | None
) -> Explanation:
    explanation = await _walked(config, request, balancer, listener)
    if explanation.parents == (PAC,):
        return await _by_pac(config, request, explanation)
    return explanation


async def _by_pac(config: Config, request: Request, explanation: Explanation) -> Explanation:
    """With what the PAC file says."""
    from spliceproxy.upstream.pac import Pac

    pac = Pac(asyncio.get_running_loop(), config.routing.script)
    scheme = "https" if request.method == "CONNECT" else "http"
    try:
        ways = await pac.find(scheme, request.host, request.port)
    except Failure as failure:
        return ended_by(explanation, Step("route", False, failure.detail, decides=True), failure)
    finally:
        pac.finish()
    parents = tuple(DIRECT if url is None else str(url) for url in ways)
    step = Step("route", True, f"the PAC file: {', '.join(parents)}")
    return replace(explanation, parents=parents, steps=(*explanation.steps, step))


async def _walked(
    config: Config, request: Request, balancer: str, listener: Address | None
) -> Explanation:
    if request.addresses:
        addresses = tuple(map(canonical_address, request.addresses))
        return await walk(config, request, _Given(addresses), balancer, listener)
    resolver = Resolver.of(config)
    try:
        return await walk(config, request, _Whole(resolver), balancer, listener)
    finally:
        await resolver.close()


class _Whole:
    """Names with all that is known of them, however late it comes."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def cached(self, host: str) -> tuple[str, ...] | None:
        return self._resolver.cached(host)

    async def resolve(self, host: str) -> tuple[str, ...]:
        addresses = await self._resolver.resolve(host)
        late = self._resolver.late(host)
        if late is not None:
            await asyncio.wait({late})
        return self._resolver.cached(host) or addresses


class _Given:
    """Names that all lead to the same addresses, but for those that are not looked up."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    def cached(self, host: str) -> tuple[str, ...] | None:
        return unasked(host.lower())

    async def resolve(self, host: str) -> tuple[str, ...]:
        return self._addresses


def as_text(explanation: Explanation) -> str:
    """A line for each step, the deciding one marked, and one for the end of it."""
    lines = [
        f"{'=>' if step.decides else '  '} {step.name:<8} {'yes' if step.passed else 'no ':<3}  "
        f"{step.text}"
        for step in explanation.steps
    ]
    rule = f", rule {explanation.rule}" if explanation.rule else ""
    if explanation.allowed:
        lines.append(f"allowed{rule}: would connect {_where(explanation)}")
    else:
        lines.append(f"refused with {explanation.status}{rule}: {explanation.reason}")
    return "\n".join(lines)


def _where(explanation: Explanation) -> str:
    there = f"to {', '.join(explanation.addresses)}" if explanation.addresses else "by name"
    if not explanation.parents:
        return there
    return f"through {', '.join(explanation.parents)} {there}"


def as_json(explanation: Explanation) -> str:
    """The same for programs: an object with the fields of Explanation."""
    return json.dumps(asdict(explanation), indent=2)


def read_request(
    method: str, target: str, client: str, user: str = "", addresses: Sequence[str] = ()
) -> Request:
    """A request by the method and target of its first line, and the client's IP address or
    "unix". ValueError says what is wrong, by the flags of ``explain``."""
    if client != UNIX:
        _check_address("--from", client, " or unix")
    for address in addresses:
        _check_address("--address", address, " without a zone", zone=False)
    if not _METHOD(method):
        raise ValueError(f"METHOD: invalid value {method!r}; allowed: CONNECT, GET and so on")
    try:
        form, scheme, host, port, path = _taken_apart(method, target)
    except HeadError as error:
        raise ValueError(error.detail) from None
    if form != "authority" and scheme != "http":
        raise ValueError(
            f"{target!r}; allowed: CONNECT HOST:PORT, or another method and http://..."
        )
    return Request(
        client="" if client == UNIX else canonical_address(client),
        user=user,
        method=method,
        scheme=scheme,
        host=host,
        port=port,
        path=escaped(path),
        addresses=tuple(addresses) or None,
    )


def _taken_apart(method: str, target: str) -> tuple[str, str, str, int, str]:
    """As the proxy reads the first line of such a request. HeadError."""
    line = f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"
    try:
        head = parse_request(line.encode("utf-8", "surrogateescape"))
    except HeadError:
        split_target(method, target)  # what is wrong with the target, if that is alone
        raise
    return head.form, head.scheme, head.host, head.port, head.path


def check_balancer(config: Config, client: str, balancer: str) -> None:
    """ValueError, unless this is an IP address that may send headers, or "unix", and it can name
    the client."""
    if client == UNIX:
        raise ValueError(
            f"--from: invalid value {client!r} with --balancer; allowed: an IP address"
        )
    if balancer == UNIX:
        return
    _check_address("--balancer", balancer, " or unix")
    if not ClientNetworks(config.balancers).admit(balancer):
        allowed = ", ".join(config.balancers) or "none, for --proxy-protocol-from names nobody"
        raise ValueError(f"--balancer: {balancer} may not send headers; allowed: {allowed}")


def listener(config: Config, text: str) -> Address:
    """The address to listen on that this text names. ValueError."""
    try:
        found: Address = LISTENER.read(text, "")
    except ValueError as error:
        raise ValueError(f"--listener: {error}") from None
    known = [one.where for one in config.places]
    if found not in known:
        names = ", ".join(map(str, known))
        raise ValueError(f"--listener: the proxy does not listen on {found}; allowed: {names}")
    return found


def _check_address(flag: str, text: str, other: str = "", *, zone: bool = True) -> None:
    """With ``zone`` one is left out, as it is of clients."""
    try:
        if "%" in text and not zone:
            raise ValueError
        canonical_address(text)
    except ValueError:
        raise ValueError(f"{flag}: invalid value {text!r}; allowed: an IP address{other}") from None
