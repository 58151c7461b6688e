"""Real balancers as processes: HAProxy, nginx and stunnel, each with a configuration of a test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import need, wait_for


class Balancer:
    """``program`` runs with a ``config``, whose file is the last of its arguments. ``is_up`` says
    whether it serves."""

    def __init__(
        self,
        folder: Path,
        program: str,
        args: Sequence[str],
        config: str,
        is_up: Callable[[], bool],
        prefix: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{program}.conf"
        file.write_text(config)
        self.messages = folder / "messages"
        with self.messages.open("wb") as out:
            self.process = subprocess.Popen(
                [*prefix, need(program), *args, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            wait_for(lambda: self._serves(is_up), f"the start of {program}")
        except BaseException:
            self.stop()
            raise

    def _serves(self, is_up: Callable[[], bool]) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(self.messages.read_text(errors="replace"))
        return is_up()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)


def haproxy(
    folder: Path, config: str, is_up: Callable[[], bool], prefix: Sequence[str] = ()
) -> Balancer:
    return Balancer(folder, "haproxy", ["-db", "-f"], config, is_up, prefix)


def nginx(
    folder: Path, config: str, is_up: Callable[[], bool], prefix: Sequence[str] = ()
) -> Balancer:
    """nginx with modules of its own: what it writes goes to ``folder``."""
    head = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
    args = ["-p", str(folder), "-e", str(folder / "start.log"), "-c"]
    return Balancer(folder, "nginx", args, head + config, is_up, prefix)


def stunnel(
    folder: Path, config: str, is_up: Callable[[], bool], prefix: Sequence[str] = ()
) -> Balancer:
    return Balancer(folder, "stunnel4", [], config, is_up, prefix)
