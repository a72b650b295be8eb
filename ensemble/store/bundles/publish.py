"""Publication of a bundle: stage, fsync, prove, signed manifest last, rename.

A bundle is complete before it has a name that readers use, and it never changes afterwards. After a
crash at any step the old versions are unchanged, and the new one is complete or absent. Publishing
moves no pointer; `promote` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ensemble.errors import ArtifactCorrupt
from ensemble.model import Parts
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.codecs import (
    GOLDEN,
    Golden,
    decode_golden,
    decode_parts,
    encode_golden,
    encode_parts,
)
from ensemble.store.bundles.manifest import (
    FORMAT,
    MANIFEST_LIMIT_BYTES,
    FileEntry,
    Manifest,
    encode_manifest,
    installed_libraries,
    is_picture,
    parse_manifest,
)
from ensemble.store.bundles.quota import Quota, check_quota
from ensemble.store.files import atomic
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.layout import MANIFEST, Store, bundle_parts, next_serial, tenant_parts
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.signing import Document, Signer, signed_for

__all__ = ["publish_bundle", "publish_files"]

CARD = "CARD.md"


def publish_bundle(
    store: Store,
    tenant: Tenant,
    model: ModelName,
    parts: Parts,
    golden: Golden,
    *,
    card: str,
    pictures: Mapping[str, bytes],
    feature_schema: str,
    training: Mapping[str, Any],
    now: datetime,
    signer: Signer,
    quota: Quota | None = None,
) -> BundleRef:
    """Write the next version of a model into `store.state`.

    Two concurrent publishers of one model get two versions. The payload is written before the
    tenant's lock is acquired, so a large model does not block another publisher.

    Args:
        store: its `state` gets the bundle; versions rise over both of its roots.
        tenant: owner of the bundle.
        model: name of the model.
        parts: arrays and configuration of the model.
        golden: events with the scores that the model must give after loading.
        card: the model card, Markdown.
        pictures: file name ending in `.png` -> bytes, for the card.
        feature_schema: hash of the features that the model reads, "" if it reads none.
        training: `recipe`, `data_sha256`, `seed`, `rows`, and anything else that the recipe
            records; JSON.
        now: time of publication, with its time zone.
        signer: signs the manifest; the store must trust its key.
        quota: limits on models and versions; None for no limit.

    Raises:
        QuotaExceeded: the tenant has as many models or versions as the quota allows.
        ArtifactUntrusted: the store does not trust the signer.
        VersionExists: a publisher outside the lock, e.g. on another machine, was first.
        ArtifactIncompatible: an array cannot be stored or is not finite.
        ArtifactCorrupt: readers would refuse the bundle, e.g. for a training record without its
            seed.
        OSError: the disk is full or failing; nothing was published, unless only the last fsync
            failed, and staging is clean.
    """
    files = encode_parts(parts) | {GOLDEN: encode_golden(golden), CARD: card.encode()}
    decode_parts(files)  # raises if readers could not decode it; nothing is on the disk yet
    decode_golden(files[GOLDEN])
    if odd := [name for name in pictures if not is_picture(name)]:
        raise ArtifactCorrupt(
            ascii(odd[0][:63]),
            "is not a picture name: lower-case letters, digits, '.', '_', '-', ending in .png",
        )
    return publish_files(
        store,
        tenant,
        model,
        files | dict(pictures),
        libraries=installed_libraries(),
        feature_schema=feature_schema,
        training=training,
        now=now,
        signer=signer,
        quota=quota,
    )


def publish_files(
    store: Store,
    tenant: Tenant,
    model: ModelName,
    files: Mapping[str, bytes],
    *,
    libraries: Mapping[str, str],
    feature_schema: str,
    training: Mapping[str, Any],
    now: datetime,
    signer: Signer,
    quota: Quota | None,
) -> BundleRef:
    """Write the next version of a model from files that the caller has checked by decoding.

    `files` are all but the manifest, by name; `libraries` are those that made them. The other
    arguments and the errors are as in `publish_bundle`.
    """
    size_bytes = sum(map(len, files.values()))
    with AuditedAction(store, tenant, Action.PUBLISH, str(model)) as act:
        if quota is not None:
            # before the payload: refusing must be cheap
            check_quota(store, tenant, model, quota, size_bytes)
        with atomic.staging(store.state) as staged:
            entries = tuple(
                FileEntry(name, len(data), atomic.write_new(staged, name, data))
                for name, data in sorted(files.items())
            )
            home = atomic.make_directory(store.state, *tenant_parts(tenant))
            with atomic.exclusive(home):
                if quota is not None:
                    check_quota(store, tenant, model, quota, size_bytes)  # again, under the lock
                versions = atomic.make_directory(store.state, *bundle_parts(tenant, model))
                serial = next_serial(store, bundle_parts(tenant, model))
                manifest = Manifest(
                    format=FORMAT,
                    tenant=tenant,
                    model=model,
                    serial=serial,
                    created_at=timestamp(now),
                    files=entries,
                    libraries=dict(libraries),
                    feature_schema=feature_schema,
                    training=dict(training),
                )
                text = encode_manifest(manifest)
                parse_manifest(text, what=MANIFEST)
                signed = signed_for(
                    store.trust,
                    signer,
                    text,
                    Document.MANIFEST,
                    limit=MANIFEST_LIMIT_BYTES,
                    what=MANIFEST,
                )
                digest = atomic.write_new(staged, MANIFEST, signed)
                act.begin(what=f"{model}/{serial}", digest=digest)
                atomic.seal(staged)
                atomic.place_new(staged, versions / str(serial), what=f"{model}/{serial}")
    return BundleRef(tenant, model, serial, digest)
