"""Builds the compiled relay from ``native/``. Everything else is in pyproject.toml.

Without Cython or a C compiler the package installs all the same, in pure Python, and
says so. ``SPLICEPROXY_REQUIRE_NATIVE=1`` makes that an error. A source distribution has the C code
that Cython has made, so what is built from there needs the compiler alone.

``SPLICEPROXY_DEBUG=1`` builds a relay for debugging: with AddressSanitizer and
UndefinedBehaviorSanitizer of GCC, and with the checks of ``native/check.pxd`` after each
batch of events. It never replaces a release build in the tree; ``.ci/run debug`` makes it in a
copy of the tree and runs tests on it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import BaseError, CompileError, LinkError, SetupError
from setuptools.modified import newer_group

from backend import DEPENDS, MADE, NATIVE, SOURCE, is_made

MODULE = "spliceproxy.relay._native"


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


REQUIRED = is_set("SPLICEPROXY_REQUIRE_NATIVE")
DEBUG = is_set("SPLICEPROXY_DEBUG")

CYTHON_FLAGS = [] if DEBUG else ["-X", "emit_code_comments=False"]
"""A release has no copies of the sources in the C code: nobody reads it, and gcc reads it all."""

CYTHON = "import gc, runpy; gc.disable(); runpy.run_module('cython', run_name='__main__')"
"""Its trees are in use until its end, and to look for garbage among them takes a sixth of its time;
without that it needs 300 MB."""

WARNINGS = ["-Wall", "-Wextra", "-fsigned-char"]
RELEASE_FLAGS = ["-O1", "-g1", *WARNINGS]
"""-O2 takes gcc nearly twice as long, and saves 3 % of the module's own instructions for a request
and 4 % for a tunnel (callgrind), which is 0.3 and 0.1 % of their time. -g1: a backtrace has names
and lines, but no variables, as Python's own -g would have. To follow those through inlined
functions takes gcc a quarter of its time. The code is the same."""

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
DEBUG_FLAGS = [
    *("-O1", "-g", "-fno-omit-frame-pointer", *WARNINGS, *SANITIZERS),
    "-fno-wrapv",  # Python's own flags have -fwrapv, with which no overflow is seen
    "-U_FORTIFY_SOURCE",  # fortified functions hide their arguments from the sanitizers
    "-DSPLICEPROXY_DEBUG",
]
DEBUG_MARK = b"__asan_init"
"""A symbol that every module with AddressSanitizer asks for, and no other."""


def is_debug(module: Path) -> bool:
    """Whether a compiled module was built with ``SPLICEPROXY_DEBUG``."""
    return DEBUG_MARK in module.read_bytes()


def translate(made: Path) -> None:
    """Runs Cython. Cython itself would look for each name that is imported in each folder of
    sys.path, for as long as it then compiles."""
    try:
        import Cython
    except ImportError as error:
        raise CompileError(f"Cython is missing ({error})") from error
    assert Cython
    made.parent.mkdir(parents=True, exist_ok=True)
    options = ["--module-name", MODULE, "-I", str(NATIVE), *CYTHON_FLAGS, str(SOURCE), "-o", made]
    done = subprocess.run([sys.executable, "-c", CYTHON, *options], check=False)
    if done.returncode:
        made.unlink(missing_ok=True)
        raise CompileError(f"Cython failed, with status {done.returncode}")


class SourceDistribution(sdist):
    """sdist with the C code, which is newer than all that it is made of."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        made = Path(base_dir, MADE)
        if not is_made():
            translate(made)
        elif not made.exists():
            shutil.copy2(MADE, made)


class BuildNative(build_ext):
    """build_ext that runs Cython itself, so that its absence and its errors are handled
    like those of the compiler."""

    def run(self) -> None:
        if DEBUG and self.inplace:  # also an editable install
            for ext in self.extensions:
                place = Path(self.get_ext_filename(ext.name))
                if place.exists() and not is_debug(place):
                    raise SetupError(
                        f"{place} is a release build, which a debug build must not replace: "
                        "use '.ci/run debug', or a copy of the tree"
                    )
        super().run()

    def build_extension(self, ext: Extension) -> None:
        built = Path(self.get_ext_fullpath(ext.name))
        if built.exists() and is_debug(built) != DEBUG:
            self.force = True  # setuptools compares dates, not flags
        try:
            self._translate(ext)
            super().build_extension(ext)
        except (BaseError, CompileError, LinkError):
            for line in self._needed():
                print(line, file=sys.stderr)
            if ext.optional:  # setuptools logs the error and goes on
                print(
                    "warning: THE COMPILED RELAY WAS NOT BUILT: the proxy will run in pure "
                    "Python. SPLICEPROXY_REQUIRE_NATIVE=1 makes this an error.",
                    file=sys.stderr,
                )
            raise

    def _needed(self) -> list[str]:
        """What is missing, and what to install."""
        compiler = (getattr(self.compiler, "compiler", None) or ["cc"])[0]
        missing = []
        if shutil.which(compiler) is None:
            missing.append(f"there is no C compiler ({compiler})")
        folders = [*self.include_dirs, sysconfig.get_path("include")]
        if not any(Path(folder, "Python.h").exists() for folder in folders):
            missing.append(f"Python's headers are not there ({folders[-1]}/Python.h)")
        if not missing:
            return []
        return [
            f"the compiled relay cannot be built: {' and '.join(missing)}. Install them with",
            "    apt-get install gcc libc6-dev python3-dev            (Debian, Ubuntu)",
            "    dnf install gcc python3-devel                        (Fedora, Red Hat)",
            "    apk add gcc musl-dev linux-headers python3-dev       (Alpine)",
            *(() if self._optional() else ("or unset SPLICEPROXY_REQUIRE_NATIVE.",)),
        ]

    def _optional(self) -> bool:
        return all(ext.optional for ext in self.extensions)

    def _translate(self, ext: Extension) -> None:
        """Runs Cython where a source is newer than what it has made."""
        made = MADE
        if not is_made():
            made = Path(self.build_temp, *ext.name.split(".")).with_suffix(".c")
            if self.force or newer_group([*ext.sources, *ext.depends], made):
                translate(made)
        ext.sources = [str(made)]


setup(
    ext_modules=[
        Extension(
            MODULE,
            sources=[str(SOURCE)],
            depends=DEPENDS,
            extra_compile_args=DEBUG_FLAGS if DEBUG else RELEASE_FLAGS,
            extra_link_args=SANITIZERS if DEBUG else [],
            optional=not (REQUIRED or DEBUG),
        )
    ],
    cmdclass={"build_ext": BuildNative, "sdist": SourceDistribution},
)
