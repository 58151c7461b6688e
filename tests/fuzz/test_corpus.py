"""Every input that the fuzzer has found still passes, and its checks find planted faults."""

from __future__ import annotations

import re
from typing import Any

import checks
import header_checks
import plain_checks
import plain_oracle
import pytest
from fuzz_http1 import CORPUS, corpus, name_of
from oracle import Difference
from relay.relay_rig import native_relay

from spliceproxy.front import proxy_header
from spliceproxy.http1 import chunked, fields, framing, head, lenient, rewrite


def check_corpus() -> None:
    for data in corpus(CORPUS):
        checks.check(data)


def test_the_corpus_passes() -> None:
    check_corpus()


def test_files_are_named_by_their_content() -> None:
    assert sum(1 for _ in CORPUS.iterdir()) > 300
    for path in CORPUS.iterdir():
        assert path.name == name_of(path.read_bytes())


def _first_of_many(lengths: list[bytes], status: int) -> int:
    digits = re.search(rb"[0-9]+", lengths[0])
    return int(digits[0]) if digits else 0


def _no_empty_lines(buffer: bytearray) -> None:
    if buffer.startswith(b"\r\n"):
        del buffer[:2]


def _from_the_start(buffer: bytearray, start: int, limit: int, status: int) -> int:
    return fields.find_section_end(buffer, 0, limit, status)


def _without_seam(buffer: bytearray, start: int, limit: int, status: int) -> int:
    end = buffer.find(b"\r\n\r\n", start, limit)
    return end + 4 if end >= 0 else -1


FAULTS: dict[str, tuple[Any, str, object]] = {
    "signs in Content-Length, and the first of many": (framing, "_content_length", _first_of_many),
    "one empty line for each call": (head, "skip_empty_lines", _no_empty_lines),
    "spaces before the colon": (
        fields,
        "_LINES",
        re.compile(rb"\r\n([^ :\r\n]+) *:([^\r\n]*)(?=\r\n)").findall,
    ),
    "the end is not found across segments": (head, "find_section_end", _without_seam),
    "quadratic search": (head, "find_section_end", _from_the_start),
    "chunk sizes behind 0x": (
        chunked,
        "_CHUNK_LINE",
        re.compile(rb"(?:0x)?([0-9A-Fa-f]{1,16})[^\r\n]*\r\n").match,
    ),
    "bare LF behind a chunk size": (
        chunked,
        "_CHUNK_LINE",
        re.compile(rb"([0-9A-Fa-f]{1,16})[^\r\n]*\r?\n").match,
    ),
    "Content-Length wins over a coding": (framing, "transfer_codings", lambda values: []),
    "the end of a head is where strict readers see it": (
        lenient,
        "find_section_end",
        lambda buffer, *_: buffer.find(b"\r\n\r\n") + 4,
    ),
    "Transfer-Encoding is passed on": (rewrite, "REQUEST_DROPS", frozenset({b"connection"})),
    "Proxy-Authenticate is passed on": (rewrite, "RESPONSE_DROPS", frozenset({b"connection"})),
    "Connection takes away Content-Length": (rewrite, "_NOT_NOMINABLE", frozenset[bytes]()),
    "a last chunk too few": (checks, "last_chunk", lambda trailers: b""),
    "control characters in an error page": (
        checks,
        "error_page",
        lambda *_, **__: b"HTTP/1.1 400 x\r\nA: \0\r\nContent-Length: 0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, fault = FAULTS[name]
    monkeypatch.setattr(where, attribute, fault)
    if attribute == "skip_empty_lines":
        monkeypatch.setattr("oracle.skip_empty_lines", fault)
    with pytest.raises(Difference):
        check_corpus()


def check_headers() -> set[str]:
    return {header_checks.check_header(data) for data in corpus(CORPUS)}


def test_the_corpus_passes_as_headers_of_the_proxy_protocol() -> None:
    assert check_headers() == {"", "v1", "v2", "local", "unknown"}


HEADER_FAULTS: dict[str, tuple[str, object]] = {
    "ports are numbers of any size": ("_is_port", bytes.isdigit),
    "checksums are passed over": ("crc32c", lambda data: int.from_bytes(data[31:35], "big")),
    "vectors may end anywhere": ("_check_vectors", lambda header, at: None),
    "mapped addresses stay": ("_MAPPED", b"nothing"),
    "a longer line": ("V1_MOST", 108),
}


@pytest.mark.parametrize("name", HEADER_FAULTS)
def test_a_planted_fault_of_the_header_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute, fault = HEADER_FAULTS[name]
    monkeypatch.setattr(proxy_header, attribute, fault)
    with pytest.raises(Difference):
        check_headers()


def check_plain_corpus() -> int:
    native_relay()
    try:
        return sum(plain_checks.check_plain(data) for data in corpus(CORPUS))
    finally:
        plain_checks.close()


def test_the_corpus_passes_on_the_plain_path() -> None:
    assert check_plain_corpus() > 50


def _kept_as_it_is(head: Any, body: Any, via: bytes) -> bytes:
    return rewrite.origin_request(head, body, b"")


PLAIN_FAULTS: dict[str, tuple[Any, str, object]] = {
    "no Via": (plain_oracle, "origin_request", _kept_as_it_is),
    "every connection ends": (head.RequestHead, "persistent", property(lambda head: False)),
    "another end of the head": (plain_oracle, "find_head_end", lambda buffer, **_: len(buffer)),
}


@pytest.mark.parametrize("name", PLAIN_FAULTS)
def test_a_planted_fault_of_the_plain_path_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, attribute, fault = PLAIN_FAULTS[name]
    monkeypatch.setattr(where, attribute, fault)
    with pytest.raises(Difference):
        check_plain_corpus()
