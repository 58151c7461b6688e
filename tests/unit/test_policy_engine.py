"""The policy as a whole: the order of its questions, and what its answers hold."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.config import AuthConfig, Config, PolicyConfig, RuleConfig
from spliceproxy.errors import Denied, Failure
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.policy.clients import ClientNetworks
from spliceproxy.policy.engine import REPEAT, Policy
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.guard import Guard
from spliceproxy.policy.rules import Match, RuleSet, Selection
from spliceproxy.policy.verdict import Notes, Verdict
from spliceproxy.policy.witness import Witness
from spliceproxy.upstream.addresses import literal

ANN = b"Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n"  # ann:secret


class Names:
    """A resolver that knows ``zone``, and 192.0.2.1 for all other names; those that begin
    with "slow" are not cached."""

    def __init__(self, **zone: Sequence[str]) -> None:
        self.zone = {name.replace("_", "."): tuple(found) for name, found in zone.items()}
        self.asked: list[str] = []

    def cached(self, host: str) -> tuple[str, ...] | None:
        self.asked.append(host)
        if host.startswith("slow"):
            return None
        return self.zone.get(host, (literal(host) or "192.0.2.1",))

    async def resolve(self, host: str) -> tuple[str, ...]:
        await asyncio.sleep(0)
        if host not in self.zone:
            raise Failure("dns_error", host)
        return self.zone[host]


class Case:
    """A policy, asked for one client after the other."""

    def __init__(
        self,
        *rules: RuleConfig,
        names: Names | None = None,
        hook: Any = None,
        auth: AuthConfig | None = None,
        witness: Witness | None = None,
        **settings: Any,
    ) -> None:
        config = Config(
            listen=(),
            auth=auth or AuthConfig(),
            policy=PolicyConfig(rules=rules, **settings),
        )
        self.names = names or Names()
        functions = Functions(hook) if hook is not None else None
        self.policy = Policy(config, self.names, functions, witness=witness)
        self.record = Record("", 0.0)

    def head(self, method: str, host: str, port: int, more: bytes) -> RequestHead:
        target = f"{host}:{port}" if method == "CONNECT" else f"http://{host}:{port}/p?q"
        text = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n"
        return parse_request(text.encode() + more + b"\r\n")

    def ask(
        self,
        host: str = "192.0.2.1",
        port: int = 443,
        *,
        client: str = "127.0.0.1",
        method: str = "CONNECT",
        more: bytes = b"",
        own: bool = False,
    ) -> Verdict:
        self.record = Record(client, 0.0)
        head = self.head(method, host, port, more)
        with socket.socket() as sock:
            asker = self.policy.standing(client, sock)
        return asyncio.run(
            self.policy.decide(asker, head, head.host, head.port, self.record, own=own)
        )

    def admit(self, *, client: str = "127.0.0.1", more: bytes = b"") -> None:
        self.record = Record(client, 0.0)
        head = parse_request(b"GET / HTTP/1.1\r\nHost: files.test\r\n" + more + b"\r\n")
        with socket.socket() as sock:
            asker = self.policy.standing(client, sock)
        asyncio.run(self.policy.admit(asker, head, self.record))

    def denies(self, *args: Any, **kwargs: Any) -> Denied:
        with pytest.raises(Denied) as caught:
            self.ask(*args, **kwargs)
        return caught.value


def deny(id: str = "r", **conditions: Any) -> RuleConfig:
    return RuleConfig(id, "deny", **conditions)


def allow(id: str = "a", **conditions: Any) -> RuleConfig:
    return RuleConfig(id, "allow", **conditions)


def test_nothing_configured() -> None:
    case = Case(names=Names(a_test=("192.0.2.1", "2001:db8::1")))
    addresses = ("192.0.2.1", "2001:db8::1")
    assert case.ask("a.test")[:6] == ("a.test", 443, addresses, "", REPEAT, None)
    assert case.ask("a.test").key == ("a.test", 443, "")


def test_no_open_relay() -> None:
    for client in ("", "127.0.0.1", "10.0.0.7", "fe80::1%eth0"):
        assert Case().ask(client=client).addresses
        Case().admit(client=client)
    denied = Case().denies(client="192.0.2.7")
    assert (denied.status, denied.rule, denied.error) == (403, "clients", "http_request_denied")
    # What the operator serves or stands before is no relay.
    Case().admit(client="192.0.2.7")
    assert Case().ask(client="192.0.2.7", own=True).addresses
    # Configured networks are for all requests.
    case = Case(clients=("192.0.2.0/24",))
    case.admit(client="192.0.2.7")
    assert case.ask(client="192.0.2.7").addresses
    for own in (True, False):
        assert case.denies(own=own).rule == "clients"
    with pytest.raises(Denied):
        case.admit(client="127.0.0.1")


def test_users() -> None:
    auth = AuthConfig(user=("ann", "secret"), groups={"staff": ("ann",)})
    case = Case(allow(groups=("staff",), hosts=("a.test",)), auth=auth, default="deny")
    with pytest.raises(Unauthenticated) as caught:
        case.ask("a.test", client="192.0.2.7")
    assert caught.value.status == 407
    assert case.names.asked == []
    verdict = case.ask("a.test", client="192.0.2.7", more=ANN)
    assert 0 < verdict.repeat_for <= REPEAT
    assert case.record.user == "ann"
    assert case.denies("b.test", more=ANN).rule == "default"
    assert case.record.user == "ann"  # known though it is denied
    with pytest.raises(Unauthenticated):
        case.admit()


def test_a_group_of_nobody_lets_nobody_in() -> None:
    auth = AuthConfig(user=("ann", "secret"), groups={"nobody": (), "staff": ("ann",)})
    case = Case(allow(groups=("nobody",)), auth=auth, default="deny")
    assert case.denies("a.test", more=ANN).rule == "default"
    optional = AuthConfig(networks={"192.0.2.0/24": "lab"}, groups={"nobody": ()})
    for rules in (allow(groups=("nobody",)), allow(users=("bob",), groups=("nobody",))):
        assert Case(rules, auth=optional, default="deny").denies("a.test").rule == "default"
    case = Case(allow("b", users=("ann",), groups=("nobody",)), auth=auth, default="deny")
    assert case.ask("a.test", more=ANN).addresses


def test_no_clients_are_nobody() -> None:
    case = Case(clients=())
    for client in ("", "127.0.0.1", "10.0.0.7", "192.0.2.7"):
        for own in (True, False):
            assert case.denies(client=client, own=own).rule == "clients"
        with pytest.raises(Denied):
            case.admit(client=client)
        assert not ClientNetworks([]).admit(client)


def test_the_status_of_a_rule() -> None:
    case = Case(deny(hosts=("a.test",), status=451), deny("s", methods=("POST",), status=405))
    assert case.denies("a.test").status == 451
    assert case.denies("b.test", method="POST").status == 405
    assert Case(deny(networks=("192.0.2.1",), status=599)).denies().status == 599
    with pytest.raises(Denied) as caught:
        Case(deny(hosts=("files.test",), status=410)).admit()
    assert caught.value.status == 410


def test_a_denied_name_is_not_looked_up() -> None:
    """A query carries data out as well as a connection."""
    case = Case(allow(hosts=("a.test",)), default="deny")
    assert case.denies("secret.b.test").rule == "default"
    assert case.names.asked == []
    assert case.ask("a.test").addresses


def test_rules_see_one_spelling() -> None:
    case = Case(deny(hosts=("127.0.0.1", "*.a.test")))
    for host in ("127.0.0.1", "0x7f.1", "2130706433", "[::ffff:7f00:1]", "B.A.TEST."):
        assert case.denies(host).rule == "r", host
    assert case.ask("a.test").addresses
    with pytest.raises(Failure) as caught:
        case.ask("a..test")
    assert caught.value.error == "dns_error"


def test_rules_on_addresses() -> None:
    names = Names(a_test=("10.0.0.1", "192.0.2.1", "10.0.0.2"), b_test=("10.0.0.1",))
    case = Case(deny(networks=("10.0.0.0/8",)), names=names)
    assert case.ask("a.test").addresses == ("192.0.2.1",)
    assert case.denies("b.test").rule == "r"
    assert case.denies("b.test", own=True).rule == "r"
    case = Case(allow(networks=("192.0.2.0/24",)), names=names, default="deny")
    assert case.ask("a.test").addresses == ("192.0.2.1",)
    assert case.denies("b.test").rule == "default"


def test_slow_names() -> None:
    case = Case(names=Names(slow_test=("10.0.0.1", "169.254.0.1")))
    assert case.ask("slow.test").addresses == ("10.0.0.1",)
    with pytest.raises(Failure, match=r"slow\.none"):
        case.ask("slow.none")


def test_the_guard() -> None:
    names = Names(a_test=("127.0.0.1", "10.0.0.1"))
    assert Case(names=names).ask("a.test").addresses == ("127.0.0.1", "10.0.0.1")
    assert Case(names=names).ask("a.test", client="10.0.0.7").addresses == ("10.0.0.1",)
    denied = Case(names=names, guard="private").denies("a.test")
    assert (denied.error, denied.status) == ("destination_ip_prohibited", 403)
    assert denied.detail == "rule guard"
    case = Case(names=names, guard="private", guard_allow=("10.0.0.0/8",))
    assert case.ask("a.test").addresses == ("10.0.0.1",)
    assert Case(names=names, guard="private").ask("a.test", own=True).addresses
    assert Case(guard="off").ask("169.254.169.254").addresses
    assert Case(guard="off", guard_deny=("192.0.2.1",)).denies("192.0.2.1").rule == "guard"


def test_nobody_is_local() -> None:
    """A balancer on this machine brings clients from anywhere: they come from loopback."""
    near = ("", "10.0.0.7", "fd00::1", "169.254.0.9")
    loopback = ("127.0.0.1", "127.9.9.9", "::1")
    case = Case(guard_local="none")
    for client in near:
        assert case.ask(client=client).addresses
        assert case.denies("127.0.0.1", client=client).rule == "guard"
        assert case.denies("[::1]", client=client).rule == "guard"
    for client in loopback:
        assert case.denies(client=client).rule == "clients"
        assert case.ask("127.0.0.1", client=client, own=True).addresses
        case.admit(client=client)  # what the operator serves is no relay
    named = Case(guard_local="none", clients=("127.0.0.1", "unix"))
    for client in ("", "127.0.0.1"):
        assert named.ask(client=client).addresses
        assert named.denies("127.0.0.1", client=client).rule == "guard"
    assert named.ask("127.0.0.1", client="127.0.0.1", own=True).addresses
    let = Case(guard_local="none", clients=("127.0.0.1",), guard_allow=("127.0.0.1",))
    assert let.ask("127.0.0.1").addresses
    users = Case(guard_local="none", auth=AuthConfig(user=("ann", "secret")))
    assert users.ask(more=ANN).addresses  # users from anywhere
    assert users.denies("127.0.0.1", more=ANN).rule == "guard"


def test_report_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spliceproxy")
    names = Names(a_test=("10.0.0.1", "192.0.2.1"))
    case = Case(deny(networks=("10.0.0.0/8",)), names=names, report_only=True)
    assert case.ask("a.test").addresses == ("192.0.2.1",)
    verdict = case.ask("10.0.0.1")
    assert verdict.addresses == ("10.0.0.1",)
    assert verdict.repeat_for == 0  # each such request is to be logged
    assert case.ask("192.0.2.1").repeat_for == REPEAT
    assert "rule r (report only) would deny: client 127.0.0.1, CONNECT 10.0.0.1:443" in caplog.text
    caplog.clear()
    case = Case(deny(hosts=("*.test",), report_only=True))
    assert case.ask("a.test", client="").addresses
    assert case.ask("192.0.2.1").repeat_for == REPEAT
    assert (
        caplog.text.count("rule r (report only) would deny: client unix, CONNECT a.test:443") == 1
    )
    caplog.clear()
    assert Case(default="deny", report_only=True).ask("192.0.2.1").repeat_for == 0
    assert caplog.text.count("rule default (report only) would deny") == 1


@pytest.mark.parametrize("more", [(), (allow("all"),), (allow("ten", networks=("10.0.0.0/8",)),)])
@pytest.mark.parametrize("enforced", [False, True])
def test_a_rule_that_only_reports_sees_the_addresses(
    more: tuple[RuleConfig, ...], enforced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no other rule does."""
    caplog.set_level(logging.INFO, "spliceproxy")
    rule = deny(networks=("10.0.0.0/8",), report_only=True)
    case = Case(rule, *more, report_only=not enforced)
    assert case.ask("10.0.0.1").repeat_for == 0
    assert [message.split()[1] for message in caplog.messages] == ["r"]
    assert case.ask("192.0.2.1").repeat_for == REPEAT
    assert len(caplog.messages) == 1


