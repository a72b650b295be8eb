"""Findings of the second look: one line of JSON each, on the disk before anything that led to it is forgotten.

    <root>/findings.jsonl     grows to half of the limit
    <root>/findings.1.jsonl   what it was before

A finding is written at least once: a crash between a finding and the removal of its event may
repeat it, with the same digest and
the same time, and the same two mean the same event. Several processes append to one file; a lock on
the folder orders them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ensemble.retro.private_folder import alone, append_whole, open_folder, open_to_read
from ensemble.retro.segment import FirstVerdict

__all__ = ["FINDINGS", "Finding", "Findings", "read_findings"]

FINDINGS = "findings.jsonl"
_BEFORE = "findings.1.jsonl"
_NEWLINE = b"\n"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An event that turned out hostile once more of the ensemble looked.

    Attributes:
        id: as the caller named the event.
        tenant: whose it is.
        kind: of the event.
        host: of the event.
        digest: SHA-256 of the event's canonical wire form, in hexadecimal.
        at: when the event came, ISO 8601 in UTC.
        found_at: when it turned hostile, likewise.
        was: what was said of it then.
        verdict: the whole new verdict, as the wire has it.
    """

    retro: Literal[True] = True
    id: str
    tenant: str = ""
    kind: str
    host: str
    digest: str
    at: str
    found_at: str
    was: FirstVerdict
    verdict: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Finding).decode


class Findings:
    """The file of findings.

    Args:
        root: folder of the spool and of the findings.
        limit_bytes: of both files together.
    """

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root, self._limit_bytes = root, limit_bytes

    def append(self, found: Sequence[Finding]) -> None:
        """Write findings; when this returns they are on the disk.

        Raises:
            OSError: the disk is full or failing; none of them was written.
        """
        data = b"".join(_encode(one) + _NEWLINE for one in found)
        folder = open_folder(self._root)
        try:
            with alone(folder):
                size = _size(FINDINGS, folder)
                if size and size + len(data) > self._limit_bytes // 2:
                    os.replace(FINDINGS, _BEFORE, src_dir_fd=folder, dst_dir_fd=folder)
                    size = 0
                gap = (
                    b"" if _ends_in_newline(FINDINGS, size, folder) else _NEWLINE
                )  # a writer that died left half a line
                append_whole(FINDINGS, gap + data, folder, at=size, sync=True)
                os.fsync(folder)
        finally:
            os.close(folder)


def read_findings(root: Path) -> tuple[list[Finding], int]:
    """Every finding in `root`, oldest first, and how many lines were none."""
    found: list[Finding] = []
    bad = 0
    for name in (_BEFORE, FINDINGS):
        try:
            lines = (root / name).read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                found.append(_decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                bad += 1
    return found, bad


def _size(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _ends_in_newline(name: str, size: int, folder: int) -> bool:
    if not size:
        return True
    with open_to_read(name, folder) as file:
        file.seek(size - 1)
        return file.read(1) == _NEWLINE
