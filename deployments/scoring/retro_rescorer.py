"""The rescorer: events that were scored while layers were missing are scored again on recovery.

Fail-open becomes fail-late. When more of the ensemble is available than before, the events of the
spool are scored again, a few at a time, while no caller waits. An event that turns hostile becomes
a finding with its original time.

An event leaves the spool once the complete ensemble has scored it. An event with a higher coverage
than before waits on, with its new verdict. An event without a higher coverage goes to the end of
the queue, and its kind pauses, each time for longer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from deployments.observability import log_event
from deployments.poller import Poller
from deployments.scoring import verdict_wire, wire
from deployments.scoring.retro_spool import RetroBatch, RetroSpool, first_verdict
from deployments.scoring.tenants import TenantPipelines
from deployments.web import encode
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.retro import FULL_COVERAGE, Finding, SpooledEvent, is_escalation, millionths
from ensemble.verdicts import VerdictLabel

__all__ = ["RetroRescorer"]

RESCORE_EVERY_S = 1.0  # how often coverage is compared; the status of the layers is cached as long
# a service that is never idle still rescores one small batch a second; otherwise the events would
# wait until their age limit
MAX_WAIT_S = 1.0
BUSY_POLL_S = 0.02  # how often to check whether callers still wait
# after a batch without a higher coverage; each pause is twice the last
FIRST_PAUSE_S, MAX_PAUSE_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class _Pause:
    """The pause of a kind of event after a rescore without a higher coverage.

    It ends at `until`, or once `coverage` changes.
    """

    coverage: float
    until: float
    length_s: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of a rescore.

    Attributes:
        findings: events that turned hostile.
        again: events that wait on.
        rejected: number of events that are not admitted.
        is_better: at least one event has a higher coverage.
    """

    findings: list[Finding]
    again: list[SpooledEvent]
    rejected: int
    is_better: bool


