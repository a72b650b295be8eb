"""Isolation of rows on which a model raises, by bisection of the batch (N-13).

The other rows get the scores they would have had without the bad ones. Bisection also helps when a
batch is only too large, e.g. for the memory of a GPU. The largest parts come first, so that a model
that fails on everything is abandoned soon: then the model is broken, not the events. At the limit
of tries, the rows scored so far keep their scores, and only the others get no opinion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ensemble.errors import LayerCrashed
from ensemble.events import EventBatch
from ensemble.model import Model, ModelScores
from ensemble.verdicts import Abstention, LayerStatus

__all__ = ["abstentions", "call_isolating_bad_rows", "score_isolating_bad_rows"]

Batch = TypeVar("Batch", bound=EventBatch)
Answer = TypeVar("Answer")

# isolates a dozen bad rows of a thousand; each try costs a fraction of a millisecond
MOST_TRIES = 256
HOPELESS_TRIES = 24  # tries without a success after which the model is abandoned


def score_isolating_bad_rows(
    model: Model, batch: EventBatch, *, explain: bool, shown: float
) -> tuple[ModelScores, Sequence[int]]:
    """Score a batch; also return the rows that the model could not score.

    Args:
        model: may raise on some rows.
        batch: n events.
        explain: also return details; they are left out if any row is bad.
        shown: score of a bad row, for show only.

    Raises:
        Exception: the model's own, if it could score nothing.
    """

    def score(part: EventBatch) -> ModelScores:
        return _checked(model.score(part, explain=explain and len(part) == len(batch)), len(part))

    parts, bad_rows = call_isolating_bad_rows(score, batch)
    if len(parts) == 1 and not bad_rows:
        return parts[0][1], ()
    scores, abstains = np.full(len(batch), shown), ""
    notes: dict[int, str] = {}
    uninformed: dict[int, str] = {}
    flags: dict[int, tuple[str, ...]] = {}
    for start, part in parts:
        scores[start : start + len(part.scores)], abstains = part.scores, part.abstains
        notes |= {start + row: note for row, note in part.notes.items()}
        uninformed |= {start + row: reason for row, reason in part.uninformed.items()}
        flags |= {start + row: some for row, some in part.flags.items()}
    return ModelScores(scores, notes, {}, abstains, uninformed, flags), bad_rows


def abstentions(scored: ModelScores, bad_rows: Sequence[int]) -> dict[int, Abstention]:
    """Row -> why the layer has no opinion of it: the model knows nothing of it, or failed."""
    found = {
        row: Abstention(LayerStatus.UNINFORMED, reason) for row, reason in scored.uninformed.items()
    }
    return found | dict.fromkeys(bad_rows, Abstention(LayerStatus.FALLBACK, LayerCrashed.code))


def call_isolating_bad_rows(
    call: Callable[[Batch], Answer], batch: Batch
) -> tuple[list[tuple[int, Answer]], Sequence[int]]:
    """Call for parts of a batch; return results with their first rows, and the rows without one.

    Args:
        call: may raise on some rows.
        batch: n events.

    Raises:
        Exception: that of `call`, if it succeeded on nothing.
    """
    try:
        return [(0, call(batch))], ()
    except Exception:
        if len(batch) == 1:
            raise
    tries = 0
    results: list[tuple[int, Answer]] = []
    bad_rows: list[int] = []
    parts = deque([(0, len(batch) // 2), (len(batch) // 2, len(batch))])
    while parts and tries < MOST_TRIES:
        start, stop = parts.popleft()
        tries += 1
        try:
            # a part of a batch is of the batch's own type
            result = call(batch.part(start, stop))  # type: ignore[arg-type]
        except Exception:
            if tries >= HOPELESS_TRIES and not results:
                raise
            middle = (start + stop) // 2
            if stop - start == 1:
                bad_rows.append(start)
            else:
                parts += [(start, middle), (middle, stop)]
        else:
            results.append((start, result))
    if not results:
        raise ValueError("the model can score none of these events")
    bad_rows += [row for start, stop in parts for row in range(start, stop)]
    return results, sorted(bad_rows)


def _checked(found: ModelScores, size: int) -> ModelScores:
    """Refuse scores of a wrong shape or range: such a model has failed like one that raises."""
    if found.scores.shape != (size,):
        raise ValueError(f"{found.scores.shape} scores for {size} events")
    if not ((found.scores >= 0.0) & (found.scores <= 1.0)).all():  # NaN fails both comparisons
        raise ValueError("a score is outside [0, 1]")
    return found
