"""`axon retro findings`: events that turned hostile when more layers scored them again."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from deployments.cli import console
from deployments.cli.console import Column, coloured, minutes, plain, table
from deployments.cli.options import JsonLinesOption, Output, OutputOption, is_jsonl
from deployments.cli.score import COLOURS
from deployments.config import read_settings
from ensemble.errors import ArtifactUnreadable
from ensemble.retro import FINDINGS, Finding, read_findings

__all__ = ["findings"]


class _NewVerdict(msgspec.Struct):
    """The displayed fields of the new verdict in a finding; an older Axon wrote only these."""

    score: float
    verdict: str
    severity: str
    coverage: float


def findings(
    *,
    output: OutputOption = Output.TABLE,
    as_json: JsonLinesOption = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest N.")] = None,
) -> None:
    """List the events that turned hostile when they were scored again.

    While layers were missing, these events were not found hostile; on recovery they were scored
    again. Each event is listed once, with its latest verdict and its time of arrival (UTC).
    """
    try:
        found, bad = read_findings(read_settings().state / "retro")
    except OSError as error:
        raise ArtifactUnreadable(FINDINGS, type(error).__name__) from None
    latest: dict[tuple[str, str], tuple[Finding, _NewVerdict]] = {}
    for one in found:
        try:
            now = msgspec.json.decode(one.verdict, type=_NewVerdict)
        except msgspec.DecodeError:
            bad += 1
            continue
        # a crash may repeat a finding; a later finding was scored by more layers
        latest.pop((one.digest, one.at), None)
        latest[one.digest, one.at] = (one, now)
    shown = list(latest.values())[-limit:] if limit else list(latest.values())
    if is_jsonl(output, as_json=as_json):
        for one, _ in shown:
            console.print_json_line(msgspec.json.encode(one))
    elif shown:
        console.out.print(_table(shown))
        console.out.print(
            f"{len(latest)} events turned hostile"
            + (f"; the {len(shown)} newest are shown" if len(shown) < len(latest) else "")
        )
    else:
        console.out.print("no event turned hostile")
    if bad:
        console.err.print(f"{bad} lines of the file are not findings and were skipped")


def _table(shown: list[tuple[Finding, _NewVerdict]]) -> RenderableType:
    return table(
        [
            "arrived",
            Column("found", optional=True),
            Column("kind", optional=True),
            "id",
            "host",
            "was",
            "score",
            "verdict",
            Column("severity", optional=True),
            Column("coverage", optional=True),
        ],
        [
            [
                minutes(one.at),
                minutes(one.found_at),
                plain(one.kind),
                plain(one.id),
                plain(one.host),
                f"{one.was.verdict} {one.was.score:.4f}",
                f"{now.score:.4f}",
                coloured(now.verdict, COLOURS.get(now.verdict, "")),
                plain(now.severity),
                f"{now.coverage:.2f}",
            ]
            for one, now in shown
        ],
    )
