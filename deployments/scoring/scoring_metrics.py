"""The metrics of the scoring application, one method for each thing that its parts count.

They are recorded once a batch, never once an event: a record costs microseconds. No method raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.observability import Meter, set_state
from deployments.scoring.retro_spool import RetroCounts
from ensemble.errors import Overloaded
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.rollout import RolloutView
from ensemble.verdicts import LayerStatus, VerdictLabel, Verdicts

__all__ = ["ScoringMetrics"]


class ScoringMetrics:
    """The counters of the pipelines, the guarded calls and the retro spool.

    Args:
        meter: records them.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._retro: dict[tuple[str, str, str], int] = {}  # the totals of the last call

    def scored(
        self, kind: Kind, groups: Sequence[Verdicts], elapsed_s: Mapping[str, float]
    ) -> None:
        """Count a batch. On the hot path: some microseconds a batch, whatever its size.

        Args:
            kind: kind of its events.
            groups: its verdicts.
            elapsed_s: layer -> seconds to its response, for the layers that responded.
        """
        for verdict in VerdictLabel:
            self.meter.count(
                "axon_events_scored_total",
                sum(group.label.count(verdict) for group in groups),
                kind=kind,
                verdict=verdict,
            )
        for group in groups:
            for scores in group.layers:
                if scores.status is LayerStatus.UNINFORMED:
                    self.meter.count(
                        "axon_uninformed_scores_total",
                        len(group.label),
                        layer=scores.layer,
                        kind=kind,
                    )
                elif not scores.speaks and scores.status is not LayerStatus.NOT_APPLICABLE:
                    self.meter.count(
                        "axon_fallback_scores_total",
                        len(group.label),
                        layer=scores.layer,
                        kind=kind,
                        status=scores.status,
                    )
        for layer, seconds in elapsed_s.items():
            self.meter.observe("axon_layer_latency_seconds", seconds, layer=layer)

    def shed(self) -> None:
        """Count a single event that was refused because too many wait."""
        self.meter.count("axon_requests_refused_total", code=Overloaded.code)

    def retried(self, layer: str) -> None:
        """Count a call that was retried because its replica died."""
        self.meter.count("axon_layer_retries_total", layer=layer)

    def failed(self, layer: str, code: str) -> None:
        """Count a call that failed or timed out."""
        self.meter.count("axon_layer_failed_calls_total", layer=layer, code=code)

    def breaker_changed(self, layer: str, state: BreakerState) -> None:
        """Count that a circuit breaker opened, half opened or closed."""
        self.meter.count("axon_breaker_changes_total", layer=layer, state=state)
        set_state(self.meter, "axon_breaker_state", state, BreakerState, layer=layer)

    def rollout_changed(self, view: RolloutView) -> None:
        """Count that a canary rollout began, moved a step on or ended."""
        self.meter.count("axon_rollout_changes_total", state=str(view.state))
        self.meter.level("axon_rollout_share", float(view.share))

    def shadowed(self, events: int, flips: Mapping[str, int]) -> None:
        """Count a batch that the challenger scored too, and the verdicts in which it differed.

        Args:
            events: number of events in the batch.
            flips: the champion's verdict and the challenger's, e.g. `benign>malicious` -> events.
        """
        self.meter.count("axon_challenger_events_total", events)
        for verdicts, count in flips.items():
            champion, _, challenger = verdicts.partition(">")
            self.meter.count(
                "axon_challenger_flips_total", count, champion=champion, challenger=challenger
            )

    def retro_counted(self, counts: RetroCounts) -> None:
        """Record the totals of the retro spool; the counters grow by the difference."""
        totals = {
            ("axon_retro_events_total", "outcome", "spooled"): counts.spooled,
            ("axon_retro_events_total", "outcome", "adopted"): counts.adopted,
            ("axon_retro_events_total", "outcome", "rescored"): counts.rescored,
            ("axon_retro_events_total", "outcome", "hostile"): counts.findings,
            **{
                ("axon_retro_dropped_total", "reason", reason): events
                for reason, events in counts.dropped.items()
            },
        }
        for key, events in totals.items():
            self.meter.count(key[0], events - self._retro.get(key, 0), **{key[1]: key[2]})
        self._retro = totals
        self.meter.level("axon_retro_waiting_events", counts.waiting_events)
        self.meter.level("axon_retro_waiting_bytes", counts.waiting_bytes)
        self.meter.level("axon_retro_oldest_age_seconds", counts.oldest_age_s)
