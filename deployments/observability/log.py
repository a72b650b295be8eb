"""One log event, with its fields: keys of the JSON record under Serve, and a plain line without Ray. This page imports neither."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["LONGEST_TEXT", "say"]

logger = logging.getLogger("ray.serve")  # Serve's logger carries our fields as JSON; without Ray it is a plain one
LONGEST_TEXT = 500  # characters of an error in a line
_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event"}


def say(level: int, event: str, fields: Mapping[str, Any], phrase: str = "") -> None:
    """One log event: `event` and the fields as keys of the JSON record, and both event and phrase in its message.

    Text is cut, and made printable: Serve may be set to write plain lines, and a line break in a file's name is no new line.
    """
    extra = {f"{key}_" if key in _RESERVED else key: _fit(value) for key, value in fields.items()}
    logger.log(level, "%s", _fit(f"{event}: {phrase}" if phrase else event), extra={"event": event, **extra})


def _fit(value: Any) -> Any:  # noqa: ANN401  # whatever a field holds
    if isinstance(value, str):
        cut = value[:LONGEST_TEXT]
        return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    if isinstance(value, list | tuple):
        return [_fit(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else _fit(str(value))
