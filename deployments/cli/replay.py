"""`axon replay`: score the event of a verdict again and compare the two verdicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from deployments.cli import console
from deployments.cli.console import plain, print_json, table
from deployments.cli.errors import CommandFailed, public_message
from deployments.cli.local_store import own_store
from deployments.cli.options import JsonOption
from deployments.cli.serve import read_arguments
from deployments.config import Settings, Tenants, read_settings
from deployments.scoring import verdict_wire, wire
from ensemble.errors import EventError, NotReplayable
from ensemble.events import EventBatch
from ensemble.features import event_digests
from ensemble.replay import Difference, RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.replay import replay as replay_event
from ensemble.store import Tenant
from ensemble.verdicts import LayerStatus

__all__ = ["replay"]

CHANGED, IMPOSSIBLE = 1, 2  # exit codes

DIGEST_SHOWN = 12  # digits shown; JSON has all of them


def replay(
    verdict: Annotated[
        Path,
        typer.Argument(
            help="The response: JSON of a verdict or of a batch, or JSONL of verdicts or findings.",
            dir_okay=False,
        ),
    ],
    event: Annotated[
        Path,
        typer.Argument(
            help="The event as it was sent: JSON of one or of a batch, or JSONL.", dir_okay=False
        ),
    ],
    *,
    event_id: Annotated[
        str | None, typer.Option("--id", help="Id of the verdict, where there are several.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Refuse a verdict of a tenant other than this one and its parents."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Serve config file of the service, for its settings; default: "
            "configs/default.yaml alone."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Numbers that differ by at most this count as equal; use 1e-5 for a verdict "
            "from a GPU.",
        ),
    ] = 1e-6,
    as_json: JsonOption = False,
) -> None:
    """Score the event of a verdict again, with the release that made it.

    Exit code 0: the same verdict; 1: something changed; 2: it cannot be replayed.
    """
    request = _Request(verdict, event, event_id, tenant, config, tolerance)
    try:
        is_same = _replay(request, as_json=as_json)
    except Exception as error:
        sentence = public_message(error)
        if sentence is None:
            raise
        if as_json:
            code = getattr(error, "code", "")
            print_json({"outcome": "impossible", "code": code, "problem": sentence})
        console.err.print(f"axon: {plain(sentence)}")
        raise typer.Exit(IMPOSSIBLE) from None
    if not is_same:
        raise typer.Exit(CHANGED)


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `axon replay`.

    Attributes:
        verdict: file of verdicts.
        event: file of events; the event of the verdict is found by its digest.
        event_id: id of the verdict; None if the file holds one verdict.
        tenant: the release must belong to this tenant or a parent of it; None for any tenant.
        config: Serve config file of the service, for its settings; None for
            configs/default.yaml alone.
        tolerance: numbers that differ by at most this count as equal.
    """

    verdict: Path
    event: Path
    event_id: str | None
    tenant: str | None
    config: Path | None
    tolerance: float


def _replay(request: _Request, *, as_json: bool) -> bool:
    """Replay a verdict and print what is the same; return False if anything changed.

    Raises:
        NotReplayable: the files lack something, or the verdict does not name its release.
        ArtifactError: the release cannot be loaded.
        pydantic.ValidationError: the settings or the trust list are invalid.
    """
    settings = read_settings(_arguments(request.config))
    tolerance = request.tolerance
    recorded = _parse(_chosen(_verdicts(_read(request.verdict)), request.event_id))
    found, digests = _event_of(recorded, _events(_read(request.event)))
    if found is None:
        _report_other_event(recorded, digests, as_json=as_json)
        return False
    if request.tenant is not None:
        _require_owner(recorded, Tenant(request.tenant), settings)
    logging.getLogger("ray.serve").addHandler(logging.NullHandler())  # failures are printed as text
    fusion, posture = settings.fusion, settings.posture
    now = ReplaySettings(
        fusion.min_coverage,
        fusion.posture_bound,
        posture.stale_after_days,
        posture.expired_after_days,
    )
    store = own_store(settings)
    replayed = replay_event(recorded, found, lambda: store, now, tolerance=tolerance)
    if as_json:
        lines = [msgspec.to_builtins(line) for line in replayed.lines]
        outcome = "same" if replayed.is_same else "changed"
        print_json(
            {
                "outcome": outcome,
                **_made_by(recorded),
                "tolerance": tolerance,
                "lines": lines,
                "why": replayed.why,
            }
        )
        return replayed.is_same
    console.out.print(_heading(recorded))
    console.out.print(_table(replayed.lines))
    changed = ", ".join(line.what for line in replayed.lines if not line.is_same)
    console.out.print(
        f"changed: {plain(changed)}" if changed else f"the same, within {tolerance:g}",
    )
    for reason in replayed.why:
        console.out.print(f"  why: {plain(reason)}")
    return replayed.is_same


