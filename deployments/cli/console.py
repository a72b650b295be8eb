"""What every verb of the terminal shares: where it prints, and whose models it is about."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console

__all__ = ["TenantOption", "err", "fail", "out"]

out, err = Console(), Console(stderr=True)
TenantOption = Annotated[
    str | None, typer.Option(help="Whose models; the configured tenant unless said otherwise.")
]


def fail(sentence: str) -> NoReturn:
    """Refuse: one sentence on standard error, exit code 2."""
    err.print(f"axon: {sentence}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(2)
