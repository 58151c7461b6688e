"""``spliceproxy manifests``: what runs the proxy in Kubernetes, and what watches it anywhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.cli.flags import Parser, add_help, escaped
from spliceproxy.version import __version__

if TYPE_CHECKING:
    from spliceproxy.deploy.kubernetes import Object, Wanted

SECRET = "secret.yaml"

# The names of objects are labels of the DNS (RFC 1035), and "-dashboard" has to fit behind ours.
_SMALL = "a name of small letters, digits and -"
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAME = r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?"
# The grammar of github.com/distribution/reference.
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?(:[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE = rf"({_HOST}/)?{_PART}(/{_PART})*(:{_TAG})?(@sha256:[0-9a-f]{{64}})?"
_CPU = r"[1-9][0-9]{0,5}m|[1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9]"
_MEMORY = r"[1-9][0-9]{0,8}(Mi|Gi)"
_FILE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}"


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy manifests",
        usage="%(prog)s [option]...\n       %(prog)s --dashboard | --alerts",
        description="Prints what runs the proxy in Kubernetes, for kubectl apply -f -, or writes\n"
        "it into a folder with a kustomization.yaml. Nothing is asked of a cluster.",
        epilog="examples:\n"
        "  spliceproxy manifests --namespace egress --clients ci | kubectl apply -f -\n"
        "  spliceproxy manifests --config proxy.toml --output egress\n"
        "  spliceproxy manifests --dashboard > spliceproxy.json\n\n"
        "exit status: 0 it is printed or written; 1 it cannot be written; 2 a value is\n"
        "bad, in the settings, too, and nothing is printed or written",
    )
    pods = made.add_argument_group("the pods")
    for flag, metavar, default, kind, text in _values():
        pods.add_argument(flag, metavar=metavar, default=default, type=kind, help=text)
    told = made.add_argument_group("what they are told")
    told.add_argument(
        "--config",
        metavar="FILE",
        help="the settings (default: port 8888, and nothing within the cluster is reached)",
    )
    told.add_argument(
        "--file",
        metavar="FILE",
        action="append",
        default=[],
        help="a file that the settings name, such as one of users; may be repeated",
    )
    told.add_argument(
        "--admin-token-file",
        metavar="FILE",
        help="the token of operators (default: a new one, at random)",
    )
    others = made.add_argument_group("what is around them")
    others.add_argument(
        "--clients",
        metavar="NAMESPACE",
        action="append",
        default=[],
        type=_label(),
        help="namespace whose pods get out by the proxy alone; may be repeated (default: its own)",
    )
    others.add_argument(
        "--monitoring",
        metavar="NAMESPACE",
        default="monitoring",
        type=_label(),
        help="namespace of Prometheus, which may ask for the metrics (default: monitoring)",
    )
    others.add_argument(
        "--no-monitoring",
        action="store_true",
        help="leave out what the Prometheus operator and Grafana need",
    )
    what = made.add_argument_group("what is printed")
    what.add_argument(
        "--output", metavar="DIR", help="write a file for each object, and kustomization.yaml"
    )
    what.add_argument(
        "--dashboard", action="store_true", help="print the dashboard for Grafana alone"
    )
    what.add_argument(
        "--alerts", action="store_true", help="print the alert rules for Prometheus alone"
    )
    add_help(what)
    return made


def _label() -> Callable[[str], object]:
    return _matching(_LABEL, _SMALL)


def _values() -> Sequence[tuple[str, str, object, Callable[[str], object], str]]:
    return (
        ("--name", "NAME", "spliceproxy", _matching(_NAME, f"{_SMALL}, a letter first, up to 52"),
         "name of all objects (default: spliceproxy)"),
        ("--namespace", "NAME", "spliceproxy", _label(),
         "where they are (default: spliceproxy)"),
        ("--image", "IMAGE", f"spliceproxy:{__version__}",
         _matching(_IMAGE, "[HOST/]NAME[:TAG][@sha256:DIGEST]"),
         f"image of the container (default: spliceproxy:{__version__})"),
        ("--replicas", "N", 2, _count(1000), "how many pods, at least (default: 2)"),
        ("--max-replicas", "N", 10, _count(1000),
         "how many, at most; as many as --replicas: no autoscaler (default: 10)"),
        ("--tunnels", "N", 2000, _count(1_000_000),
         "live tunnels of each pod, beyond which there are more pods (default: 2000)"),
        ("--cpu", "N", "2", _matching(_CPU, "processors, such as 2, 0.5 or 500m"),
         "processors of a pod; it has a worker for each (default: 2)"),
        ("--memory", "SIZE", "512Mi", _matching(_MEMORY, "a size, such as 512Mi or 2Gi"),
         "memory of a pod (default: 512Mi)"),
    )  # fmt: skip


def _matching(pattern: str, allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"invalid value {text!r}; allowed: {allowed}")
        return text

    return read


def _count(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}; allowed: 1 to {most}")
        return int(text)

    return read


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    flags = made.parse_args(argv)
    from spliceproxy.deploy import alerts, dashboard, kubernetes, yaml

    shown = json.dumps(dashboard.dashboard(), indent=2) + "\n"
    if flags.dashboard or flags.alerts:
        if len(argv) > 1:
            made.error("--dashboard and --alerts stand alone; --output writes both")
        sys.stdout.write(shown if flags.dashboard else yaml.text(alerts.rules()))
        return 0
    wanted = _wanted(made, flags, "" if flags.no_monitoring else shown)
    found = list(kubernetes.objects(wanted))
    if not flags.output:
        sys.stdout.write("---\n".join(map(_document, found)))
        if not flags.admin_token_file:
            _say("the token of operators is a new one; --admin-token-file names one that stays")
        return 0
    try:
        _write(Path(flags.output), found, keep=not flags.admin_token_file)
    except OSError as error:
        _say(f"--output {flags.output}: cannot write {error.filename} ({error.strerror})")
        return 1
    return 0


def _wanted(made: Parser, flags: argparse.Namespace, shown: str) -> Wanted:
    """SystemExit(2) after a line for each value that is wrong."""
    from spliceproxy.deploy import inside
    from spliceproxy.deploy.kubernetes import Wanted
    from spliceproxy.settings.loading import SettingsError

    if flags.max_replicas < flags.replicas:
        made.error(
            f"--max-replicas {flags.max_replicas}: fewer than --replicas {flags.replicas}; "
            f"allowed: {flags.replicas} to 1000"
        )
    settings = inside.DEFAULT if flags.config is None else _read(made, "--config", flags.config)
    files = _files(made, flags.file)
    token = secrets.token_hex(32)
    if flags.admin_token_file is not None:
        token = _token(made, flags.admin_token_file)
    try:
        config = inside.checked(settings, files, token, flags.config or "")
    except SettingsError as error:
        made.fail(*error.problems)
    return Wanted(
        name=flags.name,
        namespace=flags.namespace,
        image=flags.image,
        replicas=flags.replicas,
        most=flags.max_replicas,
        tunnels=flags.tunnels,
        cpu=flags.cpu,
        memory=flags.memory,
        clients=list(dict.fromkeys(flags.clients or [flags.namespace])),
        monitoring=flags.monitoring,
        config=config,
        settings=settings,
        files=files,
        token=token,
        dashboard=shown,
    )


def _read(made: Parser, flag: str, path: str) -> str:
    """A file of text."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        made.fail(f"{flag} {path}: cannot read it ({error.strerror})")
    except UnicodeDecodeError:
        made.fail(f"{flag} {path}: it is no text in UTF-8")


