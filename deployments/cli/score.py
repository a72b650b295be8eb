"""`axon score`.

A file of events to verdicts, through the service or in this process; a bad line is named and passed
over.
"""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.table import Column, Table

from deployments.cli.client import key_header, where_keys_come_from
from deployments.cli.local_models import local_ensemble
from deployments.cli.local_store import plain
from deployments.cli.progress import progress_bars
from deployments.scoring import wire
from ensemble.errors import EventError, TrainingError
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.training.data.flow_table import read_flow_blocks
from ensemble.verdicts import SPEAKING

__all__ = ["ScoreFailed", "Scored", "events_as_json", "score_file", "service_scorer"]

LONGEST_ECHO = 300
EVENTS_A_CALL = 1000  # the service's own limit, unless it was lowered
TABLE_ROWS = 50  # what a person reads; all of them go to JSONL
COLOURS = {
    "benign": "green",
    "suspicious": "yellow",
    "malicious": "bold red",
    "indeterminate": "magenta",
}
Scorer = Callable[[EventBatch], Sequence[dict[str, Any]]]


class ScoreFailed(Exception):
    """The file cannot be scored at all; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run came to."""

    events: int
    bad: int


def score_file(
    file: Path,
    *,
    url: str | None,
    explain: bool,
    as_jsonl: bool,
    limit: int | None,
    out: Console,
    err: Console,
) -> Scored:
    """Score every event of `file` and print the verdicts in its order.

    Args:
        file: CSV of flows (plain or gzipped), or JSONL of events.
        url: of the service; None scores in this process.
        explain: also print what moved each layer.
        as_jsonl: one verdict a line, with the line it came from; else a table.
        limit: stop after so many verdicts.
        out: where verdicts go.
        err: where bad lines and progress go.

    Raises:
        ScoreFailed: no such file, no such service, or a header that is no header of flows.
    """
    if not file.is_file():
        raise ScoreFailed(f"there is no file {file}")
    scorer = service_scorer(url, explain=explain) if url else _local_scorer(explain=explain)
    rows: list[tuple[int, dict[str, Any]]] = []
    events = bad = 0
    failed = ""
    with progress_bars() as bars:
        task = bars.add_task("scored", total=limit)
        try:
            for line, verdict, problem in _verdicts(file, scorer):
                if problem:
                    bad += 1
                    err.print(f"[red]{plain(file.name)}[/red] {plain(problem)}", highlight=False)
                    continue
                events += 1
                bars.update(task, completed=events)
                if as_jsonl:
                    out.file.write(msgspec.json.encode({"line": line, **verdict}).decode() + "\n")
                else:
                    rows.append((line, verdict))
                if events == limit:
                    break
        except (EventError, TrainingError) as error:
            failed = f"{file.name}: {error}"
        except (OSError, EOFError) as error:  # a file that breaks off, or only calls itself gzipped
            failed = f"{file.name} cannot be read: {type(error).__name__}"
    if rows:
        _print_table(rows, out)
    if failed:
        raise ScoreFailed(failed)
    return Scored(events, bad)


def _verdicts(file: Path, scorer: Scorer) -> Iterator[tuple[int, dict[str, Any], str]]:
    """For each line of the file its verdict, or what is wrong with it.

    Bad lines of a block come first.
    """
    for batches, problems in _blocks(file):
        for problem in problems:
            yield 0, {}, problem
        scored = [
            (line, verdict)
            for batch, lines in batches
            for line, verdict in zip(lines, scorer(batch), strict=True)
        ]
        for line, verdict in sorted(
            scored, key=lambda one: one[0]
        ):  # kinds were scored apart; the file's order comes back
            yield (
                line,
                verdict,
                f"line {line}: {verdict['error']['message']}" if "error" in verdict else "",
            )


def _blocks(
    file: Path,
) -> Iterator[tuple[Sequence[tuple[EventBatch, Sequence[int]]], Sequence[str]]]:
    """Blocks of lines.

    Batches of one kind with the lines they came from, and what was wrong with the lines left out.
    """
    if file.suffix in {".jsonl", ".ndjson"} or file.name.endswith(".jsonl.gz"):
        yield from _jsonl_blocks(file)
        return
    for block in read_flow_blocks(file):
        yield (
            [(block.batch(), block.lines.tolist())] if len(block) else [],
            [str(bad) for bad in block.bad],
        )


def _jsonl_blocks(
    file: Path,
) -> Iterator[tuple[Sequence[tuple[EventBatch, Sequence[int]]], Sequence[str]]]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        while block := list(islice(numbered, EVENTS_A_CALL)):
            yield _jsonl_block(block)


