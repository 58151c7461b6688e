"""What a function of --policy denies costs no query: seen by the name server itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import ProxyProcess
from policy_rig import Origins, World, ask, connect, get, upgrade, world

# As docs/policy-function.md has one.
ALLOWLIST = """
from spliceproxy.policy import Allow, Deny, Request

async def authorize(request: Request) -> Allow | Deny:
    if not request.host.endswith(".good.test"):
        return Deny("Good names only.", rule="egress")
    return Allow(tags={"team": "web"})
"""

BY_ADDRESS = """
from spliceproxy.policy import Allow, Deny

def authorize(request):
    if not request.host.endswith(".good.test"):
        return Deny("Good names only.", rule="egress")
    if request.addresses is None:
        return Allow()
    if "127.0.0.88" in request.addresses:
        return Deny("Not there.", rule="place")
    return Allow(addresses=request.addresses[-1:])

authorize.wants_addresses = True
"""

ELSEWHERE = """
from spliceproxy.policy import Allow

def authorize(request):
    return Allow(addresses=("127.0.0.77",))
"""

LEAKS = ["secret.evil.test", "c2VjcmV0.x.evil.test", "nowhere.test", "EVIL.test.", "good.test"]


def proxy_with(made: World, hook: str, engine: str, more: str = "") -> ProxyProcess:
    (made.folder / "hook.py").write_text(hook)
    config = made.folder / "config.toml"
    config.write_text(f'policy = "hook.py"\n{more}')
    return made.proxy("--config", str(config), "--engine", engine)


ENGINES = pytest.mark.parametrize("engine", ["native", "copy"])


@ENGINES
@pytest.mark.parametrize("hook", [ALLOWLIST, BY_ADDRESS])
@pytest.mark.parametrize(
    "rules",
    [
        "",
        '[[rule]]\nid = "n"\naction = "deny"\nnetworks = ["127.0.0.99"]\n',
        'rule-default = "deny"\n[[rule]]\nid = "n"\naction = "allow"\nnetworks = ["127.0.0.0/8"]\n',
    ],
    ids=["no rules", "a rule on addresses", "an allowlist of addresses"],
)
def test_what_is_denied_is_not_looked_up(
    tmp_path: Path, engine: str, hook: str, rules: str
) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.77")
        made.names.zone["a.good.test"] = [["127.0.0.77"]]
        proxy = proxy_with(made, hook, engine, rules)
        for make in (connect, get, upgrade):
            for host in LEAKS:
                answer = ask(proxy, make(host, origins.port))
                assert (answer.status, answer.error) == (403, "http_request_denied"), host
                assert answer.fields["proxy-status"].endswith('details="rule egress"')
            assert made.names.asked == []
        for make in (connect, get):
            assert ask(proxy, make("a.good.test", origins.port)).status == 200
        assert set(made.names.asked) == {"a.good.test"}
        assert ask(proxy, get("none.good.test", origins.port)).error == "dns_error"


@ENGINES
def test_a_function_that_wants_addresses(tmp_path: Path, engine: str) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.77", "127.0.0.78", "127.0.0.88")
        made.names.zone.update(
            {
                "two.good.test": [["127.0.0.77", "127.0.0.78"]],
                "bad.good.test": [["127.0.0.88"]],
                "some.good.test": [["169.254.1.1", "127.0.0.77"]],
                "meta.good.test": [["169.254.1.1"]],
            }
        )
        proxy = proxy_with(made, BY_ADDRESS, engine)
        for _ in range(3):
            bodies = {ask(proxy, get("two.good.test", origins.port)).body for _ in range(4)}
            assert len(bodies) == 1  # the last of those that the resolver had in its order
            assert bodies <= {b"127.0.0.77", b"127.0.0.78"}
            answer = ask(proxy, get("bad.good.test", origins.port))
            assert answer.fields["proxy-status"].endswith('details="rule place"')
            # The guard's word comes before the second call.
            assert ask(proxy, get("some.good.test", origins.port)).body == b"127.0.0.77"
            answer = ask(proxy, get("meta.good.test", origins.port))
            assert answer.error == "destination_ip_prohibited"
        assert not origins.hits["127.0.0.88"]


@ENGINES
def test_the_time_of_a_look_up_that_fails_is_told(tmp_path: Path, engine: str) -> None:
    """It is no time of the question's."""
    with world(tmp_path) as made:
        made.names.delay = 0.3
        proxy = made.proxy("--engine", engine, "--log-format", "json")
        for number, make in enumerate((connect, get)):
            assert ask(proxy, make(f"none{number}.test", 1)).error == "dns_error"
            line = json.loads(proxy.wait_access(number + 1)[number])
            assert line["dns_us"] >= 300_000
            assert line["question_us"] < line["dns_us"]
            assert line["total_us"] >= line["dns_us"] + line["question_us"]


@ENGINES
def test_addresses_of_the_first_answer_need_no_name(tmp_path: Path, engine: str) -> None:
    with world(tmp_path) as made:
        origins = Origins(made.stack, "127.0.0.77")
        proxy = proxy_with(made, ELSEWHERE, engine)
        for make in (connect, get):
            assert ask(proxy, make("no.such.name.test", origins.port)).status == 200
        assert made.names.asked == []
