"""Rows of network data for the training route."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["rows"]


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Make rows with the features and, as in the source system, an extra field."""
    generator = np.random.default_rng(3)
    table = np.stack(
        [
            generator.lognormal(8, 1, count),
            generator.integers(1, 90, count),
            generator.exponential(3, count),
        ],
        axis=1,
    )
    return [
        {
            "bytes_transferred": b,
            "packet_count": p,
            "connection_duration": d,
            "source_ip": "10.0.0.7",
        }
        for b, p, d in table.astype(float).tolist()
    ]
