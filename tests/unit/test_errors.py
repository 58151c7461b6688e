"""The names of faults (RFC 9209) are known to the type checker, and each has what is needed to
answer it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from spliceproxy.errors import STATUS, WHY, ErrorType, Failure
from spliceproxy.forward import dialing, origin_faults
from spliceproxy.http1.errors import HeadError
from spliceproxy.observe import native_line, record
from spliceproxy.upstream import dialer

TYPES = get_args(ErrorType)


def test_every_type_has_a_status_and_a_reason() -> None:
    assert set(STATUS) == set(TYPES)
    assert set(WHY) == set(TYPES)


@pytest.mark.parametrize("error", TYPES)
def test_every_type_can_be_answered(error: ErrorType) -> None:
    assert Failure(error, "the detail").status == STATUS[error]


@pytest.mark.parametrize("status", [400, 408, 414, 431, 501, 502, 505])
def test_every_bad_head_has_a_type(status: int) -> None:
    assert HeadError(status, "the detail").error in TYPES


@pytest.mark.parametrize(
    "some",
    [
        native_line._DENIED,
        dialer._ERRNOS,
        dialing._FINAL,
        origin_faults._OF_ANSWERS,
        record._OF_ORIGIN,
    ],
)
def test_what_is_said_of_some_types_is_of_types(some: object) -> None:
    """The type checker reads these, too: it is told that they are of ErrorType."""
    assert set(some) <= set(TYPES)  # type: ignore[call-overload]


def test_the_type_checker_refuses_another_name(tmp_path: Path) -> None:
    """A name that is misspelt would be a KeyError while a request is answered."""
    api = pytest.importorskip("mypy.api")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from spliceproxy.errors import Denied, Failure\n"
        "from spliceproxy.http1.errors import HeadError\n"
        "Failure('dns_eror', '')\n"
        "HeadError(502, '', 'http_protocol_eror')\n"
        "Denied('', error='http_request_denid')\n"
        "Failure('dns_error', '')\n"
    )
    told, _, _ = api.run(["--no-incremental", "--follow-imports=silent", str(wrong)])
    lines = re.findall(r"wrong\.py:(\d+): error", told)
    assert lines == ["3", "4", "5"], told
