"""The rows of a request, as they were sent; each is decoded when it is read.

All of 100,000 rows at once, decoded, would need twenty times the memory of the body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import msgspec

from deployments.web import TWICE, count_names, decode_error, outline
from ensemble.errors import MalformedEvent

__all__ = ["ROWS", "Row", "SentRows"]

ROWS = "network_data"  # the field of the body
Row = Mapping[str, Any]
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SentRows(Sequence[Row]):
    """Rows of a request.

    Args:
        sent: the JSON text of each row.
        features: the names to read; None for all.
    """

    def __init__(self, sent: Sequence[msgspec.Raw], features: Sequence[str] | None = None) -> None:
        self._sent, self._features = sent, features

    def __len__(self) -> int:
        return len(self._sent)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        """Decode a row, or several.

        Raises:
            MalformedEvent: one is not an object, or has a name twice; `field` names the row.
        """
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        text = bytes(self._sent[place])
        try:
            row: Row = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = decode_error(error, text)
            raise MalformedEvent(
                f"{ROWS}[{place}]", getattr(problem, "problem", str(problem))
            ) from None
        if outline(text).names != count_names(row):
            raise MalformedEvent(f"{ROWS}[{place}]", TWICE)
        if self._features is None:
            return row
        return {name: row[name] for name in self._features if name in row}