def test_what_is_denied_is_not_looked_up_for_a_report() -> None:
    names = Names(a_test=("10.0.0.1",))
    case = Case(deny("r", networks=("10.0.0.0/8",), report_only=True), deny("no"), names=names)
    assert case.denies("a.test").rule == "no"
    assert names.asked == []


def test_a_request_is_reported_once_by_each_rule(caplog: pytest.LogCaptureFixture) -> None:
    """It may be judged again, with more addresses: then another rule may match, too."""
    caplog.set_level(logging.INFO, "spliceproxy")
    names = Names(a_test=("192.0.2.1",))
    rules = deny("name", hosts=("a.test",)), deny("network", networks=("10.0.0.0/8",))
    case = Case(*(replace(rule, report_only=True) for rule in rules), names=names)
    head = case.head("CONNECT", "a.test", 443, b"")
    client = case.policy.standing("127.0.0.1", None)

    def judge() -> list[str]:
        caplog.clear()
        asyncio.run(case.policy.decide(client, head, "a.test", 443, case.record))
        return [message.split()[1] for message in caplog.messages]

    assert judge() == ["name"]
    assert judge() == []
    names.zone["a.test"] = ("10.0.0.1", "192.0.2.1")
    assert judge() == ["network"]
    assert judge() == []
    case.record = Record("127.0.0.1", 0.0)
    assert judge() == ["name", "network"]


