"""How much memory this process may still take: what the machine has, and what its cgroup allows.

A container is killed at its own limit, however much the machine has left, so the least of all of
them counts. Pages of files
that were read and are not in use count as available: the kernel drops them before it kills anybody.
Sources: cgroups(7); the kernel's cgroup-v2 (memory.max, memory.current) and cgroup-v1 memory
(memory.limit_in_bytes) documents.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["available_bytes"]

# version -> limit, use, and the line of memory.stat that says how much of the use can be dropped
_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_bytes(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that this process may still take before it, or the machine, runs out.

    Args:
        cgroups: where the cgroup file systems are mounted.
        own: the file that says in which cgroups this process is.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups(cgroups, own)])


def _left_in_cgroups(cgroups: Path, own: Path) -> list[int]:
    """What each cgroup that holds this process leaves it.

    Its own one and all above; none where none has a limit.
    """
    left = []
    for version, mount, path in _memberships(cgroups, own):
        inside = [
            part for part in path.split("/") if part not in ("", "..")
        ]  # ".." in a container that sees less than all
        for depth in range(len(inside) + 1):
            with suppress(
                OSError, ValueError, KeyError
            ):  # no such level here, no controller, or "max": no limit
                left.append(_left(mount.joinpath(*inside[:depth]), version))
    return left


def _memberships(cgroups: Path, own: Path) -> list[tuple[int, Path, str]]:
    """(version, mount, path below it) of the memory cgroups of this process."""
    found = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                found += [(2, cgroups, path), (2, cgroups / "unified", path)]
            elif "memory" in controllers.split(","):
                found.append((1, cgroups / "memory", path))
    return found


def _left(folder: Path, version: int) -> int:
    limit, used, droppable = _NAMES[version]
    in_use = int((folder / used).read_text())
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, int((folder / limit).read_text()) - in_use + int(stat[droppable]))
