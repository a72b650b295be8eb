"""Manifest of a bundle: identity, files with digests, and the training that made it.

Trust in a bundle rests on the manifest: the release contains its digest, and its entries prove
every file. It is written last, so a directory with a manifest is a complete bundle.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

from msgspec import Meta

from ensemble.errors import ArtifactCorrupt
from ensemble.store.files import canonical_json
from ensemble.store.files.canonical_json import Serial, Sha256, is_timestamp, refuse_other_format
from ensemble.store.names import ModelName, Tenant

__all__ = [
    "FORMAT",
    "MANIFEST_LIMIT_BYTES",
    "PAYLOAD",
    "FileEntry",
    "Manifest",
    "encode_manifest",
    "installed_libraries",
    "is_picture",
    "parse_manifest",
]

FORMAT: Final = 1
MANIFEST_LIMIT_BYTES = 64 << 10  # RELIABILITY section 4: a manifest is a page, not a payload
FILE_LIMIT_BYTES = 1 << 30  # a replica loads two releases, and a bundle is proven in memory
PAYLOAD = ("CARD.md", "config.json", "golden.json", "model.safetensors")
LIBRARIES = ("numpy", "safetensors", "scikit-learn", "torch")

_PICTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,58}\.png")
_TRAINING: Mapping[str, type] = {"data_sha256": str, "recipe": str, "rows": int, "seed": int}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle, with the size and digest that prove it."""

    name: str
    size_bytes: Annotated[int, Meta(ge=0, le=FILE_LIMIT_BYTES)]
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of `manifest.json`.

    Attributes:
        created_at: time of publication, UTC, `2026-11-20T08:15:00Z`; for display, never for
            ordering.
        files: every file except the manifest, by name.
        libraries: library -> version installed when the bundle was made, "" if it was not
            installed.
        feature_schema: hash of the features that the model reads, "" if it reads none.
        training: at least `recipe`, `data_sha256`, `seed` and `rows`; a recipe may add more, all
            JSON.
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
        """Size of all files together, without the manifest."""
        return sum(entry.size_bytes for entry in self.files)


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON."""
    return canonical_json.encode(asdict(manifest))


def parse_manifest(data: bytes, *, what: str) -> Manifest:
    """Parse a manifest and check every field; prove the digest of `data` first.

    Args:
        data: at most 64 KiB.
        what: name of the file in errors.

    Raises:
        ArtifactIncompatible: it has another format.
        ArtifactCorrupt: `encode_manifest` would not have written it.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ArtifactCorrupt(what, f"is {len(data):,} bytes, allowed are {MANIFEST_LIMIT_BYTES:,}")
    value = canonical_json.decode(data, what=what)
    refuse_other_format(value, FORMAT, what=what)
    manifest = canonical_json.to_dataclass(value, Manifest, what=what)
    _refuse_bad_files(manifest, what)
    if not is_timestamp(manifest.created_at):
        raise ArtifactCorrupt(what, "created_at is not a time like 2026-11-20T08:15:00Z")
    for field, kind in _TRAINING.items():
        if type(manifest.training.get(field)) is not kind:
            raise ArtifactCorrupt(what, f"training.{field} is missing or of another type")
    return manifest


def is_picture(name: str) -> bool:
    """Whether `name` is a valid file name for a picture of the model card."""
    return _PICTURE.fullmatch(name) is not None


@cache
def _version_of(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def installed_libraries() -> dict[str, str]:
    """Map each library to its version here, "" if it is not installed; imports none of them."""
    return {"python": platform.python_version()} | {
        library: _version_of(library) for library in LIBRARIES
    }


def _refuse_bad_files(manifest: Manifest, what: str) -> None:
    names = [entry.name for entry in manifest.files]
    if names != sorted(set(names)):
        raise ArtifactCorrupt(what, "files are not in order, or one is named twice")
    if missing := sorted(set(PAYLOAD) - set(names)):
        raise ArtifactCorrupt(what, f"does not name {missing[0]}")
    if any(name not in PAYLOAD and not is_picture(name) for name in names):
        raise ArtifactCorrupt(what, "names a file that no bundle has")
