"""Pairs of tenant names that look alike, and a store in which one tenant has one of everything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from ensemble.model import Parts
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.quarantine import quarantine_bundle
from ensemble.store.releases.aliases import Alias, set_challenger, set_model_alias
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.signing import Signer, Trust
from tests.support.publishing import NOW, TRAINING

__all__ = ["HOMOGLYPHS", "SIGNER", "TRUST", "pairs", "populated_store"]

SIGNER = Signer.new()
TRUST = Trust({SIGNER.key_id: SIGNER.public}, frozenset())
HOMOGLYPHS = str.maketrans(
    "aeopcx", "\u0430\u0435\u043e\u0440\u0441\u0445"
)  # Cyrillic letters that look like Latin ones

names = st.text("ab1._-", min_size=1, max_size=4) | st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
ODD = ("*", ".staging", ".quarantine", "CON", "")
LOOKS_LIKE: tuple[Callable[[str], str], ...] = (
    lambda name: name + "_b",
    lambda name: name + "-1",
    lambda name: name + ".",
    lambda name: name[:-1],
    lambda name: name.upper(),
    lambda name: name.translate(HOMOGLYPHS),
    lambda name: name + "\u0301",
    lambda name: name + "\u200b",
    lambda name: "".join(chr(ord(letter) + 0xFEE0) for letter in name),  # full width
    lambda name: f"../{name}",
    lambda name: f"{name}/../{name}",
    lambda name: f"{name}/bundles",
    lambda name: f"{name}\0",
    lambda name: f"{name}\n",
    lambda name: "?" * len(name),
    lambda name: f"[{name}]",
    lambda name: (name * 255)[:255],
    lambda name: (name * 64)[:64],
    lambda name: (name * 63)[:63],
)
pairs = st.tuples(names, st.sampled_from(LOOKS_LIKE)).map(
    lambda drawn: (drawn[0], drawn[1](drawn[0]))
) | st.tuples(names, names | st.sampled_from(ODD))


@contextmanager
def populated_store(
    tenant: Tenant, model: ModelName
) -> Iterator[tuple[Store, BundleRef, ReleaseRef]]:
    """Make a store in which `tenant` has one of everything."""
    root = Path(tempfile.mkdtemp(prefix="axon-tenants"))
    try:
        store = Store(root, None, TRUST)
        ref, spare = (
            publish_bundle(
                store, tenant, model, Parts({}, {}), Golden([], []), card="",
                pictures={}, feature_schema="",
                training=TRAINING, now=NOW, signer=SIGNER,
            )
            for _ in range(2)
        )  # fmt: skip
        release = publish_release(store, tenant, [ref], {}, notes="", now=NOW, signer=SIGNER)
        promote(store, tenant, release, 0, signer=SIGNER)
        set_challenger(store, tenant, release, 0, signer=SIGNER)
        set_model_alias(store, tenant, model, Alias.CHAMPION, ref, 0, signer=SIGNER)
        quarantine_bundle(store, tenant, model, spare.version, "", even_in_use=False)
        yield store, ref, release
    finally:
        shutil.rmtree(root)
