"""A retrospective spool on a given clock, and numbered events for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from ensemble.retro import FirstVerdict, Spool, SpooledEvent
from ensemble.verdicts import VerdictLabel

__all__ = ["HOUR_S", "T0", "event", "opened"]

HOUR_S = 3600.0
T0 = 1_700_000_000.0


def event(
    number: int,
    *,
    at: float = T0,
    kind: str = "flow",
    coverage: float = 0.4,
    size: int = 100,
    tenant: str = "",
) -> SpooledEvent:
    text = msgspec.json.encode({"kind": kind, "id": f"e{number}", "pad": "x" * size})
    was = FirstVerdict(0.1, VerdictLabel.BENIGN, coverage)
    return SpooledEvent(
        at=at,
        tenant=tenant,
        digest=f"{number:064x}",
        kind=kind,
        was=was,
        event=msgspec.Raw(text),
    )


def opened(
    root: Path,
    clock: Callable[[], float],
    *,
    limit_bytes: int = 1 << 20,
    max_age_s: float = 24 * HOUR_S,
    now: Callable[[], float] | None = None,
) -> Spool:
    """Open a spool; `now` is the clock, too, unless it is given."""
    return Spool(root, limit_bytes=limit_bytes, max_age_s=max_age_s, now=now or clock, clock=clock)
