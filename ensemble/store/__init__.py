"""Model store: signed, versioned bundles and releases of each tenant, proven before decoding.

Other packages import from here or from `ensemble.store.files`, never from a file inside.
"""

from ensemble.store.audit_log import Action, AuditedAction, AuditEntry, Outcome, verify_audit
from ensemble.store.bundles.codecs import (
    ARRAYS,
    CONFIG,
    GOLDEN,
    Golden,
    decode_golden,
    decode_parts,
    encode_parts,
)
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.manifest import installed_libraries
from ensemble.store.bundles.metadata import Metadata, refuse_other_type
from ensemble.store.bundles.open import OpenedBundle, bundle_fingerprint, open_bundle
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import POINTER, Actor, Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant, parse_serial
from ensemble.store.operations.archive import ARCHIVE_LIMIT_BYTES
from ensemble.store.operations.describe import BundleInfo
from ensemble.store.operations.quarantine import (
    list_quarantine,
    quarantine_bundle,
    quarantine_file,
)
from ensemble.store.registry import ModelRegistry, ReleaseOverview, VisibleModel
from ensemble.store.releases.aliases import Alias, AliasTarget, get_alias, read_challenger
from ensemble.store.releases.list import ReleaseListing
from ensemble.store.releases.pointer import Pointer, has_pointer, read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.releases.release_file import Release, read_release
from ensemble.store.signing import NO_TRUST, Signer, Trust, key_id_of

__all__ = [
    "ARCHIVE_LIMIT_BYTES",
    "ARRAYS",
    "CONFIG",
    "GOLDEN",
    "NO_TRUST",
    "POINTER",
    "Action",
    "Actor",
    "Alias",
    "AliasTarget",
    "AuditEntry",
    "AuditedAction",
    "BundleInfo",
    "BundleRef",
    "Golden",
    "Metadata",
    "ModelName",
    "ModelRegistry",
    "OpenedBundle",
    "Outcome",
    "Pointer",
    "Quota",
    "Release",
    "ReleaseListing",
    "ReleaseOverview",
    "ReleaseRef",
    "Signer",
    "Store",
    "Tenant",
    "Trust",
    "VisibleModel",
    "bundle_fingerprint",
    "decode_golden",
    "decode_parts",
    "encode_parts",
    "get_alias",
    "has_pointer",
    "installed_libraries",
    "key_id_of",
    "list_bundles",
    "list_quarantine",
    "open_bundle",
    "parse_serial",
    "promote",
    "publish_bundle",
    "publish_release",
    "quarantine_bundle",
    "quarantine_file",
    "read_challenger",
    "read_pointer",
    "read_release",
    "refuse_other_type",
    "verify_audit",
]
