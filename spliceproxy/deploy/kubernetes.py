"""The proxy in Kubernetes, as objects that kubectl(1) applies.

One Deployment whose pods are all alike and share nothing, behind one Service. Each pod reads its
settings from a ConfigMap. The admin address is on the network of the pods, because kubelet and
Prometheus ask there, and has a Service of its own, which clients do not get to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

from spliceproxy.config import Config
from spliceproxy.deploy import alerts
from spliceproxy.version import __version__

USER = 65532
"""Of the image (Containerfile): nobody that a system knows."""

FOLDER = "/etc/spliceproxy"
"""Where the settings and all that stands beside them are in a pod."""

SETTINGS = "proxy.toml"
TOKEN = "token"

ADMIN_PORT = 9810

PRIVILEGED = 1024
"""The first port that any user may listen on (ip(7))."""

LEAVING = 5
"""Seconds for which new clients may still come: until every node knows that a pod ends. A pod is
told to stop at the same moment as they are."""

WORKER_END = 5
"""Seconds that a worker has behind --timeout-drain before it is killed
(``processes.stopping``)."""

SPARE = 5
"""Seconds until the supervisor and the container have ended, too."""

_READABLE = 0o440  # by the group of the pod


class Object(NamedTuple):
    """``about`` says what it is for, and ``value`` is the object itself."""

    file: str
    about: str
    value: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the objects are made of. ``settings`` is the text that ``config`` was made of, and
    ``files`` are those beside it, by name. ``clients`` are namespaces whose pods get out by the
    proxy alone."""

    name: str
    namespace: str
    image: str
    replicas: int
    most: int  # replicas
    tunnels: int  # of a pod, on average, before there is one more
    cpu: str
    memory: str
    clients: Sequence[str]
    monitoring: str
    config: Config
    settings: str
    files: Mapping[str, str]
    token: str
    dashboard: str  # "" where nothing is to be made for Prometheus and Grafana

    @property
    def ports(self) -> dict[str, int]:
        """Those that the proxy listens on, by a name."""
        numbers = dict.fromkeys(one.port for one in self.config.places if not one.path)
        return {"proxy" if not at else f"proxy-{one}": one for at, one in enumerate(numbers)}

    @property
    def pause(self) -> int:
        """Seconds before SIGTERM, which --drain-delay may make needless."""
        return max(0, LEAVING - int(self.config.timeouts.drain_delay))

    @property
    def grace(self) -> int:
        """Seconds from the end of a pod until it is killed."""
        limits = self.config.timeouts
        return self.pause + ceil(limits.drain_delay + limits.drain) + WORKER_END + SPARE


def objects(wanted: Wanted) -> Iterator[Object]:
    """All of them, in the order in which they should be there."""
    yield _config_map(wanted)
    yield from _secrets(wanted)
    yield _deployment(wanted)
    yield from _services(wanted)
    yield _disruptions(wanted)
    if wanted.most > wanted.replicas:
        yield _scaler(wanted)
    yield from _network(wanted)
    if wanted.dashboard:
        yield from _monitoring(wanted)