def test_the_hook_sees_the_request() -> None:
    seen: list[Request] = []

    def authorize(request: Request) -> Allow:
        seen.append(request)
        return Allow(source_address="192.0.2.9", tags={"team": "red"})

    auth = AuthConfig(user=("ann", "secret"), groups={"staff": ("ann",)})
    names = Names(**{"A_test": ("10.0.0.1", "169.254.0.1"), "a_test": ("10.0.0.1", "169.254.0.1")})
    case = Case(hook=authorize, auth=auth, names=names)
    verdict = case.ask("A.test", 80, method="GET", more=ANN + b"X: y\r\n")
    assert verdict[:6] == ("a.test", 80, ("10.0.0.1",), "192.0.2.9", 0.0, None)
    assert verdict.key == ("a.test", 80, "192.0.2.9")
    assert case.record.tags == {"team": "red"}
    (request,) = seen
    assert request.field("x") == "y"
    assert request == Request(
        "127.0.0.1",
        "ann",
        frozenset({"staff"}),
        "GET",
        "http",
        "a.test",
        80,
        "/p?q",
        None,
        request.fields,
    )
    case.admit(more=ANN)
    assert (seen[-1].host, seen[-1].path, seen[-1].addresses) == ("files.test", "/", None)


def test_the_hook_denies() -> None:
    case = Case(hook=lambda _: Deny("Not today.", "mondays", 451))
    denied = case.denies("a.test")
    assert (denied.status, denied.detail, denied.reason) == (451, "rule mondays", "Not today.")
    denied = Case(hook=lambda _: Deny("Not today.")).denies("a.test")
    assert (denied.detail, denied.rule) == ("Not today.", "")
    with pytest.raises(Denied):
        case.admit()


