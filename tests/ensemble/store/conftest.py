"""A disk whose fsync does not wait, for all tests of the store."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(no_fsync: None) -> None:
    """Apply the fixture to every test."""
