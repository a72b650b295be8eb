"""Resident memory of this process, as the kernel counts it: with the heap of native code."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MIB", "Rise", "resident_bytes", "rise_of_memory"]

MIB = 1 << 20
_OWN = Path("/proc/self")


@dataclass
class Rise:
    """The highest resident memory inside a block, above that before it.

    Attributes:
        bytes: known after the block.
    """

    bytes: int = 0


def resident_bytes() -> int:
    """Resident memory without garbage, and without what the allocator holds unused."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _kib("VmRSS")


@contextmanager
def rise_of_memory() -> Iterator[Rise]:
    """Measure the peak of a block."""
    rise, before = Rise(), resident_bytes()
    (_OWN / "clear_refs").write_text("5")  # the peak begins anew; see proc(5)
    yield rise
    rise.bytes = _kib("VmHWM") - before


def _kib(line: str) -> int:
    (found,) = re.findall(rf"{line}:\s+(\d+) kB", (_OWN / "status").read_text())
    return int(found) << 10