def test_the_hook_is_not_asked_what_is_denied_already() -> None:
    def authorize(request: Request) -> Allow:
        raise AssertionError

    assert Case(deny(hosts=("a.test",)), hook=authorize).denies("a.test").rule == "r"
    assert Case(hook=authorize).denies("a.test", client="192.0.2.7").rule == "clients"


def wanting(authorize: Callable[[Request], Allow | Deny]) -> Callable[[Request], Allow | Deny]:
    """The function, asked about addresses too."""
    authorize.wants_addresses = True  # type: ignore[attr-defined]
    return authorize


def test_the_hook_is_asked_before_the_name_is_looked_up() -> None:
    """What it denies costs no query, and is no 502 where the name leads nowhere."""
    seen: list[Request] = []

    def authorize(request: Request) -> Allow | Deny:
        seen.append(request)
        return Allow() if request.host in ("a.test", "slow.none") else Deny("not ours", "egress")

    for rules in ((), (deny(networks=("198.51.100.0/24",)),), (allow(hosts=(".test",)),)):
        case = Case(*rules, hook=authorize)
        for host in ("secret.b.test", "slow.b.test", "slow.nowhere", "192.0.2.9", "[::1]"):
            assert case.denies(host).rule == "egress"
        assert case.names.asked == []
        assert case.ask("a.test").addresses == ("192.0.2.1",)
        assert case.names.asked == ["a.test"]
        with pytest.raises(Failure, match=r"slow\.none"):
            case.ask("slow.none")
    assert {request.addresses for request in seen} == {None}


def test_a_hook_that_wants_addresses_is_asked_twice() -> None:
    seen: list[tuple[str, ...] | None] = []

    def authorize(request: Request) -> Allow | Deny:
        seen.append(request.addresses)
        if request.host == "no.test":
            return Deny("not ours", "name")
        if request.addresses and "198.51.100.1" in request.addresses:
            return Deny("not there", "place")
        return Allow()

    zone = {
        "two_test": ("192.0.2.1", "169.254.0.1", "10.0.0.1"),
        "bad_test": ("198.51.100.1",),
        "meta_test": ("169.254.0.1",),
        "slow_test": ("192.0.2.7",),
    }
    case = Case(deny(networks=("10.0.0.0/8",)), hook=wanting(authorize), names=Names(**zone))
    assert case.denies("no.test").rule == "name"
    assert case.names.asked == []
    assert case.ask("two.test").addresses == ("192.0.2.1",)  # less than what others deny
    assert case.denies("bad.test").rule == "place"
    assert case.denies("meta.test").rule == "guard"
    assert case.ask("slow.test").addresses == ("192.0.2.7",)
    assert case.ask("192.0.2.1").addresses == ("192.0.2.1",)
    assert seen == [
        *(None,),
        *(None, ("192.0.2.1",)),
        *(None, ("198.51.100.1",)),
        *(None,),
        *(None, ("192.0.2.7",)),
        *(None, ("192.0.2.1",)),
    ]
    # What is answered here goes nowhere, and is asked about once.
    seen.clear()
    case.admit()
    assert seen == [None]


def test_what_the_second_answer_leaves_out_is_of_the_first() -> None:
    first = Allow("192.0.2.8", ("192.0.2.1", "192.0.2.2"), {"a": "1", "b": "1"})

    def case(second: Allow) -> Case:
        return Case(hook=wanting(lambda request: first if request.addresses is None else second))

    asked = case(Allow())
    assert asked.ask("slow.none")[2:4] == (("192.0.2.1", "192.0.2.2"), "192.0.2.8")
    assert asked.record.tags == {"a": "1", "b": "1"}
    assert asked.names.asked == []  # for addresses of the first answer nothing is looked up
    asked = case(Allow("192.0.2.9", ("192.0.2.3",), {"b": "2"}))
    assert asked.ask("slow.none")[2:4] == (("192.0.2.3",), "192.0.2.9")
    assert asked.record.tags == {"a": "1", "b": "2"}
    assert case(Allow(addresses=("169.254.0.1",))).denies("a.test").rule == "guard"


