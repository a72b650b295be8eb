"""What a user of the terminal can mend, in one sentence and with exit code 2.

Everything else is ours and stays a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

__all__ = ["MENDABLE_CODE", "public_message", "user_errors"]

MENDABLE_CODE = 2


@contextmanager
def user_errors(err: Console) -> Iterator[None]:
    """One sentence on `err` and an exit code for our own errors and for settings that are refused."""
    try:
        yield
    except Exception as error:
        sentence = public_message(error)
        if sentence is None:
            raise
        err.print(f"axon: {sentence}", highlight=False, markup=False)
        raise typer.Exit(MENDABLE_CODE) from None


def public_message(error: BaseException | None) -> str | None:
    """The sentence for the user, or None where the error is none of theirs."""
    from pydantic import ValidationError

    from deployments.cli.score import ScoreFailed
    from deployments.cli.status import ServiceFailed
    from deployments.config.trust import SigningRefused
    from deployments.web import KeyRefused
    from ensemble.errors import EnsembleError

    if isinstance(error, EnsembleError | KeyRefused | ScoreFailed | ServiceFailed | SigningRefused):
        return str(error)
    if isinstance(error, ValidationError):
        return "the settings are refused:\n" + "\n".join(
            f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        )
    return None
