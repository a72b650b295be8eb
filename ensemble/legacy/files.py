"""The four files of the older Axon Engine: names, pairs, and verified reading.

    layer 1  anomaly_model.joblib   an isolation forest over the 78 flow features
             process_frequencies.joblib   program name -> launches
    layer 2  deep_classifier.pth    the weights of a network
             deep_scaler.joblib     the scaler in front of it

A layer needs both of its files: the forest of one day with the counts of another would be a model
that was never tested. A `checksums.txt` beside them, as sha256sum writes it, verifies them. MD5 is
accepted with a warning: it detects an accident, not a forgery.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ArtifactCorrupt, ArtifactMissing
from ensemble.store.files import list_names, open_directory, read_bounded

__all__ = [
    "CHECKSUMS",
    "CLASSIFIER",
    "FOREST",
    "FREQUENCIES",
    "PAIRS",
    "SCALER",
    "OldFiles",
    "present",
    "read_pair",
]

FOREST = "anomaly_model.joblib"
FREQUENCIES = "process_frequencies.joblib"
CLASSIFIER = "deep_classifier.pth"
SCALER = "deep_scaler.joblib"
CHECKSUMS = "checksums.txt"
PAIRS: Mapping[str, tuple[str, str]] = {
    "anomaly": (FOREST, FREQUENCIES),
    "behavior": (CLASSIFIER, SCALER),
}
CHECKSUMS_LIMIT_BYTES = 64 << 10
_LINE = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S+)")
_MD5_DIGITS = 32


@dataclass(frozen=True, slots=True)
class OldFiles:
    """Both files of one layer, in memory; decode these bytes and never the path again (C-30).

    Attributes:
        data: file name -> bytes.
        warnings: notes for the operator on how the files were verified.
    """

    data: Mapping[str, bytes]
    warnings: tuple[str, ...] = ()


def present(folder: Path) -> dict[str, tuple[str, ...]]:
    """Find the files of each layer that are in `folder`.

    Raises:
        ArtifactError: the folder is missing, or cannot be read.
    """
    with open_directory(folder, what="the folder of model files") as directory:
        names = set(list_names(directory, what="the folder of model files"))
    return {layer: tuple(name for name in pair if name in names) for layer, pair in PAIRS.items()}


def read_pair(folder: Path, layer: str, *, limit_bytes: int) -> OldFiles:
    """Read both files of `layer`, at most `limit_bytes` each, and verify listed checksums.

    Raises:
        ArtifactMissing: one of the two is missing.
        ArtifactCorrupt: not a plain file, too long, or another digest than in `checksums.txt`.
        ArtifactUnreadable: permission denied, or a failing disk.
    """
    with open_directory(folder, what="the folder of model files") as directory:
        data = {
            name: read_bounded(directory, name, limit=limit_bytes, what=name)
            for name in PAIRS[layer]
        }
        if CHECKSUMS not in list_names(directory, what="the folder of model files"):
            return OldFiles(
                data,
                (f"there is no {CHECKSUMS}: the files cannot be verified",),
            )
        listed = _listed(
            read_bounded(directory, CHECKSUMS, limit=CHECKSUMS_LIMIT_BYTES, what=CHECKSUMS)
        )
    is_md5 = [_verify(name, content, listed) for name, content in data.items()]
    weak = (
        f"{CHECKSUMS} has MD5 digests: they detect accidents, but not forgery; SHA-256 detects both"
    )
    return OldFiles(data, (weak,) if any(is_md5) else ())


def _listed(text: bytes) -> dict[str, str]:
    """Parse `checksums.txt`: file name -> hexadecimal digest."""
    listed: dict[str, str] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ArtifactCorrupt(
                CHECKSUMS, f"line {number} is not a digest (MD5 or SHA-256) and a file name"
            )
        digest, name = found.groups()
        if listed.setdefault(name, digest.lower()) != digest.lower():
            raise ArtifactCorrupt(CHECKSUMS, f"line {number} repeats a file with another digest")
    return listed


def _verify(name: str, content: bytes, listed: Mapping[str, str]) -> bool:
    """Verify `content` by its listed digest; return whether that is only MD5."""
    expected = listed.get(name)
    if expected is None:
        raise ArtifactMissing(f"{name} in {CHECKSUMS}")
    is_md5 = len(expected) == _MD5_DIGITS
    found = (
        hashlib.md5(content, usedforsecurity=False) if is_md5 else hashlib.sha256(content)
    ).hexdigest()
    if found != expected:
        raise ArtifactCorrupt(
            name,
            f"Model file corrupted: its digest is {found[:12]}, {CHECKSUMS} says {expected[:12]}",
        )
    return is_md5
