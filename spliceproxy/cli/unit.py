"""``spliceproxy unit``: files for systemd and its neighbours, made for this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from spliceproxy.cli.flags import Parser, add_help

NOTIFY_RELOAD = 253
"""The first version of systemd that can load ``Type=notify-reload``."""

KILL_WHOM = 252
"""The first one whose ``systemctl kill`` has ``--kill-whom``, which was ``--kill-who`` before."""

OLDEST = 247
"""The oldest one that knows all that is printed (ProtectProc=). Others only warn of what they do
not know, but then the unit protects less than it says."""

SECONDS = 10.0
"""For ``systemctl --version``."""

_HOMES = ("/home/", "/root/", "/run/user/")
"""What ProtectHome= takes away (systemd.exec(5))."""

SERVICE = """\
# /etc/systemd/system/spliceproxy.service
# made by "spliceproxy unit" for systemd {version}

[Unit]
Description=spliceproxy, an HTTP forward proxy
Wants=network-online.target
After=network-online.target

[Service]
{type}
NotifyAccess=main
ExecStart={program} --config /etc/spliceproxy/proxy.toml
{reload}\
# A sign of life is given while every worker answers.
WatchdogSec=30
Restart=on-failure
# A setting is bad: to start again would not help.
RestartPreventExitStatus=2
# The proxy asks for more if drain-delay and timeout-drain are longer.
TimeoutStopSec=20
# The proxy ends its workers by itself, and replaces one that was killed.
KillMode=mixed
OOMPolicy=continue
# A tunnel takes two descriptors.
LimitNOFILE=262144

# A user that exists while the service runs, and its folders in /etc, /run, /var/log and /var/lib.
DynamicUser=yes
ConfigurationDirectory=spliceproxy
RuntimeDirectory=spliceproxy
LogsDirectory=spliceproxy
StateDirectory=spliceproxy
UMask=0007

# For a port below 1024 write CAP_NET_BIND_SERVICE behind both, or use the socket unit.
AmbientCapabilities=
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

SOCKET = """\
# /etc/systemd/system/spliceproxy.socket
# made by "spliceproxy unit --socket"
#
# systemd opens the socket and keeps it while the service is started again: clients wait meanwhile.
# The settings name it: listen = ["systemd:proxy"]

[Unit]
Description=the socket of spliceproxy, an HTTP forward proxy

[Socket]
ListenStream=8888
FileDescriptorName=proxy
# The kernel cuts it to net.core.somaxconn.
Backlog=65535

[Install]
WantedBy=sockets.target
"""

LOGROTATE = """\
# /etc/logrotate.d/spliceproxy
# made by "spliceproxy unit --logrotate" for systemd {version}

/var/log/spliceproxy/*.log {{
    daily
    rotate 14
    missingok
    notifempty
    compress
    delaycompress
    nocreate
    sharedscripts
    postrotate
        systemctl kill --{whom}=main --signal=USR1 spliceproxy.service
    endscript
}}
"""

SYSCTL = """\
# /etc/sysctl.d/60-spliceproxy.conf
# made by "spliceproxy unit --sysctl"

# Clients that wait to be accepted. The proxy asks for so many, and the kernel allows 4,096.
net.core.somaxconn = 65535
net.ipv4.tcp_max_syn_backlog = 65535

# Ports for connections to origins: each needs one for every connection to the same address.
net.ipv4.ip_local_port_range = 16384 65535
net.ipv4.tcp_tw_reuse = 1

# Pages in pipes of one user, through which bodies and tunnels go: 1 GiB instead of 64 MiB.
fs.pipe-user-pages-soft = 262144
"""


def _service(version: int) -> str:
    program = _program()
    newer = version >= NOTIFY_RELOAD
    return SERVICE.format(
        version=version,
        type="Type=notify-reload" if newer else "Type=notify",
        reload="" if newer else "ExecReload=/bin/kill -HUP $MAINPID\n",
        program=program,
        home="read-only" if any(home in program for home in _HOMES) else "yes",
    )


def _logrotate(version: int) -> str:
    whom = "kill-whom" if version >= KILL_WHOM else "kill-who"
    return LOGROTATE.format(version=version, whom=whom)


def _socket(version: int) -> str:
    return SOCKET


def _sysctl(version: int) -> str:
    return SYSCTL


FILES: Mapping[str, tuple[Callable[[int], str], str]] = {
    "socket": (_socket, "print a socket unit instead, for a socket that systemd keeps"),
    "logrotate": (_logrotate, "print a file for logrotate(8), for access logs in /var/log instead"),
    "sysctl": (_sysctl, "print a file for sysctl.d(5) instead, with limits of the kernel"),
}
"""What is printed instead of the service: how it is made, and the help."""


def parser() -> Parser:
    """Of this command."""
    made = Parser(
        prog="spliceproxy unit",
        usage="%(prog)s [option]...",
        description="Prints a hardened unit for systemd, which runs this program with\n"
        "/etc/spliceproxy/proxy.toml as a user of its own, for the version of systemd\n"
        "that is installed.",
        epilog="examples:\n"
        "  spliceproxy unit > /etc/systemd/system/spliceproxy.service\n"
        "  spliceproxy unit --sysctl > /etc/sysctl.d/60-spliceproxy.conf\n\n"
        "exit status: 0 it is printed, 2 wrong usage",
    )
    made.add_argument(
        "--systemd-version",
        metavar="N",
        help=f"for this version, from {OLDEST} on (default: what systemctl --version says)",
    )
    for name, (_, text) in FILES.items():
        made.add_argument(f"--{name}", action="store_true", help=text)
    add_help(made)
    return made


def run(argv: Sequence[str]) -> int:
    """The command, with the arguments behind its name; returns the exit status."""
    made = parser()
    given = made.parse_args(argv)
    wanted = [name for name in FILES if getattr(given, name)]
    if len(wanted) > 1:
        made.error(f"--{wanted[0]} and --{wanted[1]}: one file at a time")
    make = FILES[wanted[0]][0] if wanted else _service
    version = 0 if make in (_socket, _sysctl) else _version(made, given.systemd_version)
    sys.stdout.write(make(version))
    return 0


def _version(made: Parser, text: str | None) -> int:
    """That of systemd."""
    allowed = f"allowed: a whole number from {OLDEST} on"
    if text is None:
        found = _installed()
        if not found:
            made.error(f"there is no systemctl here that says its version; {allowed}, by "
                       "--systemd-version N")  # fmt: skip
        return found
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < OLDEST:
        made.error(f"--systemd-version: invalid value {text!r}; {allowed}")
    return int(text)


def _installed() -> int:
    """The version that runs here, 0 if it cannot be known."""
    program = shutil.which("systemctl")
    if program is None:
        return 0
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else 0


def _program() -> str:
    """How this program is started, as a unit says it (systemd.service(5), "Command lines")."""
    path = os.path.abspath(sys.argv[0])
    words = [sys.executable, "-m", "spliceproxy"] if path.endswith(".py") else [path]
    return " ".join(map(_word, words))


def _word(text: str) -> str:
    text = text.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w/.+,:@%$-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
