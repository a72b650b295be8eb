"""`axon retro findings`: what turned hostile when more of the ensemble looked."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Column, Table

from deployments.cli.local_store import plain
from deployments.cli.score import COLOURS
from deployments.config.settings import read_settings
from ensemble.errors import ArtifactUnreadable
from ensemble.retro import FINDINGS, Finding, read_findings

__all__ = ["show_findings"]

SECONDS = len("2026-01-01T00:00:00")  # of a time: what a person reads


class _Now(msgspec.Struct):
    """What is shown of the verdict in a finding.

    One that an older Axon wrote has less in it, and this much.
    """

    score: float
    verdict: str
    severity: str
    coverage: float


def show_findings(*, as_jsonl: bool, limit: int | None, out: Console, err: Console) -> None:
    """Print the newest findings of this machine, each event once, with the last word on it.

    Args:
        as_jsonl: one finding a line, as it was written; else a table.
        limit: the newest so many; None is all.
        out: where findings go.
        err: where is said that lines could not be read.

    Raises:
        ArtifactUnreadable: the findings are there and cannot be read.
    """
    try:
        found, bad = read_findings(read_settings().state / "retro")
    except OSError as error:
        raise ArtifactUnreadable(FINDINGS, type(error).__name__) from None
    latest: dict[tuple[str, str], tuple[Finding, _Now]] = {}
    for one in found:
        try:
            now = msgspec.json.decode(one.verdict, type=_Now)
        except msgspec.DecodeError:
            bad += 1
            continue
        latest.pop(
            (one.digest, one.at), None
        )  # a crash may repeat a finding, and a third look may know more than the second
        latest[one.digest, one.at] = (one, now)
    shown = list(latest.values())[-limit:] if limit else list(latest.values())
    if as_jsonl:
        out.file.writelines(msgspec.json.encode(one).decode() + "\n" for one, _ in shown)
    elif shown:
        out.print(_table(shown))
        out.print(
            f"{len(latest)} events turned hostile"
            + (f"; the {len(shown)} newest are shown" if len(shown) < len(latest) else "")
        )
    else:
        out.print("no event turned hostile", highlight=False)
    if bad:
        err.print(f"{bad} lines are no findings", highlight=False)


def _table(shown: list[tuple[Finding, _Now]]) -> Table:
    narrow = [
        Column(name, no_wrap=True)
        for name in (
            "came",
            "found",
            "kind",
            "id",
            "host",
            "was",
            "score",
            "verdict",
            "severity",
            "coverage",
        )
    ]
    table = Table(*narrow, box=None, header_style="bold", padding=(0, 1, 0, 0))
    for one, now in shown:
        table.add_row(
            one.at[:SECONDS],
            one.found_at[:SECONDS],
            plain(one.kind),
            plain(one.id),
            plain(one.host),
            f"{one.was.verdict} {one.was.score:.4f}",
            f"{now.score:.4f}",
            f"[{COLOURS.get(now.verdict, '')}]{plain(now.verdict)}[/]",
            plain(now.severity),
            f"{now.coverage:.2f}",
        )
    return table
