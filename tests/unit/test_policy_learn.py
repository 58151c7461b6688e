"""The file of --learn and --locked: what it may hold, how it grows, who may write to it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from pathlib import Path

import pytest
from harness import wait_for

from spliceproxy import Config, PolicyConfig, Record, RuleConfig
from spliceproxy.errors import Denied
from spliceproxy.http1.head import parse_request
from spliceproxy.policy import learn
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.learn import Learned, merge, update
from spliceproxy.policy.lockfile import Locked, parse, read
from spliceproxy.settings.loading import SettingsError, load


def rules(content: bytes) -> list[tuple[str, tuple[str, ...]]]:
    return [(rule.id, rule.hosts) for rule in parse(content, "seen")]


def rule(name: str, action: str, hosts: str, ports: str = "443") -> bytes:
    text = f'[[rule]]\nid = "{name}"\naction = "{action}"\nhosts = [{hosts}]\n'
    return (text + (f"ports = [{ports}]\n" if ports else "")).encode()


# What is in it


def test_sorted_and_the_same_every_time() -> None:
    seen = {
        ("b.test", 443): True,
        ("a.test", 443): True,
        ("2001:db8::1", 80): True,
        ("z.test", 443): False,
    }
    content = merge(b"", seen, "seen")
    assert rules(content) == [
        ("learned-80", ("2001:db8::1",)),
        ("learned-443", ("a.test", "b.test")),
        ("denied-443", ("z.test",)),
    ]
    assert merge(b"", dict(reversed(seen.items())), "seen") == content
    half = merge(b"", {("b.test", 443): True}, "seen")
    assert merge(half, seen, "seen") == content
    assert merge(content, {}, "seen") == content
    # One destination is one line more.
    more = merge(content, {("c.test", 443): True}, "seen")
    assert set(more.splitlines()) - set(content.splitlines()) == {b'    "c.test",'}
    assert content.startswith(b"#")


def test_what_was_denied_may_be_allowed_later() -> None:
    denied = merge(b"", {("a.test", 443): False}, "seen")
    assert rules(denied) == [("denied-443", ("a.test",))]
    allowed = merge(denied, {("a.test", 443): True}, "seen")
    assert rules(allowed) == [("learned-443", ("a.test",))]
    assert merge(allowed, {("a.test", 443): False}, "seen") == allowed


def test_rules_of_people_stay() -> None:
    own = rule("no-x", "deny", '"x.a.test"')
    own += rule("all-a", "allow", '"*.a.test"', '"1-1000"')
    seen = {
        ("x.a.test", 443): True,  # reviewed, and denied
        ("y.a.test", 80): True,  # covered
        ("z.a.test", 443): False,  # covered
        ("a.test", 443): True,
    }
    content = merge(own, seen, "seen")
    assert rules(content) == [
        ("no-x", ("x.a.test",)),
        ("all-a", ("*.a.test",)),
        ("learned-443", ("a.test",)),
    ]
    assert parse(content, "seen")[:2] == parse(own, "seen")
    # Whoever has written a name with a dot before it has covered the name itself.
    dotted = rule("all-a", "allow", '".a.test"')
    seen = {("a.test", 443): True, ("b.a.test", 443): True, ("a.test.b", 443): True}
    assert rules(merge(dotted, seen, "seen"))[1:] == [("learned-443", ("a.test.b",))]
    # Patterns within a rule of ours stay, too, and cover what they match.
    wide = rule("learned-443", "allow", '"*.b.test"')
    content = merge(wide, {("x.b.test", 443): True, ("b.test", 443): True}, "seen")
    assert rules(content) == [("learned-443", ("*.b.test", "b.test"))]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x", "seen: not TOML: "),
        (b"\xff", r"seen: not UTF-8 \(byte 0\)"),
        (b"guard = 'off'", r"seen: guard: no such key here; allowed: \[\[rule\]\]"),
        (b"rule = 1", r"seen: rule: allowed: \[\[rule\]\]"),
        (b"rule = [1]", r"seen: rule: allowed: \[\[rule\]\]"),
        (rule("a", "deny", "'x'") + b"users = ['x']", "seen: rule 1: users: no such key"),
        (rule("a", "permit", "'x'"), "seen: rule 1: action: 'permit'; allowed: allow, deny"),
        (rule("a", "allow", ""), r"seen: rule 1: hosts: \[\]; allowed: a list of names, at least"),
        (rule("a", "allow", "1"), r"seen: rule 1: hosts: \[1\]; allowed: a list of names"),
        (rule("a", "allow", "'x'", ""), "seen: rule 1: ports: missing; allowed: a list of ports"),
        (rule("a", "allow", "'x'", "true"), "seen: rule 1: ports"),
        (rule("a", "allow", "'x'", "70000"), 'seen: rule a: ports: .*allowed: "443" or'),
        (rule("a", "allow", "'*'"), r"seen: rule a: hosts: '\*': .*; allowed: a name"),
        (rule("a b", "allow", "'x'"), "seen: rule a b: id"),
        (2 * rule("a", "allow", "'x'"), "seen: rule a: id: 'a' is another rule's"),
        (b"[[rule]]\naction = 'allow'", "seen: rule 1: id: it is missing"),
    ],
)
def test_mistakes(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        parse(content, "seen")
    path = tmp_path / "seen"
    path.write_bytes(content)
    for flag in ("locked", "learn"):  # neither starts with it
        with pytest.raises(SettingsError, match=f"^--{flag} {path}: "):
            load({flag: path}, environ={})
    with pytest.raises(ValueError, match=str(path)):
        Locked(path)
    with pytest.raises(ValueError, match=str(path)):
        update(path, {("a.test", 443): True})
    assert path.read_bytes() == content


def test_a_name_of_ours_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    for action, ports in (("deny", "443"), ("allow", "444"), ("allow", "443, 444")):
        path.write_bytes(rule("learned-443", action, "'x'", ports))
        assert read(path)
        with pytest.raises(SettingsError, match="give it another id"):
            load({"learn": path}, environ={})


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    with pytest.raises(SettingsError, match="cannot read it"):
        load({"locked": path}, environ={})
    with pytest.raises(ValueError, match="cannot read it"):
        Locked(path)
    load({"learn": path}, environ={})
    assert not path.exists()


def test_locked(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    path.write_bytes(
        rule("no-x", "deny", '"x.a.test"')
        + rule("a", "allow", '"*.a.test", "::1"', '443, "8000-8001"')
    )
    locked = Locked(path)
    assert locked.admits("y.a.test", 443)
    assert locked.admits("::1", 8001)
    for host, port in (("x.a.test", 443), ("a.test", 443), ("y.a.test", 80), ("", 0)):
        assert not locked.admits(host, port), host
    path.write_bytes(b"")
    assert not Locked(path).admits("y.a.test", 443)
    path.write_bytes(rule("a", "allow", '".a.test"'))
    locked = Locked(path)
    assert [locked.admits(host, 443) for host in ("a.test", "x.a.test", "xa.test", "test")] == [
        True,
        True,
        False,
        False,
    ]


class Names:
    """A resolver that knows one address."""

    def cached(self, host: str) -> tuple[str, ...]:
        return ("192.0.2.1",)

    async def resolve(self, host: str) -> tuple[str, ...]:
        raise AssertionError


def test_the_policy_is_locked_whatever_else_it_allows(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    path.write_bytes(rule("a", "allow", '"a.test"'))
    everything = RuleConfig("all", "allow")
    config = Config(listen=(), policy=PolicyConfig((everything,), report_only=True, locked=path))
    policy = Policy(config, Names())
    client = policy.standing("127.0.0.1", None)

    def ask(host: str, own: bool) -> tuple[str, ...]:
        head = parse_request(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        notes = Record("127.0.0.1", 0.0)
        verdict = asyncio.run(policy.decide(client, head, head.host, 443, notes, own=own))
        assert verdict.repeat_for > 0
        return verdict.addresses

    for own in (False, True):
        assert ask("A.test.", own) == ("192.0.2.1",)
        with pytest.raises(Denied) as caught:
            ask("b.test", own)
        assert (caught.value.rule, caught.value.status) == ("locked", 403)
        assert 'add "b.test" to the hosts of a rule' in caught.value.advice
        assert "for port 443 in the file of --locked." in caught.value.advice
    # What the proxy itself answers goes nowhere.
    head = parse_request(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
    asyncio.run(policy.admit(client, head, Record("127.0.0.1", 0.0)))


# Who writes to it


def _learn(path: Path, number: int) -> None:
    for n in range(20):
        update(path, {(f"h{n}.of{number}.test", 443): True})


def test_writers_do_not_lose_what_others_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "LOCK_SECONDS", 60.0)  # on a busy machine others hold it for long
    path = tmp_path / "seen"
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_learn, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(read(path)[0].hosts) == 80
    assert os.listdir(tmp_path) == ["seen"]


def test_the_file_keeps_its_place_and_mode(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "seen"
    path.touch(mode=0o600)
    path.chmod(0o640)
    link = tmp_path / "seen"
    link.symlink_to(path)
    update(link, {("a.test", 443): True})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    inode = path.stat().st_ino
    update(link, {("a.test", 443): True})
    assert path.stat().st_ino == inode  # nothing new, nothing written
    update(link, {("b.test", 443): True})
    assert path.stat().st_ino != inode  # replaced as a whole


def test_written_soon_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "EVERY", 0.01)
    path = tmp_path / "seen"

    async def run() -> None:
        learned = Learned(path)
        learned.see("A.test.", 443, True)
        learned.see("a..test", 443, True)  # no host
        await asyncio.to_thread(wait_for, lambda: path.exists() and path.read_bytes(), "the file")
        assert read(path)[0].hosts == ("a.test",)
        monkeypatch.setattr(learn, "EVERY", 1000.0)
        learned.see("a.test", 443, True)
        learned.see("a.test", 443, False)
        learned.see("b.test", 443, False)
        learned.see("b.test", 443, True)
        await learned.finish()

    asyncio.run(run())
    assert rules(path.read_bytes()) == [("learned-443", ("a.test", "b.test"))]


def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "seen"
    path.mkdir()

    async def run() -> Learned:
        learned = Learned(path)
        learned.see("a.test", 443, True)
        await learned._write()
        await learned._write()
        path.rmdir()
        await learned.finish()
        return learned

    assert asyncio.run(run()).failures == 2
    assert read(path)[0].hosts == ("a.test",)
    assert caplog.text.count("cannot be written") == 1
    assert "2 times" in caplog.text


@pytest.mark.parametrize("fault", [RuntimeError("can't start new thread"), MemoryError()])
def test_there_is_no_thread_to_write_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    path = tmp_path / "seen.toml"

    async def run() -> None:
        learned = Learned(path)
        learned.see("a.test", 443, True)

        def refuse(*_: object) -> None:
            raise fault

        asyncio.get_running_loop().run_in_executor = refuse  # type: ignore[method-assign, assignment]
        await learned.finish()

    asyncio.run(run())
    assert "cannot be written" in caplog.text
    assert rules(Path(f"{path}.{os.getpid()}").read_bytes()) == [("learned-443", ("a.test",))]


def test_there_is_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn, "MAX_SEEN", 2)

    async def run() -> None:
        learned = Learned(tmp_path / "seen")
        for n in range(5):
            learned.see(f"{n}.test", 443, False)
        learned.see("1.test", 443, True)
        await learned.finish()

    asyncio.run(run())
    assert sorted(rules((tmp_path / "seen").read_bytes())) == [
        ("denied-443", ("0.test",)),
        ("learned-443", ("1.test",)),
    ]
    assert caplog.text.count("no more are learned") == 1
