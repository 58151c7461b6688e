"""Writing the head for the next hop, from a parsed one.

python perf/rewrite.py -o out.json
"""

from __future__ import annotations

from functools import partial

from rig.samples import LARGE_REQUEST, LARGE_RESPONSE, TYPICAL_REQUEST, TYPICAL_RESPONSE
from rig.suite import runner

from spliceproxy.http1.chain import forwarded_lines
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import parse_request, parse_response
from spliceproxy.http1.rewrite import client_response, origin_request

VIA = b"spliceproxy"
DATE = b"Tue, 15 Oct 2024 09:30:00 GMT"


def main() -> None:
    bench = runner()
    for size, head in (("typical", TYPICAL_REQUEST), ("large", LARGE_REQUEST)):
        request = parse_request(head)
        kind, _ = request.body()
        bench.bench_func(f"rewrite-request-{size}", origin_request, request, kind, VIA)
    request = parse_request(TYPICAL_REQUEST)
    lines = forwarded_lines(request, "on", "192.0.2.7")
    bench.bench_func("rewrite-request-forwarded", origin_request, request, Body.NONE, VIA, lines)
    for size, head in (("typical", TYPICAL_RESPONSE), ("large", LARGE_RESPONSE)):
        response = parse_response(head)
        kind, _ = response.body("GET")
        answer = partial(client_response, minor=1, close=False, via=VIA, date=DATE)
        bench.bench_func(f"rewrite-response-{size}", answer, response, kind)


if __name__ == "__main__":
    main()
