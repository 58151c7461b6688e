"""explain: what decides about a request, as values, as text and as a command."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from harness import command

from spliceproxy import AuthConfig, Config, Explanation, PolicyConfig, Request, RuleConfig, explain
from spliceproxy.config import Address, ParentConfig, RoutingConfig, Url
from spliceproxy.embed.explaining import as_text, read_request
from spliceproxy.errors import Failure
from spliceproxy.policy.explain import walk

PUBLIC = ("192.0.2.1",)
RULES = (
    RuleConfig("no-uploads", "deny", methods=("POST",)),
    RuleConfig("no-ten", "deny", networks=("10.0.0.0/8",)),
    RuleConfig("watch", "deny", hosts=("a.test",), report_only=True),
    RuleConfig("staff", "allow", groups=("staff",), hosts=("a.test", "b.test")),
    RuleConfig("tests", "allow", hosts=("*.test",), ports=("443",)),
)
USERS = AuthConfig(user=("ann", "x"), required=False, groups={"staff": ("ann",)})


def told(
    request: Request,
    *rules: RuleConfig,
    auth: AuthConfig | None = None,
    routing: RoutingConfig | None = None,
    **policy: Any,
) -> Explanation:
    config = Config(
        listen=(),
        auth=auth or AuthConfig(),
        policy=PolicyConfig(rules, **policy),
        routing=routing or RoutingConfig(),
    )
    return explain(config, request)


def ask(host: str = "a.test", *addresses: str, **values: Any) -> Request:
    return Request(**{"client": "127.0.0.1", "host": host, **values}, addresses=addresses or PUBLIC)


def line(explanation: Explanation, name: str) -> str:
    (found,) = [step.text for step in explanation.steps if step.name == name]
    return found


def decider(explanation: Explanation) -> tuple[str, str, bool]:
    """The deciding step, the rule, and whether the request is allowed."""
    (step,) = [step for step in explanation.steps if step.decides]
    assert step.passed is explanation.allowed
    assert explanation.allowed is (explanation.status == 0) is bool(explanation.addresses)
    return step.name, explanation.rule, explanation.allowed


def test_the_reason_of_a_rule() -> None:
    rule = RuleConfig("ask", "deny", reason="Ask the platform team in #egress")
    text = as_text(told(ask(), rule))
    assert text.endswith("refused with 403, rule ask: Ask the platform team in #egress")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "0x7f.1",
        "127.1",
        "localhost",
        "a.localhost",
    ],
)
def test_given_addresses_are_of_names_that_are_looked_up(host: str) -> None:
    """An address is itself, and a name of this machine its loopback, whatever is given."""
    explanation = told(ask(host, client="192.168.0.9"))
    assert decider(explanation) == ("guard", "guard", False)


def test_nothing_forbids_it() -> None:
    explanation = told(ask())
    assert decider(explanation) == ("rules", "", True)
    assert explanation.addresses == PUBLIC
    assert [step.name for step in explanation.steps] == ["clients", "user", "rules", "dns", "guard"]


def test_clients() -> None:
    assert decider(told(ask(client="192.0.2.9"))) == ("clients", "clients", False)
    assert decider(told(ask(client=""))) == ("rules", "", True)
    assert decider(told(ask(), clients=("unix",))) == ("clients", "clients", False)


def test_who_is_local() -> None:
    explanation = told(ask("a.test", "127.0.0.1"))
    assert decider(explanation) == ("rules", "", True)
    assert line(explanation, "clients") == (
        "127.0.0.1 may use the proxy, and is taken for a client of this machine"
    )
    assert line(told(ask(client="10.0.0.7")), "clients") == "10.0.0.7 may use the proxy"
    explanation = told(ask(), guard_local="none")
    assert decider(explanation) == ("clients", "clients", False)
    assert line(explanation, "clients") == (
        "127.0.0.1 may not use the proxy, since nobody is local (guard-local)"
    )
    explanation = told(ask("a.test", "127.0.0.1"), guard_local="none", clients=("127.0.0.1",))
    assert decider(explanation) == ("guard", "guard", False)
    assert line(explanation, "clients") == "127.0.0.1 may use the proxy"


def test_a_client_from_afar_must_be_a_user() -> None:
    networks = AuthConfig(networks={"198.51.100.0/24": "ci"})
    explanation = told(ask(client="203.0.113.9"), auth=networks)
    assert decider(explanation) == ("clients", "clients", False)
    assert line(explanation, "clients") == "203.0.113.9 may not use the proxy, unless as a user"
    assert told(ask(client="198.51.100.9"), auth=networks).allowed
    assert told(ask(client="203.0.113.9", user="ci"), auth=networks).allowed


def test_users() -> None:
    required = AuthConfig(user=("ann", "x"), networks={"10.0.7.0/24": "ci"})
    explanation = told(ask(), auth=required)
    assert decider(explanation) == ("user", "", False)
    assert explanation.status == 407
    assert line(told(ask(user="ci"), auth=required), "user") == "ci"
    unknown = told(ask(user="bob"), auth=required)
    assert (decider(unknown), unknown.status) == (("user", "", False), 407)
    assert line(unknown, "user") == "no setting, and no file of users, has a user 'bob'"
    assert line(told(ask(client="10.0.7.3"), auth=required), "user") == "ci"
    assert line(told(ask(user="ann"), auth=USERS), "user") == "ann, groups: staff"
    assert "'ann' is not asked for" in line(told(ask(user="ann")), "user")


def test_a_password_by_rule() -> None:
    auth = AuthConfig(user=("ann", "x"), required="by-rule")
    rules = (
        RuleConfig("users", "allow", users=("*",), not_hosts=(".b.test",)),
        RuleConfig("not-b", "deny", hosts=(".b.test",)),
    )
    explanation = told(ask(), *rules, auth=auth, default="deny")
    assert (decider(explanation), explanation.status) == (("rules", "default", False), 407)
    assert line(explanation, "user") == "nobody"
    assert line(explanation, "rules") == (
        "no rule matches, and the default denies it; a user may be allowed it, so a password is "
        "asked for (auth-required)"
    )
    explanation = told(ask("b.test"), *rules, auth=auth, default="deny")
    assert (decider(explanation), explanation.status) == (("rules", "not-b", False), 403)
    assert told(ask(user="ann"), *rules, auth=auth, default="deny").allowed
    explanation = told(ask(client="203.0.113.9"), auth=auth)
    assert (decider(explanation), explanation.status) == (("user", "", False), 407)


@pytest.mark.parametrize(
    ("listen", "address", "back"),
    [
        (Address("127.0.0.1", 8888), "127.0.0.1", True),
        (Address("127.0.0.1", 8888), "127.0.0.2", False),
        (Address("127.0.0.1", 8889), "127.0.0.1", False),
        (Address("127.0.0.1", 8888), "0.0.0.0", True),
        (Address("192.0.2.1", 8888), "192.0.2.1", True),
        (Address("", 8888), "127.0.0.1", True),
        (Address("", 8888), "::1", True),
        (Address("", 8888), "192.0.2.1", False),
        (Address(path="/run/proxy.sock"), "127.0.0.1", False),
    ],
)
def test_a_request_that_leads_back_here(listen: Address, address: str, back: bool) -> None:
    config = Config(listen=(listen,), policy=PolicyConfig(guard="off"))
    explanation = explain(config, ask("a.test", address, port=8888))
    assert explanation.allowed is not back
    if back:
        assert decider(explanation) == ("loop", "", False)
        assert (explanation.status, explanation.error) == (502, "proxy_loop_detected")
        assert str(listen) in line(explanation, "loop")


def test_rules() -> None:
    explanation = told(ask(user="ann"), *RULES, auth=USERS, default="deny")
    assert decider(explanation) == ("rules", "staff", True)
    text = line(explanation, "rules")
    assert text.startswith("rule staff allows it, for 192.0.2.1; also matching: watch, tests;")
    assert text.endswith("would deny it, but only report: watch")
    explanation = told(ask("b.test", method="POST"), *RULES, default="deny")
    assert decider(explanation) == ("rules", "no-uploads", False)
    assert line(explanation, "rules") == "rule no-uploads denies it; also matching: tests"
    assert "dns" not in [step.name for step in explanation.steps]
    explanation = told(ask("b.test", port=80), *RULES, default="deny")
    assert decider(explanation) == ("rules", "default", False)
    explanation = told(ask("b.test", port=80), *RULES, default="deny", report_only=True)
    assert decider(explanation) == ("rules", "default", True)
    assert "but only reports" in line(explanation, "rules")


def test_the_status_of_a_rule() -> None:
    explanation = told(ask(), RuleConfig("gone", "deny", hosts=(".test",), status=451))
    assert decider(explanation) == ("rules", "gone", False)
    assert explanation.status == 451
    assert line(explanation, "rules") == "rule gone denies it with 451"
    assert as_text(explanation).splitlines()[-1].startswith("refused with 451, rule gone: ")


def test_rules_on_addresses() -> None:
    explanation = told(ask("b.test", "10.0.0.1", "192.0.2.1"), *RULES, default="deny")
    assert decider(explanation) == ("rules", "tests", True)
    assert "left out: 10.0.0.1 (rule no-ten)" in line(explanation, "rules")
    assert line(explanation, "guard") == "192.0.2.1 may be dialled"
    explanation = told(ask("b.test", "10.0.0.1"), *RULES, default="deny")
    assert decider(explanation) == ("rules", "no-ten", False)
    assert line(explanation, "rules") == (
        "rule no-ten denies it, for 10.0.0.1; also matching: tests"
    )


def test_the_guard() -> None:
    explanation = told(ask("a.test", "169.254.169.254", "::ffff:192.0.2.1"))
    assert decider(explanation) == ("rules", "", True)
    assert explanation.addresses == PUBLIC
    assert "left out: 169.254.169.254 (link-local)" in line(explanation, "guard")
    explanation = told(ask("a.test", "127.0.0.1", client="10.0.0.7"))
    assert decider(explanation) == ("guard", "guard", False)
    assert line(explanation, "guard") == "127.0.0.1 (loopback)"
    assert explanation.error == "destination_ip_prohibited"
    assert line(told(ask("a.test", "127.0.0.1"), guard="off"), "guard") == "off"


def test_locked(tmp_path: Path) -> None:
    path = tmp_path / "egress.toml"
    path.write_text('rule = [{id = "x", action = "allow", hosts = ["a.test"], ports = [443]}]')
    assert decider(told(ask(), locked=path)) == ("locked", "", True)
    assert decider(told(ask(), RuleConfig("all", "allow"), locked=path)) == ("rules", "all", True)
    assert decider(told(ask("b.test"), locked=path)) == ("locked", "locked", False)
    assert decider(told(ask(), RuleConfig("no", "deny"), locked=path)) == ("rules", "no", False)


HOOK = """
from spliceproxy import Allow, Deny
print("loaded")
async def authorize(request):
    if request.host == "bad.test":
        raise KeyError(request.host)
    if request.host == "moved.test":
        return Allow(addresses=("169.254.0.1",))
    if request.user != "ann":
        return Deny("only ann", rule="locked")
    return Allow(source_address="192.0.2.9", tags={"team": "red"})
