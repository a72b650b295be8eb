r"""Process starts: one name for one program, and what a command line looks like as numbers.

A program is called by its bare image name: `C:\Windows\System32\CMD.EXE`, `"cmd.exe"` and `cmd.exe
` are one process; Unix
names keep their case. A command line is measured, never understood: length, mixture of characters,
the longest word, the
longest stretch that looks like base64, and how surprising this child is under this parent.

Nothing is refused here. A command line over 32 KiB and a name over 256 bytes are cut, flagged and
scored: to refuse an event
for its length would be a way not to be scored. Cost: a few array passes over the bytes of all
command lines together.
Source: length, entropy and character shares as in Hendler, Kels, Rubin, "Detecting malicious
PowerShell commands using deep
neural networks", ASIACCS 2018, and Bohannon, Holmes, "Revoke-Obfuscation", 2017.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.events import ProcessBatch, ProcessEvent

__all__ = [
    "FEATURE_LIMITS",
    "FEATURE_NAMES",
    "MAX_COMMAND_LINE_BYTES",
    "MAX_NAME_BYTES",
    "admit",
    "command_line_features",
    "has_command_line",
    "image_name",
    "image_names",
    "schema_sha256",
]

MAX_COMMAND_LINE_BYTES = 32 * 1024  # DESIGN section 4; Windows itself allows 32,767 characters
MAX_NAME_BYTES = 256  # DESIGN section 4; of a name, parent, user and host alike

FEATURE_NAMES: tuple[str, ...] = (
    "length",  # log(1 + bytes)
    "entropy",  # bits a byte, 0 to 8
    "digit_share",
    "upper_share",
    "special_share",  # printable ASCII that is neither letter, digit nor blank
    "escape_share",  # ^ ` % $ and quotes: what obfuscation is made of
    "non_ascii_share",
    "arguments",  # log(1 + words after the first)
    "longest_word",  # log(1 + bytes)
    # log(1 + bytes) of the longest run of 24 or more with upper case, lower case and digits
    "longest_base64_run",
    # nats, -log P(child | parent) from a learnt table; 0 where no parent was given
    "parent_surprisal",
)

FEATURE_LIMITS: tuple[float, ...] = (
    10.4,
    8.0,
    1.0,
    1.0,
    1.0,
    1.0,
    1.0,
    9.7,
    10.4,
    10.4,
    12.0,
)  # each runs from 0 to about this

LEAST_BASE64_RUN = 24  # bytes; shorter mixtures are version numbers and names
BYTES_AT_ONCE = (
    1 << 20
)  # of command lines measured together: bounds the memory of a batch of long ones

_WINDOWS_SUFFIXES = (
    ".exe",
    ".com",
    ".scr",
    ".bat",
    ".cmd",
)  # names that only Windows gives, and Windows folds case
_DIGIT, _UPPER, _LOWER, _SPECIAL, _ESCAPE, _BLANK, _NON_ASCII, _BASE64 = (
    1 << bit for bit in range(8)
)


def _byte_classes() -> NDArray[np.uint8]:
    """Classes of each byte as bits, uint8 (256,)."""
    members = {
        _DIGIT: b"0123456789",
        _UPPER: bytes(range(65, 91)),
        _LOWER: bytes(range(97, 123)),
        _SPECIAL: bytes(c for c in range(33, 127) if not chr(c).isalnum()),
        _ESCAPE: b"^`%$'\"",
        _BLANK: b" \t\r\n\v\f\0",
        _NON_ASCII: bytes(range(128, 256)),
        _BASE64: bytes(c for c in range(128) if chr(c).isalnum())
        + b"+=",  # without "/": a Unix path is no secret
    }
    classes = np.zeros(256, np.uint8)
    for bit, some in members.items():
        classes[list(some)] |= bit
    classes.flags.writeable = False
    return classes


_CLASS_OF_BYTE = _byte_classes()
_IN_CLASS = {
    bit: ((_CLASS_OF_BYTE & bit) != 0).astype(np.int64)
    for bit in (_DIGIT, _UPPER, _SPECIAL, _ESCAPE, _NON_ASCII)
}


def schema_sha256() -> str:
    """Identity of this feature schema: names, order and limits; 64 hex digits."""
    schema = {
        "kind": "process",
        "names": FEATURE_NAMES,
        "max_command_line_bytes": MAX_COMMAND_LINE_BYTES,
        "max_name_bytes": MAX_NAME_BYTES,
        "least_base64_run": LEAST_BASE64_RUN,
        "format": 1,
    }
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def admit(events: Sequence[ProcessEvent], ids: Sequence[str] = ()) -> ProcessBatch:
    """Columns of `events` with what is too long cut, and a flag for every cut.

    A command line keeps its beginning; a name keeps its end, where the image name of a path is.

    Args:
        events: as they came.
        ids: one an event, or none at all.

    Returns:
        The batch; `flags` holds `command_line_cut` and `name_cut` for the rows concerned.
    """
    flags: dict[int, tuple[str, ...]] = {}
    columns: list[ProcessEvent] = []
    for row, event in enumerate(events):
        short = ProcessEvent(
            name=_last_bytes(event.name),
            parent=_last_bytes(event.parent),
            command_line=_first_bytes(event.command_line),
            user=_last_bytes(event.user),
            host=_last_bytes(event.host),
        )
        columns.append(short)
        if short != event:
            is_line_cut = short.command_line != event.command_line
            is_name_cut = (short.name, short.parent, short.user, short.host) != (
                event.name,
                event.parent,
                event.user,
                event.host,
            )
            flags[row] = ("command_line_cut",) * is_line_cut + ("name_cut",) * is_name_cut
    batch = ProcessBatch.of(columns, ids)
    return ProcessBatch(
        batch.ids, batch.hosts, batch.users, batch.names, batch.parents, batch.command_lines, flags
    )


def image_name(path: str) -> str:
    r"""The bare name of a program: the last part of its path, lower case for Windows programs.

    `C:\Tools\PsExec.EXE` -> `psexec.exe`; `/usr/bin/Xvfb` -> `Xvfb`; "" where there is no name.
    """
    is_windows = "\\" in path
    last = path.replace("\\", "/").strip(" \t\r\n\"'").rstrip("/").rpartition("/")[2]
    bare = last.rstrip(". ")  # Windows ignores trailing dots and blanks
    folded = bare.casefold()
    return folded if is_windows or folded.endswith(_WINDOWS_SUFFIXES) else bare


def image_names(paths: Iterable[str]) -> list[str]:
    """`image_name` of each path. Each distinct path is parsed once."""
    parsed: dict[str, str] = {}
    names: list[str] = []
    for path in paths:
        name = parsed.get(path)
        if name is None:
            name = parsed[path] = image_name(path)
        names.append(name)
    return names


def has_command_line(batch: ProcessBatch) -> NDArray[np.bool_]:
    """Which events have a command line to measure, bool (n,)."""
    return np.array([bool(line.strip()) for line in batch.command_lines], np.bool_)


def command_line_features(
    command_lines: Sequence[str], parent_surprisal: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Feature vector of each command line.

    Args:
        command_lines: n strings; what is beyond `MAX_COMMAND_LINE_BYTES` is not read.
        parent_surprisal: float (n,), nats, finite; the table it comes from is learnt, so the
            caller brings it.

    Returns:
        float32 (n, d), finite, in the order of `FEATURE_NAMES`; an empty line is a row of zeros but
        for the last column.
    """
    lines = [
        line.encode("utf-8", "surrogatepass")[:MAX_COMMAND_LINE_BYTES] for line in command_lines
    ]
    features = np.zeros((len(lines), len(FEATURE_NAMES)), np.float32)
    sizes = np.array([len(line) for line in lines], np.int64)
    portion = np.cumsum(sizes) // BYTES_AT_ONCE
    starts = (
        np.append(np.flatnonzero(np.diff(portion, prepend=-1)), len(lines))
        if lines
        else np.array([0])
    )
    for first, last in itertools.pairwise(starts.tolist()):
        features[first:last, :-1] = _measured(lines[first:last], sizes[first:last])
    features[:, -1] = parent_surprisal
    return features