def _arguments(config: Path | None) -> Mapping[str, Any]:
    try:
        return {} if config is None else read_arguments(config)
    except CommandFailed as refusal:
        raise NotReplayable(str(refusal)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise NotReplayable(
            f"{path.name} cannot be read: {(problem.strerror or type(problem).__name__).lower()}"
        ) from None


def _verdicts(data: bytes) -> list[Any]:
    """Read the verdicts of a file of one, a batch, or lines; of a finding, the new verdict."""
    try:
        content = msgspec.json.decode(data)
        found = (
            content["results"]
            if isinstance(content, dict) and isinstance(content.get("results"), list)
            else [content]
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


def _line(number: int, line: bytes) -> Any:  # noqa: ANN401  # any JSON
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotReplayable(f"line {number} of the file of verdicts is no JSON") from None


def _chosen(verdicts: Sequence[Any], event_id: str | None) -> Any:  # noqa: ANN401  # of a file
    """Return the verdict with this id, or the only verdict if no id is given."""
    meant = [
        one
        for one in verdicts
        if event_id is None or (isinstance(one, dict) and one.get("id") == event_id)
    ]
    which = "" if event_id is None else f" with the id {event_id[:64]}"
    if len(meant) != 1:
        hint = "; choose one with --id" if meant and event_id is None else ""
        raise NotReplayable(
            f"the file of verdicts holds {len(meant) or 'no'} verdicts{which}{hint}"
        )
    return meant[0]


def _parse(verdict: Any) -> RecordedVerdict:  # noqa: ANN401  # of a file
    """Parse a verdict strictly, because other programs may have changed it."""
    if isinstance(verdict, dict) and isinstance(refusal := verdict.get("error"), dict):
        raise NotReplayable(
            f"the event was refused and not scored: {str(refusal.get('code'))[:64]}"
        )
    if isinstance(verdict, dict) and "verdict" in verdict and "input_sha256" not in verdict:
        raise NotReplayable("the verdict does not name its release: it is from an older Axon")
    try:
        known = msgspec.convert(verdict, verdict_wire.Verdict)
        layers = tuple(
            RecordedOpinion(one.layer, one.score, LayerStatus(one.status), one.version, one.reason)
            for one in known.layers
        )
        return RecordedVerdict(
            release=known.release,
            release_sha256=known.release_sha256,
            input_sha256=known.input_sha256,
            scored_at=_seconds(known.scored_at),
            score=known.score,
            low=known.low,
            high=known.high,
            verdict=known.verdict,
            severity=known.severity,
            coverage=known.coverage,
            degraded=known.degraded,
            status=known.status,
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
    """Read the events of a file of one, a batch, or lines, without parsing them."""
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [line for line in data.splitlines() if line.strip()]
    is_batch = isinstance(content, dict) and isinstance(content.get("events"), list)
    return (
        [bytes(event) for event in msgspec.json.decode(data, type=_Sent).events]
        if is_batch
        else [data]
    )


def _event_of(
    recorded: RecordedVerdict, events: Sequence[bytes]
) -> tuple[EventBatch | None, list[str]]:
    """Find the event with the verdict's digest; return it or None, and all digests of valid events.

    Raises:
        NotReplayable: no event is valid.
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
        digests += event_digests(batch)
        if digests[-1] == recorded.input_sha256:
            return batch, digests
    if not digests:
        raise NotReplayable(f"the file of events holds no valid one: {problem}")
    return None, digests


def _require_owner(recorded: RecordedVerdict, tenant: Tenant, settings: Settings) -> None:
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


def _report_other_event(
    recorded: RecordedVerdict, digests: Sequence[str], *, as_json: bool
) -> None:
    if as_json:
        print_json({"outcome": "another_event", **_made_by(recorded), "found_sha256": digests})
        return
    theirs = (
        f"{len(digests)} events, none of them that one"
        if len(digests) > 1
        else f"{digests[0][:DIGEST_SHOWN]}..."
    )
    wanted = plain(recorded.input_sha256[:DIGEST_SHOWN])
    console.out.print(f"another event: the verdict is about {wanted}..., the file holds {theirs}")


def _heading(recorded: RecordedVerdict) -> str:
    release, event = (
        recorded.release_sha256[:DIGEST_SHOWN],
        recorded.input_sha256[:DIGEST_SHOWN],
    )
    return f"release {plain(recorded.release)} ({plain(release)}...), event {plain(event)}..."


def _table(lines: Sequence[Difference]) -> RenderableType:
    rows = [
        [
            plain(line.what),
            _shown(line.then),
            _shown(line.now),
            "same" if line.is_same else "[bold red]changed[/]",
        ]
        for line in lines
    ]
    return table(["", "then", "now", ""], rows)


def _shown(value: float | str | bool) -> str:  # noqa: FBT001  # what a verdict says
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.7f}" if isinstance(value, float) else plain(value)
