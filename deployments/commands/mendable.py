"""What a user of the terminal can mend, in one sentence; everything else is ours and stays a traceback."""

from __future__ import annotations

from pydantic import ValidationError

from deployments.commands.score import ScoreFailed
from deployments.commands.status import ServiceFailed
from deployments.keys import KeyRefused
from deployments.trust import SigningRefused
from ensemble.errors import EnsembleError

__all__ = ["sentence_of"]


def sentence_of(error: BaseException | None) -> str | None:
    """The sentence for the user, or None where the error is none of theirs."""
    if isinstance(error, EnsembleError | KeyRefused | ScoreFailed | ServiceFailed | SigningRefused):
        return str(error)
    if isinstance(error, ValidationError):
        return "the settings are refused:\n" + "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return None
