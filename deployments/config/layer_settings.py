"""Settings of the layers: their replicas, and the import paths of custom detectors."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from ensemble.layers import add_layer, import_layer

__all__ = [
    "ROOT",
    "Count",
    "LayerSettings",
    "LayersSettings",
    "Positive",
    "ScalingSettings",
    "Strict",
]

# The repository: relative paths start here, whatever the working directory of a Ray worker is.
ROOT = Path(__file__).resolve().parents[2]
OWN_LAYER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
DEPLOYMENTS = frozenset({"ingress", "manage", "detectors"})  # not layers

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Section of the settings: no unknown keys, no coercion, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class ScalingSettings(Strict):
    """Replicas of a deployment, and how it is scaled with the load."""

    num_cpus: Annotated[float, Field(ge=0)]
    min_replicas: Count
    max_replicas: Count
    max_ongoing_requests: Count
    target_ongoing_requests: Positive
    upscale_delay_s: Annotated[float, Field(ge=0)]
    downscale_delay_s: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _minimum_is_not_above_maximum(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            )
        return self


class LayerSettings(ScalingSettings):
    """Deployment of one layer; `gpus` is a share of one GPU, 0 for the CPU, or `auto`."""

    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)]


class OwnLayerSettings(LayerSettings):
    """Deployment of a custom detector; `import` names its class as `module:Class`."""

    import_path: Annotated[str, Field(validation_alias=AliasChoices("import", "import_path"))]


class LayersSettings(Strict):
    """Deployments of Axon's layers, and of custom detectors under further names.

    Reading the settings adds the custom ones to the catalog, in every process that reads them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnLayerSettings] = Field(init=False)

    anomaly: LayerSettings
    behavior: LayerSettings
    classifier: LayerSettings
    resilience: LayerSettings

    @model_validator(mode="before")
    @classmethod
    def _own_layers_scale_like_anomaly(cls, values: Any) -> Any:  # noqa: ANN401  # YAML may have any value here
        if not isinstance(values, Mapping) or not isinstance(values.get("anomaly"), Mapping):
            return values
        return {
            name: {**values["anomaly"], **own}
            if name not in cls.model_fields and isinstance(own, Mapping)
            else own
            for name, own in values.items()
        }

    @model_validator(mode="after")
    def _own_layers_are_in_the_catalog(self) -> Self:
        for name, own in self.__pydantic_extra__.items():
            if not OWN_LAYER_NAME.fullmatch(name) or name in DEPLOYMENTS:
                raise ValueError(f"{name} cannot be the name of a layer")
            if str(ROOT) not in sys.path:  # not there in a Ray worker or a console script
                sys.path.append(str(ROOT))
            layer = import_layer(own.import_path)
            if layer.name != name:
                raise ValueError(f"{own.import_path} is named {layer.name}, not {name}")
            add_layer(layer)
        return self

    @property
    def by_name(self) -> dict[str, LayerSettings]:
        """Layer -> its settings, Axon's layers first."""
        built_in = {name: getattr(self, name) for name in type(self).model_fields}
        return {**built_in, **self.__pydantic_extra__}
