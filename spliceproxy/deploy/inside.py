"""The settings of a pod, checked as the pod will have them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from spliceproxy.config import Address, Config
from spliceproxy.deploy.kubernetes import ADMIN_PORT, FOLDER, SETTINGS, TOKEN
from spliceproxy.observe.standard import STANDARD
from spliceproxy.observe.syslog_address import is_syslog
from spliceproxy.settings.loading import SettingsError, load
from spliceproxy.settings.sources import from_file
from spliceproxy.settings.table import BY_NAME

DEFAULT = """\
# The settings of the proxy; docs/settings.md has all of them.
listen = [":8888"]
guard = "private"       # nothing within the cluster is reached by way of the proxy
log-format = "json"
timeout-drain = 30      # seconds that requests and tunnels have when a pod ends
"""
"""Those of a proxy of which nobody has said more."""

_ANYWHERE = ("", "0.0.0.0", "::")


def checked(settings: str, files: Mapping[str, str], token: str, name: str = "") -> Config:
    """The settings of a text, beside which are ``files``, by name, and nothing else.
    SettingsError, which calls them ``name``, and files by their place in a pod."""
    name = name or f"{FOLDER}/{SETTINGS}"
    with TemporaryDirectory(prefix="spliceproxy-") as folder:
        for file, text in {SETTINGS: settings, TOKEN: token, **files}.items():
            Path(folder, file).write_text(text, "utf-8")
        path = f"{folder}/{SETTINGS}"
        given = {"admin": Address(port=ADMIN_PORT), "admin-token-file": Path(folder, TOKEN)}
        try:
            config, _ = load(given, path, {}, start=False)
            problems = list(_unfit(config, from_file(path, "", []), f"{name}: "))
        except SettingsError as error:
            problems = list(error.problems)
        if problems:
            problems = [one.replace(path, name).replace(folder, FOLDER) for one in problems]
            raise SettingsError(problems)
    return config


def _unfit(config: Config, keys: Collection[str], where: str) -> Iterator[str]:
    """What a proxy may be told, but not one in a pod."""
    for key in ("admin", "admin-token-file"):
        if key in keys:
            yield f"{where}{key}: the Deployment says it; take it out of the file"
    for key in keys:
        if BY_NAME[key].kind.secret:
            yield (
                f"{where}{key}: whoever may see a ConfigMap would see the password; allowed: "
                "htpasswd, with --file"
            )
    for one in config.places:
        key = "listen" if one.target is None else "forward"
        if one.path:
            yield f"{where}{key} {one}: no other pod gets to a Unix socket; allowed: :8888"
        elif one.host not in _ANYWHERE or not one.port:
            yield (
                f"{where}{key} {one}: clients of other pods do not find it; allowed: every "
                "address and a port from 1, such as :8888"
            )
    log = config.access_log
    if log != "off" and log not in STANDARD and not is_syslog(log):
        yield (
            f"{where}access-log {log}: a pod has no file that it may write; allowed: -, off or "
            "syslog:HOST:PORT"
        )
    if config.policy.learn:
        yield (
            f"{where}learn {config.policy.learn}: a pod has no file that it may write; learn "
            "outside of the cluster, and give the file to locked"
        )
