"""Messages said once a minute."""

from __future__ import annotations

import logging

import pytest

from spliceproxy.seldom import MOST, SILENCE, Seldom


def test_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    seldom = Seldom(logging.getLogger("test"), lambda: now)
    for _ in range(5):
        seldom.say("a", logging.ERROR, "a is %d %%", 7)
    seldom.say("b", logging.INFO, "b")
    assert caplog.messages == ["a is 7 %"]
    now = SILENCE
    seldom.say("a", logging.ERROR, "a is %d %%", 8)
    assert caplog.messages[-1] == "a is 8 % (and 4 more since the last message)"
    now = 2 * SILENCE
    seldom.say("a", logging.ERROR, "a is %d %%", 9)
    assert caplog.messages[-1] == "a is 9 %"


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom(logging.getLogger("test"), lambda: 0.0)
    for key in range(MOST + 1):
        seldom.say(key, logging.ERROR, "%d", key)
    for key in range(1, MOST + 1):
        seldom.say(key, logging.ERROR, "again")
    assert len(caplog.messages) == MOST + 1
    seldom.say(0, logging.ERROR, "forgotten")
    assert caplog.messages[-1] == "forgotten"
