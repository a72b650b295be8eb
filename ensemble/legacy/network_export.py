"""Export of Axon's network with its scaler in the form of the older engine.

That form is linear layers with rectifiers down to one logit, and a fitted scaler. Axon's network
has four further features. Three can be expressed in the older form exactly, one approximately:

- scaled values are clipped at a limit, and negative ones are transformed differently from
  scikit-learn's power transform: a line with three bends for each feature, in one additional first
  layer. Exact for values of -1 and above;
- several heads, averaged: the heads side by side, in blocks;
- a class for benign, and the average of margins: linear;
- the margin itself is the logarithm of a sum of exponentials over the hostile classes. It is
  computed for two classes at a time, by a line with many bends in place of log(1 + exp(x)): a few
  additional layers, and an error that is computed here and returned to the caller.

A network that was imported from the older engine has none of these and is exported unchanged.

Source: piecewise linear functions as sums of rectifiers: Arora et al., "Understanding deep neural
networks with rectified linear units", ICLR 2018, theorem 2.2; bends where the curvature is: de
Boor, "A Practical Guide to Splines", 1978, chapter XII.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import PowerTransformer, StandardScaler

from ensemble.features.flow import FEATURE_NAMES
from ensemble.features.flow_scaler import FlowScaler
from ensemble.features.sklearn_scalers import PlainScaler, Scaler
from ensemble.layers.behavior import DeepBehavior

__all__ = ["Chain", "older_network", "older_scaler", "softplus_bends"]

BENDS = 32  # of a line in place of log(1 + exp(x)): an error of a thousandth of a nat
LOG, SAME = 0.0, 1.0  # Yeo and Johnson's powers: log(1 + x), and x itself

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chain:
    """Network under construction: finished layers, and a linear map of the units of the last one.

    Attributes:
        levels: weight (out, in) and bias (out,) of each finished layer; a rectifier follows each.
        weight: float64 (k, units).
        bias: float64 (k,).
    """

    levels: tuple[tuple[Matrix, Matrix], ...]
    weight: Matrix
    bias: Matrix

    def linear(self, weight: Matrix, bias: Matrix) -> Chain:
        """Replace the quantities q by `weight @ q + bias`."""
        return Chain(self.levels, weight @ self.weight, weight @ self.bias + bias)

    def rectified(self, weight: Matrix, bias: Matrix) -> Chain:
        """Replace the quantities q by `max(weight @ q + bias, 0)`, which adds a layer."""
        mapped = self.linear(weight, bias)
        units = len(mapped.bias)
        return Chain((*self.levels, (mapped.weight, mapped.bias)), np.eye(units), np.zeros(units))

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Build the arrays of an `nn.Sequential` of linear layers and rectifiers."""
        every = (*self.levels, (self.weight, self.bias))
        named: dict[str, NDArray[np.float32]] = {}
        for level, (weight, bias) in enumerate(every):
            named[f"network.{2 * level}.weight"] = weight.astype(np.float32)
            named[f"network.{2 * level}.bias"] = bias.astype(np.float32)
        return named


def older_scaler(scaler: Scaler) -> StandardScaler | PowerTransformer:
    """Make a fitted scaler over the 78 features; unused columns are unchanged.

    A `FlowScaler` becomes a power transform, which differs below 0 and does not clip;
    `older_network` compensates for both.
    """
    d, at = len(FEATURE_NAMES), scaler.positions
    noise = np.random.default_rng(0).normal(size=(4, d))
    centre, spread, powers = np.zeros(d), np.ones(d), np.full(d, SAME)
    centre[at], spread[at] = scaler.centre, scaler.spread
    powers[at] = scaler.powers if isinstance(scaler, PlainScaler) else LOG
    if (powers == SAME).all():
        return _scaled(StandardScaler().fit(noise), centre, spread)
    fitted = PowerTransformer().fit(noise)
    fitted.lambdas_ = powers
    _scaled(fitted._scaler, centre, spread)  # noqa: SLF001  # there is no public way
    return fitted


def _scaled(fitted: StandardScaler, centre: Matrix, spread: Matrix) -> StandardScaler:
    fitted.mean_, fitted.scale_, fitted.var_ = centre, spread, spread**2
    return fitted


def older_network(model: DeepBehavior) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Build the state dict of a network that reads the output of `older_scaler`.

    Also return the largest error of its logit against the margin of `model`, in nats.
    """
    arrays = {
        name: value.detach().cpu().double().numpy()
        for name, value in model.network.state_dict().items()
    }
    chain = _front(model.scaler)
    heads, _, classes = arrays[f"weights.{len(arrays) // 2 - 1}"].shape
    for level in range(len(arrays) // 2):
        weight, bias = _side_by_side(arrays, level)
        is_last = level == len(arrays) // 2 - 1
        chain = chain.linear(weight, bias) if is_last else chain.rectified(weight, bias)
    return _margin(chain, heads, classes)


def _front(scaler: Scaler) -> Chain:
    """Compute the features of Axon's network from those of the older scaler."""
    d = scaler.positions.size
    picked = np.zeros((d, len(FEATURE_NAMES)))
    picked[np.arange(d), scaler.positions] = 1.0
    chain = Chain((), picked, np.zeros(d))
    return chain if isinstance(scaler, PlainScaler) else _bent(chain, scaler)