def test_each_answer_is_remembered_for_its_question() -> None:
    seen: list[tuple[str, ...] | None] = []

    def authorize(request: Request) -> Allow:
        seen.append(request.addresses)
        return Allow()

    names = Names(a_test=("192.0.2.1",))
    case = Case(hook=wanting(authorize), hook_cache=60.0, names=names)
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        names.zone["a.test"] = (address,)
        assert 0 < case.ask("a.test").repeat_for <= REPEAT
    assert seen == [None, ("192.0.2.1",), ("192.0.2.2",)]


def test_addresses_of_the_hook_are_checked() -> None:
    def case(*addresses: str) -> Case:
        return Case(deny(networks=("198.51.100.0/24",)), hook=lambda _: Allow(addresses=addresses))

    assert case("192.0.2.5", "::ffff:192.0.2.6").ask().addresses == ("192.0.2.5", "192.0.2.6")
    assert case("169.254.169.254", "192.0.2.5").ask().addresses == ("192.0.2.5",)
    assert case("169.254.169.254").denies().rule == "guard"
    assert case("198.51.100.1").denies().rule == "r"

    # A backend is the operator's word, other addresses in its place are not.
    def one(request: Request) -> Allow:
        return Allow(addresses=request.addresses and request.addresses[:1])

    first = wanting(one)
    names = Names(backend_test=("127.0.0.1", "127.0.0.2"))
    backend = Case(hook=first, guard="private", names=names)
    assert backend.ask("backend.test", own=True).addresses == ("127.0.0.1",)
    known = Case(hook=lambda _: Allow(addresses=("127.0.0.2",)), guard="private", names=names)
    assert known.ask("backend.test", own=True).addresses == ("127.0.0.2",)
    assert known.denies("a.test", own=True).rule == "guard"
    assert case("169.254.169.254").denies(own=True).rule == "guard"


def test_how_long_it_holds() -> None:
    assert Case(deny(hosts=("b.test",))).ask().repeat_for == REPEAT
    assert Case(deny(hosts=("b.test",), times=("00:00-24:00",))).ask().repeat_for <= 60
    assert Case(hook=lambda _: Allow()).ask().repeat_for == 0
    assert 0 < Case(hook=lambda _: Allow(), hook_cache=5.0).ask().repeat_for <= 5
    verdict = Case(hook=lambda _: Allow(), hook_cache=500.0).ask()
    assert REPEAT - 1 < verdict.repeat_for <= REPEAT


def test_what_was_decided_before_the_hook_is_older_after_it() -> None:
    """A rule that names a time holds until the minute is over, however late the hook answers."""

    async def late(request: Request) -> Allow:
        await asyncio.sleep(0.05)  # longer than the minute has left
        return Allow()

    case = Case(deny(hosts=("b.test",), times=("00:00-24:00",)), hook=late, hook_cache=60.0)
    case.policy._rules._timed.clock = lambda: 59.99
    assert case.ask().repeat_for == 0


def test_a_hook_that_leaves_no_address_lets_nothing_through() -> None:
    """It has sorted out all there are; that is no reason to dial them."""

    def public(request: Request) -> Allow:
        if request.addresses is None:
            return Allow()
        return Allow(addresses=tuple(a for a in request.addresses if a.startswith("198.")))

    names = Names(a_test=("192.0.2.1",), b_test=("192.0.2.1", "198.51.100.1"))
    case = Case(hook=wanting(public), names=names)
    assert case.ask("b.test").addresses == ("198.51.100.1",)
    with pytest.raises(Failure, match="the policy function failed"):
        case.ask("a.test")
    case.admit()  # which goes nowhere


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"guard_allow": ("x",)}, "allowed: a network"),
        ({"clients": ("x",)}, "allowed: a network"),
        ({"guard_local": "nobody"}, "guard_local 'nobody'; allowed: loopback, none"),
        ({"hook": "no_such_module"}, "cannot import"),
        ({"rules": (deny(ports=("x",)),)}, "rule r: ports"),
    ],
)
def test_mistakes(settings: dict[str, Any], text: str) -> None:
    config = Config(listen=(), policy=PolicyConfig(**settings))
    with pytest.raises(ValueError, match=text):
        Policy(config, Names())


def classes(case: Case, *addresses: str) -> list[str | None]:
    with socket.socket() as sock:
        return [case.policy.standing(a, sock).group for a in addresses]


