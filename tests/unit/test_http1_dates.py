"""Dates of HTTP, held against the standard library."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import example, given
from hypothesis import strategies as st

from spliceproxy.http1.dates import fixdate


@given(st.integers(min_value=-(1 << 33), max_value=1 << 36) | st.floats(0, 1 << 34))
@example(784111777)  # of RFC 9110 section 5.6.7
@example(0)
def test_an_imf_fixdate(seconds: float) -> None:
    assert fixdate(seconds) == formatdate(seconds, usegmt=True)
    assert fixdate(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT"
