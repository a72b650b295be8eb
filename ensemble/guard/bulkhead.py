"""The bulkhead of a layer: a bound on its calls in flight, so that a slow one blocks no other.

Source: Nygard, "Release It!", 2nd edition, Pragmatic Bookshelf 2018, chapter 5.
"""

from __future__ import annotations

__all__ = ["Bulkhead"]


class Bulkhead:
    """Bulkhead: bound the calls in flight of one layer, so that a slow one blocks no other.

    Args:
        calls: the most that are out.
    """

    def __init__(self, calls: int) -> None:
        self._free = calls

    def enter(self) -> bool:
        """Enter, unless all places are taken.

        Returns False if they are: the layer is then not called. A caller that entered must leave.
        """
        if not self._free:
            return False
        self._free -= 1
        return True

    def leave(self) -> None:
        """Leave."""
        self._free += 1
