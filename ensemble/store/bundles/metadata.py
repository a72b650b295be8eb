"""Metadata of a model beyond its recipe: kind, parameters, and notes of its users.

It lies in the manifest's `training`, which is signed with it. The keys are named here and nowhere
else; a bundle that has none of them, as those of older Axons, is as good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ensemble.errors import ArtifactIncompatible

__all__ = ["Metadata", "refuse_other_type"]


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of a model beyond its recipe (S4-06).

    Attributes:
        label: what its publisher calls this version, e.g. `20261120_081500`; for people, never
            for order.
        model_type: class or kind of the model, e.g. `IsolationForest`.
        model_module: where that is defined, e.g. `ensemble.layers.flow_anomaly`.
        model_params: what it was made with; JSON.
        user_metadata: whatever its user wants to remember; JSON.
        feature_names: what it reads, in order; () where its feature schema says it.
        origin: where it was imported from: tenant, model, version, manifest_sha256, created_at,
            signed_by; {} where it was made here.
    """

    label: str = ""
    model_type: str = ""
    model_module: str = ""
    model_params: Mapping[str, Any] = field(default_factory=dict)
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def in_training(self) -> dict[str, Any]:
        """The same as keys of a manifest's `training`; what says nothing is left out."""
        fields: dict[str, Any] = {
            "label": self.label,
            "model_type": self.model_type,
            "model_module": self.model_module,
            "model_params": dict(self.model_params),
            "user_metadata": dict(self.user_metadata),
            "feature_names": list(self.feature_names),
            "origin": dict(self.origin),
        }
        return {key: value for key, value in fields.items() if value}

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> Self:
        """What `training` says.

        A key of another type says nothing. The recipe stands in for a type that is not told.
        """
        names = training.get("feature_names")
        return cls(
            label=_text(training, "label"),
            model_type=_text(training, "model_type") or _text(training, "recipe"),
            model_module=_text(training, "model_module"),
            model_params=_mapping(training, "model_params"),
            user_metadata=_mapping(training, "user_metadata"),
            feature_names=tuple(names)
            if isinstance(names, list) and all(isinstance(name, str) for name in names)
            else (),
            origin=_mapping(training, "origin"),
        )


def refuse_other_type(training: Mapping[str, Any], expected: str, *, what: str) -> None:
    """Refuse a model of another type than the caller can use (C-21).

    S4-07 only warned, and went on.

    Raises:
        ArtifactIncompatible: the publisher says another type, or none.
    """
    found = _text(training, "model_type")
    if found != expected:
        raise ArtifactIncompatible(
            what, f"a model of type {expected}", found or "one that does not say its type"
        )


def _text(training: Mapping[str, Any], key: str) -> str:
    value = training.get(key)
    return value if isinstance(value, str) else ""


def _mapping(training: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = training.get(key)
    return value if isinstance(value, dict) else {}
