"""Use Axon's models in a program that was written for the older Axon Engine.

That program loaded four files and called four objects. `ensemble.legacy.legacy_objects` makes the
same objects from the models that Axon serves now. A layer that cannot be loaded is replaced by
dummies with the numbers of the older engine: 0 for every flow, and a probability of 0.1.

    python examples/legacy_objects.py
    python examples/legacy_objects.py --without behavior
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import numpy as np
import torch

from deployments.cli.local_models import current_models
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import ArtifactError
from ensemble.legacy import MALICIOUS_FROM, legacy_objects

LAYERS = ("anomaly", "behavior")
FEATURES = 78  # of a CICIDS2017 flow


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the current release and score three flows as the older engine did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without", choices=LAYERS, help="leave one layer out, to see its dummies")
    without = parser.parse_args(arguments).without
    logging.basicConfig(format="%(message)s")  # a dummy logs that it is in use

    current = PublishTarget(None, None, publish=False, promote=False)
    releases = []
    for layer in LAYERS:
        if layer != without:
            try:
                releases.append(current_models(current.store, current.lineage, layer))
            except ArtifactError as error:
                print(f"the {layer} layer cannot be loaded: {error}")
    old = legacy_objects(releases, device="cpu")

    flows = np.zeros((3, FEATURES), np.float32)
    labels = old.anomaly_model.predict(flows)  # scikit-learn: 1 normal, -1 anomaly; a dummy: 0
    rows = old.scaler.transform(flows).astype(np.float32)
    with torch.inference_mode():
        chances = old.behavior_model(torch.from_numpy(rows))[:, 0]

    print(f"{len(old.process_frequencies)} programs are known")
    for label, chance in zip(labels, chances, strict=True):
        verdict = "malicious" if chance >= MALICIOUS_FROM else "not malicious"
        print(f"anomaly {label:+.0f}, probability {chance:.3f}: {verdict}")


if __name__ == "__main__":
    main()
