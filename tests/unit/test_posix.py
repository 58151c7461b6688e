"""Translated POSIX patterns match what the C library's own functions match, or are refused."""

from __future__ import annotations

import ctypes
import platform
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.settings import posix

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="regcomp's flags are those of the GNU C library"
)

EXTENDED, ICASE, NEWLINE, NOSUB = 1, 2, 4, 8
LIBRARY = ctypes.CDLL(None)

REGEX = st.lists(
    st.sampled_from(
        [
            *("a", "b", "A", "B", "1", "-", ".", "\\.", "\\-", "%", "#", "\\#", "x", "^", "$"),
            *("*", "+", "?", "\\+", "\\?", "{2}", "{1,2}", "{,2}", "\\{2\\}", "\\{1,\\}", "{", "}"),
            *("(", ")", "\\(", "\\)", "|", "\\|", "\\1", "\\w", "\\W", "\\s", "\\b", "\\B"),
            *("\\<", "\\>", "[a]", "[^a]", "[A-B]", "[a-c0-9]", "[^0-9]", "[]a]", "[^]a]", "[a-]"),
            *("[[:alpha:]]", "[[:upper:]-]", "[+-a]", "[_-z]", "[z-a]", "[A-z]", "[", "]"),
        ]
    ),
    min_size=1,
    max_size=7,
).map("".join)
GLOB = st.lists(
    st.sampled_from(
        [
            *("a", "b", "A", "1", "-", ".", "*", "?", "[a]", "[!a]", "[^a]", "[a-c]", "[]a]"),
            *("[!]a]", "[", "]", "\\a", "\\", "[[:alpha:]]", "^", "[a^]", "[-a]", "[a-]"),
        ]
    ),
    max_size=6,
).map("".join)


def texts(alphabet: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(alphabet=alphabet, min_size=1, max_size=6), min_size=6, max_size=12)


@settings(deadline=None, max_examples=1000)
@given(REGEX, st.booleans(), st.booleans(), texts("abAB1-."))
def test_regular_expressions(
    pattern: str, extended: bool, exact: bool, subjects: list[str]
) -> None:
    case: posix.Case = "exact" if exact else "ignored"
    try:
        translated = posix.from_regex(pattern, extended=extended, case=case)
    except ValueError:
        return
    found = re.compile(f".*(?:{translated}).*", re.ASCII | (0 if exact else re.IGNORECASE))
    flags = NEWLINE | NOSUB | (EXTENDED if extended else 0) | (0 if exact else ICASE)
    compiled = ctypes.create_string_buffer(4096)  # regex_t has 64 bytes
    assert LIBRARY.regcomp(compiled, pattern.encode(), flags) == 0
    try:
        for text in subjects:
            wanted = LIBRARY.regexec(compiled, text.encode(), 0, None, 0) == 0
            assert bool(found.fullmatch(text)) == wanted, text
    finally:
        LIBRARY.regfree(compiled)


@settings(deadline=None, max_examples=300)
@given(REGEX, st.booleans(), texts("abAB1-."))
def test_either_case_matches_what_any_spelling_matches(
    pattern: str, extended: bool, subjects: list[str]
) -> None:
    try:
        either = posix.from_regex(pattern, extended=extended, case="either")
        exact = posix.from_regex(pattern, extended=extended, case="exact")
    except ValueError:
        return
    for text in subjects:
        if re.search(exact, text, re.ASCII):
            assert re.search(either, text.lower(), re.ASCII | re.IGNORECASE), text


@settings(deadline=None, max_examples=1000)
@given(GLOB, texts("abA1-.[]^\\"))
def test_shell_patterns(pattern: str, subjects: list[str]) -> None:
    try:
        translated = posix.from_glob(pattern)
    except ValueError:
        return
    for text in subjects:
        wanted = LIBRARY.fnmatch(pattern.encode(), text.encode(), 0) == 0
        assert bool(re.fullmatch(translated, text, re.ASCII)) == wanted, text


@pytest.mark.parametrize(
    ("pattern", "translated"),
    [("a**", "a*"), ("a+?", "a*"), ("a?+", "a*"), ("a??", "a?"), ("a++", "a+"), ("(a)*+", "(a)*")],
)
def test_two_repetitions_in_a_row_are_one(pattern: str, translated: str) -> None:
    assert posix.from_regex(pattern, extended=True) == translated