def _measured(lines: list[bytes], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """All features but the last, float64 (n, d - 1)."""
    n = len(lines)
    text = np.frombuffer(
        b" ".join(lines) + b" ", np.uint8
    )  # a blank ends every line, so that no run reaches into the next
    row_of_byte = np.repeat(np.arange(n), sizes + 1)
    histogram = np.bincount(row_of_byte * 256 + text, minlength=n * 256).reshape(n, 256)
    histogram[:, ord(" ")] -= 1  # the blank that ended the line was ours
    size = np.maximum(sizes, 1)
    share = histogram / size[:, None]
    entropy = -(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=1)
    shares = {
        bit: (histogram @ member) / size for bit, member in _IN_CLASS.items()
    }  # integers: exact, whatever the batch
    classes = _CLASS_OF_BYTE[text]
    words, word_lengths, _ = _runs((classes & _BLANK) == 0, row_of_byte)
    base64_rows, base64_lengths, spans = _runs((classes & _BASE64) != 0, row_of_byte)
    is_mixed = base64_lengths >= LEAST_BASE64_RUN
    for bit in (_UPPER, _LOWER, _DIGIT):
        is_mixed &= spans((classes & bit) != 0) > 0
    return np.column_stack(
        [
            np.log1p(sizes),
            entropy,
            shares[_DIGIT],
            shares[_UPPER],
            shares[_SPECIAL],
            shares[_ESCAPE],
            shares[_NON_ASCII],
            np.log1p(np.maximum(np.bincount(words, minlength=n) - 1, 0)),
            np.log1p(_longest(words, word_lengths, n)),
            np.log1p(_longest(base64_rows[is_mixed], base64_lengths[is_mixed], n)),
        ]
    )


def _runs(
    inside: NDArray[np.bool_], row_of_byte: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Callable[[NDArray[np.bool_]], NDArray[np.int64]]]:
    """Unbroken stretches of `inside`.

    Row of each, its length, and a function that counts members of a class in each.
    """
    edges = np.diff(
        inside.astype(np.int8), prepend=0
    )  # the last byte is a blank of ours: every run ends
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)

    def members(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        before = np.concatenate(([0], np.cumsum(mask)))
        return before[ends] - before[begins]

    return row_of_byte[begins], ends - begins, members


def _longest(rows: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Greatest length of each row, 0 where it has none; int64 (n,)."""
    longest = np.zeros(n, np.int64)
    np.maximum.at(longest, rows, lengths)
    return longest


def _first_bytes(command_line: str) -> str:
    if len(command_line) * 4 <= MAX_COMMAND_LINE_BYTES:  # UTF-8 takes four bytes at most
        return command_line
    encoded = command_line.encode("utf-8", "surrogatepass")
    return (
        command_line
        if len(encoded) <= MAX_COMMAND_LINE_BYTES
        else encoded[:MAX_COMMAND_LINE_BYTES].decode("utf-8", "ignore")
    )


def _last_bytes(name: str) -> str:
    if len(name) * 4 <= MAX_NAME_BYTES:
        return name
    encoded = name.encode("utf-8", "surrogatepass")
    return (
        name
        if len(encoded) <= MAX_NAME_BYTES
        else encoded[-MAX_NAME_BYTES:].decode("utf-8", "ignore")
    )
