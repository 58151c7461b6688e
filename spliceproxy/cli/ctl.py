"""``spliceproxy ctl``: asks and steers a running proxy, for people and scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from spliceproxy.admin.client import Client, NoAnswer, Senseless, Unknown, find
from spliceproxy.cli.flags import Parser, add_help, escaped
from spliceproxy.relay.leases import words

Row = Sequence[object]

RECYCLE_SECONDS = 3600.0
"""That it may take to replace all workers: each has limits of its own."""

UPGRADE_SECONDS = 300.0
"""That an upgrade may take: each of its steps has a limit of its own."""


class Usage(ValueError):
    """A command was given what it does not take."""


class Verb(NamedTuple):
    """``run`` gets what stands behind the verb, prints, and returns the exit status."""

    run: Callable[[Client, Sequence[str], bool], int]
    arguments: str
    text: str


def parser() -> Parser:
    """Of this command."""
    width = max(len(f"{name} {verb.arguments}") for name, verb in VERBS.items())
    verbs = "\n".join(
        f"  {f'{name} {verb.arguments}':<{width}}  {verb.text}" for name, verb in VERBS.items()
    )
    made = Parser(
        prog="spliceproxy ctl",
        usage="%(prog)s [option]... VERB [ARGUMENT]...",
        description="Asks and steers a running proxy at its admin address.",
        epilog=f"verbs:\n{verbs}\n\n"
        "A filter is NAME=VALUE, such as user=alice or host=.example.com; docs/admin.md\n"
        "has all of them.\n\n"
        "examples:\n"
        "  spliceproxy ctl --config /etc/spliceproxy.toml tunnels older=3600\n"
        "  spliceproxy ctl --admin unix:/run/spliceproxy/admin.sock kill user=alice\n\n"
        "exit status: 0 it is done; 1 it is not: nothing matches, or the proxy does not\n"
        "answer or says no; 2 wrong usage",
    )
    made.add_argument("verb", metavar="VERB", nargs="?", help="what to do; see below")
    made.add_argument("arguments", metavar="ARGUMENT", nargs="*", help="of the verb")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--admin", metavar="ADDR", help="the admin address of the proxy")
    made.add_argument("--admin-token-file", metavar="FILE", help="the file with the token")
    made.add_argument(
        "--config",
        metavar="FILE",
        help="the settings of the proxy, which say both unless an option does, or "
        "SPLICEPROXY_ADMIN or SPLICEPROXY_ADMIN_TOKEN_FILE",
    )
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    flags = made.parse_args(argv)
    verb = VERBS.get(flags.verb)
    if verb is None:
        wrong = "a VERB is missing" if flags.verb is None else f"no such verb: {flags.verb!r}"
        made.error(f"{wrong}; allowed: {', '.join(VERBS)}")
    try:
        client = find(flags.admin, flags.admin_token_file, flags.config)
        return verb.run(client, flags.arguments, flags.json)
    except (Usage, Senseless) as error:
        made.error(f"{flags.verb}: {error}")
    except Unknown as error:
        made.fail(*str(error).split("\n"))
    except NoAnswer as error:
        print(f"{made.prog}: {escaped(str(error))}", file=sys.stderr)
        return 1


# ---- the verbs -------------------------------------------------------------------------------


def _drain(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    said = client.post("/drain")
    _say(said, "it was draining already" if said["before"] else "it drains", as_json)
    return 0


def _reload(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    """Status 1 where it is refused, or a worker has not said that it has switched."""
    _none(arguments)
    answer = client.ask("POST", "/reload", {"Accept": "application/json"})
    try:
        said = json.loads(answer.body)
        result = said["result"]
    except (ValueError, KeyError, TypeError):
        raise NoAnswer(f"{answer.text.strip()} ({answer.status})") from None
    if as_json:
        _say(said, "", as_json)
    else:
        for line in said["warnings"]:
            print(f"spliceproxy ctl: warning: {escaped(line)}", file=sys.stderr)
    if result == "done":
        if not as_json:
            _say(said, f"generation {said['generation']}, before {said['before']}", as_json)
        return _unless_silent(said)
    if not as_json:
        for line in said["reason"].split("\n"):
            print(f"spliceproxy ctl: refused: {escaped(line)}", file=sys.stderr)
        _say(said, f"generation {said['generation']} stays in force", as_json)
    return 1


def _tunnels(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    found = client.get(f"/tunnels{_query(arguments)}")
    tunnels = found["tunnels"]
    if "found" not in found:  # else they are in the order that was asked for
        tunnels = sorted(tunnels, key=lambda one: -(one["age"] or 0))
    if as_json:
        _say(found, "", as_json)
    else:
        _table(
            ("ID", "AGE", "CLIENT", "USER", "IN", "OUT", "IN/s", "OUT/s", "TARGET"),
            [
                (
                    one["id"],
                    _age(one["age"]),
                    one["client"],
                    one["user"] or "-",
                    _size(one["in_copied"] + one["in_spliced"]),
                    _size(one["out_copied"] + one["out_spliced"]),
                    _size(one["in_rate"]),
                    _size(one["out_rate"]),
                    f"{one['method']} {one['target']}",
                )
                for one in tunnels
            ],
        )
    return _unless_silent(found)


def _kill(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    if not arguments:
        raise Usage("give an id or a filter; spliceproxy ctl tunnels FILTER shows what it matches")
    if len(arguments) == 1 and "=" not in arguments[0]:
        said = client.delete(f"/tunnels/{quote(arguments[0], safe='')}")
    else:
        said = client.delete(f"/tunnels{_query(arguments)}")
    _say(said, f"ended: {said['killed']}", as_json)
    return max(_unless_silent(said), int(not said["killed"]))


def _denials(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    stats = client.get("/stats.json")
    _listed(
        stats["denials"],
        ("TIME", "RULE", "CLIENT", "USER", "REQUEST", "REASON"),
        lambda one: (
            _moment(one["time"]),
            one["rule"],
            one["client"] or "unix",
            one["user"] or "-",
            f"{one['method']} {one['target']}",
            one["reason"],
        ),
        as_json,
    )
    return _unless_silent(stats)


def _limits(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    stats = client.get("/stats.json")
    _listed(
        stats["limits"],
        ("LIMIT", "FOR", "CONNECTIONS", "REFUSED", "TODAY", "THIS HOUR"),
        lambda one: (
            one["limit"],
            one["key"] or "-",
            str(one["connections"]),
            str(one["refused"]),
            _size(one["bytes_today"]) if one["bytes_today"] else "-",
            _size(one["bytes_this_hour"]) if one["bytes_this_hour"] else "-",
        ),
        as_json,
    )
    store = stats.get("limits_store")
    if store is not None and not as_json:
        sys.stderr.write(f"{words(store['up'], store['machines'])}\n")
    return 0


def _config(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    if as_json:
        _say(client.get("/config"), "", as_json)
        return 0
    answer = client.ask("GET", "/config?format=toml")
    if answer.status != 200:
        raise NoAnswer(answer.text.strip())
    sys.stdout.write(answer.text)
    return 0


def _top(kind: str) -> Callable[[Client, Sequence[str], bool], int]:
    """Those of one list of /stats.json, by bytes both ways since the workers were started."""

    def run(client: Client, arguments: Sequence[str], as_json: bool) -> int:
        _none(arguments)
        stats = client.get("/stats.json")
        _listed(
            stats["top"]["all"][kind]["bytes"]["rows"],
            (kind[:-1].upper(), "BYTES", "FROM CLIENT", "TO CLIENT", "REQUESTS"),
            lambda one: (
                one["key"] or "-",
                ("<=" if one["error"] else "") + _size(one["bytes"]),
                _size(one["bytes_from_client"]),
                _size(one["bytes_to_client"]),
                one["requests"],
            ),
            as_json,
        )
        return _unless_silent(stats)

    return run


def _failures(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    stats = client.get("/stats.json")
    _listed(
        stats["failures"],
        ("LAST", "COUNT", "KIND", "WHERE", "ADDRESS", "LAST CLIENT"),
        lambda one: (
            _moment(one["last"]),
            one["hour"],
            one["kind"],
            one["where"] or "-",
            one["address"] or "-",
            one["client"] or "unix",
        ),
        as_json,
    )
    return _unless_silent(stats)


def _workers(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    """Status 1 where one is down, or does not answer. What they could not write is told, too."""
    _none(arguments)
    stats = client.get("/stats.json")
    silent = stats["silent"]
    _listed(
        stats["workers"],
        ("WORKER", "STATE", "PID", "AGE", "CPU", "MEMORY", "FDS", "TUNNELS", "CLIENTS"),
        lambda one: (
            one["index"],
            _state(one, silent),
            one["pid"] or "-",
            _age(one["uptime"]),
            "-" if one["cpu_ratio"] is None else f"{one['cpu_ratio']:.0%}",
            "-" if one["memory_bytes"] is None else _size(one["memory_bytes"]),
            "-" if one["descriptors"] is None else one["descriptors"],
            one["tunnels"],
            one["connections"],
        ),
        as_json,
    )
    for one in stats["log"]["lost"]:
        log = {"access": "lines of the access log"}.get(one["log"], one["log"])
        _warn(f"{one['total']} {log} were not written ({one['cause']})")
    return max(_unless_silent(stats), int(not all(one["up"] for one in stats["workers"])))


def _state(worker: Mapping[str, Any], silent: Collection[int]) -> str:
    if not worker["up"]:
        return "down"
    if worker["index"] in silent:
        return "silent"
    return "draining" if worker["draining"] else "up"


def _recycle(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    if len(arguments) > 1:
        raise Usage("give the number of one worker, or none for all of them")
    query = f"?{urlencode({'worker': arguments[0]})}" if arguments else ""
    said = client.post(f"/recycle{query}", RECYCLE_SECONDS)
    _listed(
        said["replaced"] if not as_json else said,
        ("WORKER", "OLD PID", "NEW PID", "TUNNELS MOVED", "CLIENTS MOVED", "LEFT"),
        lambda one: (
            one["worker"],
            one["old"],
            one["new"],
            one.get("tunnels", "-"),
            one.get("clients", "-"),
            one.get("left", "-"),
        ),
        as_json,
    )
    return 0


def _upgrade(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    said = client.post("/upgrade", UPGRADE_SECONDS)
    old, new, moved = said["old"], said["new"], said["moved"]
    if as_json:
        _say(said, "", as_json)
        return 0
    _table(
        ("", "PROCESS", "VERSION"),
        [("old", old["pid"], old["version"]), ("new", new["pid"], new["version"])],
    )
    moves = f"tunnels moved: {moved['tunnels']}, clients moved: {moved['clients']}"
    _say(said, f"{moves}, connections left to drain: {moved['left']}", as_json)
    return 0


def _log_level(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    if len(arguments) > 1:
        raise Usage("give one level, or none to see what it is")
    if arguments:
        said = client.post(f"/log-level?{urlencode({'level': arguments[0]})}")
        _say(said, f"{said['level']}, before {said['before']}", as_json)
        return _unless_silent(said)
    said = client.get("/log-level")
    _say(said, said["level"], as_json)
    return 0


def _health(client: Client, arguments: Sequence[str], as_json: bool) -> int:
    _none(arguments)
    answer = client.ask("GET", "/healthz")
    healthy = answer.status == 200
    _say({"healthy": healthy, "text": answer.text.strip()}, answer.text.strip(), as_json)
    return 0 if healthy else 1


VERBS: Mapping[str, Verb] = {
    "tunnels": Verb(_tunnels, "[FILTER]...", "list live tunnels and running requests"),
    "kill": Verb(_kill, "ID | FILTER...", "end them"),
    "denials": Verb(_denials, "", "the last requests that were denied, and why"),
    "limits": Verb(_limits, "", "what limits count, the busiest first"),
    "failures": Verb(_failures, "", "what failed in the last hour, and where"),
    "top-users": Verb(_top("users"), "", "users by bytes both ways"),
    "top-clients": Verb(_top("clients"), "", "addresses of clients, likewise"),
    "top-destinations": Verb(_top("destinations"), "", "destinations, likewise"),
    "workers": Verb(_workers, "", "each worker, and what it uses"),
    "recycle": Verb(_recycle, "[WORKER]", "replace a worker, or each, and end no connection"),
    "upgrade": Verb(_upgrade, "", "start the program anew, and end no connection"),
    "config": Verb(_config, "", "the effective settings"),
    "log-level": Verb(_log_level, "[LEVEL]", "show or change the level of messages"),
    "health": Verb(_health, "", "ask every worker whether it serves"),
    "reload": Verb(_reload, "", "read the settings again, if they are right"),
    "drain": Verb(_drain, "", "begin a graceful stop"),
}
"""The verbs, in the order of --help."""


# ---- what they have in common ----------------------------------------------------------------


def _none(arguments: Sequence[str]) -> None:
    if arguments:
        raise Usage(f"it takes no argument, but was given {arguments[0]!r}")


def _query(arguments: Sequence[str]) -> str:
    pairs = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise Usage(f"{argument!r} is no filter; allowed: NAME=VALUE")
        pairs.append((name, value))
    return f"?{urlencode(pairs)}" if pairs else ""


def _say(value: Any, text: str, as_json: bool) -> None:
    print(json.dumps(value, indent=2) if as_json else escaped(text))


def _listed(rows: Sequence[Any], head: Row, cells: Callable[[Any], Row], as_json: bool) -> None:
    """The rows as JSON, or as a table."""
    if as_json:
        _say(rows, "", as_json)
    else:
        _table(head, [cells(one) for one in rows])


def _unless_silent(said: Mapping[str, Any]) -> int:
    for line in said["why"]:
        _warn(line)
    return 1 if said["silent"] else 0


def _warn(text: str) -> None:
    print(f"spliceproxy ctl: {escaped(text)}", file=sys.stderr)


def _table(head: Row, rows: Sequence[Row]) -> None:
    """Columns as wide as they have to be; what comes from a client cannot leave its cell."""
    lines = [[escaped(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())


def _size(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000 or unit == "T":
            return f"{number:.0f}{unit}" if not unit or number >= 100 else f"{number:.1f}{unit}"
        number /= 1000
    raise AssertionError


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _moment(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
