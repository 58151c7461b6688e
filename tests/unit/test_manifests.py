"""``spliceproxy manifests``: what Kubernetes takes, what is consistent with the settings, and which
values are refused."""

from __future__ import annotations

import base64
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.cli import main as cli
from spliceproxy.deploy import yaml as ours
from spliceproxy.deploy.inside import DEFAULT
from spliceproxy.settings.loading import load
from spliceproxy.settings.sources import CONFIG_VARIABLE
from spliceproxy.settings.table import BY_NAME

OLDEST = "1.30"
"""The first version of Kubernetes that knows the action ``sleep`` without being asked to."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times faster, where PyYAML was built with libyaml."""

ROOT = Path(__file__).parents[2]

TOKEN = "0123456789abcdef-tests"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return tmp_path


def run(*args: str) -> int:
    return cli.main(["manifests", *args])


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> list[Any]:
    """The objects that are printed."""
    assert run(*args) == 0
    return list(yaml.load_all(capsys.readouterr().out, LOADER))


def of_kind(objects: Sequence[Any], kind: str, end: str = "") -> Any:
    """The one object of a kind, and of those the one whose name ends so."""
    (found,) = [
        one
        for one in objects
        if one["kind"] == kind and (not end or one["metadata"]["name"].endswith(end))
    ]
    return found


def pod_of(objects: Sequence[Any]) -> Any:
    return of_kind(objects, "Deployment")["spec"]["template"]["spec"]


def config_of(objects: Sequence[Any]) -> str:
    found = of_kind([one for one in objects if "proxy.toml" in one.get("data", {})], "ConfigMap")
    return str(found["data"]["proxy.toml"])


# ---- what Kubernetes takes -------------------------------------------------------------------

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": _TEXTS},
    "required": ["matchLabels"],
    "additionalProperties": False,
}


def _operator(spec: dict[str, Any]) -> dict[str, Any]:
    """Of an object of the Prometheus operator's (doc/api.md of prometheus-operator)."""
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": "monitoring.coreos.com/v1"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "required": ["name", "namespace", "labels"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "namespace": {"type": "string"},
                    "labels": _TEXTS,
                },
            },
            "spec": {"type": "object", "additionalProperties": False, **spec},
        },
    }


_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
SCHEMAS = {
    "ServiceMonitor": _operator(
        {
            "required": ["endpoints", "selector"],
            "properties": {
                "selector": _SELECTOR,
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": _DURATION,
                        },
                    },
                },
            },
        }
    ),
    "PrometheusRule": _operator(
        {
            "required": ["groups"],
            "properties": {
                "groups": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "rules"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "rules": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["alert", "expr"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "alert": {"type": "string"},
                                        "expr": {"type": "string"},
                                        "for": _DURATION,
                                        "labels": _TEXTS,
                                        "annotations": _TEXTS,
                                    },
                                },
                            },
                        },
                    },
                }
            },
        }
    ),
}

SETTINGS = """
listen = [":3128", ":80", "proxy+tcp://:3129"]
proxy-protocol-from = ["10.0.0.0/8"]
htpasswd = "users"
timeout-drain = 25.5
drain-delay = 3
[[rule]]
id = "ü: no 'quotes' help"
action = "deny"
hosts = ["*.example.com"]
"""

CASES = {
    "nothing": [],
    "everything": [
        *("--name", "egress", "--namespace", "proxies", "--replicas", "3", "--max-replicas", "9"),
        *("--image", "registry.example:5000/team/spliceproxy:v1.2", "--tunnels", "500"),
        *("--cpu", "1500m", "--memory", "2Gi", "--clients", "ci", "--clients", "agents"),
        *("--monitoring", "prometheus", "--config", "FOLDER/proxy.toml"),
        *("--file", "FOLDER/users", "--admin-token-file", "FOLDER/token"),
    ],
    "as many as there are": ["--replicas", "4", "--max-replicas", "4", "--no-monitoring"],
}


