"""`axon replay`.

Find a verdict and its event in files, make the verdict once more, and say what is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from deployments.cli.local_store import own_store, plain
from deployments.cli.serve import ServeRefused, arguments_in
from deployments.config.settings import Settings, read_settings
from deployments.config.tenants import Tenants
from deployments.scoring import wire
from ensemble.errors import EventError, NotReplayable
from ensemble.events import EventBatch
from ensemble.features.digest import input_digests
from ensemble.replay import (
    Difference,
    RecordedOpinion,
    RecordedVerdict,
    ReplaySettings,
    replay,
)
from ensemble.store import Tenant
from ensemble.verdicts import LayerStatus

__all__ = ["Asked", "replay_verdict", "tell_refusal"]

SHOWN_OF_A_DIGEST = 12  # what a person compares; all of it goes to JSON


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be replayed, and how.

    Attributes:
        verdict: file of answers.
        event: file of events; the one that the verdict is about is found by its digest.
        event_id: which of the answers; None where there is one.
        tenant: whose release it must have been, or of its parents; None for anybody's.
        config: Serve config file of the service, for its settings; None for
            configs/default.yaml alone.
        tolerance: two numbers this close are the same.
    """

    verdict: Path
    event: Path
    event_id: str | None
    tenant: str | None
    config: Path | None
    tolerance: float


def replay_verdict(asked: Asked, *, as_json: bool, out: Console) -> bool:
    """Print whether a verdict comes out as it did.

    Args:
        asked: which, and how.
        as_json: one object, for programs; else a table.
        out: where it goes.

    Returns:
        Whether it is the same event, and everything came out as it did.

    Raises:
        NotReplayable: the files do not hold what is needed, or the verdict does not name it.
        ArtifactError: its release cannot be had.
        pydantic.ValidationError: the settings, or the trust list, are refused.
    """
    settings = read_settings(_arguments(asked.config))
    tolerance = asked.tolerance
    recorded = _recorded(_chosen(_answers(_read(asked.verdict)), asked.event_id))
    found, digests = _event_of(recorded, _events(_read(asked.event)))
    if found is None:
        _tell_another(recorded, digests, as_json=as_json, out=out)
        return False
    if asked.tenant is not None:
        _refuse_anothers(recorded, Tenant(asked.tenant), settings)
    logging.getLogger("ray.serve").addHandler(logging.NullHandler())  # what fails is told in words
    fusion, posture = settings.fusion, settings.posture
    now = ReplaySettings(
        fusion.min_coverage,
        fusion.posture_bound,
        posture.stale_after_days,
        posture.expired_after_days,
    )
    store = own_store(settings)
    replayed = replay(recorded, found, lambda: store, now, tolerance=tolerance)
    if as_json:
        lines = [msgspec.to_builtins(line) for line in replayed.lines]
        outcome = "same" if replayed.is_same else "changed"
        _write(
            {
                "outcome": outcome,
                **_made_by(recorded),
                "tolerance": tolerance,
                "lines": lines,
                "why": replayed.why,
            },
            out,
        )
        return replayed.is_same
    out.print(_heading(recorded), highlight=False)
    out.print(_table(replayed.lines))
    changed = ", ".join(line.what for line in replayed.lines if not line.is_same)
    out.print(
        f"changed: {plain(changed)}" if changed else f"the same, within {tolerance:g}",
        highlight=False,
    )
    for reason in replayed.why:
        out.print(f"  why: {plain(reason)}", highlight=False)
    return replayed.is_same


def tell_refusal(sentence: str, code: str, *, as_json: bool, out: Console, err: Console) -> None:
    """Say why a verdict cannot be replayed.

    A program gets it as an object on standard output, like every other outcome.
    """
    if as_json:
        _write({"outcome": "impossible", "code": code, "problem": sentence}, out)
    err.print(f"axon: {plain(sentence)}", highlight=False)


