"""How `axon replay` is called, and its exit codes.

What it does is in `deployments.cli.replay`, which it imports when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import console

__all__ = ["replay"]

CHANGED, IMPOSSIBLE = 1, 2  # exit codes


def replay(
    verdict: Annotated[
        Path,
        typer.Argument(
            help="The answer: JSON of one, of a batch, or JSONL of answers or findings.",
            dir_okay=False,
        ),
    ],
    event: Annotated[
        Path,
        typer.Argument(
            help="The event as it was sent: JSON of one, of a batch, or JSONL.", dir_okay=False
        ),
    ],
    *,
    event_id: Annotated[
        str | None, typer.Option("--id", help="Of the answer, where there are several.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Refuse a verdict by a release of anybody but this tenant and its parents."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The Serve config file of the service, for its settings; configs/default.yaml alone without it."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="Numbers this close are the same; 1e-5 for a verdict from a GPU."
        ),
    ] = 1e-6,
    as_json: Annotated[
        bool, typer.Option("--json", help="What came of it as one JSON object, for programs.")
    ] = False,
) -> None:
    """Score the event of a verdict once more, by the release that made it.

    Exit code 0: the same; 1: something changed; 2: it cannot be.
    """
    from deployments.cli.errors import public_message
    from deployments.cli.replay import Asked, replay_verdict, tell_refusal

    out = console.out
    try:
        is_same = replay_verdict(
            Asked(verdict, event, event_id, tenant, config, tolerance), as_json=as_json, out=out
        )
    except Exception as error:
        sentence = public_message(error)
        if sentence is None:
            raise
        tell_refusal(
            sentence, getattr(error, "code", ""), as_json=as_json, out=out, err=console.err
        )
        raise typer.Exit(IMPOSSIBLE) from None
    if not is_same:
        raise typer.Exit(CHANGED)
