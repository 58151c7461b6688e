"""Metrics as text, as prometheus_client's parsers of both formats read it."""

from __future__ import annotations

import pytest

from spliceproxy.admin.exposition import Family, Histogram, render, wants_openmetrics

parser = pytest.importorskip("prometheus_client.parser")
openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")

HOSTILE = 'a"b\\c\nd{e}=f,\x00\x1b\ud800ü'

FAMILIES = [
    Family("x_build", "info", "What it is.", [({"version": "1.2"}, 1)]),
    Family("x_moved_bytes", "counter", "Bytes; \\ and\nlines.", [
        ({"way": "in"}, 2**63), ({"way": HOSTILE}, 0)]),
    Family("x_open", "gauge", "Open.", [({}, 3), ]),
    Family("x_ratio", "gauge", "Share.", [({}, 0.25)]),
    Family("x_none", "gauge", "Nothing.", []),
    Family("x_dial_seconds", "histogram", "Time.", [
        ({}, Histogram((0.0005, 0.1, 1.0), (1, 0, 2, 4), 12.5))]),
    Family("x_wait_seconds", "histogram", "Time.", [
        ({"by": "a"}, Histogram((1.0,), (1, 1), 3))]),
]  # fmt: skip

BUCKETS = [("0.0005", 1.0), ("0.1", 1.0), ("1.0", 3.0), ("+Inf", 7.0)]


def test_the_older_format() -> None:
    text = render(FAMILIES, openmetrics=False).decode()
    found = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert found["x_build_info"].type == "gauge"
    moved = found["x_moved_bytes"]
    assert moved.type == "counter"
    assert [(sample.name, sample.value) for sample in moved.samples] == [
        ("x_moved_bytes_total", 2.0**63),
        ("x_moved_bytes_total", 0.0),
    ]
    assert moved.samples[1].labels["way"] == HOSTILE.encode("utf-8", "backslashreplace").decode()
    assert "x_none" not in found
    check(found["x_dial_seconds"])
    assert not text.endswith("# EOF\n")


def test_openmetrics() -> None:
    text = render(FAMILIES, openmetrics=True).decode()
    found = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}
    assert found["x_build"].type == "info"
    assert found["x_build"].samples[0].name == "x_build_info"
    assert found["x_moved_bytes"].unit == "bytes"
    assert found["x_moved_bytes"].documentation == "Bytes; \\ and\nlines."
    assert found["x_dial_seconds"].unit == "seconds"
    assert found["x_ratio"].unit == "ratio"
    check(found["x_dial_seconds"])
    assert next(s.labels for s in found["x_wait_seconds"].samples) == {"by": "a", "le": "1.0"}
    assert text.endswith("\n# EOF\n")


def check(family: object) -> None:
    samples = family.samples  # type: ignore[attr-defined]
    buckets = [(s.labels["le"], s.value) for s in samples if s.name.endswith("_bucket")]
    assert buckets == BUCKETS
    assert [s.value for s in samples[-2:]] == [12.5, 7.0]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("APPLICATION/OpenMetrics-Text; version=1.0.0", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*", True),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x,text/plain", False),
        # As Prometheus 3 asks.
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            True,
        ),
    ],
)
def test_what_accept_prefers(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
