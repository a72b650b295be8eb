"""From a proven bundle to a tabular detector that may serve: its type asked, decoded, built, and asked for its golden answers."""

from __future__ import annotations

import numpy as np

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.features.tabular import Missing, admit_rows
from ensemble.layers.tabular import TabularDetector
from ensemble.runtime.builder import GOLDEN_TOLERANCE
from ensemble.store.bundles.codecs import GOLDEN, decode_golden, decode_parts
from ensemble.store.bundles.metadata import refuse_other_type
from ensemble.store.bundles.open import ProvenBundle

__all__ = ["proven_detector"]


def proven_detector(bundle: ProvenBundle) -> TabularDetector:
    """The detector of a bundle, after it gave its golden answers.

    Raises:
        ArtifactIncompatible: a model of another type (S4-07), or one that does not answer as it was trained to.
        ArtifactError: the bytes spell no detector of this Axon.
    """
    what = str(bundle.ref)
    refuse_other_type(bundle.manifest.training, TabularDetector.__name__, what=f"Model type mismatch: {what}")
    detector = TabularDetector.from_parts(decode_parts(bundle.files))
    golden = decode_golden(bundle.files[GOLDEN])
    rows = [row if isinstance(row := event.get("features"), dict) else {} for event in golden.events]
    admitted = admit_rows(rows, detector.features, Missing.REFUSE)
    if not rows or admitted.refused:
        raise ArtifactCorrupt(what, "has no golden rows: nothing shows that it is the detector that was trained")
    worst = float(np.abs(detector.score(admitted.values).anomaly_score - np.asarray(golden.scores)).max())
    if not worst <= GOLDEN_TOLERANCE["cpu"]:  # NaN fails too
        raise ArtifactIncompatible(
            f"{what}: golden scores", f"agreement within {GOLDEN_TOLERANCE['cpu']:g}", f"a difference of {worst:.3g}"
        )
    return detector
