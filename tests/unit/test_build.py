"""setup.py: the compiled relay is built where it can be, and required where asked.

Each test builds a copy of the project whose ``native/relay.pyx`` is replaced by a few
lines, without network: with the setuptools and Cython that are installed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython")
if not (ROOT / "setup.py").exists():
    pytest.skip("not in a source tree", allow_module_level=True)


SECONDS = 280
"""That a build may take where all processors are busy; each of its tests may take longer."""

pytestmark = pytest.mark.timeout(SECONDS + 20)


class Project:
    """A source tree in a folder that can be changed and built: what is there by this ``name``, or
    else a copy of this one, with little in ``native/``."""

    def __init__(self, folder: Path, name: str = "project") -> None:
        self.root = folder / name
        self.lib = folder / "lib"
        if self.root.exists():
            return
        skip = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info", "results")
        self.root.mkdir()
        for name in ("spliceproxy", "native", "docs", "findings", "tests", "perf", ".ci"):
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, self.root / name, ignore=skip)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, self.root)
        self.write("relay.pyx", "from lane.answer cimport ANSWER\ndef answer(): return ANSWER\n")
        self.write("lane/answer.pxd", "cdef enum: ANSWER = 42\n")

    def write(self, name: str, text: str) -> None:
        (self.root / "native" / name).write_text(text)

    def setup(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SPLICEPROXY_")}
        return subprocess.run(
            [sys.executable, "setup.py", *args],
            cwd=self.root,
            env={**clean, **env},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def requires(self) -> list[str]:
        """What a front end installs for a build, beside setuptools."""
        program = "import backend; print(*backend.get_requires_for_build_wheel())"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()[-1].split()

    def build(self, **env: str) -> subprocess.CompletedProcess[str]:
        temp = self.root / "temp"
        return self.setup("build_ext", f"--build-lib={self.lib}", f"--build-temp={temp}", **env)

    def answer(self) -> str:
        """What the module that was built says."""
        return subprocess.run(
            [sys.executable, "-c", "import _native; print(_native.answer())"],
            cwd=self.lib / "spliceproxy" / "relay",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()

    def built(self) -> bool:
        return any(self.lib.rglob("_native*.so"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_native_is_built_and_rebuilt_when_an_include_changes(project: Project) -> None:
    result = project.build(SPLICEPROXY_REQUIRE_NATIVE="1")
    assert result.returncode == 0, result.stderr
    assert project.answer() == "42"
    assert not list(project.root.glob("native/**/*.c"))
    project.write("lane/answer.pxd", "cdef enum: ANSWER = 43\n")
    assert project.build().returncode == 0
    assert project.answer() == "43"


def no_cython(folder: Path) -> str:
    """A place on the path where Cython seems to be missing."""
    (folder / "hide" / "Cython").mkdir(parents=True)
    (folder / "hide" / "Cython" / "__init__.py").write_text("raise ImportError('none')\n")
    return str(folder / "hide")


@pytest.mark.parametrize("required", ["0", "1"])
@pytest.mark.parametrize("fault", ["no compiler", "bad compiler", "no cython", "bad source"])
def test_build_that_fails(project: Project, fault: str, required: str) -> None:
    env = {"SPLICEPROXY_REQUIRE_NATIVE": required}
    if fault == "no compiler":
        env["CC"] = "/nonexistent/cc"
    elif fault == "bad compiler":
        env["CC"] = "false"
    elif fault == "no cython":
        env["PYTHONPATH"] = no_cython(project.root)
    else:
        project.write("relay.pyx", "this is no Cython\n")
    result = project.build(**env)
    assert not project.built()
    no_compiler = "there is no C compiler (/nonexistent/cc). Install them with\n    apt-get"
    assert (no_compiler in result.stderr) == (fault == "no compiler")
    if required == "1":
        assert result.returncode != 0
        assert "error: " in result.stderr
        unset = "or unset SPLICEPROXY_REQUIRE_NATIVE" in result.stderr
        assert unset == (fault == "no compiler")
    else:
        assert result.returncode == 0, result.stderr
        assert "THE COMPILED RELAY WAS NOT BUILT" in result.stderr


def test_a_source_distribution_needs_no_cython(project: Project, tmp_path: Path) -> None:
    assert project.requires() == ["cython>=3.1"]
    result = project.setup("sdist", f"--dist-dir={project.lib}")
    assert result.returncode == 0, result.stderr
    assert not list(project.root.glob("native/**/*.c"))
    (archive,) = project.lib.glob("*.tar.gz")
    folder = tmp_path / "released"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    released = Project(folder, archive.name.removesuffix(".tar.gz"))
    assert released.requires() == []
    none = {"SPLICEPROXY_REQUIRE_NATIVE": "1", "PYTHONPATH": no_cython(tmp_path)}
    result = released.build(**none)
    assert result.returncode == 0, result.stderr
    assert released.answer() == "42"
    # Whoever changes a source needs it again.
    released.write("lane/answer.pxd", "cdef enum: ANSWER = 43\n")
    assert released.requires() == ["cython>=3.1"]
    result = released.build(**none)
    assert result.returncode != 0
    assert "Cython is missing" in result.stderr
    assert released.build().returncode == 0
    assert released.answer() == "43"


def test_sdist_has_all_that_a_build_and_a_test_run_need(project: Project) -> None:
    result = project.setup("sdist", f"--dist-dir={project.lib}")
    assert result.returncode == 0, result.stderr
    (archive,) = project.lib.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"setup.py", "backend.py", "native/relay.c", "pyproject.toml", "README.md"}
    wanted |= {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md", ".ci/run"}
    for folder, pattern in (
        ("native", "*.p[yx][xdi]"),
        ("spliceproxy", "*.py*"),
        ("spliceproxy", "py.typed"),
        ("docs", "*.md"),
        ("findings", "*.sh"),
        ("tests", "*.py"),
    ):
        found = (ROOT / folder).rglob(pattern)
        wanted |= {str(p.relative_to(ROOT)) for p in found if p.suffix != ".pyc"}
    assert wanted - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
