"""Train the detector of `own_layer.py` on benign flows, check it, and publish it signed.

python -m examples.own_layer.train benign_flows.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deployments.cli.publish_target import PublishTarget
from ensemble.events import FlowBatch, Kind
from ensemble.kernels.calibration import Calibration
from ensemble.layers.checks import check_layer
from ensemble.training.data.flow_table import FlowTable, read_flow_table
from ensemble.training.fit.calibration import tail_calibration
from ensemble.training.publish import Trained, digest_of, golden_flows, golden_of
from examples.own_layer.own_layer import FEATURES, Extremes, Layer

CALIBRATE_EVERY = 3  # every third flow is for the calibration: the model must not have seen it


def train(flows: FlowTable) -> Trained:
    """Fit on two thirds of the benign flows, calibrate on the rest, and check the model.

    Raises:
        TrainingError: too few flows.
        ValueError: the model fails one of the common checks of a layer.
    """
    is_held_out = np.arange(len(flows)) % CALIBRATE_EVERY == 0
    fitted = Extremes.fit(flows.features[~is_held_out], Calibration(np.arange(2.0), np.zeros(2)))
    raw = fitted.raw(flows.features[is_held_out])
    model = Extremes(fitted.centre, fitted.spread, tail_calibration(raw))

    parts = model.to_parts()
    nameless = ("",) * min(50, len(flows))
    batch = FlowBatch(nameless, nameless, flows.features[: len(nameless)])
    check_layer(lambda: Layer().build(Kind.FLOW, [parts]), batch)

    events = golden_flows(flows.features, np.zeros(len(flows), bool))
    return Trained(
        "extremes-flow",
        parts,
        golden_of(model, Kind.FLOW, events),
        {
            "recipe": "examples/own_layer",
            "data_sha256": digest_of(flows.features),
            "seed": 0,
            "rows": len(flows),
        },
        "# extremes-flow\n\n"
        f"Robust z-scores of {', '.join(FEATURES)} in {len(flows):,} benign flows.\n",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on a CSV of benign flows, and publish on top of the current release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benign", type=Path, help="CSV of benign flows")
    target = PublishTarget(None, None, publish=True, promote=True)
    trained = train(read_flow_table(parser.parse_args(arguments).benign))
    target.publish([trained], {}, "examples/own_layer")


if __name__ == "__main__":
    main()
