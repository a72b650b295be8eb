r"""Process starts: normalized program names, and command lines as numbers.

A program is identified by its image name: `C:\Windows\System32\CMD.EXE`, `"cmd.exe"` and `cmd.exe`
with a trailing blank are one program. Unix names are case-sensitive. A command line is measured,
not parsed: its length, its mixture of characters, the longest word, the longest run that resembles
base64, and how surprising the child is under its parent.

Nothing is rejected here. A command line over 32 KiB and a name over 256 bytes are cut, flagged and
scored: otherwise an attacker could avoid a score by length. Cost: a few array passes over the bytes
of all command lines together.
Source: length, entropy and character shares as in Hendler, Kels, Rubin, "Detecting malicious
PowerShell commands using deep neural networks", ASIACCS 2018, and Bohannon, Holmes,
"Revoke-Obfuscation", 2017.
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
    "cut",
    "has_command_line",
    "image_name",
    "image_names",
    "schema_sha256",
]

MAX_COMMAND_LINE_BYTES = 32 * 1024  # DESIGN section 4; Windows itself allows 32,767 characters
MAX_NAME_BYTES = 256  # DESIGN section 4; for names, parents, users and hosts

FEATURE_NAMES: tuple[str, ...] = (
    "length",  # log(1 + bytes)
    "entropy",  # bits a byte, 0 to 8
    "digit_share",
    "upper_share",
    "special_share",  # printable ASCII that is neither letter, digit nor blank
    "escape_share",  # ^ ` % $ and quotes, which obfuscation uses
    "non_ascii_share",
    "arguments",  # log(1 + words after the first)
    "longest_word",  # log(1 + bytes)
    # log(1 + bytes) of the longest run of 24 or more with upper case, lower case and digits
    "longest_base64_run",
    # nats, -log P(child | parent) from a trained table; 0 without a parent
    "parent_surprisal",
)

# Approximate maximum of each feature; the minimum is 0.
FEATURE_LIMITS: tuple[float, ...] = (10.4, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.7, 10.4, 10.4, 12.0)

LEAST_BASE64_RUN = 24  # bytes; shorter mixtures are version numbers and names
# Bytes of command lines that are measured together: bounds the memory of a batch of long ones.
BYTES_AT_ONCE = 1 << 20

# Suffixes of Windows alone, whose file names are case-insensitive.
_WINDOWS_SUFFIXES = (".exe", ".com", ".scr", ".bat", ".cmd")
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
        # Without "/", or a Unix path would count.
        _BASE64: bytes(c for c in range(128) if chr(c).isalnum()) + b"+=",
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
    """Build the columns of `events`; values that are too long are cut, with a flag.

    A command line is cut at the end. A name is cut at the beginning, because the image name is at
    the end of a path.

    Args:
        events: process starts.
        ids: one for each event, or empty.

    Returns:
        The batch, with the flags `command_line_cut` and `name_cut`.
    """
    flags: dict[int, tuple[str, ...]] = {}
    columns: list[ProcessEvent] = []
    for row, event in enumerate(events):
        short = cut(event)
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


def cut(event: ProcessEvent) -> ProcessEvent:
    """Cut the texts of an event to what is scored of it, see `admit`."""
    return ProcessEvent(
        name=_last_bytes(event.name),
        parent=_last_bytes(event.parent),
        command_line=_first_bytes(event.command_line),
        user=_last_bytes(event.user),
        host=_last_bytes(event.host),
    )


def image_name(path: str) -> str:
    r"""Image name of a program: the last part of its path, in lower case for Windows programs.

    `C:\Tools\PsExec.EXE` -> `psexec.exe`; `/usr/bin/Xvfb` -> `Xvfb`; "" without a name.
    """
    is_windows = "\\" in path
    last = path.replace("\\", "/").strip(" \t\r\n\"'").rstrip("/").rpartition("/")[2]
    bare = last.rstrip(". ")  # Windows ignores trailing dots and blanks
    folded = bare.casefold()
    return folded if is_windows or folded.endswith(_WINDOWS_SUFFIXES) else bare


def image_names(paths: Iterable[str]) -> list[str]:
    """Image name of each path; each distinct path is parsed once."""
    parsed: dict[str, str] = {}
    names: list[str] = []
    for path in paths:
        name = parsed.get(path)
        if name is None:
            name = parsed[path] = image_name(path)
        names.append(name)
    return names


def has_command_line(batch: ProcessBatch) -> NDArray[np.bool_]:
    """Whether each event has a command line, bool (n,)."""
    return np.array([bool(line.strip()) for line in batch.command_lines], np.bool_)


def command_line_features(
    command_lines: Sequence[str], parent_surprisal: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Feature vector of each command line.

    Args:
        command_lines: n strings; bytes after `MAX_COMMAND_LINE_BYTES` are ignored.
        parent_surprisal: float (n,), nats, finite; given by the caller, because its table is
            trained.

    Returns:
        float32 (n, d), finite, in the order of `FEATURE_NAMES`; for an empty line, zeros except for
        the last column.
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
    # A blank ends every line, so that no run continues into the next.
    text = np.frombuffer(b" ".join(lines) + b" ", np.uint8)
    row_of_byte = np.repeat(np.arange(n), sizes + 1)
    histogram = np.bincount(row_of_byte * 256 + text, minlength=n * 256).reshape(n, 256)
    histogram[:, ord(" ")] -= 1  # the added blank does not count
    size = np.maximum(sizes, 1)
    share = histogram / size[:, None]
    entropy = -(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=1)
    # Integer products: exact in any batch.
    shares = {bit: (histogram @ member) / size for bit, member in _IN_CLASS.items()}
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
    """Find the runs of `inside`.

    Returns the row of each, its length, and a function that counts the members of a class in each.
    """
    # The last byte is an added blank, so that every run ends.
    edges = np.diff(inside.astype(np.int8), prepend=0)
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)

    def members(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        before = np.concatenate(([0], np.cumsum(mask)))
        return before[ends] - before[begins]

    return row_of_byte[begins], ends - begins, members


def _longest(rows: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Greatest length of each row, int64 (n,); 0 for a row without any."""
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
