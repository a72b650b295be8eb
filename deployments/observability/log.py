"""One log event, with its fields.

Keys of the JSON record under Serve, and a plain line without Ray. This page imports neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LONGEST_TEXT", "LogThrottle", "log_event"]

SUMMARY_EVERY_S = (
    300.0  # while a trouble lasts, one line in five minutes says how often it came again
)


logger = logging.getLogger(
    "ray.serve"
)  # Serve's logger carries our fields as JSON; without Ray it is a plain one
LONGEST_TEXT = 500  # characters of an error in a line
_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event"}


def log_event(level: int, event: str, fields: Mapping[str, Any], phrase: str = "") -> None:
    """Log one event: `event` and the fields are keys of the JSON record, and stand in the message.

    Text is cut, and made printable: Serve may be set to write plain lines, and a line break in a
    file's name is no new line.
    """
    extra = {f"{key}_" if key in _RESERVED else key: _fit(value) for key, value in fields.items()}
    logger.log(
        level,
        "%s",
        _fit(f"{event}: {phrase}" if phrase else event),
        extra={"event": event, **extra},
    )


def _fit(value: Any) -> Any:  # noqa: ANN401  # whatever a field holds
    if isinstance(value, str):
        cut = value[:LONGEST_TEXT]
        return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    if isinstance(value, list | tuple):
        return [_fit(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else _fit(str(value))


@dataclass(slots=True)
class _Trouble:
    """A condition that repeats."""

    incident: str
    said: str
    said_at: float
    suppressed: int = 0


class LogThrottle:
    """Log throttle: report a repeating condition at first, on change, then every five minutes.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lasting: dict[tuple[str, str], _Trouble] = {}  # (what, of which) -> what lasts

    def is_news(self, key: tuple[str, str], what: str) -> bool:
        """Whether it is another `what` than before; said once, it is no news until it ends."""
        lasts = self._lasting.get(key)
        if lasts is not None and lasts.said == what:
            return False
        self._lasting[key] = _Trouble("", what, self._clock())
        return True

    def again(self, key: tuple[str, str], what: str = "") -> int | None:
        """How often it was not said since it was said last.

        None where it is not to be said now either.
        """
        if self.is_news(key, what):
            return 0
        lasts = self._lasting[key]
        if self._clock() - lasts.said_at < SUMMARY_EVERY_S:
            lasts.suppressed += 1
            return None
        suppressed, lasts.suppressed, lasts.said_at = lasts.suppressed, 0, self._clock()
        return suppressed

    def end(self, of_which: str) -> None:
        """All that lasted of it, and of nothing in particular, is over."""
        self._lasting = {
            key: lasts for key, lasts in self._lasting.items() if key[1] not in (of_which, "")
        }
