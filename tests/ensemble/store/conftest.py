"""A disk that does not wait, for every test of the store."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(no_fsync: None) -> None:
    """Asked for by its effect."""