class RetroRescorer:
    """The task that scores the events of the spool again.

    Args:
        spool: the events.
        pipelines: score each tenant's events with that tenant's models.
        now: seconds since 1970.
        clock: seconds that only rise.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        spool: RetroSpool,
        pipelines: TenantPipelines,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spool, self._pipelines = spool, pipelines
        self._now, self._clock, self._sleep = now, clock, sleep
        self._pauses: dict[Kind, _Pause] = {}
        self._logged = (0, 0)  # events rescored and findings at the last log line
        self._poller = Poller(
            self._poll, every_s=RESCORE_EVERY_S, on_error=self._failed, sleep=sleep
        )

    async def start(self) -> None:
        """Start rescoring, without waiting for the first batch."""
        if self._spool.is_enabled:
            await self._poller.start()

    async def stop(self) -> None:
        """Stop rescoring."""
        await self._poller.stop()

    async def rescore(self) -> bool:
        """Score some waiting events again, if more of the ensemble is available than before.

        Returns:
            Whether an event left the spool or has a higher coverage; if not, the kind pauses.
        """
        coverage = await self._coverage_to_try()
        batch = await self._spool.next_batch(coverage) if coverage else None
        if batch is None:
            return False
        verdicts = await self._score(batch)
        self._spool.rescored(len(verdicts))
        outcome = self._compare(batch, verdicts)
        unreadable = len(batch.reading.events) - len(batch.events) + outcome.rejected
        is_settled = await self._spool.settle(
            batch, findings=outcome.findings, again=outcome.again, unreadable=unreadable
        )
        is_better = is_settled and (outcome.is_better or unreadable + batch.reading.unreadable > 0)
        self._set_pause(batch.kind, coverage[batch.kind], is_better=is_better)
        return is_better

    async def _poll(self) -> bool:
        await self._wait_for_calm()
        is_better = await self.rescore()
        if not is_better:
            self._log_progress()
        return is_better

    def _failed(self, error: Exception) -> None:
        """Log a failure once and on change, without a traceback, which would contain an event."""
        if type(error).__name__ != self._poller.last_error:
            log_event(logging.ERROR, "retro_rescore_failed", {"error_type": type(error).__name__})

    def _log_progress(self) -> None:
        counts = self._spool.counts()
        rescored, findings = self._logged
        if counts.rescored > rescored:
            fields = {
                "events": counts.rescored - rescored,
                "findings": counts.findings - findings,
                "waiting": counts.waiting_events,
            }
            log_event(logging.INFO, "retro_rescored", fields)
            self._logged = counts.rescored, counts.findings

    async def _wait_for_calm(self) -> None:
        """Wait while callers wait, for `MAX_WAIT_S` at most."""
        until = self._clock() + MAX_WAIT_S
        while self._pipelines.is_busy and self._clock() < until:
            await self._sleep(BUSY_POLL_S)

    async def _coverage_to_try(self) -> dict[str, float]:
        """The current coverage, for each waiting kind that is not paused."""
        found: dict[str, float] = {}
        for kind in [kind for kind in Kind if kind in self._spool.waiting_kinds]:
            coverage = (await self._pipelines.default.status()).coverage_by_kind[kind]
            pause = self._pauses.get(kind)
            if pause is None or pause.coverage != coverage or self._clock() >= pause.until:
                found[kind] = coverage
        return found

    async def _score(self, batch: RetroBatch) -> Sequence[verdict_wire.Verdict | EventError]:
        """Score each tenant's events with that tenant's models; verdicts in order."""
        verdicts: dict[int, verdict_wire.Verdict | EventError] = {}
        for tenant in dict.fromkeys(spooled.tenant for spooled, _ in batch.events):
            places = [
                place for place, (spooled, _) in enumerate(batch.events) if spooled.tenant == tenant
            ]
            events = [batch.events[place][1] for place in places]
            pipeline = await self._pipelines.for_tenant(tenant)
            verdicts |= zip(places, await pipeline.rescore(batch.kind, events), strict=True)
        return [verdicts[place] for place in range(len(batch.events))]

    def _compare(
        self, batch: RetroBatch, verdicts: Sequence[verdict_wire.Verdict | EventError]
    ) -> _Outcome:
        findings: list[Finding] = []
        again: list[SpooledEvent] = []
        rejected, is_better = 0, False
        for (spooled, event), verdict in zip(batch.events, verdicts, strict=True):
            if isinstance(verdict, EventError):
                rejected += 1
                continue
            was, coverage = spooled.was, millionths(verdict.coverage)
            is_complete = coverage >= FULL_COVERAGE or not verdict.degraded
            if coverage <= millionths(was.coverage) and not is_complete:
                again.append(spooled)  # at the end: an event that a layer cannot score delays none
                continue
            is_better = True
            if is_escalation(was.verdict, VerdictLabel(verdict.verdict)):
                findings.append(self._finding(spooled, event, verdict))
            if not is_complete:
                again.append(msgspec.structs.replace(spooled, was=first_verdict(verdict)))
        return _Outcome(findings, again, rejected, is_better)

    def _finding(
        self, spooled: SpooledEvent, event: wire.EventRequest, verdict: verdict_wire.Verdict
    ) -> Finding:
        return Finding(
            id=event.id,
            tenant=spooled.tenant,
            kind=spooled.kind,
            host=event.host,
            digest=spooled.digest,
            at=_iso(spooled.at),
            found_at=_iso(self._now()),
            was=spooled.was,
            verdict=msgspec.Raw(encode(verdict)),
        )

    def _set_pause(self, kind: Kind, coverage: float, *, is_better: bool) -> None:
        last = self._pauses.pop(kind, None)
        if not is_better:
            length_s = (
                FIRST_PAUSE_S
                if last is None or last.coverage != coverage
                else min(2 * last.length_s, MAX_PAUSE_S)
            )
            self._pauses[kind] = _Pause(coverage, self._clock() + length_s, length_s)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
