"""Alert rules for Prometheus, over the metrics of ``GET /metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spliceproxy.deploy.yaml import Value
from spliceproxy.observe.outcome import DENIED, FAILED, OF_CUTS, OF_ERRORS, OF_TUNNELS

CRITICAL = "critical"  # clients are not served
WARNING = "warning"  # somebody should look at it today
INFO = "info"


class Alert(NamedTuple):
    """``hold``: for how long it must be true before anybody is told. ``summary`` names labels, and
    ``advice`` says what to look at."""

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    advice: str


def _with(outcomes: Mapping[str, str], wanted: str) -> str:
    """The label values with this outcome, as a regular expression."""
    return "|".join(value for value, one in outcomes.items() if one == wanted)


def failures(labels: str, window: str, by: str = "") -> str:
    """What has failed in a second. ``labels`` are more conditions, each with a comma behind it, and
    ``by`` is what stands behind ``sum``."""
    return " + ".join(
        f"sum{by}(rate(spliceproxy_{name}_total{{{labels}{condition}}}[{window}]))"
        for name, condition in (
            ("errors", f'error!~"{_with(OF_ERRORS, DENIED)}"'),
            ("requests_cut", f'by=~"{_with(OF_CUTS, FAILED)}"'),
            ("tunnels_ended", f'reason=~"{_with(OF_TUNNELS, FAILED)}"'),
        )
    )


_EACH = " by (job, instance) "
_HERE = "{{ $labels.instance }}"
_WRONG = ("outside", "missing", "malformed", "too_long", "checksum", "timeout")
"""Of HEADERS in relay.columns; "closed" is a balancer that looks whether somebody listens."""

ALERTS = (
    Alert(
        "SpliceproxyAbsent",
        "absent(spliceproxy_build_info)",
        "5m",
        CRITICAL,
        "No spliceproxy is seen by Prometheus",
        "Either none runs, or Prometheus cannot reach its admin address.",
    ),
    Alert(
        "SpliceproxyWorkerDown",
        "spliceproxy_worker_up == 0",
        "1m",
        CRITICAL,
        f"Worker {{{{ $labels.worker }}}} of {_HERE} does not answer",
        "Its clients wait. 'spliceproxy ctl workers' shows its state, and the messages say why; "
        "a function of --policy that blocks is the usual reason.",
    ),
    Alert(
        "SpliceproxyWorkersDie",
        "increase(spliceproxy_worker_deaths_total[15m]) > 0",
        "0m",
        WARNING,
        f"A worker of {_HERE} has died",
        "It was replaced, but its connections are lost. The messages have its last words, and "
        "dmesg says whether memory was short.",
    ),
    Alert(
        "SpliceproxyFailures",
        f"({failures('', '5m', _EACH)})"
        f" / sum{_EACH}(rate(spliceproxy_requests_total[5m])) > 0.05"
        f" and sum{_EACH}(rate(spliceproxy_requests_total[5m])) > 1",
        "10m",
        WARNING,
        f"More than 5 % of the requests through {_HERE} fail",
        "'spliceproxy ctl failures' says what fails, and where.",
    ),
    Alert(
        "SpliceproxyClientsRefused",
        f'sum{_EACH}(rate(spliceproxy_errors_total{{error="connection_limit_reached"}}[5m])) > 0',
        "5m",
        CRITICAL,
        f"{_HERE} refuses clients, for it has too many",
        "It has as many clients as --max-connections, or its descriptors, allow. Raise the limit, "
        "or add a proxy.",
    ),
    Alert(
        "SpliceproxyDescriptors",
        "spliceproxy_process_open_fds / (spliceproxy_process_max_fds > 0) > 0.8",
        "5m",
        WARNING,
        f"Process {{{{ $labels.process }}}} of {_HERE} uses more than 80 % of its descriptors",
        "A tunnel has two. Raise LimitNOFILE of the service, or add a proxy.",
    ),
    Alert(
        "SpliceproxyBusy",
        'rate(spliceproxy_process_cpu_seconds_total{process=~"[0-9]+"}[5m]) > 0.9',
        "15m",
        WARNING,
        f"Worker {{{{ $labels.process }}}} of {_HERE} uses a whole processor",
        "More --workers, or one more proxy, share the load.",
    ),
    Alert(
        "SpliceproxyNames",
        f'sum{_EACH}(rate(spliceproxy_errors_total{{error=~"dns_error|dns_timeout"}}[5m]))'
        f" > 0.1 * sum{_EACH}(rate(spliceproxy_lookups_total[5m]))",
        "10m",
        WARNING,
        f"Look-ups of names through {_HERE} fail",
        "Are the name servers of /etc/resolv.conf reached from there, and do they answer in time?",
    ),
    Alert(
        "SpliceproxyDialsSlow",
        "histogram_quantile(0.95,"
        " sum by (job, instance, le) (rate(spliceproxy_dial_seconds_bucket[10m]))) > 2.5",
        "15m",
        WARNING,
        f"Connecting to origins from {_HERE} takes more than 2.5 s",
        "That holds for 5 % of the connections. The names are looked up within this time: compare "
        "it with the failures of look-ups.",
    ),
    Alert(
        "SpliceproxyDecisionsSlow",
        "spliceproxy_questions_open > 1000",
        "5m",
        WARNING,
        f"More than 1,000 requests at {_HERE} wait for a decision",
        "A function of --policy, or what it asks, does not keep up. With policy-cache its answers "
        "are used again.",
    ),
    Alert(
        "SpliceproxyPolicyFails",
        "increase(spliceproxy_function_failures_total[10m]) > 0",
        "0m",
        WARNING,
        f"The policy function of {_HERE} fails",
        "The requests that it was asked about were refused. The messages have its traceback.",
    ),
    Alert(
        "SpliceproxyReloadRefused",
        'increase(spliceproxy_reloads_total{result="refused"}[10m]) > 0',
        "0m",
        WARNING,
        f"{_HERE} has refused new settings",
        "It goes on with those of before. 'spliceproxy check' names the mistakes.",
    ),
    Alert(
        "SpliceproxyGuessing",
        f"sum{_EACH}(rate("
        'spliceproxy_authentication_failures_total{reason=~"wrong|throttled"}[5m])) > 1',
        "10m",
        WARNING,
        f"Somebody guesses passwords at {_HERE}",
        "Or a client has a wrong one and does not give up. 'spliceproxy ctl denials' has addresses "
        "and names.",
    ),
    Alert(
        "SpliceproxyBalancerHeaders",
        f"sum{_EACH}(rate("
        f'spliceproxy_proxy_headers_total{{result=~"{"|".join(_WRONG)}"}}[5m])) > 0',
        "10m",
        WARNING,
        f"{_HERE} closes connections whose PROXY header is not right",
        "Is the balancer told to send one, and is its address in --proxy-protocol-from?",
    ),
    Alert(
        "SpliceproxyLinesLost",
        "increase(spliceproxy_log_lines_lost_total[15m]) > 0",
        "0m",
        WARNING,
        f"{_HERE} has lost lines of its {{{{ $labels.log }}}} log ({{{{ $labels.cause }}}})",
        "slow: whoever reads them does not keep up; failed: is the disk full?",
    ),
    Alert(
        "SpliceproxyMemory",
        "increase(spliceproxy_clients_lost_total[15m]) > 0",
        "0m",
        CRITICAL,
        f"{_HERE} has closed clients, for want of memory",
        "Give it more memory, or fewer clients.",
    ),
    Alert(
        "SpliceproxyPipesShort",
        f"sum{_EACH}(rate(spliceproxy_pipe_shortages_total[10m])) > 1",
        "15m",
        INFO,
        f"{_HERE} copies bytes that it could splice",
        "The user has no pipes left (fs.pipe-user-pages-soft of sysctl(8), see pipe(7)). "
        "Everything works, and costs more CPU time.",
    ),
    Alert(
        "SpliceproxySlowEngine",
        'spliceproxy_engine_info{engine!~"native.*"} == 1',
        "10m",
        INFO,
        f"{_HERE} runs the engine {{{{ $labels.engine }}}}",
        "The compiled one is several times faster. The message at the start says why it does not "
        "run.",
    ),
)
"""The rules. Their thresholds are for a proxy whose usual traffic nobody knows."""


def rules() -> dict[str, Value]:
    """The file of rules."""
    found: list[Value] = [
        {
            "alert": one.name,
            "expr": one.expr,
            "for": one.hold,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.summary, "description": one.advice},
        }
        for one in ALERTS
    ]
    return {"groups": [{"name": "spliceproxy", "rules": found}]}
