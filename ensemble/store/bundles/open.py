"""Opening of a published bundle: prove every byte, then return the bytes.

No model is decoded here. A flipped bit can kill the process that decodes it, which no `except`
catches (RELIABILITY, fact 1). So the proof comes first, and the decoder gets the very bytes that
were proven. The chain of proof: signed pointer -> digest and signature of the release -> digest and
signature of the manifest -> size and digest of each file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMissing,
    ArtifactUntrusted,
    InsufficientMemory,
)
from ensemble.store.bundles.manifest import (
    MANIFEST_LIMIT_BYTES,
    FileEntry,
    Manifest,
    installed_libraries,
    parse_manifest,
)
from ensemble.store.files.fingerprint import folder_fingerprint
from ensemble.store.files.safe_read import (
    list_names,
    open_directory,
    read_bounded,
    read_proven,
    sha256_of,
)
from ensemble.store.layout import MANIFEST, Store, bundle_parts
from ensemble.store.names import BundleRef
from ensemble.store.signing import Document, Trust

__all__ = [
    "MEMORY_FACTOR",
    "OpenedBundle",
    "bundle_fingerprint",
    "check_memory",
    "open_bundle",
    "refuse_other_bundle",
]


# Memory for a load, as a multiple of the size of the files. The proven bytes, the arrays copied
# from them and the model built from those make 3; tables of text become Python objects: more.
# Measured peaks of the shipped models: 2.8 to 4.4, the highest for posture-knowledge.
MEMORY_FACTOR = 5


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """A bundle whose bytes are all proven.

    Attributes:
        files: file name -> bytes, without the manifest; decode these, and do not read the files
            again.
        signed: the manifest with its signature, as stored.
        notes: remarks for the status, e.g. a library that has another version now. This is no
            error, because arrays and JSON do not depend on the library.
    """

    ref: BundleRef
    manifest: Manifest
    files: Mapping[str, bytes]
    signed: bytes
    notes: tuple[str, ...] = ()


def open_bundle(
    store: Store, ref: BundleRef, *, available_bytes: Callable[[], int] | None = None
) -> OpenedBundle:
    """Open and prove the bundle `ref` from the first root that has all of it.

    Args:
        store: its roots are tried in order.
        ref: bundle to open.
        available_bytes: returns the free memory, checked before a payload is read; None for no
            check.

    Raises:
        ArtifactMissing: no root has it ("Model not found"), or the named file of it is missing.
        ArtifactCorrupt: bytes, size or kind of a file differ from those published ("Model file
            corrupted"), or there is an additional file.
        ArtifactUnreadable: it exists, but permission is denied or the disk fails.
        ArtifactUntrusted: no trusted key signed the manifest, or it is that of another bundle.
        ArtifactIncompatible: it has another format.
        InsufficientMemory: it does not fit into memory.
    """
    errors: list[ArtifactError] = []
    for root in store.roots:
        try:
            return _open_in(root, ref, store.trust, available_bytes)
        except ArtifactError as refusal:
            errors.append(refusal)
    raise _most_specific(errors, _not_found(ref))


def refuse_other_bundle(manifest: Manifest, ref: BundleRef, what: str) -> None:
    """Refuse a signed manifest that was copied from another bundle.

    Raises:
        ArtifactUntrusted: it belongs to another tenant, model or version.
    """
    if (manifest.tenant, manifest.model, manifest.serial) != (ref.tenant, ref.model, ref.version):
        raise ArtifactUntrusted(what, "is the manifest of another bundle")


def _not_found(ref: BundleRef) -> str:
    """Return the message of S1-11, "Model not found: <path>", with the model for the path."""
    return f"Model not found: {ref}"


def _most_specific(errors: list[ArtifactError], bundle: str) -> ArtifactError:
    """Prefer the error of a root with a broken bundle to that of a root without the bundle."""
    return next(
        (r for r in errors if not (isinstance(r, ArtifactMissing) and r.what == bundle)),
        errors[0],
    )


def _open_in(
    root: Path, ref: BundleRef, trust: Trust, available_bytes: Callable[[], int] | None
) -> OpenedBundle:
    with open_directory(
        root, *bundle_parts(ref.tenant, ref.model), str(ref.version), what=_not_found(ref)
    ) as directory:
        signed = _read_manifest(directory, ref)
        manifest = parse_manifest(
            trust.prove(signed, Document.MANIFEST, what=f"{ref}/{MANIFEST}"),
            what=f"{ref}/{MANIFEST}",
        )
        refuse_other_bundle(manifest, ref, f"{ref}/{MANIFEST}")
        _refuse_other_names(set(list_names(directory, what=str(ref))), manifest, ref)
        if available_bytes is not None:
            check_memory(manifest.size_bytes, available_bytes())
        files = {
            entry.name: _prove_file(directory, entry, f"{ref}/{entry.name}")
            for entry in manifest.files
        }
    return OpenedBundle(ref, manifest, files, signed, _library_notes(manifest))


def _prove_file(directory: int, entry: FileEntry, what: str) -> bytes:
    try:
        return read_proven(
            directory, entry.name, size_bytes=entry.size_bytes, sha256=entry.sha256, what=what
        )
    except ArtifactCorrupt as found:
        # the wording of S1-11
        raise ArtifactCorrupt(what, f"Model file corrupted: {found.problem}") from None


def _read_manifest(directory: int, ref: BundleRef) -> bytes:
    what = f"{ref}/{MANIFEST}"
    data = read_bounded(directory, MANIFEST, limit=MANIFEST_LIMIT_BYTES, what=what)
    found = sha256_of(data)
    if found != ref.manifest_sha256:
        raise ArtifactCorrupt(
            what, f"sha256 is {found[:12]}, the release has {ref.manifest_sha256[:12]}"
        )
    return data


def _refuse_other_names(found: set[str], manifest: Manifest, ref: BundleRef) -> None:
    named = {entry.name for entry in manifest.files} | {MANIFEST}
    if absent := sorted(named - found):
        raise ArtifactMissing(f"{ref}/{absent[0]}")
    if extra := sorted(found - named):
        raise ArtifactCorrupt(str(ref), f"has a file that was not published: {extra[0][:63]!a}")


def _library_notes(manifest: Manifest) -> tuple[str, ...]:
    now = installed_libraries()
    return tuple(
        f"made with {library} {made_with or '(none)'}, running {now[library] or '(none)'}"
        for library, made_with in sorted(manifest.libraries.items())
        if library in now and now[library] != made_with
    )


def check_memory(size_bytes: int, available_bytes: int) -> None:
    """Refuse a bundle that would not fit into memory.

    Args:
        size_bytes: of all files of the bundle, from its proven manifest.
        available_bytes: memory that this process may still allocate.

    Raises:
        InsufficientMemory: the bundle needs more than is available.
    """
    needed_bytes = MEMORY_FACTOR * size_bytes
    if available_bytes < needed_bytes:
        raise InsufficientMemory(needed_bytes, available_bytes)


def bundle_fingerprint(store: Store, ref: BundleRef) -> Hashable:
    """Fingerprint the files of a bundle in each root, to notice that one changed."""
    return tuple(
        folder_fingerprint(root.joinpath(*bundle_parts(ref.tenant, ref.model), str(ref.version)))
        for root in store.roots
    )
