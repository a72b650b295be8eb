"""The model objects of the older Axon Engine (S0), for programs that were written for it.

`legacy_objects` makes the four objects that S0 holds after loading its files, from the models that
Axon serves now. A layer that is absent is replaced by dummies, both of its objects or none (S0-07).
A dummy returns the numbers of S0, so that an old program continues to run: 0 for every flow, which
is neither of scikit-learn's -1 and +1 (C-04), and a probability of 0.1, below `MALICIOUS_FROM`.
The numbers are for display. Axon never fuses them: a layer without a model abstains, and its
absence is not evidence of innocence.

Each dummy logs at its first call, and only then, that it is in use (C-13):
`dummy_anomaly_model_active` and its like, with `reason=using_fallback`.

Example: examples/legacy_objects.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.runtime import LoadedRelease

if TYPE_CHECKING:
    from torch import Tensor

    from ensemble.layers.behavior import DeepBehavior

__all__ = [
    "DUMMY_PROBABILITY",
    "MALICIOUS_FROM",
    "DummyAnomalyModel",
    "DummyBehaviorModel",
    "DummyScaler",
    "LegacyObjects",
    "legacy_network",
    "legacy_objects",
]

MALICIOUS_FROM = 0.95  # probability; the threshold of S0, for these objects alone (S0-11)
DUMMY_PROBABILITY = 0.1  # S0-09
logger = logging.getLogger(__name__)


class _Dummy:
    """Logs at its first use that it replaces a model."""

    event = ""
    _is_logged = False

    def _log_first_use(self) -> None:
        if not self._is_logged:
            self._is_logged = True
            logger.warning(
                "%s reason=using_fallback",
                self.event,
                extra={"event": self.event, "reason": "using_fallback"},
            )


class DummyAnomalyModel(_Dummy):
    """Replacement of the isolation forest (S0-08)."""

    event = "dummy_anomaly_model_active"

    def predict(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return 0 for each of n rows, float64 (n,)."""
        self._log_first_use()
        return np.zeros(len(rows))


class DummyBehaviorModel(_Dummy):
    """Replacement of the network (S0-09).

    Attributes:
        device: where its results are, e.g. `cpu`.
    """

    event = "dummy_behavior_model_active"

    def __init__(self, device: str) -> None:
        self.device = device

    def eval(self) -> Self:
        """Return the model itself, as torch does."""
        return self

    def to(self, device: str) -> Self:
        """Move the results to `device` and return the model itself, as torch does."""
        self.device = device
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the probability 0.1 for each of n rows, (n, 1), of the rows' dtype (C-05)."""
        import torch  # noqa: PLC0415  # a caller with tensors has loaded it already

        self._log_first_use()
        return torch.full((len(rows), 1), DUMMY_PROBABILITY, dtype=rows.dtype, device=self.device)


class DummyScaler(_Dummy):
    """Replacement of the scaler (S0-10)."""

    event = "dummy_scaler_active"

    def transform(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the rows unchanged."""
        self._log_first_use()
        return rows


@dataclass(frozen=True, slots=True)
class LegacyObjects:
    """The contents of the four files, as S0 holds them after loading.

    Attributes:
        anomaly_model: has `predict` over the 78 raw features.
        process_frequencies: program -> launches; empty if the layer is absent.
        behavior_model: torch rows (n, 78), scaled, to the probability of hostile (n, 1).
        scaler: has `transform` over the 78 raw features.
    """

    anomaly_model: Any
    process_frequencies: Mapping[str, int]
    behavior_model: Any
    scaler: Any


def legacy_objects(releases: Iterable[LoadedRelease], *, device: str) -> LegacyObjects:
    """Make the four objects of S0 from loaded models.

    Args:
        releases: the loaded models of the layers `anomaly` and `behavior`. A layer that is not
            among them, or lacks a model, is replaced by dummies.
        device: where the network computes, e.g. `cpu`.
    """
    from ensemble.layers.behavior import DeepBehavior  # noqa: PLC0415  # it imports torch

    models = [loaded.model for release in releases for loaded in release.models.values()]
    flows = next((model for model in models if isinstance(model, FlowAnomaly)), None)
    processes = next((model for model in models if isinstance(model, ProcessAnomaly)), None)
    behavior = next((model for model in models if isinstance(model, DeepBehavior)), None)
    return LegacyObjects(*_anomaly_pair(flows, processes), *_behavior_pair(behavior, device))


def _anomaly_pair(
    flows: FlowAnomaly | None, processes: ProcessAnomaly | None
) -> tuple[Any, Mapping[str, int]]:
    from ensemble.legacy.forest_export import sklearn_forest  # noqa: PLC0415  # scikit-learn

    if flows is None or processes is None:
        return DummyAnomalyModel(), {}
    own = flows.detectors
    return sklearn_forest(own.forest, own.scaler), processes.rarity.launches()


def _behavior_pair(behavior: DeepBehavior | None, device: str) -> tuple[Any, Any]:
    if behavior is None:
        return DummyBehaviorModel(device), DummyScaler()

    import torch  # noqa: PLC0415  # loaded for this layer alone

    from ensemble.legacy.network_export import older_network, older_scaler  # noqa: PLC0415  # torch

    arrays = {name: torch.from_numpy(array) for name, array in older_network(behavior)[0].items()}
    network = legacy_network(arrays)
    network.load_state_dict(
        {name.removeprefix("network."): array for name, array in arrays.items()}, strict=True
    )
    return network.eval().to(device), older_scaler(behavior.scaler)


def legacy_network(state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401  # torch has no types
    """Make an untrained network, ending in a sigmoid, that fits a state dict of `older_network`."""
    from torch import nn  # noqa: PLC0415  # a caller with tensors has loaded it already

    weights = [array for name, array in state.items() if name.endswith(".weight")]
    levels: list[nn.Module] = []
    for weight in weights:
        fan_out, fan_in = weight.shape
        levels += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*levels[:-1], nn.Sigmoid())
