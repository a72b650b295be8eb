"""A bundle's manifest: what the bundle is, which files it has, what made it.

The manifest is the one thing that has to be trusted: its digest stands in the release, its entries prove every file.
It is written last, so a directory with a manifest is a whole bundle.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

from msgspec import Meta

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.store.files import canonical_json
from ensemble.store.names import ModelName, Tenant

__all__ = [
    "FORMAT",
    "MANIFEST_LIMIT_BYTES",
    "PAYLOAD",
    "FileEntry",
    "Manifest",
    "Serial",
    "Sha256",
    "encode_manifest",
    "installed_libraries",
    "is_picture",
    "is_timestamp",
    "parse_manifest",
    "refuse_other_format",
    "timestamp",
]

FORMAT: Final = 1
MANIFEST_LIMIT_BYTES = 64 << 10  # RELIABILITY section 4: a manifest is a page, not a payload
FILE_LIMIT_BYTES = 1 << 30  # a replica holds two releases, and a proven bundle is held whole in memory
PAYLOAD = ("CARD.md", "config.json", "golden.json", "model.safetensors")
LIBRARIES = ("numpy", "safetensors", "scikit-learn", "torch")

_PICTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,58}\.png")
_TRAINING: Mapping[str, type] = {"data_sha256": str, "recipe": str, "rows": int, "seed": int}
_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Serial = Annotated[int, Meta(ge=1, lt=10**15)]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle, and its proof."""

    name: str
    size_bytes: Annotated[int, Meta(ge=0, le=FILE_LIMIT_BYTES)]
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        created_at: when it was published, UTC, `2026-11-20T08:15:00Z`; for people, never for order.
        files: every file but the manifest, by name.
        libraries: library -> version that was installed when the bundle was made, "" where it was not.
        feature_schema: hash of the features it reads, "" where it reads none.
        training: at least `recipe`, `data_sha256`, `seed` and `rows`; more as the recipe likes, all JSON.
    """

    format: int
    tenant: Tenant
    model: ModelName
    serial: Serial
    created_at: str
    files: tuple[FileEntry, ...]
    libraries: dict[str, str]
    feature_schema: str
    training: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """Of all files together, without the manifest."""
        return sum(entry.size_bytes for entry in self.files)


def encode_manifest(manifest: Manifest) -> bytes:
    """The one text of `manifest`."""
    return canonical_json.encode(asdict(manifest))


def parse_manifest(data: bytes, *, what: str) -> Manifest:
    """The manifest that `data` spells, checked to the last field; prove the digest of `data` first.

    Args:
        data: at most 64 KiB.
        what: names the file in errors.

    Raises:
        ArtifactIncompatible: another format number.
        ArtifactCorrupt: anything else that `encode_manifest` would not have written.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ArtifactCorrupt(what, f"is {len(data):,} bytes, allowed are {MANIFEST_LIMIT_BYTES:,}")
    value = canonical_json.decode(data, what=what)
    refuse_other_format(value, FORMAT, what=what)
    manifest = canonical_json.to_dataclass(value, Manifest, what=what)
    _refuse_bad_files(manifest, what)
    if not is_timestamp(manifest.created_at):
        raise ArtifactCorrupt(what, "created_at is no time of the form 2026-11-20T08:15:00Z")
    for field, kind in _TRAINING.items():
        if type(manifest.training.get(field)) is not kind:
            raise ArtifactCorrupt(what, f"training.{field} is missing or of another type")
    return manifest


def refuse_other_format(value: object, known: int, *, what: str) -> None:
    """Tell a file of another Axon from a broken one, before any other field is looked at.

    Raises:
        ArtifactIncompatible: `value` has a whole `format`, and it is not `known`.
    """
    found = value.get("format") if isinstance(value, dict) else None
    if type(found) is int and found != known:
        raise ArtifactIncompatible(what, f"format {known}", f"format {found}")


def is_picture(name: str) -> bool:
    """Whether `name` is one that a picture of the model card may have."""
    return _PICTURE.fullmatch(name) is not None


def timestamp(now: datetime) -> str:
    """`now` as manifests and releases write it.

    Raises:
        ValueError: `now` has no time zone, so nobody knows when it is.
    """
    if now.tzinfo is None:
        raise ValueError("a time without a zone could be any of 24 hours")
    return now.astimezone(UTC).strftime(_TIMESTAMP)


@cache
def _version_of(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def installed_libraries() -> dict[str, str]:
    """Library -> version in this process, "" where it is not installed; nothing is imported to find out."""
    return {"python": platform.python_version()} | {library: _version_of(library) for library in LIBRARIES}


def is_timestamp(text: str) -> bool:
    """Whether `timestamp` could have written `text`."""
    try:
        return datetime.strptime(text, _TIMESTAMP).replace(tzinfo=UTC).strftime(_TIMESTAMP) == text
    except ValueError:
        return False


def _refuse_bad_files(manifest: Manifest, what: str) -> None:
    names = [entry.name for entry in manifest.files]
    if names != sorted(set(names)):
        raise ArtifactCorrupt(what, "files are not in order, or one is named twice")
    if missing := sorted(set(PAYLOAD) - set(names)):
        raise ArtifactCorrupt(what, f"does not name {missing[0]}")
    if any(name not in PAYLOAD and not is_picture(name) for name in names):
        raise ArtifactCorrupt(what, "names a file that no bundle has")
