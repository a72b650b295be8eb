"""Rollout of releases: canary rollout, shadow evaluation and automatic rollback."""

from ensemble.rollout.canary import RolloutRules, RolloutState, RolloutView
from ensemble.rollout.comparison import compared
from ensemble.rollout.controller import ReleaseController
from ensemble.rollout.shadow import Agreement, ShadowEvaluation

__all__ = [
    "Agreement",
    "ReleaseController",
    "RolloutRules",
    "RolloutState",
    "RolloutView",
    "ShadowEvaluation",
    "compared",
]
