"""Log events with fields, and a throttle for conditions that repeat.

Under Serve the fields are keys of the JSON record; without Ray a log event is a plain line. This
module imports neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LONGEST_TEXT", "SUMMARY_EVERY_S", "LogThrottle", "log_event"]

SUMMARY_EVERY_S = 300.0  # a condition that lasts is reported again after so many seconds
LONGEST_TEXT = 500  # characters of a text in a field; longer ones are cut

# Serve writes the fields of its own logger to JSON. Without Ray it is an ordinary logger.
logger = logging.getLogger("ray.serve")
_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event"}


def log_event(level: int, event: str, fields: Mapping[str, Any], phrase: str = "") -> None:
    """Log one event: its name and fields are keys of the record, its name and phrase the message.

    Texts are cut to `LONGEST_TEXT` characters and made printable: if Serve writes plain lines, a
    line break in a file's name must not start a new line.
    """
    extra = {f"{key}_" if key in _RESERVED else key: _fit(value) for key, value in fields.items()}
    logger.log(
        level,
        "%s",
        _fit(f"{event}: {phrase}" if phrase else event),
        extra={"event": event, **extra},
    )


def _fit(value: Any) -> Any:  # noqa: ANN401  # a field may have a value of any type
    if isinstance(value, str):
        cut = value[:LONGEST_TEXT]
        return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    if isinstance(value, list | tuple):
        return [_fit(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else _fit(str(value))


@dataclass(slots=True)
class _Condition:
    """A condition that repeats, as it was logged last."""

    text: str
    logged_at: float
    suppressed: int = 0


class LogThrottle:
    """Log throttle: report a repeating condition at first, on change, then every five minutes.

    The key of a condition is its kind and its subject, such as ("files_missing", "flow"). A subject
    of "" stands for no subject in particular.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lasting: dict[tuple[str, str], _Condition] = {}

    def is_news(self, key: tuple[str, str], text: str) -> bool:
        """Record a condition; return whether it is new or its text changed."""
        condition = self._lasting.get(key)
        if condition is not None and condition.text == text:
            return False
        self._lasting[key] = _Condition(text, self._clock())
        return True

    def again(self, key: tuple[str, str], text: str = "") -> int | None:
        """Record a condition; return the number suppressed before, or None not to log it now."""
        if self.is_news(key, text):
            return 0
        condition = self._lasting[key]
        if self._clock() - condition.logged_at < SUMMARY_EVERY_S:
            condition.suppressed += 1
            return None
        suppressed, condition.suppressed = condition.suppressed, 0
        condition.logged_at = self._clock()
        return suppressed

    def end(self, subject: str) -> None:
        """Forget the conditions of `subject` and those of no subject in particular."""
        self._lasting = {
            key: condition
            for key, condition in self._lasting.items()
            if key[1] not in (subject, "")
        }
