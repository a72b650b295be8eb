"""Findings of rescoring: one line of JSON each, synced to disk before the event leaves the spool.

    <root>/findings.jsonl     the current file; full at half of the size limit
    <root>/findings.1.jsonl   the newest of the earlier ones, up to half of the limit

When the current file is full, its findings join the earlier ones. Where those have no room for all,
the tenants share it: one that has more than its share loses its oldest, so that no tenant pushes
out another's.

A finding is written at least once. If the process crashes after writing a finding and before
removing its event, the finding is written again. Two findings with the same digest and the same
time are therefore of the same event. Several processes append to one file under a lock on the
folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from ensemble.retro.private_folder import alone, append_atomic, open_folder, open_to_read
from ensemble.retro.segment import FirstVerdict

__all__ = ["FINDINGS", "Finding", "Findings", "read_findings"]

FINDINGS = "findings.jsonl"
_BEFORE, _NEW = "findings.1.jsonl", "findings.1.jsonl.new"
_NEWLINE = b"\n"
_PART_BYTES = 1 << 20  # written at a time


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


class _OnlyTenant(msgspec.Struct):
    tenant: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Finding).decode
_decode_tenant = msgspec.json.Decoder(_OnlyTenant).decode


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
                    _rotate(folder, self._limit_bytes // 2)
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


def _rotate(folder: int, limit_bytes: int) -> None:
    """Join the current file to the one before, which keeps `limit_bytes` of the newest findings.

    A crash may repeat findings, but loses none.
    """
    sizes: Counter[str] = Counter()
    for tenant, line in _lines(folder):
        sizes[tenant] += len(line)
    share = _share_bytes(sizes, limit_bytes)
    with suppress(FileNotFoundError):  # of a process that died here
        os.unlink(_NEW, dir_fd=folder)
    written, part = 0, bytearray()
    for tenant, line in _lines(folder):  # the oldest first
        if sizes[tenant] > share:
            sizes[tenant] -= len(line)
            continue
        part += line
        if len(part) >= _PART_BYTES:
            append_atomic(_NEW, bytes(part), folder, at=written, sync=False)
            written, part = written + len(part), bytearray()
    append_atomic(_NEW, bytes(part), folder, at=written, sync=True)
    os.replace(_NEW, _BEFORE, src_dir_fd=folder, dst_dir_fd=folder)
    os.unlink(FINDINGS, dir_fd=folder)


def _share_bytes(sizes: Mapping[str, int], limit_bytes: int) -> int:
    """The largest share, so that all tenants fit, each with its size or with the share."""
    left = limit_bytes
    for place, size in enumerate(sorted(sizes.values())):
        tenants = len(sizes) - place
        if size * tenants > left:
            return left // tenants
        left -= size
    return limit_bytes


def _lines(folder: int) -> Iterator[tuple[str, bytes]]:
    """Tenant and text of every line, oldest first; the tenant of a line that is torn is ""."""
    for name in (_BEFORE, FINDINGS):
        with suppress(FileNotFoundError), open_to_read(name, folder) as file:
            for line in file:
                if not line.endswith(_NEWLINE):
                    line += _NEWLINE  # noqa: PLW2901  # a process died while it wrote it
                try:
                    yield _decode_tenant(line).tenant, line
                except (msgspec.DecodeError, UnicodeDecodeError):
                    yield "", line


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
