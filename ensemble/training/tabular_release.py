"""A fitted detector becomes a published version, and the one that serves. Only who may sign does either."""

from __future__ import annotations

from datetime import datetime

from ensemble.errors import ArtifactError
from ensemble.features.tabular import schema_sha256
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.releases.aliases import Alias, set_model_alias, stand_of_model_alias
from ensemble.store.signing import Signer
from ensemble.training.publish import Trained

__all__ = ["make_champion", "publish_detector"]


def publish_detector(
    store: Store, tenant: Tenant, trained: Trained, *, now: datetime, signer: Signer, quota: Quota | None = None
) -> BundleRef:
    """Publish a detector as the next version of its name; it serves once `make_champion` was called.

    Args:
        store: its `state` is written.
        tenant: whose.
        trained: from `fit_tabular`.
        now: when, with its time zone.
        signer: the store must trust its key.
        quota: how many versions and models there may be.

    Raises:
        ArtifactError: it could not be read back, the store does not trust the signer, or the quota is full.
        OSError: the disk is full or failing.
    """
    return publish_bundle(
        store,
        tenant,
        ModelName(trained.name),
        trained.parts,
        trained.golden,
        card=trained.card,
        pictures=trained.pictures,
        feature_schema=schema_sha256(trained.training["feature_names"]),
        training=trained.training,
        now=now,
        signer=signer,
        quota=quota,
    )


def make_champion(store: Store, ref: BundleRef, *, signer: Signer) -> None:
    """Make a published version the one that serves.

    Raises:
        PointerMoved: another one became champion in this moment.
        ArtifactError: it would not load, or the store does not trust the signer.
        OSError: the disk is full or failing; the champion of before stays.
    """
    try:
        seen = stand_of_model_alias(store, ref.tenant, ref.model, Alias.CHAMPION).serial
    except ArtifactError:
        seen = 0  # what cannot be read is replaced, and its copy says where the serials stand
    set_model_alias(store, ref.tenant, ref.model, Alias.CHAMPION, ref, seen, signer=signer)