def kustomization(found: Sequence[Object]) -> Mapping[str, Any]:
    """What names the files."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [one.file for one in found],
    }


def _labels(wanted: Wanted) -> dict[str, str]:
    """By which the pods are found."""
    return {"app.kubernetes.io/name": "spliceproxy", "app.kubernetes.io/instance": wanted.name}


def _object(
    wanted: Wanted, kind: str, version: str, name: str = "", namespace: str = "", **more: str
) -> dict[str, Any]:
    """The head of an object. ``more``: labels."""
    labels = {**_labels(wanted), "app.kubernetes.io/version": __version__, **more}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name or wanted.name,
            "namespace": namespace or wanted.namespace,
            "labels": labels,
        },
    }


# ---- what it is told -------------------------------------------------------------------------


def _config_map(wanted: Wanted) -> Object:
    value = _object(wanted, "ConfigMap", "v1")
    return Object(
        "configmap.yaml",
        "The settings. 'spliceproxy check' says what is wrong with them.",
        {**value, "data": {SETTINGS: wanted.settings}},
    )


def _secrets(wanted: Wanted) -> Iterator[Object]:
    value = _object(wanted, "Secret", "v1", f"{wanted.name}-admin")
    yield Object(
        "secret.yaml",
        "The token by which operators are known at the admin address.",
        {**value, "type": "Opaque", "stringData": {TOKEN: f"{wanted.token}\n"}},
    )
    if wanted.files:
        value = _object(wanted, "Secret", "v1", f"{wanted.name}-files")
        data = {
            name: base64.b64encode(text.encode()).decode() for name, text in wanted.files.items()
        }
        yield Object(
            "files.yaml",
            "Files that stand beside the settings, such as one of users.",
            {**value, "type": "Opaque", "data": data},
        )


# ---- what runs -------------------------------------------------------------------------------


def _deployment(wanted: Wanted) -> Object:
    labels = _labels(wanted)
    seen = "\0".join((wanted.settings, *sum(sorted(wanted.files.items()), ())))
    spec: dict[str, Any] = {
        "selector": {"matchLabels": labels},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {
                "labels": labels,
                "annotations": {
                    # Other settings are other pods, one after the other.
                    "spliceproxy/settings": hashlib.sha256(seen.encode()).hexdigest()
                },
            },
            "spec": _pod(wanted),
        },
    }
    if wanted.most <= wanted.replicas:
        spec = {"replicas": wanted.replicas, **spec}
    return Object(
        "deployment.yaml",
        f"The pods. One that ends has {wanted.grace} seconds: {wanted.pause} until no client is "
        "sent to it\nany more, the time of drain-delay and of timeout-drain, and "
        f"{WORKER_END + SPARE} to end in order.",
        {**_object(wanted, "Deployment", "apps/v1"), "spec": spec},
    )


def _pod(wanted: Wanted) -> dict[str, Any]:
    sources: list[dict[str, Any]] = [
        {"configMap": {"name": wanted.name}},
        {"secret": {"name": f"{wanted.name}-admin"}},
    ]
    if wanted.files:
        sources.append({"secret": {"name": f"{wanted.name}-files"}})
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,  # so that it can read the files of secrets
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if min(wanted.ports.values()) < PRIVILEGED:
        security["sysctls"] = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": wanted.grace,
        "securityContext": security,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _labels(wanted)},
            }
        ],
        "containers": [_container(wanted)],
        "volumes": [
            {"name": "settings", "projected": {"defaultMode": _READABLE, "sources": sources}}
        ],
    }


def _container(wanted: Wanted) -> dict[str, Any]:
    # The proxy, and 'spliceproxy ctl' of kubectl exec, find all that they need in these.
    environment = {
        "SPLICEPROXY_CONFIG": f"{FOLDER}/{SETTINGS}",
        "SPLICEPROXY_ADMIN": f":{ADMIN_PORT}",
        "SPLICEPROXY_ADMIN_TOKEN_FILE": f"{FOLDER}/{TOKEN}",
    }
    made: dict[str, Any] = {
        "name": "spliceproxy",
        "image": wanted.image,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [
            *({"name": name, "containerPort": port} for name, port in wanted.ports.items()),
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=2),
        "livenessProbe": _probe("/healthz", periodSeconds=10, failureThreshold=3),
        # As many workers as the limit of processors allows: without one, as the node has.
        "resources": {
            "requests": {"cpu": wanted.cpu, "memory": wanted.memory},
            "limits": {"cpu": wanted.cpu, "memory": wanted.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "settings", "mountPath": FOLDER, "readOnly": True}],
    }
    if wanted.pause:
        made["lifecycle"] = {"preStop": {"sleep": {"seconds": wanted.pause}}}
    return made


def _probe(path: str, **more: int) -> dict[str, Any]:
    """The proxy knows within 0.8 s whether a worker is silent."""
    return {"httpGet": {"path": path, "port": "admin"}, "timeoutSeconds": 2, **more}


# ---- how it is found -------------------------------------------------------------------------


def _services(wanted: Wanted) -> Iterator[Object]:
    def service(name: str, ports: Mapping[str, int], **more: Any) -> dict[str, Any]:
        """``more``: of its specification."""
        role = {"app.kubernetes.io/component": "admin"} if "admin" in ports else {}
        return {
            **_object(wanted, "Service", "v1", name, **role),
            "spec": {
                "ipFamilyPolicy": "PreferDualStack",
                **more,
                "selector": _labels(wanted),
                "ports": [
                    {"name": name, "port": port, "targetPort": name} for name, port in ports.items()
                ],
            },
        }

    where = f"{wanted.name}.{wanted.namespace}.svc:{wanted.ports['proxy']}"
    yield Object(
        "service.yaml",
        f"What clients connect to: https_proxy=http://{where}",
        service("", wanted.ports),
    )
    yield Object(
        "service-admin.yaml",
        "What Prometheus finds the pods by, also while they end.",
        service(
            f"{wanted.name}-admin",
            {"admin": ADMIN_PORT},
            clusterIP="None",
            publishNotReadyAddresses=True,
        ),
    )


def _disruptions(wanted: Wanted) -> Object:
    return Object(
        "poddisruptionbudget.yaml",
        "Nodes that are emptied end one pod at a time.",
        {
            **_object(wanted, "PodDisruptionBudget", "policy/v1"),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(wanted)}},
        },
    )


def _scaler(wanted: Wanted) -> Object:
    return Object(
        "horizontalpodautoscaler.yaml",
        "More pods while each has more live tunnels than this, on average. Something has to give\n"
        "the metric to Kubernetes, such as prometheus-adapter. Pods leave slowly: tunnels live on.",
        {
            **_object(wanted, "HorizontalPodAutoscaler", "autoscaling/v2"),
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": wanted.name,
                },
                "minReplicas": wanted.replicas,
                "maxReplicas": wanted.most,
                "metrics": [
                    {
                        "type": "Pods",
                        "pods": {
                            "metric": {"name": "spliceproxy_tunnels"},
                            "target": {"type": "AverageValue", "averageValue": str(wanted.tunnels)},
                        },
                    }
                ],
                "behavior": {
                    "scaleDown": {
                        "stabilizationWindowSeconds": 600,
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
                    }
                },
            },
        },
    )


# ---- who may connect to whom -----------------------------------------------------------------


def _network(wanted: Wanted) -> Iterator[Object]:
    admin = {"protocol": "TCP", "port": ADMIN_PORT}
    proxy = [{"protocol": "TCP", "port": port} for port in wanted.ports.values()]
    pods = {"podSelector": {"matchLabels": _labels(wanted)}}
    yield Object(
        "networkpolicy.yaml",
        "Who may connect to the proxy, and that only Prometheus gets to its admin address. Where "
        "the\nproxy itself may go is what its rules say.",
        {
            **_object(wanted, "NetworkPolicy", "networking.k8s.io/v1"),
            "spec": {
                **pods,
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [_in_namespace(one) for one in wanted.clients], "ports": proxy},
                    {"from": [_in_namespace(wanted.monitoring)], "ports": [admin]},
                ],
            },
        },
    )
    names = {
        **_in_namespace("kube-system"),
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    for one in wanted.clients:
        others: dict[str, Any] = {}
        if one == wanted.namespace:
            at = [
                {"key": key, "operator": "NotIn", "values": [value]}
                for key, value in _labels(wanted).items()
                if key.endswith("instance")
            ]
            others = {"matchExpressions": at}
        file = "networkpolicy-clients.yaml"
        if len(wanted.clients) > 1:
            file = f"networkpolicy-clients-{one}.yaml"
        yield Object(
            file,
            f"Pods of the namespace {one} get out by the proxy alone: it, and the names of the\n"
            "cluster, are all that they can connect to.",
            {
                **_object(
                    wanted, "NetworkPolicy", "networking.k8s.io/v1", f"{wanted.name}-clients", one
                ),
                "spec": {
                    "podSelector": others,
                    "policyTypes": ["Egress"],
                    "egress": [
                        {"to": [{**_in_namespace(wanted.namespace), **pods}], "ports": proxy},
                        {
                            "to": [names],
                            "ports": [
                                {"protocol": "UDP", "port": 53},
                                {"protocol": "TCP", "port": 53},
                            ],
                        },
                    ],
                },
            },
        )


def _in_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


# ---- who looks at it -------------------------------------------------------------------------


def _monitoring(wanted: Wanted) -> Iterator[Object]:
    here = {**_labels(wanted), "app.kubernetes.io/component": "admin"}
    operator = "monitoring.coreos.com/v1"
    yield Object(
        "servicemonitor.yaml",
        "By which the Prometheus operator scrapes the pods.",
        {
            **_object(wanted, "ServiceMonitor", operator),
            "spec": {
                "selector": {"matchLabels": here},
                "endpoints": [{"port": "admin", "path": "/metrics", "interval": "15s"}],
            },
        },
    )
    yield Object(
        "prometheusrule.yaml",
        "Alerts, for the Prometheus operator: what 'spliceproxy manifests --alerts' prints.",
        {**_object(wanted, "PrometheusRule", operator), "spec": alerts.rules()},
    )
    yield Object(
        "dashboard.yaml",
        "The dashboard, where Grafana looks for such ConfigMaps: what 'spliceproxy manifests\n"
        "--dashboard' prints.",
        {
            **_object(wanted, "ConfigMap", "v1", f"{wanted.name}-dashboard", grafana_dashboard="1"),
            "data": {"spliceproxy.json": wanted.dashboard},
        },
    )
