"""Bulkhead: a limit on the calls in flight of one layer, so that a slow layer blocks no other.

Source: Nygard, "Release It!", 2nd edition, Pragmatic Bookshelf 2018, chapter 5.
"""

from __future__ import annotations

__all__ = ["Bulkhead"]


class Bulkhead:
    """Limit on the calls in flight of one layer.

    Args:
        calls: the limit.
    """

    def __init__(self, calls: int) -> None:
        self._free = calls

    def enter(self) -> bool:
        """Reserve a place for a call; False if the limit is reached: the layer is then not called.

        A caller that got a place must call `leave`.
        """
        if not self._free:
            return False
        self._free -= 1
        return True

    def leave(self) -> None:
        """Free a place."""
        self._free += 1
