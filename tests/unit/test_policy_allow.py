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
    "answer", [Allow(), Allow(tags={"a": "b"}), Allow("192.0.2.1", ("192.0.2.2",))]
)
def test_a_copy_is_equal_and_leaves_the_plain_yes_alone(answer: Allow) -> None:
    assert copy.copy(answer) == copy.deepcopy(answer) == answer
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert (Allow().source_address, Allow().addresses, dict(Allow().tags)) == ("", None, {})


def test_a_class_of_ones_own_is_no_plain_yes() -> None:
    class Mine(Allow):
        pass

    assert type(Mine()) is Mine
