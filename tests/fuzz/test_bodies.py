"""Requests with bodies, cut anywhere and answered at any time: the lane does what Python does."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import body_checks
import pytest
from body_checks import Stage, Talk
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import Difference
from relay.relay_rig import native_relay

SHARE = 0.25
"""Of conversations, the exchanges that the lane must have served by itself."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    native_relay()
    made = Stage()
    yield made
    made.close()


def test_many_conversations(stage: Stage) -> None:
    """The same each time."""
    talks, alone = stage.talks, stage.alone
    for seed in range(250):
        stage.check(Talk.of(seed, stage.where))
    assert (stage.alone - alone) / (stage.talks - talks) > SHARE


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, (1 << 64) - 1))
def test_any_conversation(stage: Stage, seed: int) -> None:
    stage.check(Talk.of(seed, stage.where))


class _Forgetful(body_checks.Seen):
    """An origin's view in which a byte of a body is another one now and then."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "alone" and value and len(self.stream) > 2000:
            self.stream[-1] ^= 1
        super().__setattr__(name, value)


def test_another_byte_at_the_origin_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_checks, "Seen", _Forgetful)
    talks = [Talk.of(seed, stage.where) for seed in range(50)]
    with pytest.raises(Difference, match="the origin"):
        collections.deque(map(stage.check, talks), maxlen=0)
