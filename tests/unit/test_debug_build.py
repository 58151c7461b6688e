"""setup.py with SPLICEPROXY_DEBUG: a build that says where memory is misused, and that never
takes the place of a release build, nor the other way round."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from sanitizer import preload
from test_build import SECONDS, Project

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython")

pytestmark = pytest.mark.timeout(SECONDS + 20)

MODULE = """
from libc.stdlib cimport free, malloc

cdef extern from *:
    '''
    #ifdef SPLICEPROXY_DEBUG
    #define ANSWER 43
    #else
    #define ANSWER 42
    #endif
    '''
    enum: ANSWER

def answer():
    return ANSWER

def write(size_t size, size_t at):
    cdef volatile char *block = <volatile char *>malloc(size)
    block[at] = 1
    free(<void *>block)

def add(int a, int b):
    return <int>(a + b)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A debug build of MODULE."""
    project = Project(tmp_path_factory.mktemp("debug"))
    project.write("relay.pyx", MODULE)
    result = project.build(SPLICEPROXY_DEBUG="1")
    assert result.returncode == 0, result.stderr
    return project


def run(project: Project, code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``code`` under the sanitizers, where ``_native`` is the module that was built."""
    return subprocess.run(
        [sys.executable, "-c", f"import _native\n{code}", *args],
        cwd=project.lib / "spliceproxy" / "relay",
        env={**os.environ, "LD_PRELOAD": preload(), "ASAN_OPTIONS": "detect_leaks=0", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_heap_overflow_ends_the_process_with_a_report(built: Project, tmp_path: Path) -> None:
    fine = run(built, "_native.write(8, 7); print('went on')")
    assert (fine.returncode, fine.stdout) == (0, "went on\n"), fine.stderr
    log = f"detect_leaks=0:halt_on_error=1:log_path={tmp_path}/asan"
    wrong = run(built, "_native.write(8, 8); print('went on')", ASAN_OPTIONS=log)
    assert wrong.returncode != 0
    assert "went on" not in wrong.stdout
    (report,) = tmp_path.glob("asan.*")
    assert "heap-buffer-overflow" in report.read_text()
    assert "relay.pyx" in report.read_text() or "_native" in report.read_text()


def test_undefined_behaviour_ends_the_process_with_a_report(built: Project) -> None:
    assert run(built, "print(_native.add(2**31 - 2, 1))").stdout == f"{2**31 - 1}\n"
    wrong = run(built, "print(_native.add(2**31 - 1, 1))")
    assert wrong.returncode != 0
    assert "signed integer overflow" in wrong.stderr


def test_no_module_is_taken_for_one_with_other_flags(built: Project) -> None:
    """The sources do not change between these builds, only the variable."""

    def answer() -> str:
        return run(built, "print(_native.answer())").stdout

    def build(debug: str) -> None:
        assert built.build(SPLICEPROXY_DEBUG=debug).returncode == 0

    assert answer() == "43\n"
    build("0")
    assert answer() == "42\n"
    assert built.answer() == "42"  # it needs no library in LD_PRELOAD
    build("1")
    assert answer() == "43\n"


def test_debug_build_does_not_replace_a_release_build(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("relay.pyx", MODULE)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    module = project.root / "spliceproxy" / "relay" / f"_native{suffix}"

    def inplace(debug: str) -> subprocess.CompletedProcess[str]:
        return project.setup("build_ext", "--inplace", SPLICEPROXY_DEBUG=debug)

    module.write_bytes(b"a release build")
    refused = inplace("1")
    assert refused.returncode != 0
    assert "is a release build, which a debug build must not replace" in refused.stderr
    assert ".ci/run debug" in refused.stderr
    assert module.read_bytes() == b"a release build"

    module.write_bytes(b"a debug build, which has __asan_init")
    assert inplace("1").returncode == 0
    version = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--version"],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "native engine built for debugging" in version.stdout
    assert inplace("0").returncode == 0
    assert b"__asan_init" not in module.read_bytes()


def test_debug_build_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A release build then is one without the compiled relay; nobody wants that here."""
    project = Project(tmp_path)
    project.write("relay.pyx", "this is no Cython\n")
    assert project.build(SPLICEPROXY_DEBUG="1").returncode != 0