def args_of(case: str, folder: Path) -> list[str]:
    rule = SETTINGS.replace("ü: no 'quotes' help", "no-example")
    (folder / "proxy.toml").write_text(f"# ü 'x' \"y\"\t\n{rule}")
    (folder / "users").write_text(
        "alice:$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n"
    )
    return [one.replace("FOLDER", str(folder)) for one in CASES[case]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_kubernetes_takes_it(
    case: str, version: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = printed(capsys, *args_of(case, folder))
    seen = set()
    for one in objects:
        kind = one["kind"]
        seen.add(kind)
        if kind in SCHEMAS:
            jsonschema.validate(one, SCHEMAS[kind])
        else:
            kubernetes_validate.validate(one, version, strict=True)
    wanted = {"ConfigMap", "Secret", "Deployment", "Service", "PodDisruptionBudget"}
    wanted |= {"NetworkPolicy"}
    if case != "as many as there are":
        wanted |= {"HorizontalPodAutoscaler", *SCHEMAS}
    assert seen == wanted
    names = [
        (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in objects
    ]
    assert len(set(names)) == len(names)


def test_a_folder_has_what_its_kustomization_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = args_of("everything", folder)
    objects = printed(capsys, *args)
    made = folder / "made" / "here"
    assert run(*args, "--output", str(made)) == 0
    named = yaml.load((made / "kustomization.yaml").read_text(), LOADER)
    assert named["kind"] == "Kustomization"
    files = [yaml.load((made / one).read_text(), LOADER) for one in named["resources"]]
    assert files == objects
    assert {path.name for path in made.iterdir()} == {*named["resources"], "kustomization.yaml"}
    for path in made.iterdir():
        is_secret = "kind: Secret" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or not is_secret, path


def test_a_secret_that_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = folder / "made"
    assert run("--output", str(made)) == 0
    first = (made / "secret.yaml").read_text()
    capsys.readouterr()
    assert run("--output", str(made)) == 0
    assert (made / "secret.yaml").read_text() == first
    assert "secret.yaml is there already" in capsys.readouterr().err
    assert run("--output", str(made), "--admin-token-file", str(folder / "token")) == 0
    assert TOKEN in (made / "secret.yaml").read_text()


def test_a_new_token_is_told_and_is_another_one_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = set()
    for _ in range(2):
        assert run() == 0
        out, err = capsys.readouterr()
        assert "--admin-token-file" in err
        (secret,) = [one for one in yaml.load_all(out, LOADER) if one["kind"] == "Secret"]
        tokens.add(secret["stringData"]["token"].strip())
    assert len(tokens) == 2
    assert all(len(one) == 64 for one in tokens)


# ---- what is consistent ----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_settings_are_those_of_a_proxy(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run through ``spliceproxy check`` with the variables of the pod."""
    objects = printed(capsys, *args_of(case, folder))
    inside = folder / "inside"
    inside.mkdir()
    text = config_of(objects)
    for one in objects:
        if one["kind"] == "Secret":
            for name, value in one.get("data", {}).items():
                (inside / name).write_bytes(base64.b64decode(value))
            for name, value in one.get("stringData", {}).items():
                (inside / name).write_text(value)
    (inside / "token").chmod(0o600)
    (inside / "proxy.toml").write_text(text)
    (container,) = pod_of(objects)["containers"]
    (mount,) = container["volumeMounts"]
    variables = {
        one["name"]: one["value"].replace(mount["mountPath"], str(inside))
        for one in container["env"]
    }
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "check"],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    known = {one.variable for one in BY_NAME.values()} | {CONFIG_VARIABLE}
    assert variables.keys() <= known
    config, _ = load({}, None, variables)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert config.admin.address is not None
    assert ports.pop("admin") == config.admin.address.port
    assert set(ports.values()) == {one.port for one in config.listen}
    service = of_kind(objects, "Service", variables_name(objects))
    assert {one["targetPort"]: one["port"] for one in service["spec"]["ports"]} == ports


def variables_name(objects: Sequence[Any]) -> str:
    """The name of the Deployment, which is that of the Service for clients."""
    return str(of_kind(objects, "Deployment")["metadata"]["name"])


@pytest.mark.parametrize(
    ("settings", "pause", "grace"),
    [
        (DEFAULT, 5, 5 + 30 + 10),
        ("", 5, 5 + 8 + 10),
        ("drain-delay = 2\ntimeout-drain = 0", 3, 3 + 2 + 0 + 10),
        ("drain-delay = 2.5\ntimeout-drain = 0.7", 3, 3 + 4 + 10),
        ("drain-delay = 20\ntimeout-drain = 3600", 0, 3620 + 10),
    ],
)
def test_a_pod_has_the_time_that_it_needs_to_end(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: str, pause: int, grace: int
) -> None:
    (folder / "proxy.toml").write_text(settings)
    objects = printed(capsys, "--config", str(folder / "proxy.toml"))
    pod = pod_of(objects)
    assert pod["terminationGracePeriodSeconds"] == grace
    (container,) = pod["containers"]
    hook = container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
    assert hook == {"sleep": {"seconds": pause}}
    config, _ = load({}, str(folder / "proxy.toml"), {})
    limits = config.timeouts
    assert grace > pause + limits.drain_delay + limits.drain + 5  # a worker is killed then


def test_a_pod_has_no_rights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the restricted standard of Kubernetes asks for, and a bit more."""
    pod = pod_of(printed(capsys, *args_of("everything", folder)))
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    image = (ROOT / "Containerfile").read_text()
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in image
    assert security["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]


def test_probes_and_metrics_ask_for_what_there_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = printed(capsys, *args_of("everything", folder))
    (container,) = pod_of(objects)["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
    monitor = of_kind(objects, "ServiceMonitor")["spec"]
    admin = of_kind(objects, "Service", "-admin")
    wanted = monitor["selector"]["matchLabels"]
    assert wanted.items() <= admin["metadata"]["labels"].items()
    other = of_kind(objects, "Service", "egress")
    assert not wanted.items() <= other["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [one["name"] for one in admin["spec"]["ports"]]


def test_the_autoscaler_goes_by_tunnels(capsys: pytest.CaptureFixture[str]) -> None:
    objects = printed(capsys, "--replicas", "3", "--max-replicas", "7", "--tunnels", "900")
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "spliceproxy_tunnels"},
        "target": {"type": "AverageValue", "averageValue": "900"},
    }
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 7)
    assert "replicas" not in of_kind(objects, "Deployment")["spec"]  # it would undo the autoscaler
    fixed = printed(capsys, "--replicas", "3", "--max-replicas", "3")
    assert of_kind(fixed, "Deployment")["spec"]["replicas"] == 3


def test_clients_get_out_by_the_proxy_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = printed(capsys, *args_of("everything", folder))
    labels = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    found = [one for one in objects if one["kind"] == "NetworkPolicy"]
    forced = {
        one["metadata"]["namespace"]: one["spec"]
        for one in found
        if one["spec"]["policyTypes"] == ["Egress"]
    }
    assert forced.keys() == {"ci", "agents"}
    for spec in forced.values():
        assert spec["podSelector"] == {}  # each pod there
        proxy, names = spec["egress"]
        (to,) = proxy["to"]
        assert to["podSelector"] == {"matchLabels": labels}
        assert to["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "proxies"}
        assert [one["port"] for one in proxy["ports"]] == [3128, 80, 3129]
        assert {one["port"] for one in names["ports"]} == {53}
    (own,) = [one["spec"] for one in found if one["spec"]["policyTypes"] == ["Ingress"]]
    assert own["podSelector"] == {"matchLabels": labels}
    clients, monitoring = own["ingress"]
    assert [one["port"] for one in monitoring["ports"]] == [9810]
    assert [one["namespaceSelector"]["matchLabels"] for one in clients["from"]] == [
        {"kubernetes.io/metadata.name": "ci"},
        {"kubernetes.io/metadata.name": "agents"},
    ]
    assert 9810 not in [one["port"] for one in clients["ports"]]


def test_in_its_own_namespace_the_proxy_itself_may_get_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    objects = printed(capsys)
    forced = of_kind(objects, "NetworkPolicy", "-clients")["spec"]
    (but,) = forced["podSelector"]["matchExpressions"]
    labels = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert but == {"key": but["key"], "operator": "NotIn", "values": [labels[but["key"]]]}


def test_other_settings_are_other_pods(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mark(*args: str) -> object:
        found = of_kind(printed(capsys, *args), "Deployment")
        return found["spec"]["template"]["metadata"]["annotations"]

    (folder / "proxy.toml").write_text("timeout-head = 9")
    (folder / "map").write_text("10.0.0.0/8 ci\n")
    first = mark("--config", str(folder / "proxy.toml"))
    assert mark("--config", str(folder / "proxy.toml")) == first
    other = mark("--config", str(folder / "proxy.toml"), "--file", str(folder / "map"))
    assert other != first
    (folder / "proxy.toml").write_text("timeout-head = 8")
    assert mark("--config", str(folder / "proxy.toml")) not in (first, other)


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--name Proxy", "--name: invalid value 'Proxy'; allowed: a name of small letters"),
        ("--name 1a", "--name: invalid value '1a'"),
        ("--namespace a_b", "--namespace: invalid value 'a_b'"),
        ("--clients a.b", "--clients: invalid value 'a.b'"),
        ("--monitoring -a", "--monitoring: "),
        ("--image Proxy:1", "--image: invalid value 'Proxy:1'; allowed: [HOST/]NAME[:TAG]"),
        ("--image a:b\nc", "--image: invalid value 'a:b\\nc'"),
        ("--replicas 0", "--replicas: invalid value '0'; allowed: 1 to 1000"),
        ("--replicas x", "--replicas: invalid value 'x'; allowed: 1 to 1000"),
        ("--replicas 5 --max-replicas 4", "--max-replicas 4: fewer than --replicas 5"),
        ("--tunnels -1", "--tunnels: "),
        ("--cpu 0", "--cpu: invalid value '0'; allowed: processors, such as 2"),
        ("--memory 512", "--memory: invalid value '512'; allowed: a size, such as 512Mi"),
        ("--config FOLDER/none", "--config FOLDER/none: cannot read it (No such file"),
        ("--file FOLDER/none", "--file FOLDER/none: cannot read it (No such file"),
        ("--file FOLDER/token", "--file FOLDER/token: invalid name 'token'"),
        ("--admin-token-file FOLDER/short", "--admin-token-file FOLDER/short:1: a token has 16"),
        ("--dashboard --alerts", "--dashboard and --alerts stand alone"),
        ("--alerts --name a", "--dashboard and --alerts stand alone"),
        ("--nmae a", "--nmae: no such option; did you mean --name?"),
        ("a", "a: only options and their values"),
    ],
)
def test_wrong_values_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, problem: str
) -> None:
    (folder / "short").write_text("short\n")
    (folder / "token").write_text("x" * 20)
    with pytest.raises(SystemExit) as caught:
        run(*line.replace("FOLDER", str(folder)).split(" "))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"spliceproxy manifests: {problem.replace('FOLDER', str(folder))}")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("timeout-haed = 1", "timeout-haed: no such key; did you mean timeout-head?"),
        ("workers = 0", "workers: invalid value '0'"),
        ("listen = ['127.0.0.1:8888']", "listen 127.0.0.1:8888: clients of other pods do not find"),
        ("listen = [':0']", "listen :0: clients of other pods do not find it"),
        ("listen = ['unix:/run/x']", "listen unix:/run/x: no other pod gets to a Unix socket"),
        ("listen = [':9810']", "--admin :9810: it overlaps with FILE: listen :9810"),
        ("admin = ':1'", "admin: the Deployment says it"),
        ("admin-token-file = 'token'", "admin-token-file: the Deployment says it"),
        ("auth = 'ada:hidden-secret'", "auth: whoever may see a ConfigMap would see the password"),
        ("access-log = '/var/log/x'", "access-log /var/log/x: a pod has no file that it may"),
        ("learn = 'seen.toml'", "learn /etc/spliceproxy/seen.toml: a pod has no file"),
        ("htpasswd = 'users'", "htpasswd: invalid value 'users' (/etc/spliceproxy/users does not"),
    ],
)
def test_wrong_settings_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: str, problem: str
) -> None:
    path = str(folder / "proxy.toml")
    Path(path).write_text(settings)
    with pytest.raises(SystemExit) as caught:
        run("--config", path)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    start = "" if problem.startswith("--") else f"{path}: "
    assert f"spliceproxy manifests: {start}{problem.replace('FILE', path)}" in err
    assert "hidden-secret" not in err
    assert "spliceproxy-" not in err  # of the folder in which it was checked


def test_what_cannot_be_written_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "made").write_text("a file")
    assert run("--output", str(folder / "made")) == 1
    assert f"--output {folder / 'made'}: cannot write" in capsys.readouterr().err


# ---- the text --------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.text() | st.booleans() | st.integers(-(10**9), 10**9) | st.sampled_from(["no", "1e3", "~"]),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


@given(_VALUES)
def test_yaml_is_read_as_it_was_meant(value: Any) -> None:
    assert yaml.load(ours.text(value), LOADER) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "b", "n": 1}, 'a: b\n"n": 1\n'),
        ({"t": "a: b\n  c\n\nd\n"}, "t: |\n  a: b\n    c\n\n  d\n"),
        ([{"a": [], "b": {"c": True}}], "- a: []\n  b:\n    c: true\n"),
        ({"q": 'a{b="c"}'}, "q: 'a{b=\"c\"}'\n"),
    ],
)
def test_yaml_is_written_for_people(value: Any, text: str) -> None:
    assert ours.text(value) == text


def test_no_secret_is_in_a_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--admin-token-file", str(folder / "token")) == 0
    out, err = capsys.readouterr()
    assert TOKEN not in err
    assert len(re.findall(TOKEN, out)) == 1


# ---- the page --------------------------------------------------------------------------------


def blocks() -> list[str]:
    """The indented texts of docs/kubernetes.md, without their indent."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    return [textwrap.dedent(one) for one in re.findall(r"(?:^    .*\n)+", page, re.M)]


def test_the_commands_of_the_page_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(blocks())
    found = re.findall(r"^spliceproxy manifests (.*?)(?: \| .*)?$", text, re.M)
    assert found
    for args in found:
        objects = printed(capsys, *args.split())
        where = of_kind(objects, "Service", "spliceproxy")["metadata"]
        address = f"http://{where['name']}.{where['namespace']}.svc:8888"
        assert f"https_proxy={address} http_proxy={address}" in text
        selector = of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
        (label,) = re.findall(r"--selector (\S+)", text)
        assert label in [f"{name}={value}" for name, value in selector.items()]


def test_the_table_of_the_page_has_each_object(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    told: list[tuple[str, str]] = []
    for line in re.findall(r"^\| ([A-Z][^|]*) \|", page, re.M):
        for one in line.split(", "):
            kind, _, end = one.partition(" ")
            told.append((kind, end.strip("`")))
    name = "egress"
    made = {
        (one["kind"], one["metadata"]["name"].removeprefix(name))
        for one in printed(capsys, *args_of("everything", folder))
    } - {("Secret", "-admin")}
    assert set(told) == made | {("Secret", "")}


def test_the_rule_of_the_adapter_is_about_the_metric_of_the_autoscaler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (text,) = [one for one in blocks() if one.startswith("rules:")]
    (rule,) = yaml.load(text, LOADER)["rules"]
    scaler = of_kind(printed(capsys), "HorizontalPodAutoscaler")["spec"]
    (metric,) = scaler["metrics"]
    assert rule["seriesQuery"].startswith(metric["pods"]["metric"]["name"] + "{")
