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
        first: number of the first row in the request, for the wording of errors.
    """

    def __init__(self, sent: Sequence[msgspec.Raw], first: int = 0) -> None:
        self._sent, self._first = sent, first

    def __len__(self) -> int:
        return len(self._sent)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> SentRows: ...

    def __getitem__(self, place: int | slice) -> Row | SentRows:
        """Decode a row, or select adjacent ones without decoding them.

        Raises:
            MalformedEvent: it is not an object, or has a name twice; `field` names the row.
        """
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return SentRows(self._sent[start:stop], self._first + start)
        text, place = bytes(self._sent[place]), self._first + place
        try:
            row: Row = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = decode_error(error, text)
            raise MalformedEvent(
                f"{ROWS}[{place}]", getattr(problem, "problem", str(problem))
            ) from None
        if outline(text).names != count_names(row):
            raise MalformedEvent(f"{ROWS}[{place}]", TWICE)
        return row