def _files(made: Parser, paths: Sequence[str]) -> dict[str, str]:
    from spliceproxy.deploy.kubernetes import SETTINGS, TOKEN

    found: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path)
        if not re.fullmatch(_FILE, name) or name in (SETTINGS, TOKEN):
            made.fail(
                f"--file {path}: invalid name {name!r}; allowed: letters, digits and ._-, but "
                f"neither {SETTINGS} nor {TOKEN}"
            )
        if name in found:
            made.fail(f"--file {path}: there is a file {name} already; give each its own name")
        found[name] = _read(made, "--file", path)
    return found


def _token(made: Parser, path: str) -> str:
    from spliceproxy.settings import token
    from spliceproxy.watched import Mistakes

    text = _read(made, "--admin-token-file", path)
    try:
        token.parse(text)
    except Mistakes as error:
        made.fail(*(f"--admin-token-file {path}{line}" for line in error.problems))
    return text.strip()


# ---- what is printed or written --------------------------------------------------------------


def _document(one: Object) -> str:
    from spliceproxy.deploy import yaml

    about = "".join(f"# {line}\n" for line in one.about.splitlines())
    return about + yaml.text(one.value)


def _write(folder: Path, found: Sequence[Object], *, keep: bool) -> None:
    """``keep``: a secret that is there stays. OSError."""
    from spliceproxy.deploy import kubernetes, yaml

    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        path = folder / one.file
        if keep and one.file == SECRET and path.exists():
            _say(f"{path} is there already, and stays as it is")
            continue
        _put(path, _document(one), secret=one.value["kind"] == "Secret")
    _put(folder / "kustomization.yaml", yaml.text(kubernetes.kustomization(found)))


def _put(path: Path, text: str, *, secret: bool = False) -> None:
    """Nobody else reads a secret, not even while it is written."""
    mode = 0o600 if secret else 0o666
    with open(
        path, "w", encoding="utf-8", opener=lambda name, how: os.open(name, how, mode)
    ) as out:
        if secret:
            os.fchmod(out.fileno(), mode)  # it may be there from before
        out.write(text)


def _say(text: str) -> None:
    print(f"spliceproxy manifests: {escaped(text)}", file=sys.stderr)
