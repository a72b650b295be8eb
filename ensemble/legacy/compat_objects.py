"""What a program written for the older engine holds in its hands: its four objects, or stand-ins for a layer that is absent.

A whole layer stands in or none of it (S0-07). A stand-in keeps the older engine's numbers, so that
such a program goes on: 0 for
every flow, which is neither of scikit-learn's -1 and +1 (C-04), and a probability of 0.1, which
lies below `MALICIOUS_FROM`. They
are for show. Axon itself never fuses them: a layer without a model abstains, and its silence is no
innocence.

Each stand-in says that it is one, once and not on every call (C-13): `dummy_anomaly_model_active`
and its like, `reason=using_fallback`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.legacy.forest_export import sklearn_forest

if TYPE_CHECKING:
    from torch import Tensor

    from ensemble.layers.behavior import DeepBehavior

__all__ = [
    "DUMMY_PROBABILITY",
    "MALICIOUS_FROM",
    "DummyAnomalyModel",
    "DummyBehaviorModel",
    "DummyScaler",
    "OlderObjects",
    "Tell",
    "older_architecture",
    "older_objects",
]

MALICIOUS_FROM = 0.95  # probability; the older engine's threshold, of this view alone (S0-11)
DUMMY_PROBABILITY = 0.1  # S0-09
Tell = Callable[[str, Mapping[str, str]], None]  # name of a log event, and its fields


class _SaysSoOnce:
    """Tells at its first use that it stands in for a model."""

    event = ""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._has_told = tell, False

    def _say_so(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._tell(self.event, {"reason": "using_fallback"})


class DummyAnomalyModel(_SaysSoOnce):
    """Stands in for the isolation forest."""

    event = "dummy_anomaly_model_active"

    def predict(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """0 for each of n rows, float64 (n,)."""
        self._say_so()
        return np.zeros(len(rows))


class DummyBehaviorModel(_SaysSoOnce):
    """Stands in for the network; `device` is where its answers lie unless `to` says otherwise."""

    event = "dummy_behavior_model_active"

    def __init__(self, device: str, tell: Tell) -> None:
        super().__init__(tell)
        self.device = device

    def eval(self) -> Self:
        """Itself."""
        return self

    def to(self, device: str) -> Self:
        """Itself, answering on `device`."""
        self.device = device
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """The probability 0.1 for each of n rows, (n, 1), of the rows' type (C-05)."""
        import torch  # noqa: PLC0415  # whoever calls has tensors

        self._say_so()
        return torch.full((len(rows), 1), DUMMY_PROBABILITY, dtype=rows.dtype, device=self.device)


class DummyScaler(_SaysSoOnce):
    """Stands in for the scaler."""

    event = "dummy_scaler_active"

    def transform(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows, unchanged."""
        self._say_so()
        return rows


@dataclass(frozen=True, slots=True)
class OlderObjects:
    """What the four files hold, as the older engine has them after loading.

    Attributes:
        anomaly_model: has `predict` over the 78 raw features.
        process_frequencies: program -> launches; empty where the layer is absent.
        behavior_model: torch rows (n, 78), scaled, to the probability of hostile (n, 1).
        scaler: has `transform` over the 78 raw features.
    """

    anomaly_model: Any
    process_frequencies: Mapping[str, int]
    behavior_model: Any
    scaler: Any


def older_objects(
    anomaly: tuple[FlowAnomaly, ProcessAnomaly] | None,
    behavior: DeepBehavior | None,
    *,
    device: str,
    tell: Tell,
) -> OlderObjects:
    """The older engine's four objects, of the models that serve.

    Args:
        anomaly: models of flows and of processes; None where the layer is absent.
        behavior: None where the layer is absent.
        device: where the network computes, e.g. `cpu`.
        tell: told once by each stand-in that it is used.
    """
    forest: Any = DummyAnomalyModel(tell)
    frequencies: Mapping[str, int] = {}
    if anomaly is not None:
        flows, processes = anomaly
        forest, frequencies = (
            sklearn_forest(flows.detectors.forest, flows.detectors.scaler),
            processes.rarity.launches(),
        )
    if behavior is None:
        return OlderObjects(
            forest, frequencies, DummyBehaviorModel(device, tell), DummyScaler(tell)
        )

    import torch  # noqa: PLC0415  # for this layer alone

    # likewise
    from ensemble.legacy.network_export import older_network, older_scaler  # noqa: PLC0415

    arrays = {name: torch.from_numpy(array) for name, array in older_network(behavior)[0].items()}
    network = older_architecture(arrays)
    network.load_state_dict(
        {name.removeprefix("network."): array for name, array in arrays.items()}, strict=True
    )
    return OlderObjects(
        forest, frequencies, network.eval().to(device), older_scaler(behavior.scaler)
    )


# a torch module; torch has no types
def older_architecture(state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    """An untrained network into which a state dict of `older_network` fits, with a sigmoid at its end."""
    from torch import nn  # noqa: PLC0415  # whoever calls has tensors

    weights = [array for name, array in state.items() if name.endswith(".weight")]
    levels: list[nn.Module] = []
    for weight in weights:
        fan_out, fan_in = weight.shape
        levels += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*levels[:-1], nn.Sigmoid())
