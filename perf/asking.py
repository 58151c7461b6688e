"""What spliceproxy may do for each request, and what it costs, through a proxy with one worker.

    python perf/asking.py -o out.json

The values are CPU time of the proxy process for one request or tunnel. Names: what it does
(``plain`` is nothing more; ``function``, ``async``, ``on_close`` with tags, ``auth``, 1,000
``rules``, access ``log``), and for what: ``kept`` is a GET of 330 bytes on one of 100 kept-alive
connections, ``close`` one with a connection of its own, ``connect`` a tunnel with 32 bytes.
"""

from __future__ import annotations

from functools import partial

from rig import load
from rig.measures import SMALL
from rig.origins import Origins
from rig.ours import OURS
from rig.proxies import KINDS, Proxy
from rig.suite import Bed, proxy_runner

FORMS = {"kept": 100, "close": 100, "connect": 64}
"""Connections at a time."""


def measure(loops: int, bed: Bed, form: str) -> float:
    """``loops`` requests or tunnels."""
    conc = str(min(FORMS[form], loops))

    def get(proxy: Proxy, origins: Origins) -> list[str]:
        asked = load.target(proxy, origins, SMALL, False)
        return asked.checker("-c", conc, "-n", str(loops), *(["-C"] if form == "close" else []))

    if form != "connect":
        return bed.cpu(get, "requests", loops)
    options = ("-c", conc, "-m", str(loops))
    return bed.cpu(lambda proxy, _: proxy.tunnel("setup", 0, *options), "finished", loops)


def main() -> None:
    runner, flags = proxy_runner()
    for kind in [OURS, *(name for name in KINDS if KINDS[name].more)]:
        bed = Bed(flags.engine, kind)
        for form in FORMS:
            name = f"asking-{kind.partition('+')[2] or 'plain'}-{form}"
            runner.bench_time_func(name, partial(measure, bed=bed, form=form))


if __name__ == "__main__":
    main()