@pytest.mark.parametrize(
    ("rules", "settings"),
    [
        ((), {}),
        ((), {"clients": ("10.0.0.0/8",)}),
        ((), {"guard_local": "none"}),
        ((), {"guard_local": "none", "clients": ("10.0.0.0/8", "127.0.0.1", "unix")}),
        ((deny(clients=("10.0.1.0/24",)),), {}),
        ((deny(clients=("10.0.0.0/8",), hosts=("*.test",)), allow(clients=("10.0.2.0/24",))), {}),
    ],
    ids=["near", "clients", "none local", "none local, clients", "a rule", "rules"],
)
def test_clients_of_a_class_are_treated_alike(
    rules: tuple[RuleConfig, ...], settings: dict[str, Any]
) -> None:
    """And there are fewer classes than clients."""
    addresses = [f"10.0.{net}.{host}" for net in range(4) for host in (1, 2)]
    addresses += ["", "127.0.0.1", "127.0.0.2", "192.0.2.1", "198.51.100.1", "2001:db8::1"]
    case = Case(*rules, **settings)
    found: dict[str | None, set[tuple[str, ...]]] = {}
    for address, group in zip(addresses, classes(case, *addresses), strict=True):
        answers = []
        for host in ("a.test", "b.example", "127.0.0.1"):
            for own in (False, True):
                try:
                    answers.append(str(case.ask(host, client=address, own=own)))
                except Denied as denied:
                    answers.append(str(denied))
        found.setdefault(group, set()).add(tuple(answers))
    assert all(len(answers) == 1 for answers in found.values())
    assert 1 < len(found) < len(addresses) // 2


def test_who_knows_users_or_asks_a_function_sees_each_client() -> None:
    async def decide(request: Request) -> None:
        return None

    addresses = ["10.0.0.1", "10.0.0.2", "fe80::1%eth0"]
    assert classes(Case(hook=decide), *addresses) == addresses
    users = AuthConfig(networks={"10.0.0.0/8": "ci"})
    assert classes(Case(auth=users), *addresses) == addresses


def test_a_class_is_as_short_as_an_address() -> None:
    """Beyond that every client is one of its own."""
    many = Case(*(deny(f"r{n}", clients=("10.0.0.0/8",)) for n in range(400)))
    assert classes(many, "10.0.0.1") == ["10.0.0.1"]
    (near,) = classes(Case(), "10.0.0.1")
    assert near is not None
    assert len(near) <= 45


@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(networks={"198.51.100.0/24": "lab"}),
        AuthConfig(peers={"1000": "web"}),
        AuthConfig(user=("ann", "secret"), required=False),
        AuthConfig(user=("ann", "secret"), networks={"198.51.100.0/24": "lab"}, required=False),
    ],
    ids=["networks", "peers", "optional", "optional, networks"],
)
def test_no_open_relay_where_users_are_optional(auth: AuthConfig) -> None:
    """Who is no user must be near."""
    case = Case(auth=auth)
    assert case.denies(client="203.0.113.9").rule == "clients"
    assert case.ask(client="10.0.0.1").addresses
    if auth.networks:
        assert case.ask(client="198.51.100.7").addresses
        assert case.record.user == "lab"
    if auth.user:
        right = b"Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n"
        assert case.ask(client="203.0.113.9", more=right).addresses
    named = Case(auth=auth, clients=("10.0.0.0/8",))
    assert named.denies(client="198.51.100.7").rule == "clients"


def test_users_that_are_required_may_come_from_anywhere() -> None:
    case = Case(auth=AuthConfig(user=("ann", "secret")))
    for client in ("203.0.113.9", "10.0.0.1"):
        with pytest.raises(Unauthenticated):
            case.ask(client=client)


# ---- the order, against the obvious way -----------------------------------------------------

ZONE = {
    "a.test": ("192.0.2.1", "10.0.0.1"),
    "b.test": ("10.0.0.1",),
    "c.test": ("169.254.0.1", "192.0.2.2"),
    "slow.test": ("192.0.2.2", "198.51.100.1"),
}
TARGETS = [*ZONE, "slow.none", "192.0.2.9", "10.0.0.1"]
SOME_RULES = [
    deny("d1", hosts=("b.test", ".none")),
    deny("d2", networks=("10.0.0.0/8",), status=451),
    deny("d3", clients=("10.0.0.0/8",)),
    allow("a1", hosts=(".test",)),
    allow("a2", networks=("192.0.2.0/24",)),
]
ANSWERS = [
    Allow(),
    Allow(addresses=("192.0.2.7", "10.0.0.1")),
    Allow(addresses=("169.254.0.1",)),
    Allow("192.0.2.8", tags={"a": "b"}),
    Deny("no", "hook"),
]


@settings(deadline=None, max_examples=300)
@given(
    host=st.sampled_from(TARGETS),
    client=st.sampled_from(["127.0.0.1", "10.0.0.7", "203.0.113.1"]),
    rules=st.lists(st.sampled_from(SOME_RULES), unique=True, max_size=4),
    default=st.sampled_from(["allow", "deny"]),
    first=st.none() | st.sampled_from(ANSWERS),
    second=st.none() | st.sampled_from(ANSWERS),
)
def test_the_first_no_is_the_answer_and_costs_no_query(
    host: str,
    client: str,
    rules: list[RuleConfig],
    default: str,
    first: Allow | Deny | None,
    second: Allow | Deny | None,
) -> None:
    """``first`` None: no hook; ``second`` None: one that does not want to see addresses."""
    names = Names()
    names.zone = dict(ZONE)

    def authorize(request: Request) -> Allow | Deny:
        answer = first if request.addresses is None else second
        assert answer is not None
        assert request.addresses is None or first is not None
        return answer

    if second is not None:
        authorize = wanting(authorize)  # type: ignore[assignment]
    hook = authorize if first is not None else None
    case = Case(*rules, names=names, hook=hook, default=default)
    try:
        found: object = case.ask(host, client=client).addresses
    except Failure as failure:
        found = failure.rule if isinstance(failure, Denied) else failure.error
    expected, asks = obvious(host, client, RuleSet(rules, default), first, second)
    assert found == expected
    assert bool(names.asked) is asks


