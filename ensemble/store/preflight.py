"""Does it fit? Asked before a payload is read: a process that runs out of memory is killed, and no `except` helps it.

The other questions before a load, is it there, may it be read, is it whole (S1-11), are the proof itself: `load.open_bundle`
asks them on the open file, because a file that was checked by name may be another one when it is opened (C-30).
"""

from __future__ import annotations

from ensemble.errors import InsufficientMemory

__all__ = ["MEMORY_FACTOR", "refuse_without_memory"]

# Of the size of the files. The bytes that are proven, the arrays copied out of them and the model made of those are 3; tables of
# text become Python objects and take more. Measured peaks of the shipped models: 2.8 to 4.4, the most by posture-knowledge.
MEMORY_FACTOR = 5


def refuse_without_memory(size_bytes: int, available_bytes: int) -> None:
    """Refuse a load that would not fit.

    Args:
        size_bytes: of all files of the bundle, by its proven manifest.
        available_bytes: that this process may still take.

    Raises:
        InsufficientMemory: with both numbers.
    """
    needed_bytes = MEMORY_FACTOR * size_bytes
    if available_bytes < needed_bytes:
        raise InsufficientMemory(needed_bytes, available_bytes)
