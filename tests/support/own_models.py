"""Publication of a tenant's own model into the store of a test, with a trusted key."""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path

import yaml

from deployments.cli.local_store import own_store
from ensemble.store.bundles.codecs import GOLDEN, decode_golden, decode_parts
from ensemble.store.bundles.open import open_bundle
from ensemble.store.names import ModelName, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer
from ensemble.training.publish import Trained, publish

__all__ = ["DEFAULT", "publish_own_anomaly", "trust_signer"]

DEFAULT = Tenant("default")


def trust_signer(trust_file: Path, signer: Signer) -> None:
    """Make the key of the tests the only trusted key."""
    trust = yaml.safe_load(trust_file.read_text())
    trust["keys"] = {signer.key_id: base64.b64encode(signer.public).decode()}
    trust_file.write_text(yaml.safe_dump(trust))


def publish_own_anomaly(tenant: str, signer: Signer, now: datetime) -> str:
    """Publish and promote a release of `tenant`, and return its name.

    The release has a copy of the generic anomaly model as a version of the tenant.
    """
    store = own_store()
    generic = read_release(store, DEFAULT, read_pointer(store, DEFAULT))
    bundle = open_bundle(store, generic.bundles[ModelName("anomaly-flow")])
    trained = Trained(
        "anomaly-flow",
        decode_parts(bundle.files),
        decode_golden(bundle.files[GOLDEN]),
        {"recipe": f"of {tenant}", "data_sha256": "0" * 64, "seed": 0, "rows": 1},
        "# Card\n",
    )
    made = publish(
        store,
        tenant,
        [trained],
        {},
        notes="",
        now=now,
        signer=signer,
        and_promote=True,
        parents=[DEFAULT],
    )
    return f"{tenant}/{made.release.serial}"
