"""The number of workers by itself: CPU affinity and the CPU quotas of cgroups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from spliceproxy.settings import cpus
from spliceproxy.settings.loading import load

V2 = "30 20 0:26 {top} {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 20 0:29 {top} {at} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "34 20 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n21 1 8:1 / / rw - ext4 x"


def tree(root: Path, groups: str, mounts: list[str], files: Mapping[str, str]) -> str:
    """A machine: proc and the files of its cgroups."""
    files = {
        **files,
        "/proc/self/cgroup": groups,
        "/proc/self/mountinfo": "\n".join([OTHER, *mounts]) + "\n",
    }
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


TOP = "/sys/fs/cgroup"
CPU = f"{TOP}/cpu,cpuacct"


def v1(folder: str, quota: object, period: object = 100000) -> dict[str, str]:
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


CASES = {
    "v2 in a namespace": (
        "0::/\n",
        [V2.format(top="/", at=TOP)],
        {f"{TOP}/cpu.max": "150000 100000\n"},
        2,
    ),
    "v2, less than one CPU": (
        "0::/\n",
        [V2.format(top="/", at=TOP)],
        {f"{TOP}/cpu.max": "5000 100000\n"},
        1,
    ),
    "v2, no limit": (
        "0::/\n",
        [V2.format(top="/", at=TOP)],
        {f"{TOP}/cpu.max": "max 100000\n"},
        16,
    ),
    "v2, an ancestor has the smallest": (
        "0::/system.slice/proxy.service\n",
        [V2.format(top="/", at=TOP)],
        {
            f"{TOP}/system.slice/proxy.service/cpu.max": "400000 100000",
            f"{TOP}/system.slice/cpu.max": "300000 100000",
        },
        3,
    ),
    "v2, a quota above the affinity": (
        "0::/a",
        [V2.format(top="/", at=TOP)],
        {f"{TOP}/a/cpu.max": "6400000 100000"},
        16,
    ),
    "v2, outside of the namespace": (
        "0::/../other",
        [V2.format(top="/", at=TOP)],
        {f"{TOP}/cpu.max": "100000 100000"},
        16,
    ),
    "v2, the path of the host in a container": (
        "0::/docker/abc",
        [V2.format(top="/docker/abc", at=TOP)],
        {f"{TOP}/cpu.max": "200000 100000"},
        2,
    ),
    "v2, a mount point with a blank": (
        "0::/",
        [V2.format(top="/", at="/my\\040cgroups")],
        {"/my cgroups/cpu.max": "200000 100000"},
        2,
    ),
    "v1 in a container": (
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
        [V1.format(top="/docker/abc", at=CPU)],
        v1(CPU, 250000),
        3,
    ),
    "v1, no limit, an ancestor has one": (
        "4:cpuacct,cpu:/a/b\n",
        [V1.format(top="/", at=CPU)],
        {**v1(f"{CPU}/a/b", -1), **v1(f"{CPU}/a", 50000, 25000), **v1(CPU, -1)},
        2,
    ),
    "v1, of another mount": (
        "4:cpu:/elsewhere\n",
        [V1.format(top="/docker/abc", at=CPU)],
        v1(CPU, 400000),
        4,
    ),
    "hybrid": (
        "4:cpu,cpuacct:/a\n0::/b\n",
        [V1.format(top="/", at=CPU), V2.format(top="/", at=f"{TOP}/unified")],
        {**v1(f"{CPU}/a", 500000), f"{TOP}/unified/b/cpu.max": "max 100000"},
        5,
    ),
    "no cgroups": ("", [], {}, 16),
}


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(("groups", "mounts", "files", "wanted"), CASES.values(), ids=CASES)
def test_quota(
    tmp_path: Path, groups: str, mounts: list[str], files: Mapping[str, str], wanted: int
) -> None:
    count, why = cpus.available(tree(tmp_path, groups, mounts, files))
    assert count == wanted
    assert ("CPU quota of" in why) == (wanted < 16)
    assert ";" not in why


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("text", ["", "x 1", "1", "100000 0", "0 100000", "1 2 3", "-5 1"])
def test_what_makes_no_sense_is_left_out_and_told(tmp_path: Path, text: str) -> None:
    files = {f"{TOP}/a/cpu.max": text, f"{TOP}/cpu.max": "200000 100000"}
    root = tree(tmp_path, "0::/a", [V2.format(top="/", at=TOP)], files)
    assert cpus.available(root) == (
        2,
        f"the CPU quota of 2 in {TOP}/cpu.max; "
        f"{root}{TOP}/a/cpu.max holds no CPU quota that can be read",
    )


@pytest.mark.usefixtures("many")
def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path) -> None:
    assert cpus.available(str(tmp_path)) == (
        16,
        "one per CPU that it may use; its cgroups are unknown (No such file or directory)",
    )
    root = tree(tmp_path, "0::/", [V2.format(top="/", at=TOP)], {})
    (tmp_path / TOP[1:] / "cpu.max").mkdir(parents=True)  # read(2) fails, for root, too
    assert cpus.available(root) == (
        16,
        f"one per CPU that it may use; {root}{TOP}/cpu.max is unreadable (Is a directory)",
    )


def test_auto_asks_for_it_and_a_number_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "available", lambda: (7, "because"))
    for flags in ({}, {"workers": 0}):
        config = load(flags, None, {})[0]
        assert (config.workers, config.workers_why) == (7, "because")
    config = load({"workers": 3}, None, {})[0]
    assert (config.workers, config.workers_why) == (3, "as set")
