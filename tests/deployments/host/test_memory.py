"""Available memory: the least of what the machine and the cgroups of this process leave."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from deployments.host.memory import available_bytes

MIB = 1 << 20
NO_LIMIT_1 = 9_223_372_036_854_771_712  # what version 1 reports without a limit


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8,000 MiB available."""

    class Memory:
        available = 8000 * MIB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)


def cgroup_2(folder: Path, limit: str, used: int, droppable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {droppable}\n")


def cgroup_1(folder: Path, limit: int, used: int, droppable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {droppable}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "self"


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_without_cgroups_the_machine_decides(cgroups: Path, own: Path) -> None:
    """For example on a system other than Linux."""
    assert available_bytes(cgroups, own) == 8000 * MIB


def test_a_limit_of_the_container_counts_with_what_can_be_dropped(cgroups: Path, own: Path) -> None:
    """S1-11: 512 MiB allowed, 400 in use, of which 100 are cached pages that can be dropped."""
    own.write_text("0::/\n")
    cgroup_2(cgroups, str(512 * MIB), 400 * MIB, 100 * MIB)

    assert available_bytes(cgroups, own) == 212 * MIB


def test_the_tightest_of_nested_limits_counts(cgroups: Path, own: Path) -> None:
    own.write_text("0::/axon.slice/replica\n")
    cgroup_2(cgroups / "axon.slice", str(300 * MIB), 250 * MIB)
    cgroup_2(cgroups / "axon.slice" / "replica", str(1000 * MIB), 100 * MIB)

    assert available_bytes(cgroups, own) == 50 * MIB


def test_a_cgroup_without_a_limit_does_not_count(cgroups: Path, own: Path) -> None:
    own.write_text("0::/free\n")
    cgroup_2(cgroups / "free", "max", 400 * MIB)

    assert available_bytes(cgroups, own) == 8000 * MIB


@pytest.mark.parametrize(
    ("limit", "left"), [(600 * MIB, 350 * MIB), (NO_LIMIT_1, 8000 * MIB)], ids=["a limit", "none"]
)
def test_cgroups_of_version_1_count_too(cgroups: Path, own: Path, limit: int, left: int) -> None:
    """In a container the path is that of the host and does not exist; the limit is at the mount."""
    own.write_text("9:name=systemd:/\n4:cpu,memory:/docker/0f3a\n0::/\n")
    cgroup_1(cgroups / "memory", limit, 300 * MIB, 50 * MIB)

    assert available_bytes(cgroups, own) == left


def test_more_in_use_than_allowed_leaves_zero(cgroups: Path, own: Path) -> None:
    """The limit was lowered below the use of a running process."""
    own.write_text("0::/\n")
    cgroup_2(cgroups, str(100 * MIB), 400 * MIB)

    assert available_bytes(cgroups, own) == 0


def test_a_path_with_dots_stays_inside_the_mount(cgroups: Path, own: Path) -> None:
    """The path of a process in another namespace contains ".."."""
    own.write_text("0::/../../elsewhere\n")
    cgroup_2(cgroups, str(500 * MIB), 100 * MIB)

    assert available_bytes(cgroups, own) == 400 * MIB


def test_on_this_machine_it_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cgroups of this machine."""
    monkeypatch.undo()

    assert 0 < available_bytes() <= psutil.virtual_memory().total
