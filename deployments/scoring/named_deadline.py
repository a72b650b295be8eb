"""The deadline that a caller names for a request: the header `X-Axon-Deadline-Ms`."""

from __future__ import annotations

from deployments.web import header_parameter
from ensemble.errors import MalformedEvent
from ensemble.guard import Deadline

__all__ = ["DEADLINE", "deadline_of"]

HEADER = "X-Axon-Deadline-Ms"
_NAME = HEADER.lower().encode()
SHORTEST_MS, LONGEST_MS = 10, 60_000
DEADLINE = header_parameter(
    HEADER,
    {"type": "integer", "minimum": SHORTEST_MS, "maximum": LONGEST_MS},
    "Milliseconds from the arrival of the request to the scores of the layers. By default those of "
    "the service, which differ for one event and for a batch.",
)


def deadline_of(headers: list[tuple[bytes, bytes]], *, since: float, default_s: float) -> Deadline:
    """The deadline of a request: the one that it names, or the default.

    Args:
        headers: of the request.
        since: when it arrived (monotonic seconds).
        default_s: seconds from then on, if it names none.

    Raises:
        MalformedEvent: it is not a whole number in the range, or named twice.
    """
    texts = [value for name, value in headers if name == _NAME]
    if not texts:
        return Deadline(since, default_s)
    text = texts[0]
    is_number = len(texts) == 1 and text.isdigit() and len(text) <= len("60000")
    if not is_number or not SHORTEST_MS <= int(text) <= LONGEST_MS:
        raise MalformedEvent(HEADER, f"must be one number from {SHORTEST_MS} to {LONGEST_MS:,}")
    return Deadline(since, int(text) / 1000.0)
