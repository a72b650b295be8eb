"""Memory that this process can still allocate: the least of what machine and cgroups leave.

A container is killed at its own limit, however much memory the machine has left. Cached pages of
files that are not in use count as available: the kernel drops them before it kills a process.
Sources: cgroups(7); the kernel's documents on cgroup v2 (memory.max, memory.current) and cgroup v1
(memory.limit_in_bytes).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["available_bytes"]

# version -> file of the limit, file of the use, and line of memory.stat on what can be dropped
_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_bytes(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that this process can still allocate.

    Args:
        cgroups: folder in which the cgroup file systems are mounted.
        own: file that lists the cgroups of this process.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups(cgroups, own)])


def _left_in_cgroups(cgroups: Path, own: Path) -> list[int]:
    """Bytes that each cgroup with a limit leaves: the process's own, and those above it."""
    left = []
    for version, mount, path in _memberships(cgroups, own):
        # a container that does not see all levels has ".." in the path
        inside = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(inside) + 1):
            # no such level here, no memory controller, or the limit "max"
            with suppress(OSError, ValueError, KeyError):
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