def denied_at_once(host: str, client: str, rules: RuleSet, first: Allow | Deny | None) -> str:
    """The rule that says no before the name is looked up, "" if none does."""
    if client == "203.0.113.1":
        return "clients"
    settled = rules.select(rules.of_client(client), "", frozenset(), "CONNECT", host, 443).settled
    if settled is not None and not settled.allow:
        return settled.rule
    return first.rule if isinstance(first, Deny) else ""


def obvious(
    host: str, client: str, rules: RuleSet, first: Allow | Deny | None, second: Allow | Deny | None
) -> tuple[object, bool]:
    """The addresses, or the rule or error; and whether the name is looked up."""

    def sifted(addresses: tuple[str, ...]) -> tuple[str, ...] | str:
        asked = [Request(client=client, host=host, addresses=(a,)) for a in addresses]
        matches = [rules.decide(one) for one in asked]
        allowed = [a for a, match in zip(addresses, matches, strict=True) if match.allow]
        if not allowed:
            return matches[0].rule
        return tuple(a for a in allowed if not a.startswith("169.254.")) or "guard"

    no = denied_at_once(host, client, rules, first)
    if no:
        return no, False
    named = first.addresses if isinstance(first, Allow) else None
    known = ZONE.get(host) or tuple(filter(None, [literal(host)]))
    if not named and not known:
        return "dns_error", True
    found = sifted(named or known)
    if isinstance(found, tuple) and first is not None:
        if isinstance(second, Deny):
            found = second.rule
        elif second is not None and second.addresses:
            found = sifted(second.addresses)
    return found, not named


class Seen(Witness):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def asked(self, notes: Notes) -> None:
        self.told.append(("asked", notes.host))

    def identified(self, user: str, groups: frozenset[str]) -> None:
        self.told.append(("user", user, sorted(groups)))

    def ruled(self, selection: Selection, match: Match, addresses: tuple[str, ...]) -> None:
        self.told.append(("rules", match.rule, match.allow, addresses))

    def guarded(
        self, guard: Guard | None, addresses: tuple[str, ...], allowed: tuple[str, ...]
    ) -> None:
        self.told.append(("guard", guard is not None, addresses, allowed))

    def answered(self, answer: Allow | Deny | Failure) -> None:
        self.told.append(("hook", answer))


HERE = ("192.0.2.1", "169.254.0.1")


def test_a_witness_is_told_each_step() -> None:
    seen = Seen()
    names = Names(a_test=HERE)
    yes = Allow(tags={"a": "b"})
    auth = AuthConfig(networks={"10.0.0.0/8": "ci"}, groups={"robots": ("ci",)})
    rules = (allow(networks=("192.0.2.0/24", "169.254.0.0/16")), deny())
    case = Case(*rules, names=names, hook=lambda request: yes, auth=auth, witness=seen)
    assert case.ask("a.test", client="10.0.0.1").addresses == HERE[:1]
    assert seen.told == [
        ("asked", ""),
        ("user", "ci", ["robots"]),
        ("hook", yes),
        ("rules", "a", True, HERE),
        ("guard", True, HERE, HERE[:1]),
    ]


def test_a_witness_is_told_what_refuses() -> None:
    no = Deny("not today")
    cases: list[tuple[dict[str, Any], tuple[RuleConfig, ...], str, tuple[object, ...]]] = [
        ({}, (deny(hosts=("a.test",)),), "a.test", ("rules", "r", False, ())),
        ({}, (deny(networks=("192.0.2.1",)),), "a.test", ("rules", "r", False, ("192.0.2.1",))),
        ({}, (), "169.254.0.1", ("guard", True, ("169.254.0.1",), ())),
        ({"hook": lambda request: no}, (), "a.test", ("hook", no)),
    ]
    for changed, rules, host, last in cases:
        seen = Seen()
        Case(*rules, witness=seen, **changed).denies(host)
        assert seen.told[-1] == last
    seen = Seen()
    with pytest.raises(Failure) as caught:
        Case(witness=seen, hook=lambda request: None).ask()
    assert seen.told[-1] == ("hook", caught.value)


@pytest.mark.parametrize("auth", [AuthConfig(), AuthConfig(networks={"10.0.0.0/8": "ci"})])
def test_what_a_witness_has_to_see_is_not_repeated(auth: AuthConfig) -> None:
    assert Case(auth=auth).ask(client="10.0.0.1").repeat_for > 0
    assert Case(auth=auth, witness=Witness()).ask(client="10.0.0.1").repeat_for == 0


