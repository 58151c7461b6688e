"""Settings change, workers are replaced and the program is started anew under a load of every kind,
and nobody notices.

SPLICEPROXY_TEST_ROUNDS=50 does it for so many rounds, about five minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy
from crowd_load import CrowdLoad, crowd
from harness import descriptors, wait_for
from moving_load import ask_once

ROUNDS = int(os.environ.get("SPLICEPROXY_TEST_ROUNDS", "5"))

RULE = '[[rule]]\nid = "change-{}"\naction = "deny"\nhosts = ["{}.example"]\n'

FIRST = "timeout-half-close = 3600\n"

REFUSED = (
    ("workers = 'many'\n", "workers: "),
    ("no-such-key = 1\n", "no-such-key"),
    ("policy = 'bad.py'\n", "of no use"),
    ("locked = 'absent'\n", "does not exist"),
    ("=", "not TOML"),
)


class Changed:
    """A proxy with a file of settings."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "settings.toml"
        self.file.write_text(FIRST)
        (folder / "bad.py").write_text("raise ValueError('of no use')\n")
        self.proxy = ChangingProxy(folder, "--config", str(self.file), workers=2)
        self.generation = 1

    def reload(self, text: str, *, refused: str = "") -> None:
        self.file.write_text(text)
        answer = self.proxy.admin.ask("/reload", "POST")
        assert answer.status == (409 if refused else 200), answer
        assert refused in answer.text
        self.generation += not refused

    def upgrade(self) -> None:
        self.proxy.upgraded()
        self.generation += 1

    def descriptors(self) -> list[int]:
        """Of the supervisor, and of its children."""
        main = self.proxy.main
        return [descriptors(main), *sorted(map(descriptors, self.proxy.children()))]


def changes(changed: Changed, load: CrowdLoad, number: int) -> None:
    """One round: four reloads, one of which is refused; an upgrade; and a new worker."""
    for host in range(3):
        changed.reload(FIRST + RULE.format(number, f"h{number}-{host}"))
        load.goes_on()
    text, why = REFUSED[number % len(REFUSED)]
    changed.reload(FIRST + text, refused=why)
    load.goes_on()
    changed.file.write_text(FIRST + RULE.format(number, "last"))
    changed.upgrade()
    load.goes_on()
    changed.proxy.recycle(number % 2)
    load.goes_on()


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_nobody_notices(folder: Path, address: tuple[str, int]) -> None:
    changed = Changed(folder)
    proxy = changed.proxy
    changed.upgrade()  # what is loaded late, is
    changed.reload(FIRST)
    with proxy.connect() as s:
        ask_once(s, address)
    wait_for(lambda: len(proxy.children()) == 3, "both workers, and the admin process")
    before = changed.descriptors()
    with crowd(("127.0.0.1", proxy.port)) as load:
        wait_for(lambda: load.held() > 1 << 16, "bytes that wait for slow readers")
        for number in range(ROUNDS):
            changes(changed, load, number)
        assert load.held() > 1 << 16
        answers, blocks, longest = load.answers, load.blocks, load.longest
    assert f"spliceproxy_generation {changed.generation}" in proxy.admin.ask("/metrics").text

    def at_rest() -> bool:
        now = changed.descriptors()
        return len(now) == len(before) and all(n <= b for n, b in zip(now, before, strict=True))

    wait_for(at_rest, f"the descriptors, {before} before and {changed.descriptors()} now", 30)
    print(f"answers: {answers}, blocks: {blocks}, longest wait for an answer: {longest:.2f} s")
    proxy.end(tells_of=True)  # why a policy is of no use
