"""A spool on real files and its rescorer, over pipelines with a set coverage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deployments.config.settings import RetroSettings
from deployments.scoring import verdict_wire, wire
from deployments.scoring.retro_rescorer import RetroRescorer
from deployments.scoring.retro_spool import RetroSpool
from ensemble.events import Kind
from ensemble.retro.findings import Finding, read_findings

__all__ = [
    "HOUR_S",
    "LIMITS",
    "LIMIT_S",
    "T0",
    "FakePipelines",
    "RetroBench",
    "flow",
    "process",
    "verdict",
]

LIMIT_S = 30.0  # a test that hangs fails after this time

HOUR_S = 3600.0
T0 = 1_767_225_600.0  # 2026-01-01
LIMITS = RetroSettings(enabled=True, max_mb=4, max_age_hours=24, max_findings_mb=1)
Answer = verdict_wire.Verdict | Exception


def flow(number: int) -> wire.FlowRequest:
    return wire.FlowRequest(features=[float(number)] * 78, id=f"f{number}", host="web-1")


def process(number: int, line: str = "ls") -> wire.ProcessRequest:
    return wire.ProcessRequest(name="sh", command_line=line, id=f"p{number}", host="ws-17")


def verdict(
    event: wire.EventRequest,
    word: str = "benign",
    coverage: float = 0.4,
    *,
    elapsed_ms: float = 0.0,
) -> verdict_wire.Verdict:
    made_by = ("default/1", "0" * 64, "1" * 64, "2026-01-01T08:00:00.000Z")
    return verdict_wire.Verdict(
        event.id,
        0.5,
        0.1,
        0.9,
        word,
        "low",
        coverage,
        coverage < 1.0,
        "PARTIALLY_OPERATIONAL",
        [],
        elapsed_ms,
        *made_by,
    )


class FakePipelines:
    """Pipelines with a set coverage, a clock that moves on sleep, and a switch for busy callers."""

    def __init__(self) -> None:
        self.now = T0
        self.coverage: dict[Kind, float] = dict.fromkeys(Kind, 0.4)
        self.seen: list[list[str]] = []
        self.tenants: list[str] = []
        self.answer: Callable[[wire.EventRequest], Any] = lambda event: verdict(
            event, "malicious", self.coverage[wire.kind_of(event)]
        )
        self.is_busy = False
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    @property
    def default(self) -> FakePipelines:
        return self

    async def for_tenant(self, tenant: str) -> FakePipelines:
        self.tenants.append(tenant)
        return self

    async def rescore(self, _kind: Kind, events: Sequence[wire.EventRequest]) -> list[Any]:
        self.seen.append([event.id for event in events])
        return [self.answer(event) for event in events]

    async def status(self) -> SimpleNamespace:
        return SimpleNamespace(coverage_by_kind=self.coverage)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()
        await asyncio.sleep(0)

    def recover(self) -> None:
        self.coverage = dict.fromkeys(Kind, 1.0)


class RetroBench:
    """A spool on real files and its rescorer."""

    def __init__(self, root: Path, settings: RetroSettings = LIMITS) -> None:
        self.root, self.ensemble = root, FakePipelines()
        self.spool, self.rescorer = self.another(settings)

    def another(self, settings: RetroSettings = LIMITS) -> tuple[RetroSpool, RetroRescorer]:
        made = self.ensemble
        now: Callable[[], float] = lambda: made.now  # noqa: E731  # the clock of the fake pipelines
        spool = RetroSpool(settings, self.root, now=now, clock=now, sleep=made.sleep)
        # the fake has every method that the rescorer calls
        return spool, RetroRescorer(spool, made, now=now, clock=now, sleep=made.sleep)  # type: ignore[arg-type]

    async def degraded(
        self, *events: wire.EventRequest, word: str = "benign", coverage: float = 0.4
    ) -> None:
        """Spool events that only a part of the ensemble scored."""
        self.spool.offer(
            ["default"] * len(events), events, [verdict(event, word, coverage) for event in events]
        )
        await self.spool.flush()

    async def rescore_all(self) -> None:
        """Rescore until nothing improves."""
        while await self.rescorer.rescore():
            pass

    @property
    def findings(self) -> list[Finding]:
        found, bad = read_findings(self.root)
        assert bad == 0
        return found

    @property
    def found(self) -> list[str]:
        return [one.id for one in self.findings]

    def files(self) -> list[Path]:
        return [
            path
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.startswith("findings")
        ]
