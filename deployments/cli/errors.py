"""Errors that the operator can fix: one sentence on standard error and exit code 2.

Every other error is a fault of Axon and stays a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deployments.cli import console

__all__ = ["USER_ERROR_CODE", "CommandFailed", "public_message", "user_errors"]

USER_ERROR_CODE = 2


class CommandFailed(Exception):
    """A verb cannot do what was requested; the message says why and what to do."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that the operator can fix into one sentence and exit code 2."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException):  # Typer's own: help, exit code, usage
        raise
    except Exception as error:
        sentence = public_message(error)
        if sentence is None:
            raise
        console.err.print(f"axon: {sentence}", markup=False, soft_wrap=True)
        raise typer.Exit(USER_ERROR_CODE) from None


def public_message(error: BaseException) -> str | None:
    """Return the message for the operator; None if the error is a fault of Axon."""
    from pydantic import ValidationError

    from deployments.config import SigningRefused
    from deployments.web import KeyRefused
    from ensemble.errors import EnsembleError

    if isinstance(error, EnsembleError | KeyRefused | CommandFailed | SigningRefused):
        return str(error)
    if isinstance(error, ValidationError):
        return "the settings are refused:\n" + "\n".join(
            f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        )
    return None
