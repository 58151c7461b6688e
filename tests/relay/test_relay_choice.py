"""Which engine is chosen, and that it says why."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from relay_rig import open_fds

from spliceproxy.relay import choice
from spliceproxy.relay.choice import NATIVE_MODULE, EngineError, choose, ignore_sigpipe
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.portable.engine import CopyRelay
from spliceproxy.relay.selftest import splice_works


class FakeNative(CopyRelay):
    engine = "native"

    def __init__(self, options: RelayOptions) -> None:
        super().__init__(options)
        self.options = options


def chosen(name: str) -> tuple[Any, str]:
    relay, why = choose(name, RelayOptions())
    relay.close()
    return relay, why


@pytest.fixture
def with_native(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(NATIVE_MODULE)
    module.NativeRelay = FakeNative  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NATIVE_MODULE, module)


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NATIVE_MODULE, None)


@pytest.fixture
def without_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "splice_works", lambda: "splice(2): EPERM")


def test_splice_works_here_and_leaves_nothing_behind() -> None:
    before = open_fds()
    assert splice_works() == ""
    assert open_fds() == before


def test_self_test_notices_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(src: int, dst: int, count: int) -> int:
        return os.write(dst, b"s" * len(os.read(src, count)))

    before = open_fds()
    monkeypatch.setattr(os, "splice", corrupt)
    assert "came out instead" in splice_works()
    assert open_fds() == before


def test_self_test_notices_a_missing_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "splice")
    assert "os.splice" in splice_works()


@pytest.mark.usefixtures("with_native")
def test_auto_takes_the_compiled_module() -> None:
    relay, why = chosen("auto")
    assert (relay.engine, why) == ("native", "native: splice(2) works")
    assert relay.options.max_pipes == -1


@pytest.mark.usefixtures("with_native", "without_splice")
@pytest.mark.parametrize("name", ["auto", "native"])
def test_the_compiled_module_copies_where_splice_fails(name: str) -> None:
    relay, why = chosen(name)
    assert (relay.engine, why) == ("native", "native, by copying only: splice(2): EPERM")
    assert relay.options.max_pipes == 0


@pytest.mark.usefixtures("without_native")
def test_auto_without_the_compiled_module() -> None:
    relay, why = chosen("auto")
    assert relay.engine == "splice"
    assert why.startswith("splice: the compiled module is not built (")


def test_a_module_that_was_built_from_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update without a build: to say that there is no module would be wrong."""

    def refuse(name: str) -> ModuleType:
        raise ImportError("built from other sources")

    monkeypatch.setattr(choice.importlib, "import_module", refuse)
    relay, why = chosen("auto")
    assert relay.engine == "splice"
    assert why == "splice: the compiled module cannot be used (built from other sources)"
    with pytest.raises(EngineError, match=r"^native: the compiled module cannot be used \(built"):
        choose("native", RelayOptions())


@pytest.mark.usefixtures("without_native", "without_splice")
def test_auto_with_nothing() -> None:
    relay, why = chosen("auto")
    assert relay.engine == "copy"
    assert why.startswith("copy: the compiled module is not built (")
    assert why.endswith("; splice(2): EPERM")


@pytest.mark.usefixtures("without_native", "without_splice")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("native", r"^native: the compiled module is not built \(.+\)$"),
        ("splice", r"^splice: splice\(2\): EPERM$"),
        ("turbo", r"^no engine 'turbo': one of auto, native, splice, copy$"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, fault: str) -> None:
    with pytest.raises(EngineError, match=fault):
        choose(name, RelayOptions())


def test_copy_and_splice_as_asked() -> None:
    assert chosen("copy")[0].engine == "copy"
    assert chosen("splice")[0].engine == "splice"


def test_sigpipe_outside_the_main_thread() -> None:
    faults: list[str] = []

    def work() -> None:
        try:
            ignore_sigpipe()
        except EngineError as error:
            faults.append(str(error))

    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert "SIGPIPE" in faults[0]
        ignore_sigpipe()
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.parametrize("name", ["splice", "copy"])
def test_an_engine_without_c_has_no_lane(name: str) -> None:
    relay, _ = chosen(name)
    assert relay.lane(None, None) is None
