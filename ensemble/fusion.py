"""Fusion: layer scores become one score, its bounds, and a verdict with its coverage.

The calibrated score of a layer is evidence, in log-odds against the reference prior. The layers
that spoke are averaged by their validated shares, and the average is sharpened by one factor:

    z = prior + sharpness * sum(share_i * evidence_i) / sum(share_i),  over the layers i that spoke
    score = logistic(z + shift of the host's posture)

A silent layer is thus assumed to agree with those that spoke: silence is evidence neither of
innocence nor of guilt. `low` and `high` bound the score that its lowest and highest opinion would
have given. A higher score of any layer never lowers the result.

The posture of the host is no evidence about the event. It shifts the score by a bounded amount, at
most by the distance from `malicious` down to `suspicious`: a hardened host cannot turn clearly
hostile evidence benign.

Source: logarithmic opinion pool: Genest, Zidek, "Combining probability distributions", Statistical
Science 1(1), 1986; one sharpening factor for a pool of calibrated forecasts: Satopaa et al.,
"Combining multiple probability predictions using a simple logit model", International Journal of
Forecasting 30(2), 2014.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.kernels.calibration import LOG_ODDS_LIMIT, PRIOR_LOG_ODDS, log_odds, probability
from ensemble.verdicts import (
    Abstention,
    LayerScores,
    LayerStatus,
    Severity,
    VerdictLabel,
    Verdicts,
    system_status,
)

__all__ = ["RESILIENCE", "Fusion", "Thresholds", "layer_set"]

RESILIENCE = "resilience"
NEUTRAL_POSTURE = 0.5  # an unknown host shifts nothing
_LABELS = (
    VerdictLabel.BENIGN,
    VerdictLabel.SUSPICIOUS,
    VerdictLabel.MALICIOUS,
    VerdictLabel.MALICIOUS,
)
_SEVERITIES = (Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL)


def layer_set(layers: Iterable[str]) -> str:
    """Name a set of layers, e.g. `anomaly+behavior`; the order of `layers` does not matter."""
    return "+".join(sorted(layers))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores above which an event is suspicious, malicious or of critical severity.

    Attributes:
        suspicious: exceeded by 1 % of benign validation events, or by the rate that was chosen.
        malicious: exceeded by 0.1 %.
        critical: exceeded by 0.01 %, by extrapolation.
    """

    suspicious: float
    malicious: float
    critical: float

    def __post_init__(self) -> None:
        if not 0.0 < self.suspicious <= self.malicious <= self.critical < 1.0:
            raise ArtifactIncompatible(
                "thresholds",
                "rising numbers inside (0, 1)",
                f"{self.suspicious}, {self.malicious}, {self.critical}",
            )


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the layers of one kind of event are pooled.

    Attributes:
        shares: layer -> validated share of the evidence; each >= 0, together 1.
        sharpness: common factor on the average evidence, > 0.
        thresholds: set of speaking layers (`layer_set`) -> thresholds with the promised
            false-positive rate.
        source: origin of the shares, `fitted` or `builtin`; verdicts of a builtin fusion are always
            indeterminate.
    """

    shares: Mapping[str, float]
    sharpness: float
    thresholds: Mapping[str, Thresholds]
    source: str = "fitted"

    def __post_init__(self) -> None:
        shares = list(self.shares.values())
        if (
            not shares
            or not all(0.0 <= share <= 1.0 for share in shares)
            or not abs(sum(shares) - 1.0) <= 1e-6  # noqa: PLR2004  # rounding of the file
        ):
            raise ArtifactIncompatible(
                "fusion", "shares >= 0 that sum to 1", f"{dict(self.shares)}"
            )
        if not 0.0 < self.sharpness < np.inf:
            raise ArtifactIncompatible("fusion", "a positive sharpness", f"{self.sharpness}")

    @classmethod
    def builtin(cls, layers: Sequence[str]) -> Self:
        """Make the fallback fusion: equal shares and no thresholds."""
        return cls(dict.fromkeys(layers, 1.0 / len(layers)), 1.0, {}, "builtin")

    def weighs(self, layer: str) -> bool:
        """Whether `layer` has a share of the evidence; one without is only shown."""
        return self.shares.get(layer, 0.0) > 0.0

    def coverage(self, speaking: Iterable[str]) -> float:
        """Share of the validated evidence that `speaking` hold, in [0, 1]; 0 for builtin shares."""
        return (
            0.0
            if self.source == "builtin"
            else min(1.0, round(sum((self.shares.get(layer, 0.0) for layer in speaking), 0.0), 9))
        )

    def pooled(self, odds: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Pool the log-odds of the layers that spoke: float64 (n,).

        Args:
            odds: layer -> log-odds (n,) of its calibrated scores; at least one layer of a
                positive share.
        """
        # A fixed order of summation: the last bit must not depend on which layer answered first.
        layers = sorted(odds)
        total = sum(self.shares[layer] for layer in layers)
        evidence = sum(
            self.shares[layer] / total * (odds[layer] - PRIOR_LOG_ODDS) for layer in layers
        )
        return np.asarray(PRIOR_LOG_ODDS + self.sharpness * evidence)

    def fuse(
        self, opinions: Sequence[LayerScores], *, min_coverage: float, posture_bound: float
    ) -> Verdicts:
        """Fuse the opinions of the layers into one verdict for each event of a batch.

        Args:
            opinions: one from every layer that was called, each with n scores; a layer of
                `shares` that is not among them counts as silent.
            min_coverage: share of the evidence below which the verdict is `indeterminate`, in
                [0, 1].
            posture_bound: how far the posture of the host may shift the score, in log-odds, >= 0.

        Returns:
            Verdicts with columns of n.
        """
        speaking = {
            o.layer: log_odds(o.scores) for o in opinions if o.speaks and self.weighs(o.layer)
        }
        size = len(opinions[0].scores)
        coverage = self.coverage(speaking)
        thresholds = self.thresholds.get(layer_set(speaking))
        shift, shift_low, shift_high = _posture_shift(
            opinions, size, _bound(posture_bound, self.thresholds.values())
        )

        def fused(guess: float | None) -> NDArray[np.float64]:
            """Pooled log-odds; a silent layer has `guess`, or agrees with the rest if None."""
            pool = dict(speaking)
            if guess is not None:
                pool |= {
                    layer: np.full(size, guess)
                    for layer, share in self.shares.items()
                    if share and layer not in speaking
                }
            return self.pooled(pool) if pool else np.full(size, PRIOR_LOG_ODDS)

        score = probability(fused(None) + shift)
        return Verdicts(
            score=score,
            low=probability(fused(-LOG_ODDS_LIMIT) + shift_low),
            high=probability(fused(LOG_ODDS_LIMIT) + shift_high),
            label=self._labels(score, coverage, min_coverage, thresholds),
            severity=_severities(score, thresholds),
            coverage=coverage,
            degraded=self.source == "builtin" or self._has_outage(opinions),
            status=system_status(o.status for o in opinions if self.weighs(o.layer)),
            layers=tuple(opinions),
        )

    def fuse_each(
        self, opinions: Sequence[LayerScores], *, min_coverage: float, posture_bound: float
    ) -> tuple[Verdicts, ...]:
        """Fuse a batch in which a layer may abstain on single events.

        Args:
            opinions: as for `fuse`; rows from which a layer `abstained` are fused without it.
            min_coverage: as for `fuse`.
            posture_bound: as for `fuse`.

        Returns:
            Groups of rows for which the same layers spoke, each with its own coverage and status;
            every row is in one group. Usually one group with all rows.
        """
        groups = _rows_alike(opinions)
        if not groups:
            return (self.fuse(opinions, min_coverage=min_coverage, posture_bound=posture_bound),)
        fused = (
            (
                rows,
                self.fuse(
                    _opinions_of(opinions, rows, abstained),
                    min_coverage=min_coverage,
                    posture_bound=posture_bound,
                ),
            )
            for abstained, rows in groups
        )
        return tuple(replace(verdicts, rows=rows) for rows, verdicts in fused)

    def _has_outage(self, opinions: Sequence[LayerScores]) -> bool:
        """Whether a layer that could have moved the score was not available."""
        available = {o.layer for o in opinions if o.speaks or o.status is LayerStatus.UNINFORMED}
        return any(
            o.layer == RESILIENCE
            and o.layer not in available
            and o.status is not LayerStatus.NOT_APPLICABLE
            for o in opinions
        ) or any(share > 0.0 and layer not in available for layer, share in self.shares.items())

    def _labels(
        self,
        score: NDArray[np.float64],
        coverage: float,
        min_coverage: float,
        thresholds: Thresholds | None,
    ) -> tuple[VerdictLabel, ...]:
        if thresholds is None or coverage < min_coverage or coverage == 0.0:
            return (VerdictLabel.INDETERMINATE,) * len(score)
        return tuple(_LABELS[level] for level in _levels(score, thresholds))

    def to_config(self) -> dict[str, Any]:
        """JSON values for the release file."""
        return {
            "shares": dict(self.shares),
            "sharpness": self.sharpness,
            "thresholds": {
                layers: {
                    "suspicious": t.suspicious,
                    "malicious": t.malicious,
                    "critical": t.critical,
                }
                for layers, t in self.thresholds.items()
            },
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the fusion of a release.

        Raises:
            ArtifactIncompatible: a field is missing, or a share or threshold is impossible.
        """
        try:
            thresholds = {
                layers: Thresholds(**values) for layers, values in config["thresholds"].items()
            }
            return cls(
                {k: float(v) for k, v in config["shares"].items()},
                float(config["sharpness"]),
                thresholds,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ArtifactIncompatible(
                "fusion", "shares, sharpness and thresholds", type(problem).__name__
            ) from None


Abstained = tuple[tuple[str, Abstention], ...]  # by layer


def _rows_alike(opinions: Sequence[LayerScores]) -> Sequence[tuple[Abstained, NDArray[np.intp]]]:
    """Group the rows by the layers that abstained from them, and why; empty if none did."""
    reasons: dict[int, Abstained] = {}
    for opinion in opinions:
        if opinion.abstained and opinion.speaks:
            for row, abstention in opinion.abstained.items():
                reasons[row] = (*reasons.get(row, ()), (opinion.layer, abstention))
    if not reasons:
        return ()
    groups: dict[Abstained, list[int]] = {}
    for row in range(len(opinions[0].scores)):
        groups.setdefault(reasons.get(row, ()), []).append(row)
    return [(abstained, np.array(rows, dtype=np.intp)) for abstained, rows in groups.items()]


def _opinions_of(
    opinions: Sequence[LayerScores], rows: NDArray[np.intp], abstained: Abstained
) -> Sequence[LayerScores]:
    """Opinions of `rows` alone; a layer that abstained from them says so, and has weight 0."""
    why = dict(abstained)
    return [
        _abstaining(one, why[one.layer]) if one.layer in why else one
        for one in (opinion.select(rows) for opinion in opinions)
    ]


def _abstaining(opinion: LayerScores, why: Abstention) -> LayerScores:
    if why.status is LayerStatus.UNINFORMED:  # its model was asked
        return replace(opinion, status=why.status, reason=why.reason)
    return replace(opinion, status=why.status, version="", release="", reason=why.reason)


def _bound(posture_bound: float, thresholds: Iterable[Thresholds]) -> float:
    """Bound of the posture's shift: as configured, but never from `malicious` below `suspicious`.

    It is one bound for every set of layers, because `low` and `high` assume that silent layers had
    spoken.
    """
    distances = [_odds(one.malicious) - _odds(one.suspicious) for one in thresholds]
    return float(min([posture_bound, *distances]))


def _odds(score: float) -> float:
    return float(np.log(score) - np.log1p(-score))


def _posture_shift(
    opinions: Sequence[LayerScores], size: int, bound: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shift of each event in log-odds, with the least and the greatest that it could have been."""
    for opinion in opinions:
        if opinion.layer == RESILIENCE and opinion.speaks:
            shift = bound * 2.0 * (opinion.scores - NEUTRAL_POSTURE)
            return shift, shift, shift
    nothing = np.zeros(size)
    return nothing, nothing - bound, nothing + bound


def _levels(score: NDArray[np.float64], thresholds: Thresholds) -> NDArray[np.intp]:
    return np.searchsorted(
        [thresholds.suspicious, thresholds.malicious, thresholds.critical], score, side="left"
    )


def _severities(score: NDArray[np.float64], thresholds: Thresholds | None) -> tuple[Severity, ...]:
    if thresholds is None:
        return (Severity.UNKNOWN,) * len(score)
    return tuple(_SEVERITIES[level] for level in _levels(score, thresholds))
