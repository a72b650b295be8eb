"""Deep behavior: does a flow resemble a known attack, or differ from all benign traffic?

A small network learns benign traffic, each attack family, and `unknown`: synthetic flows around and
between the real ones. The class `unknown` keeps it from overconfidence. A classifier of benign
flows and attacks alone divides the space in two and is certain of both halves. One that must also
separate real benign flows from synthetic ones calls only flows near benign ones benign.

Fit for: the families it was trained on, and flows unlike benign ones. Unfit for: a new attack that
copies benign flows.
Raw score: log-odds that the flow is not benign, averaged over a few heads with different
initial weights.
Cost: three small matrix products a head. The same weights run on a CPU or on a share of a GPU.

Source: outlier exposure: Hendrycks, Mazeika, Dietterich, "Deep anomaly detection with outlier
exposure", ICLR 2019; synthetic counterexamples: Hempstalk, Frank, Witten, "One-class classification
by combining density and class probability estimation", ECML 2008; averaged heads: Lakshminarayanan
et al., "Deep ensembles", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble.errors import ArtifactIncompatible
from ensemble.events import EventBatch, FlowBatch
from ensemble.features.sklearn_scalers import Scaler, scaler_of
from ensemble.kernels.calibration import Calibration
from ensemble.layers.attack_classes import read_classes
from ensemble.model import ModelScores, Parts, below

__all__ = ["DeepBehavior", "DeepClassifier"]


class DeepClassifier(nn.Module):
    """Several small networks, computed together.

    Args:
        n_features: d.
        hidden: widths of the hidden layers.
        n_classes: benign, each family, unknown.
        n_heads: number of networks; they differ only in their initial weights.
    """

    def __init__(
        self, n_features: int, hidden: Sequence[int], n_classes: int, n_heads: int
    ) -> None:
        super().__init__()
        widths = [n_features, *hidden, n_classes]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            bound = fan_in**-0.5
            self.weights.append(
                nn.Parameter(torch.empty(n_heads, fan_in, fan_out).uniform_(-bound, bound))
            )
            self.biases.append(
                nn.Parameter(torch.empty(n_heads, 1, fan_out).uniform_(-bound, bound))
            )

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (heads, n, classes) of scaled rows (n, d)."""
        hidden = rows.unsqueeze(0).expand(self.weights[0].shape[0], -1, -1)  # (heads, n, d)
        for level, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if level < len(self.weights) - 1:
                hidden = torch.relu(hidden)
        return hidden


def margin(logits: Tensor) -> Tensor:
    """Log-odds that a row is not benign, float64 (n,), averaged over the heads.

    `logits` is (heads, n, classes), benign first.
    """
    wide = logits.double()
    return (torch.logsumexp(wide[..., 1:], dim=-1) - wide[..., 0]).mean(dim=0)


@dataclass(frozen=True, slots=True)
class DeepBehavior:
    """Model of flow behavior: the network with its scaler and calibration.

    Attributes:
        scaler: scales flows for the network.
        network: fitted, in evaluation mode.
        classes: benign first, unknown last.
        calibration: margin -> log-odds at the reference prior.
        device: torch device of the network.
    """

    scaler: Scaler
    network: DeepClassifier
    classes: tuple[str, ...]
    calibration: Calibration
    device: str = "cpu"

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Margin of each flow, float64 (n,); `features` is float32 (n, 78)."""
        with torch.inference_mode():
            rows = torch.from_numpy(self.scaler.scale(features)).to(self.device)
            return margin(self.network(rows)).cpu().numpy()

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score each flow, calibrated.

        Explained by the most likely family, and by the features that moved the margin.
        """
        if not isinstance(batch, FlowBatch):
            raise TypeError(f"{batch.kind} events have no flow features")
        scores = self.calibration.apply(self.raw(batch.features))
        return ModelScores(scores, details=self._details(batch.features) if explain else {})

    def _details(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Family of each flow, and each feature's share of the margin: value times slope.

        Source: gradient x input: Shrikumar et al., "Not just a black box", 2016.
        """
        rows = torch.from_numpy(self.scaler.scale(features)).to(self.device).requires_grad_()
        logits = self.network(rows)
        (slope,) = torch.autograd.grad(margin(logits).sum(), rows)
        shares = (slope * rows).detach().cpu().numpy()  # (n, d)
        family = logits[..., 1:].softmax(dim=-1).mean(dim=0).argmax(dim=-1).cpu().numpy() + 1
        facts: dict[str, NDArray[np.generic]] = {"family": np.array(self.classes)[family]}
        return facts | {name: shares[:, column] for column, name in enumerate(self.scaler.names)}

    def to(self, device: str) -> Self:
        """Move the model to `device`."""
        return type(self)(
            self.scaler, self.network.to(device), self.classes, self.calibration, device
        )

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal model."""
        state = {
            f"network.{name}": value.detach().cpu().numpy()
            for name, value in self.network.state_dict().items()
        }
        config = {
            "classes": list(self.classes),
            "calibration": self.calibration.to_config(),
            **self.scaler.to_config(),
        }
        return Parts({**self.scaler.to_arrays(), **state}, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the model from a bundle.

        Raises:
            ArtifactIncompatible: shapes that do not chain, or classes that do not match.
        """
        scaler = scaler_of(parts.arrays, parts.config)
        classes = read_classes(parts.config.get("classes"), "behavior network")
        state = below("network.", parts.arrays)
        levels = sum(name.startswith("weights.") for name in state)
        shapes = [state.get(f"weights.{level}", np.empty(0)).shape for level in range(levels)]
        if (
            not levels
            or any(len(shape) != 3 for shape in shapes)  # noqa: PLR2004  # (heads, in, out)
            or shapes[0][1] != scaler.positions.size
            or shapes[-1][2] != len(classes)
        ):
            raise ArtifactIncompatible(
                "behavior network",
                f"{scaler.positions.size} features to {len(classes)} classes",
                f"{shapes}",
            )
        network = DeepClassifier(
            shapes[0][1], [shape[2] for shape in shapes[:-1]], len(classes), shapes[0][0]
        )
        try:
            network.load_state_dict(
                {
                    name: torch.from_numpy(np.array(array, np.float32))
                    for name, array in state.items()
                },
                strict=True,
            )
        except RuntimeError:
            raise ArtifactIncompatible(
                "behavior network", "weights and biases that chain", f"{shapes}"
            ) from None
        network.requires_grad_(requires_grad=False)
        return cls(
            scaler,
            network.eval(),
            classes,
            Calibration.from_config(parts.config.get("calibration", {})),
        )
