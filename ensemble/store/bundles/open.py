"""Open a published bundle: prove every byte, then hand over the bytes.

Nothing here decodes a model. A flipped bit can kill the process that decodes it, where no `except`
helps (RELIABILITY,
fact 1), so the proof comes first and what follows decodes the very bytes that were proven.
The chain: signed pointer -> digest and signature of the release -> digest and signature of the
manifest -> size and digest
of each file.
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


# Of the size of the files. The bytes that are proven, the arrays copied out of them and the model
# made of those are 3; tables of
# text become Python objects and take more. Measured peaks of the shipped models: 2.8 to 4.4, the
# most by posture-knowledge.
MEMORY_FACTOR = 5


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """The bytes that were published, all of them.

    Attributes:
        files: file name -> bytes, without the manifest; decode these, never the path again.
        signed: the manifest with its signature, as it lies there.
        notes: what a reader of the status should know, e.g. a library that has another version
            now. Arrays and JSON
            do not change with a library, so this is no error.
    """

    ref: BundleRef
    manifest: Manifest
    files: Mapping[str, bytes]
    signed: bytes
    notes: tuple[str, ...] = ()


def open_bundle(
    store: Store, ref: BundleRef, *, available_bytes: Callable[[], int] | None = None
) -> OpenedBundle:
    """The bundle `ref`, proven, from the first root that has it whole.

    Args:
        store: looked through in order.
        ref: which.
        available_bytes: of memory, asked before a payload is read; None does not ask.

    Raises:
        ArtifactMissing: no root has it ("Model not found"), or a file of it is not there; named.
        ArtifactCorrupt: bytes, size, or kind of a file are not what was published ("Model file
            corrupted"), or a file is
            there that nobody published.
        ArtifactUnreadable: it is there, but permission or the disk fails; the message says which.
        ArtifactUntrusted: nobody we trust signed the manifest, or it is that of another bundle.
        ArtifactIncompatible: made by an Axon of another format.
        InsufficientMemory: it would not fit.
    """
    user_errors: list[ArtifactError] = []
    for root in store.roots:
        try:
            return _open_in(root, ref, store.trust, available_bytes)
        except ArtifactError as refusal:
            user_errors.append(refusal)
    raise _most_specific(user_errors, _not_found(ref))


def refuse_other_bundle(manifest: Manifest, ref: BundleRef, what: str) -> None:
    """Refuse a manifest that lies where another one belongs: copied there, whoever signed it.

    Raises:
        ArtifactUntrusted: it is that of another tenant, model or version.
    """
    if (manifest.tenant, manifest.model, manifest.serial) != (ref.tenant, ref.model, ref.version):
        raise ArtifactUntrusted(what, "is the manifest of another bundle")


def _not_found(ref: BundleRef) -> str:
    """S1-11 says "Model not found: <path>"; ours names the model and keeps the path to itself."""
    return f"Model not found: {ref}"


def _most_specific(user_errors: list[ArtifactError], bundle: str) -> ArtifactError:
    """A root that does not have the bundle at all says less than one that has it broken."""
    return next(
        (r for r in user_errors if not (isinstance(r, ArtifactMissing) and r.what == bundle)),
        user_errors[0],
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
        raise ArtifactCorrupt(
            what, f"Model file corrupted: {found.problem}"
        ) from None  # S1-11's words


def _read_manifest(directory: int, ref: BundleRef) -> bytes:
    what = f"{ref}/{MANIFEST}"
    data = read_bounded(directory, MANIFEST, limit=MANIFEST_LIMIT_BYTES, what=what)
    found = sha256_of(data)
    if found != ref.manifest_sha256:
        raise ArtifactCorrupt(
            what, f"sha256 is {found[:12]}, the release says {ref.manifest_sha256[:12]}"
        )
    return data


def _refuse_other_names(found: set[str], manifest: Manifest, ref: BundleRef) -> None:
    named = {entry.name for entry in manifest.files} | {MANIFEST}
    if absent := sorted(named - found):
        raise ArtifactMissing(f"{ref}/{absent[0]}")
    if extra := sorted(found - named):
        raise ArtifactCorrupt(str(ref), f"holds a file that nobody published: {extra[0][:63]!a}")


def _library_notes(manifest: Manifest) -> tuple[str, ...]:
    now = installed_libraries()
    return tuple(
        f"made with {library} {made_with or '(none)'}, running {now[library] or '(none)'}"
        for library, made_with in sorted(manifest.libraries.items())
        if library in now and now[library] != made_with
    )


def check_memory(size_bytes: int, available_bytes: int) -> None:
    """Refuse a load that would not fit.

    Args:
        size_bytes: of all files of the bundle, by its proven manifest.
        available_bytes: that this process may still take.

    Raises:
        InsufficientMemory: with both numbers.
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
