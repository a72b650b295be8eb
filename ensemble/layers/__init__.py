"""Detectors: each turns a batch of events into calibrated scores, higher is worse.

The face is the catalog alone. A detector is imported by its file, because it brings its library.
"""

from ensemble.layers.catalog import (
    FEATURE_SCHEMAS,
    LAYERS,
    Layer,
    LayerSpec,
    add_layer,
    import_layer,
    layers_by_model,
)

__all__ = [
    "FEATURE_SCHEMAS",
    "LAYERS",
    "Layer",
    "LayerSpec",
    "add_layer",
    "import_layer",
    "layers_by_model",
]
