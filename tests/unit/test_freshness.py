from __future__ import annotations

import os
from pathlib import Path

from freshness import newer_source


def test_a_source_that_is_newer_than_the_module_is_found(tmp_path: Path) -> None:
    relay, lane = tmp_path / "spliceproxy" / "relay", tmp_path / "native" / "lane"
    relay.mkdir(parents=True)
    lane.mkdir(parents=True)
    source, module = lane / "log.pxd", relay / "_native.cpython-310-x86_64-linux-gnu.so"
    source.touch()
    assert newer_source(tmp_path) is None  # nothing was built here
    module.touch()
    os.utime(source, (1000, 1000))
    os.utime(module, (2000, 2000))
    assert newer_source(tmp_path) is None
    os.utime(source, (3000, 3000))
    assert newer_source(tmp_path) == Path("native/lane/log.pxd")
