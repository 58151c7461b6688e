"""The image of ``Containerfile``, and containers of it, without a container engine.

The instructions are read by dockerfile-parse. A root is made of mounts in a namespace: the programs
of this system stand for the base image, and what RUN, COPY, ENV, USER, VOLUME and ENTRYPOINT say is
done there. Only the wheels are not built but packed of what is installed here, so that no registry
is asked; ``.ci/run`` builds them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import default_signals, need, wait_for

dockerfile_parse = pytest.importorskip("dockerfile_parse")
requirements = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "Containerfile"
BUILT = "/opt/spliceproxy"


class Step(NamedTuple):
    """An instruction and what stands behind it."""

    word: str
    value: str

    @property
    def words(self) -> list[str]:
        """Of the exec form, behind options and CMD; AssertionError for another."""
        start = self.value.find("[")
        found = json.loads(self.value[start:])
        assert isinstance(found, list)
        assert all(isinstance(one, str) for one in found)
        return found


def stages() -> list[list[Step]]:
    """The instructions of each stage, from its FROM on."""
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO(FILE.read_bytes()))
    found: list[list[Step]] = []
    for one in parser.structure:
        step = Step(one["instruction"], one["value"])
        if step.word == "FROM":
            found.append([])
        if found and step.word != "COMMENT":
            found[-1].append(step)
    return found


def the(word: str) -> Step:
    """The one instruction of the last stage that begins so."""
    (found,) = [step for step in stages()[-1] if step.word == word]
    return found


def environment() -> dict[str, str]:
    """That of a container."""
    known = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for word in shlex.split(the("ENV").value):
        name, _, value = word.partition("=")
        known[name] = value.replace("$PATH", known["PATH"])
    return known


# ---- wheels ----------------------------------------------------------------------------------


def pack_wheels(folder: Path) -> None:
    """The program and all that it needs, as they are installed here."""
    folder.mkdir()
    names, done = ["spliceproxy"], set()
    while names:
        name = names.pop()
        if name.lower() in done:
            continue
        done.add(name.lower())
        found = _installed(name)
        _pack(found, folder)
        for text in found.requires or ():
            one = requirements.Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                names.append(one.name)


def _installed(name: str) -> Distribution:
    """Not what a build has left in the working folder, which knows no files."""
    return next(one for one in distributions(name=name) if one.read_text("RECORD"))


def _pack(found: Distribution, folder: Path) -> None:
    name = found.metadata["Name"].replace("-", "_")
    tags = [
        line.partition(": ")[2]
        for line in (found.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    ]
    content = {str(path): Path(str(path.locate())) for path in found.files or () if _is_of_it(path)}
    if name == "spliceproxy":
        content = {path: at for path, at in content.items() if ".dist-info/" in path}
        files = [path for path in (ROOT / "spliceproxy").rglob("*") if path.is_file()]
        content |= {str(path.relative_to(ROOT)): path for path in files if _is_of_it(path)}
    record = next(path for path in content if path.endswith("/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tags[0]}.whl", "w") as wheel:
        for path, at in content.items():
            if path != record:
                wheel.write(at, path)
        wheel.writestr(record, "".join(f"{path},,\n" for path in content))


def _is_of_it(path: object) -> bool:
    text = str(path)
    return not text.startswith("..") and "__pycache__" not in text and "direct_url" not in text


# ---- a root ----------------------------------------------------------------------------------


def _mounts(root: Path, binds: Mapping[str, Path]) -> str:
    """The commands that make a root in a namespace of mounts."""
    lines = [f"mount -t tmpfs none {root}"]
    for name in ("usr", "bin", "sbin", "lib", "lib64", "etc"):
        here = Path("/", name)
        if here.is_symlink():
            lines.append(f"ln -s {os.readlink(here)} {root}/{name}")
        elif here.exists():
            lines.append(f"mkdir {root}/{name} && mount --rbind -o ro {here} {root}/{name}")
    lines.append(f"mkdir {root}/proc {root}/dev {root}/run && mkdir -m 1777 {root}/tmp")
    base = Path(sys.base_prefix)
    more = {} if base.is_relative_to("/usr") else {str(base): base}
    for inside, outside in {**more, **binds}.items():
        lines.append(f"mkdir -p {root}{inside} && mount --bind {outside} {root}{inside}")
    lines.append(f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev")
    return " && ".join(lines)


_NAMESPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


def needs_rights() -> None:
    """Skips where no namespaces can be made."""
    for program in ("unshare", "nsenter", "setpriv", "chroot", "mount"):
        need(program)
    probe = subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False)
    if os.getuid() != 0 or probe.returncode:
        pytest.skip("namespaces of mounts and processes need root")


def build(folder: Path) -> Path:
    """What the first stage leaves at BUILT."""
    needs_rights()
    pack_wheels(folder / "wheels")
    built = folder / "opt"
    root = folder / "root"
    built.mkdir()
    root.mkdir()
    binds = {"/opt": built, "/wheels": folder / "wheels", sys.prefix: Path(sys.prefix)}
    first = stages()[0]
    runs = [step.value for step in first if step.word == "RUN" and "pip wheel" not in step.value]
    script = " && ".join(
        [_mounts(root, binds), *(f"chroot {root} sh -ec {shlex.quote(run)}" for run in runs)]
    )
    done = subprocess.run(
        [*_NAMESPACE, "sh", "-ec", script],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return built / Path(BUILT).name


class Container:
    """A container of the image. ``env``: more variables; ``args``: behind the entry point."""

    def __init__(self, folder: Path, built: Path, *args: str, **env: str) -> None:
        self._root = folder / "root"
        self._root.mkdir(parents=True)
        self._messages = folder / "messages"
        last = stages()[-1]
        lines = [_mounts(self._root, {BUILT: built})]
        for step in last:
            if step.word == "RUN":
                lines.append(f"chroot {self._root} sh -ec {shlex.quote(step.value)}")
        for volume in the("VOLUME").words:
            lines.append(f"mount --bind {self._root}{volume} {self._root}{volume}")
        lines.append(f"mount -o remount,bind,ro {self._root}")
        self._env = [f"{name}={value}" for name, value in {**environment(), **env}.items()]
        command = self._command([*the("ENTRYPOINT").words, *args])
        lines.append(f"exec chroot {self._root} {shlex.join(command)}")
        with self._messages.open("wb") as out:
            self.process = subprocess.Popen(
                [*_NAMESPACE, "sh", "-ec", " && ".join(lines)],
                stdout=subprocess.DEVNULL,
                stderr=out,
                preexec_fn=default_signals,
            )
        wait_for(lambda: self.process.poll() is not None or self._is_up(), "the start")
        assert self.process.poll() is None, self.messages()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (self.first,) = map(int, children.read_text().split())

    def _command(self, words: Sequence[str]) -> list[str]:
        """As a container engine runs it: as the user of the image, without any rights."""
        uid, gid = the("USER").value.split(":")
        return [
            "env", "-i", *self._env,
            "setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all", *words,
        ]  # fmt: skip

    def _is_up(self) -> bool:
        return "event loop" in self.messages()

    def messages(self) -> str:
        return self._messages.read_text(errors="replace")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another process in it, as ``docker exec`` has it."""
        enter = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--root", "--wd"]
        return subprocess.run(
            [*enter, *self._command(words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def stop(self, seconds: float = 20.0) -> int:
        """As ``docker stop`` does; the exit status."""
        os.kill(self.first, getattr(signal, the("STOPSIGNAL").value))
        return self.process.wait(seconds)

    def end(self) -> None:
        """At once. Its first process takes all others along; it does not end with unshare(1), for
        the kernel forgets that of whoever becomes another user (PR_SET_PDEATHSIG(2const))."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.first, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
