"""`axon score`: verdicts on a file of events, from a running service or from this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer

from deployments.cli import console
from deployments.cli.client import key_header, key_hint
from deployments.cli.console import Column, coloured, plain, table
from deployments.cli.errors import CommandFailed
from deployments.cli.json_lines import JSON_LINES
from deployments.cli.local_models import local_ensemble
from deployments.cli.options import (
    SERVICE,
    JsonLinesOption,
    Output,
    OutputOption,
    Url,
    is_jsonl,
)
from deployments.cli.progress import progress_bars
from deployments.scoring import verdict_wire
from ensemble.errors import EventError
from ensemble.events import EventBatch, FlowBatch
from ensemble.sources import Block, find_source, sources
from ensemble.verdicts import SPEAKING

__all__ = ["COLOURS", "events_as_json", "score", "service_scorer"]

FORMATS = (*sources(), JSON_LINES)
LONGEST_ECHO = 300
EVENTS_PER_REQUEST = 1000  # the default limit of the service
TABLE_ROWS = 50  # `--output jsonl` prints all
COLOURS = {
    "benign": "green",
    "suspicious": "yellow",
    "malicious": "bold red",
    "indeterminate": "magenta",
}
Scorer = Callable[[EventBatch], Sequence[dict[str, Any]]]


def score(
    file: Annotated[
        Path,
        typer.Argument(
            help=f"Events, plain or gzipped: {'; '.join(one.about for one in FORMATS)}."
        ),
    ],
    *,
    url: Url = SERVICE,
    local: Annotated[
        bool, typer.Option("--local", help="Score in this process; no service is needed.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add what moved the score of each layer.")
    ] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonLinesOption = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after N verdicts.")] = None,
) -> None:
    """Score a file of events and print the verdicts.

    The table shows the highest scores; `--output jsonl` prints every verdict. A bad line is
    reported and skipped; the exit code is then 1.
    """
    if not file.is_file():
        raise CommandFailed(f"there is no file {file}")
    scorer = _local_scorer(explain=explain) if local else service_scorer(url, explain=explain)
    rows: list[tuple[int, dict[str, Any]]] = []
    events = bad = 0
    failure: CommandFailed | None = None
    with progress_bars() as bars:
        task = bars.add_task("scored", total=limit)
        try:
            for line, verdict, problem in _verdicts(file, scorer):
                if problem:
                    bad += 1
                    console.err.print(f"[red]{plain(file.name)}[/red] {plain(problem)}")
                    continue
                events += 1
                bars.update(task, completed=events)
                if is_jsonl(output, as_json=as_json):
                    encoded = msgspec.json.encode({"line": line, **verdict})
                    console.print_json_line(encoded)
                else:
                    rows.append((line, verdict))
                if events == limit:
                    break
        except CommandFailed as error:
            failure = error
    if rows:
        _print_table(rows)
    if failure:
        raise failure
    if bad:
        console.err.print(f"{bad} lines could not be scored; {events} could")
        raise typer.Exit(1)


def _verdicts(file: Path, scorer: Scorer) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield the line number, verdict and problem of each line of the file, block by block.

    In each block, bad lines come first.

    Raises:
        CommandFailed: the file cannot be read to its end, or it has no events.
    """
    try:
        yield from _verdicts_of_blocks(find_source(file, [JSON_LINES]).read(file), scorer)
    except EventError as error:
        raise CommandFailed(f"{file.name}: {error}") from None
    except (OSError, EOFError) as error:  # the file is truncated, or is not really gzipped
        raise CommandFailed(f"{file.name} cannot be read: {type(error).__name__}") from None


def _verdicts_of_blocks(
    blocks: Iterator[Block], scorer: Scorer
) -> Iterator[tuple[int, dict[str, Any], str]]:
    for block in blocks:
        for refused in block.refused:
            yield 0, {}, str(refused)
        scored = [
            (line, verdict)
            for rows in block.rows
            for line, verdict in zip(rows.lines, scorer(rows.batch), strict=True)
        ]
        # kinds are scored separately; restore the order of the file
        for line, verdict in sorted(scored, key=lambda one: one[0]):
            yield (
                line,
                verdict,
                f"line {line}: {verdict['error']['message']}" if "error" in verdict else "",
            )


