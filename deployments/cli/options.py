"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "SERVICE",
    "JsonLinesOption",
    "JsonOption",
    "Output",
    "OutputOption",
    "Promote",
    "Publish",
    "Seed",
    "StoreOption",
    "TenantOption",
    "Url",
    "is_jsonl",
]

SERVICE = "http://127.0.0.1:8000"
TenantOption = Annotated[
    str | None, typer.Option(help="Tenant that owns the models; default: the configured tenant.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[str, typer.Option(help="Address of the running service.")]
Seed = Annotated[int, typer.Option(help="Random seed: the same rows and seed give the same model.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder to publish into instead of the state folder (var/).",
        file_okay=False,
    ),
]
Publish = Annotated[
    bool,
    typer.Option(
        "--publish/--no-publish", help="Publish the result as a new release, or only report it."
    ),
]
Promote = Annotated[
    bool, typer.Option("--promote/--no-promote", help="Also point the tenant to the new release.")
]


class Output(StrEnum):
    """Format in which verdicts and findings are printed."""

    TABLE = "table"
    JSONL = "jsonl"


JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print JSON lines, as `--output jsonl` does.")
]
OutputOption = Annotated[Output, typer.Option(help="A table, or one JSON object a line.")]


def is_jsonl(output: Output, *, as_json: bool) -> bool:
    """Return whether JSON lines were requested; `--json` is short for `--output jsonl`."""
    return as_json or output is Output.JSONL
