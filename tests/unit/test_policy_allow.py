"""What a function answers: values, of which the commonest is made once."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from spliceproxy import Allow


def test_the_plain_yes_is_one_object_that_nobody_can_change() -> None:
    assert Allow() is Allow()
    assert Allow() == Allow(tags={}) == Allow("", None)
    with pytest.raises(FrozenInstanceError):
        Allow().source_address = "192.0.2.1"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Allow().tags["a"] = "b"  # type: ignore[index]
    assert replace(Allow(), tags={"a": "b"}).tags == {"a": "b"}
    assert not Allow().tags


@pytest.mark.parametrize(
    "answer",
    [
        Allow(),
        Allow(tags={"a": "b"}),
        Allow("192.0.2.1", ("192.0.2.2",)),
        Allow(tls_name="check", limits=("a",), parent="b", rate_in=1000, rate_out="2kB"),
    ],
)
def test_a_copy_is_equal_and_leaves_the_plain_yes_alone(answer: Allow) -> None:
    assert copy.copy(answer) == copy.deepcopy(answer) == answer
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert (Allow().source_address, Allow().addresses, dict(Allow().tags)) == ("", None, {})


def test_a_class_of_ones_own_is_no_plain_yes() -> None:
    class Mine(Allow):
        pass

    assert type(Mine()) is Mine


def test_rates() -> None:
    assert Allow(rate="10MB").rates == Allow(rate=10_000_000).rates == (10_000_000, 10_000_000)
    assert Allow(rate_in="1MiB").rates == (1 << 20, 0)
    assert Allow(rate=1000, rate_out="2 kB").rates == (1000, 2000)
    assert Allow().rates == (0, 0)
    for wrong in ("fast", "10", 999, -1, ""):
        with pytest.raises(ValueError, match="allowed: bytes from 1000"):
            Allow(rate_in=wrong)
    for other in (True, False, 0.0, 1.5, None):
        with pytest.raises(TypeError, match="allowed: bytes"):
            Allow(rate=other)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="parent None; allowed: a text"):
        Allow(parent=None)  # type: ignore[arg-type]


def test_a_limit_that_is_named_twice() -> None:
    assert Allow(limits=("b", "a", "b")).limits == ("b", "a")
    for wrong in ("b", [["b"]], None):
        with pytest.raises(TypeError, match="allowed: a tuple of texts"):
            Allow(limits=wrong)  # type: ignore[arg-type]


def test_what_a_second_answer_leaves_out() -> None:
    first = Allow("192.0.2.1", parent="a", limits=("x",), rate_in=1000)
    assert Allow().after(first) == first
    assert Allow(parent="b", rate_out=2000).after(first) == Allow(
        "192.0.2.1", parent="b", limits=("x",), rate_in=1000, rate_out=2000
    )
    assert Allow(parent="b").after(Allow()) == Allow(parent="b")