def _local_scorer(*, explain: bool) -> Scorer:
    ensemble = local_ensemble()

    def score_batch(batch: EventBatch) -> Sequence[dict[str, Any]]:
        started = time.monotonic()
        scored_at = time.time()
        groups = ensemble.score_groups(batch, explain=explain)
        elapsed_ms = round((time.monotonic() - started) * 1000.0, 3)
        verdicts = verdict_wire.write_verdicts(
            batch, groups, explain=explain, elapsed_ms=elapsed_ms, scored_at=scored_at
        )
        return [msgspec.to_builtins(verdict) for verdict in verdicts]

    return score_batch


def service_scorer(url: str, *, explain: bool) -> Scorer:
    """Return a scorer that sends events to a running service.

    Raises:
        CommandFailed: the service does not respond, or is not Axon.
    """
    client = httpx.Client(base_url=url, timeout=30.0, headers=key_header())
    try:
        client.get("/health").raise_for_status()
    except httpx.HTTPError:
        raise CommandFailed(
            f"no Axon answers at {url}; start one with `make serve`, "
            "or score in this process with --local"
        ) from None

    def score_batch(batch: EventBatch) -> Sequence[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        events = events_as_json(batch)
        for start in range(0, len(events), EVENTS_PER_REQUEST):
            body = msgspec.json.encode({"events": events[start : start + EVENTS_PER_REQUEST]})
            try:
                response = client.post(
                    "/v1/score/batch", content=body, params={"explain": str(explain).lower()}
                ).raise_for_status()
            except httpx.HTTPStatusError as error:
                problem = error.response.text[:LONGEST_ECHO] + key_hint(error.response.status_code)
                raise CommandFailed(f"the service at {url} refused a batch: {problem}") from None
            except httpx.HTTPError as error:
                raise CommandFailed(
                    f"the service at {url} stopped answering: {type(error).__name__}"
                ) from None
            results += response.json()["results"]
        return results

    return score_batch


def events_as_json(batch: EventBatch) -> list[dict[str, Any]]:
    """Convert the events of a batch to the bodies of requests."""
    if isinstance(batch, FlowBatch):
        return [
            {"kind": "flow", "id": event_id, "host": host, "features": features}
            for event_id, host, features in zip(
                batch.ids, batch.hosts, batch.features.astype(float).tolist(), strict=True
            )
        ]
    columns = (batch.ids, batch.hosts, batch.users, batch.names, batch.parents, batch.command_lines)
    names = ("id", "host", "user", "name", "parent", "command_line")
    return [
        {"kind": "process", **dict(zip(names, row, strict=True))}
        for row in zip(*columns, strict=True)
    ]


def _print_table(rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    worst = sorted(rows, key=lambda row: -row[1]["score"])[:TABLE_ROWS]
    layers = [layer["layer"] for layer in worst[0][1]["layers"]]
    console.out.print(
        table(
            [
                "line",
                "id",
                "score",
                "verdict",
                Column("severity", optional=True),
                Column("coverage", optional=True),
                *(Column(name, optional=True) for name in layers),
                Column("notes", wraps=True),
            ],
            [_row(line, verdict) for line, verdict in worst],
        )
    )
    counts = Counter(verdict["verdict"] for _, verdict in rows)
    shown = (
        f"; the {len(worst)} highest are shown, --output jsonl prints all"
        if len(rows) > len(worst)
        else ""
    )
    console.out.print(
        f"{len(rows)} events: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        + shown
    )


def _row(line: int, verdict: dict[str, Any]) -> list[str]:
    reasons = [
        part["contribution"]
        for part in verdict.get("explanation") or ()
        if isinstance(part["contribution"], str)
    ]
    silent = [
        f"{layer['layer']}: {layer['reason']}"
        for layer in verdict["layers"]
        if layer["reason"] and layer["status"] not in SPEAKING
    ]
    return [
        str(line),
        plain(verdict["id"]),
        f"{verdict['score']:.4f}",
        coloured(verdict["verdict"], COLOURS.get(verdict["verdict"], "")),
        verdict["severity"],
        f"{verdict['coverage']:.2f}",
        *(
            f"{layer['score']:.2f}" if layer["status"] in SPEAKING else layer["status"]
            for layer in verdict["layers"]
        ),
        plain(", ".join([*verdict.get("flags", ()), *reasons, *silent])),
    ]