def _arguments(config: Path | None) -> Mapping[str, Any]:
    try:
        return {} if config is None else arguments_in(config)
    except ServeRefused as refusal:
        raise NotReplayable(str(refusal)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise NotReplayable(
            f"{path.name} cannot be read: {(problem.strerror or type(problem).__name__).lower()}"
        ) from None


def _answers(data: bytes) -> list[Any]:
    """The answers in a file.

    One, those of a batch, or one a line; of a finding the verdict that is in it.
    """
    try:
        whole = msgspec.json.decode(data)
        found = (
            whole["results"]
            if isinstance(whole, dict) and isinstance(whole.get("results"), list)
            else [whole]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = [
            _line(number, line)
            for number, line in enumerate(data.splitlines(), start=1)
            if line.strip()
        ]
    return [
        one["verdict"] if isinstance(one, dict) and isinstance(one.get("verdict"), dict) else one
        for one in found
    ]


def _line(number: int, line: bytes) -> Any:  # noqa: ANN401  # whatever is in it
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotReplayable(f"line {number} of the file of verdicts is no JSON") from None


def _chosen(answers: Sequence[Any], event_id: str | None) -> Any:  # noqa: ANN401  # of a file
    """The one answer that is meant."""
    meant = [
        one
        for one in answers
        if event_id is None or (isinstance(one, dict) and one.get("id") == event_id)
    ]
    which = "" if event_id is None else f" with the id {event_id[:64]}"
    if len(meant) != 1:
        say_which = "; say which with --id" if meant and event_id is None else ""
        raise NotReplayable(
            f"the file of verdicts holds {len(meant) or 'no'} answers{which}{say_which}"
        )
    return meant[0]


def _recorded(answer: Any) -> RecordedVerdict:  # noqa: ANN401  # of a file
    """An answer as what is replayed, strictly: a verdict may have been through many hands."""
    if isinstance(answer, dict) and isinstance(refusal := answer.get("error"), dict):
        raise NotReplayable(
            f"the event was refused and not scored: {str(refusal.get('code'))[:64]}"
        )
    if isinstance(answer, dict) and "verdict" in answer and "input_sha256" not in answer:
        raise NotReplayable(
            "the verdict does not say by what it was made: it is from an older Axon"
        )
    try:
        verdict = msgspec.convert(answer, wire.Verdict)
        layers = tuple(
            RecordedOpinion(one.layer, one.score, LayerStatus(one.status), one.version, one.reason)
            for one in verdict.layers
        )
        return RecordedVerdict(
            release=verdict.release,
            release_sha256=verdict.release_sha256,
            input_sha256=verdict.input_sha256,
            scored_at=_seconds(verdict.scored_at),
            score=verdict.score,
            low=verdict.low,
            high=verdict.high,
            verdict=verdict.verdict,
            severity=verdict.severity,
            coverage=verdict.coverage,
            degraded=verdict.degraded,
            status=verdict.status,
            layers=layers,
        )
    except (msgspec.ValidationError, ValueError) as problem:
        raise NotReplayable(f"that is no verdict: {str(problem)[:200]}") from None


def _seconds(iso: str) -> float:
    at = datetime.fromisoformat(iso)
    if at.tzinfo is None:
        raise ValueError("scored_at names no time zone")
    return at.timestamp()


class _Sent(msgspec.Struct):
    events: list[msgspec.Raw]


def _events(data: bytes) -> list[bytes]:
    """The events in a file, unread: one, those of a batch, or one a line."""
    try:
        whole = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [line for line in data.splitlines() if line.strip()]
    is_batch = isinstance(whole, dict) and isinstance(whole.get("events"), list)
    return (
        [bytes(event) for event in msgspec.json.decode(data, type=_Sent).events]
        if is_batch
        else [data]
    )


def _event_of(
    recorded: RecordedVerdict, events: Sequence[bytes]
) -> tuple[EventBatch | None, list[str]]:
    """The event with the verdict's digest, or None; and the digests of all that pass the door.

    Raises:
        NotReplayable: not one passes.
    """
    digests: list[str] = []
    problem = "it holds none"
    for raw in events:
        try:
            event = wire.parse_event(raw)
            batch, _, refused = wire.admit(wire.kind_of(event), [event])
        except EventError as error:
            problem = str(error)
            continue
        if refused:
            problem = str(refused[0])
            continue
        digests += input_digests(batch)
        if digests[-1] == recorded.input_sha256:
            return batch, digests
    if not digests:
        raise NotReplayable(f"the file of events holds none that passes the door: {problem}")
    return None, digests


def _refuse_anothers(recorded: RecordedVerdict, tenant: Tenant, settings: Settings) -> None:
    owner, _ = recorded.made_by
    if owner not in Tenants(settings).lineage(tenant):
        raise NotReplayable(
            f"release {recorded.release} is neither tenant {tenant}'s nor its parents'"
        )


def _made_by(recorded: RecordedVerdict) -> dict[str, Any]:
    return {
        "release": recorded.release,
        "release_sha256": recorded.release_sha256,
        "input_sha256": recorded.input_sha256,
    }


def _tell_another(
    recorded: RecordedVerdict, digests: Sequence[str], *, as_json: bool, out: Console
) -> None:
    if as_json:
        _write({"outcome": "another_event", **_made_by(recorded), "found_sha256": digests}, out)
        return
    theirs = (
        f"{len(digests)} events, none of them that one"
        if len(digests) > 1
        else f"{digests[0][:SHOWN_OF_A_DIGEST]}..."
    )
    wanted = plain(recorded.input_sha256[:SHOWN_OF_A_DIGEST])
    out.print(
        f"another event: the verdict is about {wanted}..., the file holds {theirs}", highlight=False
    )


def _heading(recorded: RecordedVerdict) -> str:
    release, event = (
        recorded.release_sha256[:SHOWN_OF_A_DIGEST],
        recorded.input_sha256[:SHOWN_OF_A_DIGEST],
    )
    return f"release {plain(recorded.release)} ({plain(release)}...), event {plain(event)}..."


def _table(lines: Sequence[Difference]) -> Table:
    table = Table("", "then", "now", "", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(
            plain(line.what),
            _shown(line.then),
            _shown(line.now),
            "same" if line.is_same else "[bold red]changed[/]",
        )
    return table


def _shown(value: float | str | bool) -> str:  # noqa: FBT001  # what a verdict says
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.7f}" if isinstance(value, float) else plain(value)


def _write(found: dict[str, Any], out: Console) -> None:
    out.file.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
