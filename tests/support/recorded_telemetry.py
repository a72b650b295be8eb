"""Metrics and log events of the code under test, recorded for assertions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from deployments.observability.metrics import METRICS, Instrument

__all__ = ["RecordedLog", "RecordingMeter"]


class RecordingMeter:
    """A meter in memory. It fails the test for a metric or label that `METRICS` does not list."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        self.levels: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.observed: list[tuple[str, float, dict[str, str]]] = []
        self.refreshed = 0

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        # only integers in tests
        self.counted[self._key(name, (Instrument.COUNTER,), labels)] += by  # type: ignore[assignment]

    def level(self, name: str, value: float, /, **labels: str) -> None:
        self.levels[self._key(name, (Instrument.GAUGE, Instrument.STATE_SET), labels)] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        self._key(name, (Instrument.HISTOGRAM,), labels)
        self.observed.append((name, value, labels))

    def refresh(self) -> None:
        self.refreshed += 1

    def total(self, name: str, **labels: str) -> float:
        """Sum a counter over the labels that are not given."""
        return sum(
            n
            for (found, having), n in self.counted.items()
            if found == name and labels.items() <= dict(having).items()
        )

    def value(self, name: str, **labels: str) -> float:
        return self.levels[name, frozenset(labels.items())]

    def state(self, name: str, **labels: str) -> str:
        """The one state of a state set that is 1; all others must be 0."""
        key = METRICS[name].labels[-1]
        having = {
            dict(h)[key]: v
            for (found, h), v in self.levels.items()
            if found == name and labels.items() <= dict(h).items()
        }
        assert set(having.values()) == {0.0, 1.0}
        (one,) = [state for state, value in having.items() if value == 1.0]
        return one

    @staticmethod
    def _key(
        name: str, instruments: tuple[Instrument, ...], labels: dict[str, str]
    ) -> tuple[str, frozenset[tuple[str, str]]]:
        assert METRICS[name].instrument in instruments
        assert labels.keys() == set(METRICS[name].labels), name
        assert all(isinstance(value, str) for value in labels.values())
        return name, frozenset((key, str(value)) for key, value in labels.items())


class RecordedLog:
    """The log events of one test, each as a dictionary of its record's fields."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self, event: str = "") -> list[dict[str, Any]]:
        """All records of the event, or of every event."""
        records = [record for record in self._caplog.records if hasattr(record, "event")]
        return [vars(record) for record in records if event in ("", record.event)]

    @property
    def events(self) -> list[str]:
        """The names of all events, in order."""
        return [record["event"] for record in self()]
