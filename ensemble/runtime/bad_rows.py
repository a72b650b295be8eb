"""Bad rows: a batch on which a model raises is bisected until they stand alone (N-13).

The other rows keep the scores they would have had without the guilty ones. Halving also mends a
batch that is only too large, e.g. for
the memory of a GPU. The largest parts come first, so that a model that fails on everything is given
up soon: it is broken, not the
events. Where the tries end, what was scored stays scored, and only the rest has no opinion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ensemble.events import EventBatch
from ensemble.model import Model, ModelScores

__all__ = ["call_isolating_bad_rows", "score_isolating_bad_rows"]

Batch = TypeVar("Batch", bound=EventBatch)
Answer = TypeVar("Answer")

MOST_TRIES = (
    256  # finds a dozen guilty rows of a thousand; each try costs a fraction of a millisecond
)
HOPELESS_TRIES = 24  # of which none succeeded


def score_isolating_bad_rows(
    model: Model, batch: EventBatch, *, explain: bool, shown: float
) -> tuple[ModelScores, Sequence[int]]:
    """The model's scores, and the rows it could not score.

    Args:
        model: raises on some rows, or on none.
        batch: n events.
        explain: also ask for details; they are left out where a row is guilty.
        shown: score of a guilty row; for show only.

    Raises:
        Exception: whatever the model raised, when it could score nothing.
    """

    def ask(part: EventBatch) -> ModelScores:
        return _checked(model.score(part, explain=explain and len(part) == len(batch)), len(part))

    answered, guilty = call_isolating_bad_rows(ask, batch)
    if len(answered) == 1 and not guilty:
        return answered[0][1], ()
    scores, abstains = np.full(len(batch), shown), ""
    notes: dict[int, str] = {}
    for start, said in answered:
        scores[start : start + len(said.scores)], abstains = said.scores, said.abstains
        notes |= {start + row: note for row, note in said.notes.items()}
    return ModelScores(scores, notes, {}, abstains), guilty


def call_isolating_bad_rows(
    ask: Callable[[Batch], Answer], batch: Batch
) -> tuple[list[tuple[int, Answer]], Sequence[int]]:
    """Answers about parts of a batch, each with the row it begins at, and the rows that have none.

    Args:
        ask: about some events; raises on some rows, or on none.
        batch: n events.

    Raises:
        Exception: whatever `ask` raised, when it could answer nothing.
    """
    try:
        return [(0, ask(batch))], ()
    except Exception:
        if len(batch) == 1:
            raise
    tries = 0
    answered: list[tuple[int, Answer]] = []
    guilty: list[int] = []
    todo = deque([(0, len(batch) // 2), (len(batch) // 2, len(batch))])
    while todo and tries < MOST_TRIES:
        start, stop = todo.popleft()
        tries += 1
        try:
            # a part of a batch is of the batch's own type
            said = ask(batch.part(start, stop))  # type: ignore[arg-type]
        except Exception:
            if tries >= HOPELESS_TRIES and not answered:
                raise
            middle = (start + stop) // 2
            if stop - start == 1:
                guilty.append(start)
            else:
                todo += [(start, middle), (middle, stop)]
        else:
            answered.append((start, said))
    if not answered:
        raise ValueError("the model can score none of these events")
    guilty += [row for start, stop in todo for row in range(start, stop)]
    return answered, sorted(guilty)


def _checked(said: ModelScores, size: int) -> ModelScores:
    """What a model said, once it has the right shape and range.

    A model that says nonsense has failed as one that raises.
    """
    scores = said.scores
    if scores.shape != (size,):
        raise ValueError(f"{scores.shape} scores for {size} events")
    if not ((scores >= 0.0) & (scores <= 1.0)).all():  # NaN fails both comparisons
        raise ValueError("a score is outside [0, 1]")
    return said