def _bent(chain: Chain, scaler: FlowScaler) -> Chain:
    """Clip at the limit, and change the slope below 0.

    Before scaling, -1 then becomes -log 2 as in `FlowScaler`, and not -1.5 as in the power
    transform.
    """
    centre, spread, limit = (
        scaler.centre.astype(np.float64),
        scaler.spread.astype(np.float64),
        scaler.limit,
    )
    zero, slope = -centre / spread, np.log(2.0) / 1.5
    # Where the line leaves the lower limit.
    low = np.where(zero > -limit, zero + (-limit - zero) / slope, -limit)
    high = np.where(zero < limit, limit, zero + (limit - zero) / slope)
    bend = np.clip(zero, low, high)
    below, above = np.where(low < zero, slope, 1.0), np.where(zero < high, 1.0, slope)
    d = len(centre)
    chain = chain.rectified(np.vstack([np.eye(d)] * 3), -np.r_[low, bend, high])
    return chain.linear(
        np.hstack([np.diag(below), np.diag(above - below), np.diag(-above)]), np.full(d, -limit)
    )


def _side_by_side(arrays: Mapping[str, Matrix], level: int) -> tuple[Matrix, Matrix]:
    """Join a layer of all heads: the first reads shared features, later ones are in blocks."""
    weights, biases = arrays[f"weights.{level}"], arrays[f"biases.{level}"]
    heads, fan_in, fan_out = weights.shape
    if level == 0:
        return weights.transpose(0, 2, 1).reshape(heads * fan_out, fan_in), biases.ravel()
    blocks = np.zeros((heads * fan_out, heads * fan_in))
    for head in range(heads):
        blocks[head * fan_out : (head + 1) * fan_out, head * fan_in : (head + 1) * fan_in] = (
            weights[head].T
        )
    return blocks, biases.ravel()


def _margin(chain: Chain, heads: int, classes: int) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Build the mean over the heads of log-sum-exp over the hostile classes less benign.

    Also return its error, in nats.
    """
    hostile = classes - 1
    # The hostile logits of each head, then the mean of the benign ones.
    steps = np.zeros((heads * hostile + 1, heads * classes))
    for head in range(heads):
        steps[head * hostile : (head + 1) * hostile, head * classes + 1 : (head + 1) * classes] = (
            np.eye(hostile)
        )
        steps[-1, head * classes] = 1.0 / heads
    chain = chain.linear(steps, np.zeros(len(steps)))
    bends, slopes, start, error_each = softplus_bends(BENDS)
    error = 0.0
    while hostile > 1:
        chain = _paired(chain, heads, hostile, bends, slopes, start)
        hostile = (hostile + 1) // 2
        error += error_each
    return chain.linear(np.r_[np.full(heads, 1.0 / heads), -1.0][None], np.zeros(1)).state(), error


def _paired(
    chain: Chain, heads: int, hostile: int, bends: Matrix, slopes: Matrix, start: float
) -> Chain:
    """In every head, join pairs of hostile logits: log(exp a + exp b) = b + softplus(a - b).

    A single last one, and benign, are unchanged.
    """
    count, selected = len(bends), heads * hostile + 1
    inner: list[Matrix] = []
    shift: list[float] = []
    outer: list[list[tuple[int, float]]] = []
    start_of: list[float] = []

    def unit(row: Matrix, bias: float) -> int:
        inner.append(row)
        shift.append(bias)
        return len(inner) - 1

    def passed(index: int) -> list[tuple[int, float]]:
        # A linear quantity through a rectifier: its positive part less its negative part.
        row = np.eye(selected)[index]
        return [(unit(row, 0.0), 1.0), (unit(-row, 0.0), -1.0)]

    for head in range(heads):
        own = list(range(head * hostile, (head + 1) * hostile))
        for a, b in zip(own[::2], own[1::2], strict=False):
            difference = np.eye(selected)[a] - np.eye(selected)[b]
            outer.append(
                passed(b) + [(unit(difference, -bends[k]), slopes[k]) for k in range(count)]
            )
            start_of.append(start)
        if hostile % 2:
            outer.append(passed(own[-1]))
            start_of.append(0.0)
    outer.append(passed(selected - 1))
    start_of.append(0.0)
    chain = chain.rectified(np.stack(inner), np.array(shift))
    mixed = np.zeros((len(outer), len(inner)))
    for row, terms in enumerate(outer):
        for column, factor in terms:
            mixed[row, column] = factor
    return chain.linear(mixed, np.array(start_of))


def softplus_bends(count: int) -> tuple[Matrix, Matrix, float, float]:
    """Approximate log(1 + exp(x)) by a line: bends, changes of slope, start value, largest error.

    The bends are closest where the curvature is greatest, so that the error is even.
    """
    bends = 2.0 * np.log(np.tan(np.pi * np.arange(1, count + 1) / (2.0 * (count + 1))))
    values = np.logaddexp(0.0, bends)
    between = np.diff(values) / np.diff(bends)
    slopes = np.diff(np.r_[0.0, between, 1.0])
    dense = np.linspace(bends[0] - 20.0, bends[-1] + 20.0, 200_001)
    line = values[0] + np.maximum(dense[:, None] - bends, 0.0) @ slopes
    off = line - np.logaddexp(0.0, dense)
    middle = float(off.max() + off.min()) / 2.0
    return bends, slopes, float(values[0]) - middle, float(off.max() - off.min()) / 2.0