# ---- passwords by rule ---------------------------------------------------------------------

BY_RULE = AuthConfig(user=("ann", "secret"), groups={"staff": ("ann",)}, required="by-rule")
WRONG = b"Proxy-Authorization: Basic YW5uOndyb25n\r\n"


def says(case: Case, *args: Any, **kwargs: Any) -> int:
    """The status of the answer, 200 where it goes on."""
    try:
        case.ask(*args, **kwargs)
    except Failure as failure:
        return failure.status if isinstance(failure, (Denied, Unauthenticated)) else 0
    return 200


def test_a_password_is_asked_for_where_it_would_help() -> None:
    case = Case(
        deny("blocked", hosts=("bad.test",)),
        allow("local", clients=("127.0.0.1",), hosts=("local.test",)),
        deny("not-ann", hosts=("others.test",), users=("ann",)),
        allow("staff", groups=("staff",), not_methods=("POST",)),
        auth=BY_RULE,
        default="deny",
    )
    assert says(case, "a.test") == 407
    assert says(case, "a.test", more=ANN) == 200
    assert says(case, "a.test", more=WRONG) == 407
    assert says(case, "local.test") == 200
    assert says(case, "local.test", client="10.0.0.1") == 407
    assert says(case, "bad.test") == says(case, "bad.test", more=ANN) == 403
    assert says(case, "others.test") == 403
    assert says(case, "a.test", method="POST") == 403
    assert case.names.asked == ["a.test", "local.test"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ((allow(users=("*",)),), 407),
        ((deny(not_users=("*",)), allow()), 407),
        ((deny(not_users=("eve",)), allow()), 407),
        ((deny(users=("*",)),), 403),
        ((deny(), allow(users=("*",))), 403),
        ((allow(users=("*",), ports=("80",)),), 403),
        ((allow(users=("*",), networks=("192.0.2.0/24",)),), 407),
        ((deny(not_users=("*",), networks=("192.0.2.0/24",)), allow()), 407),
        # For somebody who is refused anyway no name is looked up.
        ((deny(networks=("192.0.2.0/24",)), allow(users=("*",))), 407),
        ((allow(users=("*",), networks=("198.51.100.0/24",)),), 407),
        ((allow(not_networks=("192.0.2.0/24",)), deny(users=("eve",))), 403),
        ((allow(not_networks=("192.0.2.0/24",)), allow("b", users=("eve",))), 407),
        ((), 403),
    ],
)
def test_when_a_user_could_change_the_verdict(rules: tuple[RuleConfig, ...], status: int) -> None:
    assert says(Case(*rules, auth=BY_RULE, default="deny"), "a.test") == status
    assert says(Case(*rules, auth=BY_RULE, default="deny", report_only=True)) == 200
    optional = replace(BY_RULE, required=False)
    assert says(Case(*rules, auth=optional, default="deny"), "a.test") == 403
    for peers in ({}, {"1": "ann"}):  # users without passwords
        nobody = AuthConfig(peers=peers, required="by-rule")
        assert says(Case(*rules, auth=nobody, default="deny"), "a.test") == 403


def test_an_address_is_judged_before_a_password_is_asked_for() -> None:
    rules = deny(networks=("192.0.2.0/24",)), allow("users", users=("*",))
    case = Case(*rules, auth=BY_RULE, default="deny")
    assert says(case, "192.0.2.1") == 403
    assert says(case, "198.51.100.1") == 407


def test_a_stranger_may_come_as_a_user() -> None:
    assert says(Case(auth=BY_RULE), client="203.0.113.9") == 407
    assert says(Case(auth=BY_RULE), client="203.0.113.9", more=ANN) == 200
    assert says(Case(auth=BY_RULE), client="127.0.0.1") == 200
    assert says(Case(deny(hosts=("192.0.2.1",)), auth=BY_RULE), client="203.0.113.9") == 403
    assert says(Case(auth=BY_RULE, clients=("10.0.0.0/8",)), client="203.0.113.9") == 403
    with pytest.raises(Unauthenticated):
        Case(allow(users=("ann",)), auth=BY_RULE, default="deny").admit()
    Case(allow(users=("ann",)), auth=BY_RULE, default="deny").admit(more=ANN)


def test_a_tunnel_that_lives_is_refused_where_it_would_be_asked() -> None:
    """And not left alone, as where a function fails."""
    case = Case(allow(users=("*",)), auth=BY_RULE, default="deny")
    case.ask(more=ANN)
    head = case.head("CONNECT", "192.0.2.1", 443, b"")
    asyncio.run(case.policy.recheck("ann", head, case.record, "192.0.2.1", own=False))
    with pytest.raises(Denied, match="rule users") as caught:
        asyncio.run(case.policy.recheck("", head, case.record, "192.0.2.1", own=False))
    assert caught.value.rule == "users"