def _jsonl_block(
    block: Sequence[tuple[int, bytes]],
) -> tuple[Sequence[tuple[EventBatch, Sequence[int]]], Sequence[str]]:
    parsed: list[tuple[int, wire.EventRequest]] = []
    problems: list[str] = []
    for number, line in block:
        try:
            parsed.append((number, wire.parse_event(line)))
        except EventError as error:
            problems.append(f"line {number}, column {error.field or '-'}: {error}")
    batches: list[tuple[EventBatch, Sequence[int]]] = []
    for kind in Kind:
        some = [(number, event) for number, event in parsed if wire.kind_of(event) is kind]
        if some:
            batch, places, refused = wire.admit(kind, [event for _, event in some])
            problems += [
                f"line {some[place][0]}, column {error.field or '-'}: {error}"
                for place, error in refused.items()
            ]
            batches += [(batch, [some[place][0] for place in places])] if len(batch) else []
    return batches, problems


def _local_scorer(*, explain: bool) -> Scorer:
    ensemble = local_ensemble()

    def score(batch: EventBatch) -> Sequence[dict[str, Any]]:
        started = time.monotonic()
        scored_at = time.time()
        groups = ensemble.judge(batch, explain=explain)
        elapsed_ms = round((time.monotonic() - started) * 1000.0, 3)
        answers = wire.write_verdicts(
            batch, groups, explain=explain, elapsed_ms=elapsed_ms, scored_at=scored_at
        )
        return [msgspec.to_builtins(answer) for answer in answers]

    return score


def service_scorer(url: str, *, explain: bool) -> Scorer:
    """Scores through a running service.

    Raises:
        ScoreFailed: it does not answer, or not as Axon does.
    """
    client = httpx.Client(base_url=url, timeout=30.0, headers=key_header())
    try:
        client.get("/health").raise_for_status()
    except httpx.HTTPError:
        raise ScoreFailed(
            f"no Axon answers at {url}; start one with `make serve`, or score in this process with --local"
        ) from None

    def score(batch: EventBatch) -> Sequence[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        events = events_as_json(batch)
        for start in range(0, len(events), EVENTS_A_CALL):
            body = msgspec.json.encode({"events": events[start : start + EVENTS_A_CALL]})
            try:
                answer = client.post(
                    "/v1/score/batch", content=body, params={"explain": str(explain).lower()}
                ).raise_for_status()
            except httpx.HTTPStatusError as error:
                said = error.response.text[:LONGEST_ECHO] + where_keys_come_from(
                    error.response.status_code
                )
                raise ScoreFailed(f"the service at {url} refused a batch: {said}") from None
            except httpx.HTTPError as error:
                raise ScoreFailed(
                    f"the service at {url} stopped answering: {type(error).__name__}"
                ) from None
            results += answer.json()["results"]
        return results

    return score


def events_as_json(batch: EventBatch) -> list[dict[str, Any]]:
    """The events of a batch as the wire has them."""
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


def _print_table(rows: Sequence[tuple[int, dict[str, Any]]], out: Console) -> None:
    worst = sorted(rows, key=lambda row: -row[1]["score"])[:TABLE_ROWS]
    layers = [layer["layer"] for layer in worst[0][1]["layers"]]
    narrow = [
        Column(name, no_wrap=True)
        for name in ("line", "id", "score", "verdict", "severity", "coverage", *layers)
    ]
    table = Table(*narrow, "notes", box=None, header_style="bold", padding=(0, 1, 0, 0))
    for line, verdict in worst:
        said = [
            part["contribution"]
            for part in verdict.get("explanation") or ()
            if isinstance(part["contribution"], str)
        ]
        colour = COLOURS.get(verdict["verdict"], "")
        table.add_row(
            str(line),
            plain(verdict["id"]),
            f"{verdict['score']:.4f}",
            f"[{colour}]{verdict['verdict']}[/]",
            verdict["severity"],
            f"{verdict['coverage']:.2f}",
            *(
                f"{layer['score']:.2f}" if layer["status"] in SPEAKING else layer["status"]
                for layer in verdict["layers"]
            ),
            plain(", ".join([*verdict.get("flags", ()), *said])),
        )
    out.print(table)
    counts = Counter(verdict["verdict"] for _, verdict in rows)
    shown = (
        f"; the {len(worst)} highest are shown, --output jsonl prints all"
        if len(rows) > len(worst)
        else ""
    )
    out.print(
        f"{len(rows)} events: "
        + ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        + shown,
        highlight=False,
    )
