"""Fuzzes the HTTP/1 parser, and what it sends on, against llhttp (see checks.py), and the
lane against the parser (see plain_checks.py) and, for requests with bodies, against Python's
connections (see body_checks.py). So is the reader of the PROXY protocol's header, against another
one (see header_checks.py).

    python tests/fuzz/fuzz_http1.py --seconds 60

Guided by coverage where atheris is installed; without it, or with --plain, the corpus is
replayed and then mutated at random. Ends with a status other than 0 at the first finding,
whose input is stored in the directory --findings and printed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib.util
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FINDINGS = Path(tempfile.gettempdir()) / "spliceproxy-findings"
MOST = 4096
"""Bytes of an input: heads of this size reach every rule but the limits on size."""

STUCK = 20.0
"""Seconds for one input; a thousand times what the slowest needs."""


def name_of(data: bytes) -> str:
    """The name of an input's file."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]


def corpus(*folders: Path) -> list[bytes]:
    """The inputs in these directories, in an order that is always the same."""
    found = {p.read_bytes() for folder in folders if folder.is_dir() for p in folder.iterdir()}
    return sorted(found, key=lambda data: (len(data), data))


def keeping(checks: Sequence[Callable[[bytes], object]], findings: Path) -> Callable[[bytes], None]:
    """All ``checks`` as one, which also stores and prints the input of a finding."""

    def checked(data: bytes) -> None:
        try:
            for check in checks:
                check(data)
        except Exception:
            findings.mkdir(parents=True, exist_ok=True)
            path = findings / name_of(data)
            path.write_bytes(data)
            print(f"a finding, stored in {path}: {data!r}", file=sys.stderr)
            print(f"base64: {base64.b64encode(data).decode()}", file=sys.stderr, flush=True)
            raise

    return checked


def plain(options: argparse.Namespace) -> None:
    """Replays the corpus, then mutates it until the time is over."""
    from body_checks import check_talk
    from checks import check
    from header_checks import check_header
    from mutations import mutated
    from plain_checks import check_plain

    def stuck(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"an input took more than {STUCK} s")

    signal.signal(signal.SIGALRM, stuck)
    end = time.monotonic() + options.seconds
    rng = random.Random(options.seed)
    seeds = corpus(*options.seeds, CORPUS)
    checked = keeping((check, check_plain, check_talk, check_header), options.findings)
    runs = 0
    while runs < len(seeds) or time.monotonic() < end:
        if runs < len(seeds):
            data = seeds[runs]
        else:
            data = mutated(rng.choice(seeds), rng.choice(seeds), rng, MOST)
        signal.setitimer(signal.ITIMER_REAL, STUCK)
        checked(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        runs += 1
    print(f"{runs} inputs, {len(seeds)} of them from the corpus: no finding")


def guided(options: argparse.Namespace) -> None:
    """Lets libFuzzer choose the inputs. Does not return: libFuzzer ends the process."""
    import atheris
    from mutations import mutated

    with atheris.instrument_imports(
        include=["spliceproxy.http1", "spliceproxy.front.proxy_header"]
    ):
        from body_checks import check_talk
        from checks import check
        from header_checks import check_header
        from plain_checks import check_plain

    seeds = corpus(*options.seeds, CORPUS)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutated(data, rng.choice(seeds), rng, most)

    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={MOST}",
        f"-timeout={STUCK:.0f}",
        f"-report_slow_units={STUCK:.0f}",
        f"-seed={options.seed}",
        f"-artifact_prefix={options.findings}/",
        "-print_final_stats=1",
    ]
    with contextlib.ExitStack() as stack:
        # What reaches new code goes to the first directory: not to the corpus itself.
        grown = options.seeds or [Path(stack.enter_context(tempfile.TemporaryDirectory()))]
        folders = [str(folder) for folder in (*grown, CORPUS)]
        checked = keeping((check, check_plain, check_talk, check_header), options.findings)
        atheris.Setup([sys.argv[0], *flags, *folders], checked, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz spliceproxy's HTTP/1 parser.")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--findings", type=Path, default=FINDINGS, metavar="DIR")
    parser.add_argument(
        "seeds", type=Path, nargs="*", help="more corpora; with atheris the first one grows"
    )
    options = parser.parse_args()
    sys.path += [str(HERE.parent), str(HERE.parent.parent)]
    options.findings.mkdir(parents=True, exist_ok=True)
    if options.plain or importlib.util.find_spec("atheris") is None:
        plain(options)
    else:
        guided(options)


if __name__ == "__main__":
    main()
