"""Metadata of a model beyond its recipe: kind, parameters, and notes of its users.

It is part of the signed manifest, in `training`. Its keys are named only here. All are optional;
bundles of older versions of Axon have none of them.
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
        label: the publisher's name of this version, e.g. `20261120_081500`; for display, never
            for ordering.
        model_type: class or kind of the model, e.g. `IsolationForest`.
        model_module: module of that class, e.g. `ensemble.layers.flow_anomaly`.
        model_params: parameters of the training; JSON.
        user_metadata: notes of the user; JSON.
        feature_names: features in the order of the columns; () if the feature schema defines them.
        origin: source of an imported model: tenant, model, version, manifest_sha256, created_at,
            signed_by; {} if it was trained here.
    """

    label: str = ""
    model_type: str = ""
    model_module: str = ""
    model_params: Mapping[str, Any] = field(default_factory=dict)
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def in_training(self) -> dict[str, Any]:
        """Return the fields as keys of a manifest's `training`, without the empty ones."""
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
        """Read the metadata from `training`.

        A value of another type counts as missing. Without `model_type` the recipe stands for it.
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
    """Refuse a model of another type than the caller can use (C-21; S4-07 only warned).

    Raises:
        ArtifactIncompatible: its metadata has another type, or none.
    """
    found = _text(training, "model_type")
    if found != expected:
        raise ArtifactIncompatible(
            what, f"a model of type {expected}", found or "a model without a type"
        )


def _text(training: Mapping[str, Any], key: str) -> str:
    value = training.get(key)
    return value if isinstance(value, str) else ""


def _mapping(training: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = training.get(key)
    return value if isinstance(value, dict) else {}
