"""The settings of one proxy, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``path`` for a Unix socket, else ``host`` ("" is every
    address) and ``port`` (0: any free one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Every wait of the proxy is under one of these."""

    head: float = 30.0  # a whole request head; also a kept-alive connection between requests
    dial: float = 10.0  # all connection attempts of one request together
    dns: float = 5.0  # one name
    idle: float = 3600.0  # a tunnel or body without a byte
    half_close: float = 60.0  # the same, once one side has ended
    drain: float = 30.0  # tunnels after SIGTERM


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a worker needs to know."""

    listen: tuple[Address, ...]
    workers: int = 1
    engine: str = "auto"
    default_backend: tuple[str, int] | None = None
    serve: Path | None = None
    max_connections: int = 0  # 0: as many as there are descriptors
    via: str = "spliceproxy"  # our name in Via; "": no Via, and no loop detection by it
    forwarded_for: str = "transparent"  # http1.chain.FORWARDED_MODES
    timeouts: Timeouts = field(default_factory=Timeouts)
    access_log: str = "-"  # "-" standard output, "off", or a path
    log_level: str = "info"