"""


def test_the_hook(tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK)
    explanation = told(ask(user="ann"), auth=USERS, hook=str(hook))
    assert decider(explanation) == ("function", "", True)
    assert line(explanation, "function") == "it allows it from 192.0.2.9 team=red"
    # A rule of a hook may be called as a part of the policy is.
    explanation = told(ask(), hook=str(hook))
    assert decider(explanation) == ("function", "locked", False)
    assert line(explanation, "function") == "only ann (rule locked)"
    explanation = told(ask("bad.test"), hook=str(hook))
    assert decider(explanation) == ("function", "", False)
    assert explanation.status == 500
    explanation = told(ask("moved.test"), hook=str(hook))
    assert explanation.rule == "guard"
    assert [(step.name, step.passed) for step in explanation.steps if step.decides] == [
        ("guard", False)
    ]


def test_the_hook_says_the_way_and_the_rate(tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "from spliceproxy import Allow\n"
        "def authorize(request):\n"
        "    parent = 'direct' if request.host == 'b.test' else 'up'\n"
        "    return Allow(parent=parent, rate='1MB', rate_out=2000)\n"
    )
    up = {"up": ParentConfig(Url("http", "127.0.0.1", 3128))}
    there = RoutingConfig(parents=up)
    explanation = told(ask(), routing=there, hook=str(hook))
    said = "it allows it by way of up 1000000 bytes/s from the client 2000 bytes/s to the client"
    assert line(explanation, "function") == said
    assert line(explanation, "route").startswith("the function: through up, by its name")
    assert explanation.parents == ("up",)
    explanation = told(ask("b.test"), routing=there, hook=str(hook))
    assert line(explanation, "route") == "the function: straight to the origin"
    # One that is not there is a fault of the function.
    explanation = told(ask(), hook=str(hook))
    assert decider(explanation) == ("function", "", False)
    assert explanation.status == 500
    explanation = told(ask("b.test"), hook=str(hook))
    assert decider(explanation) == ("function", "", True)


def test_the_hook_stands_before_the_names(tmp_path: Path) -> None:
    def names(explanation: Explanation) -> list[str]:
        return [step.name for step in explanation.steps]

    hook = tmp_path / "hook.py"
    hook.write_text(HOOK)
    explanation = told(ask(user="ann"), auth=USERS, hook=str(hook))
    assert names(explanation) == ["clients", "user", "rules", "function", "dns", "guard"]
    assert names(told(ask(), hook=str(hook))) == ["clients", "user", "rules", "function"]
    explanation = told(ask("moved.test"), hook=str(hook))  # which is not looked up
    assert names(explanation) == ["clients", "user", "rules", "function", "guard"]
    # Rules that depend on addresses come behind the name.
    network = RuleConfig("no-ten", "deny", networks=("10.0.0.0/8",))
    explanation = told(ask("a.test", "10.0.0.1", user="ann"), network, auth=USERS, hook=str(hook))
    assert names(explanation) == ["clients", "user", "function", "dns", "rules"]
    assert decider(explanation) == ("rules", "no-ten", False)
    hook.write_text(
        "from spliceproxy import Allow, Deny\n"
        "def authorize(request):\n"
        "    return Deny('no', 'place') if request.addresses else Allow()\n"
        "authorize.wants_addresses = True\n"
    )
    explanation = told(ask(), hook=str(hook))
    steps = ["clients", "user", "rules", "function", "dns", "guard", "function"]
    assert names(explanation) == steps
    assert decider(explanation) == ("function", "place", False)
    assert [step.decides for step in explanation.steps].index(True) == 6


@pytest.mark.parametrize("rule", ["clients", "locked", "guard", "default"])
def test_rules_of_a_hook_may_have_names_of_ours(tmp_path: Path, rule: str) -> None:
    hook, locked = tmp_path / "hook.py", tmp_path / "egress.toml"
    hook.write_text(f"from spliceproxy import Deny\ndef authorize(_): return Deny('no', '{rule}')")
    locked.write_text('rule = [{id = "x", action = "allow", hosts = ["a.test"], ports = [443]}]')
    assert decider(told(ask(), hook=str(hook), locked=locked)) == ("function", rule, False)


def test_a_name_that_leads_nowhere() -> None:
    class Names:
        def cached(self, host: str) -> None:
            return None

        async def resolve(self, host: str) -> tuple[str, ...]:
            raise Failure("dns_error", f"{host}: no address")

    for rules in ((), RULES):
        config = Config(listen=(), policy=PolicyConfig(rules=rules))
        explanation = asyncio.run(walk(config, ask(), Names()))
        assert decider(explanation) == ("dns", "", False)
        assert (explanation.status, explanation.error) == (502, "dns_error")
    assert decider(told(ask("a..test"), RuleConfig("x", "deny"))) == ("dns", "", False)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "1.2.3.4.5", "127.0.0.08"])
@pytest.mark.parametrize("rules", [(), RULES])
def test_an_address_in_an_odd_spelling(host: str, rules: tuple[RuleConfig, ...]) -> None:
    explanation = told(Request(client="127.0.0.1", host=host, addresses=None), *rules)
    assert decider(explanation) == ("guard", "guard", False)
    assert (explanation.status, explanation.error) == (403, "destination_ip_prohibited")
    assert line(explanation, "guard") == explanation.reason


def test_text_marks_what_decides() -> None:
    text = as_text(told(ask(), *RULES)).splitlines()
    (marked,) = [one for one in text if one.startswith("=>")]
    assert marked == "=> " + next(one for one in text if "rule tests" in one)[3:]
    assert text[-1] == "allowed, rule tests: would connect to 192.0.2.1"
    text = as_text(told(ask(method="POST"), *RULES)).splitlines()
    assert text[-1].startswith("refused with 403, rule no-uploads: ")


@pytest.mark.parametrize(
    ("method", "target", "client", "words"),
    [
        ("CONNECT", "a.test", "::1", "without a port"),
        ("CONNECT", "http://a.test/", "::1", "CONNECT takes HOST:PORT"),
        ("GET", "a.test:80", "::1", "not a URL or path"),
        ("GET", "/path", "::1", "allowed: CONNECT HOST:PORT, or"),
        ("G T", "http://a.test/", "::1", "METHOD: invalid value 'G T'; allowed: CONNECT, GET"),
        ("", "http://a.test/", "::1", "METHOD: invalid value ''; allowed: CONNECT, GET"),
        ("GET", "https://a.test/", "::1", "allowed: CONNECT HOST:PORT, or"),
        ("GET", "http://a.test/", "localhost", "--from: invalid value 'localhost'"),
    ],
)
def test_wrong_requests(method: str, target: str, client: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_request(method, target, client)


def test_wrong_address() -> None:
    with pytest.raises(ValueError, match="--address: invalid value 'a-test'; allowed: an IP"):
        read_request("GET", "http://a.test/", "unix", "", ["::1", "a-test"])


def test_zones() -> None:
    """They are of no meaning: left out of a client's address, and no part of a destination's."""
    assert read_request("GET", "http://a.test/", "fe80::1%eth0").client == "fe80::1"
    with pytest.raises(ValueError, match=r"--address: .*; allowed: an IP address without a zone"):
        read_request("GET", "http://a.test/", "unix", "", ["fe80::1%eth0"])
    assert told(ask(client="fe80::1%eth0")).allowed
    assert not told(ask(client="fe80::1%eth0"), clients=("fe80::2",)).allowed


def test_requests() -> None:
    assert read_request("CONNECT", "A.test:443", "unix") == Request(host="a.test", client="")
    request = read_request("GET", "http://[::1]/x?y", "::ffff:10.0.0.7", "ann", PUBLIC)
    assert request == Request(
        client="10.0.0.7",
        user="ann",
        method="GET",
        scheme="http",
        host="::1",
        port=80,
        path="/x?y",
        addresses=PUBLIC,
    )


@pytest.mark.parametrize(
    "path", ["/\xe4?\u20ac", "/\udcc3\udca4?\udce2\udc82\udcac", "/%C3%A4?%E2%82%AC"]
)
def test_a_path_has_one_spelling(path: str) -> None:
    """As the policy sees it when it comes over the wire, in UTF-8."""
    assert read_request("GET", f"http://o{path}", "unix").path == "/%C3%A4?%E2%82%AC"


@pytest.mark.parametrize("target", ["http://o/a b", "http://o/\x01", "http://o/a\tb"])
def test_a_target_that_the_proxy_refuses(target: str) -> None:
    with pytest.raises(ValueError, match=r"request-line|request-target"):
        read_request("GET", target, "unix")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return command("explain", *args)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(HOOK)
    config = tmp_path / "proxy.toml"
    settings = 'policy = "hook.py"\nauth = "ann:x"\naccess-log = "log"\n'
    config.write_text(settings + '[auth-networks]\n"10.9.0.0/16" = "bob"\n')
    args = ("--config", str(config), "CONNECT", "a.test:443", "--from", "10.0.0.7")
    given = (*args, "--address", "192.0.2.1")
    done = run(*given, "--user", "ann")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "allowed: would connect to 192.0.2.1",
    )
    assert "loaded" in done.stderr
    done = run(*given, "--user", "bob", "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["allowed"], answer["rule"], answer["status"]) == (False, "locked", 403)
    assert [step["name"] for step in answer["steps"] if step["decides"]] == ["function"]
    assert not (tmp_path / "log").exists()
    for wrong in (("GET", "/"), ("CONNECT",), ("CONNECT", "a.test:1", "--from", "x")):
        done = run(*wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
    done = run("--address", "192.0.2.1", "CONNECT", "a.test:443", "--guard", "no")
    assert done.returncode == 2


def test_a_client_that_a_balancer_has_brought_is_on_no_machine_of_ours() -> None:
    config = Config(listen=())
    here = Request(client="127.0.0.1", host="a.test", addresses=("127.0.0.1",))
    assert explain(config, here).allowed
    brought = explain(config, here, "10.0.0.1")
    assert (brought.allowed, brought.rule) == (False, "clients")
    assert "127.0.0.1, brought by 10.0.0.1, may not use the proxy" in line(brought, "clients")
    other = here._replace(client="10.0.0.7")
    assert decider(explain(config, other, "10.0.0.1")) == ("guard", "guard", False)
    assert explain(config, other._replace(addresses=PUBLIC), "unix").allowed


def test_who_may_have_brought_a_client() -> None:
    given = ("--address", "192.0.2.1", "CONNECT", "a.test:443", "--from", "10.0.0.7")
    may = ("--listen", "proxy+tcp://127.0.0.1:1", "--proxy-protocol-from", "10.0.0.0/24")
    assert run(*given, *may, "--balancer", "10.0.0.1").returncode == 0
    assert run(*given, *may, "--balancer", "unix").returncode == 0
    for wrong, why in (
        ("10.0.1.1", "10.0.1.1 may not send headers; allowed: 10.0.0.0/24"),
        ("x", "--balancer: invalid value 'x'"),
    ):
        done = run(*given, *may, "--balancer", wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr
    done = run(*given, *may, "--balancer", "10.0.0.1", "--from", "unix")
    assert done.returncode == 2
    assert "with --balancer" in done.stderr


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The indented texts of docs/rules.md; its settings are ./proxy.toml."""
    path = Path(__file__).parents[2] / "docs" / "rules.md"
    if not path.exists():
        pytest.skip("not in a source tree")
    texts = re.findall(r"(?:^(?:    .*)?\n)+", path.read_text(), re.M)
    blocks = [textwrap.dedent(text).strip("\n") for text in texts]
    (settings,) = [one for one in blocks if one.startswith("guard = ")]
    (tmp_path / "proxy.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    return blocks


def test_the_page_shows_what_is_printed(page: list[str]) -> None:
    (block,) = [one for one in page if one.startswith("$ spliceproxy explain")]
    shown = block.split("\n\n")
    assert len(shown) == 2
    for one in shown:
        line, _, output = one.partition("\n")
        assert run(*line.split()[3:]).stdout == output + "\n"


def test_the_test_on_the_page_passes(page: list[str]) -> None:
    (text,) = [one for one in page if "load_config(" in one]
    names: dict[str, Any] = {}
    exec(text, names)
    names["test_ci_reaches_github_alone"]()


def test_the_learned_file_on_the_page_locks(page: list[str], tmp_path: Path) -> None:
    (text,) = [one for one in page if one.startswith('[[rule]]\nid = "learned-443"')]
    (tmp_path / "egress.toml").write_text(text)
    lock = "--locked", "egress.toml", "--address", "140.82.121.4"
    assert run(*lock, "CONNECT", "github.com:443").returncode == 0
    assert "rule locked" in run(*lock, "CONNECT", "telemetry.example:443").stdout


def test_where_the_client_comes_in() -> None:
    given = ("--address", "192.0.2.1", "CONNECT", "a.test:443", "--listen", ":8001")
    assert run(*given, "--listener", ":8001").returncode == 0
    done = run(*given, "--listener", ":8002")
    assert done.returncode == 2
    assert "--listener: the proxy does not listen on :8002; allowed: :8001" in done.stderr
    done = run(*given, "--listener", "x")
    assert "--listener: invalid value 'x'; allowed: an address as of --listen" in done.stderr
