"""The root of every error that Axon raises."""

from __future__ import annotations

__all__ = ["EnsembleError"]


class EnsembleError(Exception):
    """Root of everything we raise."""

    code = "ENSEMBLE_ERROR"
