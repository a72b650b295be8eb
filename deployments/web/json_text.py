"""What is in a JSON text, found in its bytes before anything is decoded.

A decoder makes an object of each value, so a body of 8 MiB can need 300 MiB. Values and names are
counted first: outside of strings, each comma stands for one more value, each colon for a name.
Everything here takes linear time, a piece at a time, so that other threads go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ensemble.errors import MalformedEvent, MalformedJson

__all__ = [
    "SMALL_TEXT_BYTES",
    "TWICE",
    "Outline",
    "check_names",
    "check_size",
    "count_names",
    "decode_apart",
    "outline",
    "without_half_pairs",
]

MOST_VALUES = 256  # allowed for each event of a batch: three times as many as an event can have
# always allowed: a caller that sends a few values too many gets the specific error of the decoder
FEWEST_VALUES = 1024
PIECE = 1 << 18  # bytes at a time
SMALL_TEXT_BYTES = 1 << 16  # of a text that is decoded on the event loop, in some 2 ms at most
TWICE = "a name is given twice in one object, so two readers could use different values"
_ESCAPE, _U, _D = b"\\ud"
_LONG = len(rb"\ud800")
_CASE = 0x20  # the bit by which a letter in lower case differs
_HEX = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdefABCDEF", np.uint8))

Decoded = TypeVar("Decoded")
# one thread: decoding holds the interpreter, so that more threads would only need more memory
_threads = ThreadPoolExecutor(1, "decode-json")


class Outline(NamedTuple):
    """What a JSON text has outside of its strings.

    Attributes:
        values: values that a comma stands before.
        names: `"name": value` pairs of all objects together.
        objects: objects.
    """

    values: int
    names: int
    objects: int


def outline(body: bytes, *, most: int | None = None) -> Outline:
    """Count values and names.

    Args:
        body: a JSON text, valid or not.
        most: stop at the first piece of the text after which there are more values.
    """
    if b"\\" in body:  # then a quote may be part of a string
        body = body.replace(b"\\\\", b"--").replace(b'\\"', b"--")
    values = names = objects = inside = 0
    for start in range(0, len(body), PIECE):
        texts = body[start : start + PIECE].split(b'"')
        outside = b"".join(texts[inside::2])
        inside = (inside + len(texts) - 1) % 2
        names += outside.count(b":")
        objects += outside.count(b"{")
        values += outside.count(b",")
        if most is not None and values > most:
            break
    return Outline(values, names, objects)


def check_size(body: bytes, events: int) -> Outline:
    """Refuse a body with far more values than its events can have, before it is decoded.

    Args:
        body: a JSON text, valid or not.
        events: number of events, at most.

    Raises:
        MalformedEvent: the body has more values.
    """
    most = max(FEWEST_VALUES, MOST_VALUES * events)
    found = outline(body, most=most)
    if found.values > most:
        raise MalformedEvent(
            "", f"the body has more than {most:,} values, more than such a request can need"
        )
    return found


def count_names(value: object) -> int:
    """Count the names of all objects in a decoded JSON value."""
    names, waiting = 0, [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            names += len(inner)
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner
    return names


def check_names(body: bytes) -> None:
    """Refuse a text in which an object has a name twice.

    Decoders use the last one, while a filter in front of Axon may have checked the first.

    Args:
        body: a valid JSON text; it is decoded once more.

    Raises:
        MalformedJson: a name is given twice.
    """
    if outline(body).names != count_names(msgspec.json.decode(body)):
        raise MalformedJson(TWICE)


async def decode_apart(decode: Callable[[bytes], Decoded], body: bytes) -> Decoded:
    """Decode a body; a large one in a thread, so that the event loop serves others meanwhile."""
    if len(body) <= SMALL_TEXT_BYTES:
        return decode(body)
    return await asyncio.get_running_loop().run_in_executor(_threads, decode, body)


def without_half_pairs(body: bytes) -> bytes:
    r"""Replace half surrogate pairs (`\ud800` alone), which stand for names that are not UTF-8.

    If they were refused, such names would evade detection.
    """
    # an escaped backslash begins no escape; hidden in a copy, from the left, as a decoder reads it
    text = np.frombuffer(body.replace(b"\\\\", b"--"), np.uint8)
    replaced = np.frombuffer(bytearray(body), np.uint8)
    for start in range(0, len(text), PIECE):
        first = max(start - _LONG, 0)  # the other half may stand before the piece, or after it
        halves = _half_pairs(text[first : start + PIECE + 2 * _LONG]) + first
        for place, digit in enumerate(b"fffd", start=2):
            replaced[halves[(halves >= start) & (halves < start + PIECE)] + place] = digit
    return replaced.tobytes()


def _half_pairs(text: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Find the half pairs of a text without escaped backslashes, by their first bytes."""
    begins = (text[:-5] == _ESCAPE) & (text[1:-4] == _U) & (text[2:-3] | _CASE == _D)
    starts = np.flatnonzero(begins)
    third = text[starts + 3] | _CASE
    is_high, is_low = np.isin(third, list(b"89ab")), np.isin(third, list(b"cdef"))
    is_code = _HEX[text[starts + 4]] & _HEX[text[starts + 5]] & (is_high | is_low)
    starts, is_high = starts[is_code], is_high[is_code]
    is_half = np.ones(len(starts), bool)
    pairs = np.flatnonzero(is_high[:-1] & ~is_high[1:] & (np.diff(starts) == _LONG))
    is_half[pairs] = is_half[pairs + 1] = False
    return starts[is_half]
