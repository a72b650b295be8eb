"""What every verb of the terminal shares: where it prints, how it refuses, and whose models it is about."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console

__all__ = ["Refusals", "TenantOption", "err", "fail", "out"]

out, err = Console(), Console(stderr=True)
TenantOption = Annotated[str | None, typer.Option(help="Whose models; the configured tenant unless said otherwise.")]


class Refusals:
    """Turns what a user can mend into one sentence and an exit code; everything else stays a traceback for us."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """One sentence for our own errors and for settings that are refused."""
        from deployments.commands.mendable import sentence_of

        if sentence := sentence_of(error):
            fail(sentence)


def fail(sentence: str) -> NoReturn:
    """Refuse: one sentence on standard error, exit code 2."""
    err.print(f"axon: {sentence}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(2)
