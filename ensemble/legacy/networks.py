"""Validation and conversion of the state dict of an older network.

The only accepted form is a chain of linear layers with a rectifier between each two, as from
`nn.Sequential` or named attributes: keys `<anything>.weight` (out, in) and `<anything>.bias` (out,)
in pairs and in order, float32, finite, the last layer of width 1, the logit of hostile before its
sigmoid. The older engine's 78-256-128-64-1 has this form. Other layers (batch normalisation,
attention) are rejected by the names of their keys.

In Axon's network the logit z becomes the logits (0, z) of benign and hostile; their margin is z.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.legacy.files import CLASSIFIER
from ensemble.model import Parts

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["network_parts", "our_network"]

MOST_LEVELS = 32
MOST_NUMBERS = 1 << 26  # 256 MiB of float32
NAMED_KEYS = 5  # of those that do not fit, for the message


def network_parts(state: object) -> Parts:
    """Convert a loaded state dict to arrays `weight.0` (out, in), `bias.0` (out,), `weight.1` ...

    Raises:
        ArtifactCorrupt: not a state dict, or an empty one.
        ArtifactIncompatible: the keys, shapes, types or values are not those of such a network.
    """
    import torch  # noqa: PLC0415  # already imported to load `state`

    if not isinstance(state, dict):
        raise ArtifactCorrupt(CLASSIFIER, "State dict is not a dictionary (corrupted file)")
    if not state:
        raise ArtifactCorrupt(CLASSIFIER, "State dict is empty (corrupted file)")
    keys = list(state)
    if len(keys) % 2 or not all(
        _is_pair(weight, bias) for weight, bias in zip(keys[::2], keys[1::2], strict=True)
    ):
        odd = [str(key) for key in keys if not str(key).endswith((".weight", ".bias"))] or [
            str(key) for key in keys
        ]
        named = ", ".join(ascii(key)[:40] for key in odd[:NAMED_KEYS])
        raise ArtifactIncompatible(
            CLASSIFIER, "keys NAME.weight and NAME.bias in pairs", f"keys {named}"
        )
    for key, tensor in state.items():
        if (
            not isinstance(tensor, torch.Tensor)
            or tensor.layout is not torch.strided
            or tensor.dtype is not torch.float32
        ):
            raise ArtifactIncompatible(
                CLASSIFIER, "tensors of float32", f"another value at {ascii(key)[:40]}"
            )
    _require_chain(list(state.values()))
    arrays: dict[str, NDArray[Any]] = {}
    for level in range(len(keys) // 2):
        for kind, key in zip(("weight", "bias"), keys[2 * level : 2 * level + 2], strict=True):
            arrays[f"{kind}.{level}"] = np.ascontiguousarray(state[key].detach().numpy())
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ArtifactIncompatible(CLASSIFIER, "finite weights", "NaN or infinity")
    return Parts(arrays, {})


def our_network(
    arrays: Mapping[str, NDArray[Any]], n_features: int
) -> dict[str, NDArray[np.float32]]:
    """Convert arrays of `network_parts` to those of a `DeepClassifier` with one head.

    Raises:
        ArtifactIncompatible: the network reads another number of features than `n_features`.
    """
    levels = sum(name.startswith("weight.") for name in arrays)
    if not levels or arrays["weight.0"].shape[1] != n_features:
        found = arrays["weight.0"].shape[1] if levels else 0
        raise ArtifactIncompatible(
            CLASSIFIER, f"a network of {n_features} features, as its scaler", f"one of {found}"
        )
    converted: dict[str, NDArray[np.float32]] = {}
    for level in range(levels):
        weight, bias = (
            arrays[f"weight.{level}"].astype(np.float32),
            arrays[f"bias.{level}"].astype(np.float32),
        )
        if level == levels - 1:
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.r_[np.float32(0), bias]
        converted[f"weights.{level}"] = np.ascontiguousarray(weight.T[None])  # (1, in, out)
        converted[f"biases.{level}"] = bias[None, None]  # (1, 1, out)
    return converted


def _is_pair(weight: object, bias: object) -> bool:
    if not isinstance(weight, str) or not isinstance(bias, str):
        return False
    return weight.endswith(".weight") and bias == weight.removesuffix("weight") + "bias"


def _require_chain(tensors: list[Tensor]) -> None:
    weights, biases = tensors[::2], tensors[1::2]
    shapes = [tuple(weight.shape) for weight in weights]
    # A stride of 0 can make a large tensor of a few bytes.
    if len(weights) > MOST_LEVELS or sum(tensor.numel() for tensor in tensors) > MOST_NUMBERS:
        raise ArtifactIncompatible(
            CLASSIFIER, f"at most {MOST_LEVELS} layers and {MOST_NUMBERS:,} numbers", "more"
        )
    is_linear = all(
        len(shape) == 2 and tuple(bias.shape) == shape[:1]  # noqa: PLR2004  # (out, in)
        for shape, bias in zip(shapes, biases, strict=True)
    )
    if (
        not is_linear
        or any(below[0] != above[1] for below, above in pairwise(shapes))
        or shapes[-1][0] != 1
        or 0 in shapes[0]
    ):
        raise ArtifactIncompatible(
            CLASSIFIER, "linear layers that chain, down to width 1", f"shapes {shapes[:NAMED_KEYS]}"
        )
