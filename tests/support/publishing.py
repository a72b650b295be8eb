"""Fixed arguments of publications in tests: the time, and the record of a training."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["NOW", "TRAINING"]

NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
TRAINING = {"recipe": "toy", "data_sha256": "0" * 64, "seed": 7, "rows": 3}
