"""What a worker says of a flow fits into a part, whatever is in it."""

from __future__ import annotations

import json

from spliceproxy.admin.flows import TAGS_MOST, _packed, _shown
from spliceproxy.admin.parts import PART


def test_tags_have_a_limit_in_bytes_of_json() -> None:
    shown = _shown({f"t{n}": "\x01" * 1000 for n in range(16)})
    assert shown
    assert len(json.dumps(shown)) < 2 * TAGS_MOST
    assert _shown({"a": "b", "c": "d"}) == {"a": "b", "c": "d"}


def test_no_part_is_larger_than_its_limit() -> None:
    flows = [({"target": "\x01" * 4000}, None) for _ in range(9)]
    parts = list(_packed(iter([flows])))
    assert sum(len(part["flows"]) for part in parts) == 9
    assert all(len(json.dumps(part)) < PART + 100 for part in parts)
