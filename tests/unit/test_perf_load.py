"""What the benchmark says of a load program that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PERF = Path(__file__).parents[2] / "perf"
if not PERF.is_dir():
    pytest.skip("not in a source tree", allow_module_level=True)
# Not for longer than that: perf/relay.py would stand before tests/relay.
sys.path.insert(0, str(PERF))
try:
    from rig import load
finally:
    sys.path.remove(str(PERF))

CASES = [
    ("print('words'); sys.stdout.flush(); os.kill(os.getpid(), 11)", "ended by SIGSEGV: words"),
    ("print('words'); print(file=sys.stderr); sys.exit(1)", "exit status 1: words"),
    ("print('words'); print('why', file=sys.stderr); sys.exit(1)", "exit status 1: why"),
    ("sys.exit(3)", "exit status 3"),
]


@pytest.mark.parametrize(("code", "said"), CASES)
def test_how_it_ended(code: str, said: str) -> None:
    with pytest.raises(load.Wrong) as caught:
        load._output([sys.executable, "-c", f"import os, sys; {code}"], 30.0, {})
    assert str(caught.value).endswith(f": {said}")
    assert isinstance(caught.value, load.Stuck) == ("SIG" in said)
