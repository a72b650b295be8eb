"""Findings of rescoring: one line of JSON each, synced to disk before the event leaves the spool.

    <root>/findings.jsonl     the current file; rotated at half of the size limit
    <root>/findings.1.jsonl   the previous file

A finding is written at least once. If the process crashes after writing a finding and before
removing its event, the finding is written again. Two findings with the same digest and the same
time are therefore of the same event. Several processes append to one file under a lock on the
folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ensemble.retro.private_folder import alone, append_atomic, open_folder, open_to_read
from ensemble.retro.segment import FirstVerdict

__all__ = ["FINDINGS", "Finding", "Findings", "read_findings"]

FINDINGS = "findings.jsonl"
_BEFORE = "findings.1.jsonl"
_NEWLINE = b"\n"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An event that turned out hostile when more layers rescored it.

    Attributes:
        id: id of the event, as the caller gave it.
        tenant: tenant that sent the event.
        kind: kind of the event.
        host: host of the event.
        digest: SHA-256 of the event's canonical wire form, in hexadecimal.
        at: time of arrival, ISO 8601 in UTC.
        found_at: time of rescoring, ISO 8601 in UTC.
        was: the first verdict.
        verdict: the complete new verdict, in its wire form.
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
    """The files of findings in one folder.

    Args:
        root: folder of the spool and of the findings.
        limit_bytes: size limit of both files together.
    """

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root, self._limit_bytes = root, limit_bytes

    def append(self, found: Sequence[Finding]) -> None:
        """Write findings and sync them to disk.

        Raises:
            OSError: the disk is full or failing; no finding was written.
        """
        data = b"".join(_encode(one) + _NEWLINE for one in found)
        folder = open_folder(self._root)
        try:
            with alone(folder):
                size = _size(FINDINGS, folder)
                if size and size + len(data) > self._limit_bytes // 2:
                    os.replace(FINDINGS, _BEFORE, src_dir_fd=folder, dst_dir_fd=folder)
                    size = 0
                # a process that died while writing may have left half a line
                gap = b"" if _ends_in_newline(FINDINGS, size, folder) else _NEWLINE
                append_atomic(FINDINGS, gap + data, folder, at=size, sync=True)
                os.fsync(folder)
        finally:
            os.close(folder)


def read_findings(root: Path) -> tuple[list[Finding], int]:
    """Read every finding in `root`, oldest first, and count the lines that are not findings."""
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
