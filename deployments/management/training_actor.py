"""A fit in a process of Ray's, beside serving, that ends with the fit and can be killed.

The table goes there as arrays, progress comes back step by step, and the last item is the trained
model. The process runs at low priority, so that scoring goes first where cores are few, and is
never reused: its priority would stay.

It is an actor, because an actor can be killed at any moment. Ray 2.60 can end the caller where a
task is cancelled just as it completes (its check "Tried to complete task that was not pending"),
and every fit is stopped at about that moment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from deployments.observability import log_event
from ensemble.errors import EnsembleError, JobCrashed
from ensemble.store import Metadata
from ensemble.training.data.tabular_rows import Step, TrainingTable
from ensemble.training.publish import Trained

__all__ = ["FitWork", "run_in_ray"]

NICE = 10  # of 19; scoring is at 0


@dataclass(frozen=True, slots=True)
class FitWork:
    """What is to be fitted; arguments as of `fit_steps`."""

    table: TrainingTable
    name: str
    seed: int
    metadata: Metadata


def fit(work: FitWork) -> Iterator[Step | Trained]:
    """The work itself, step by step, in a process of its own."""
    os.setpriority(
        os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
    )  # first: what follows takes seconds
    # scikit-learn: only the process that fits has it
    from ensemble.training.recipes.tabular import fit_steps  # noqa: PLC0415

    yield from fit_steps(work.table, name=work.name, seed=work.seed, metadata=work.metadata)


class Fit:
    """The process, by whose name Ray titles it."""

    def steps(
        self, fit: Callable[[FitWork], Iterator[Step | Trained]], work: FitWork
    ) -> Iterator[Step | Trained]:
        """What `fit` yields."""
        yield from fit(work)


async def run_in_ray(work: FitWork, *, num_cpus: float) -> AsyncGenerator[Step | Trained, None]:
    """Fit somewhere in the cluster; who stops listening stops it.

    Args:
        work: what.
        num_cpus: that Ray sets aside for it; where there are none, it waits for them.

    Raises:
        TrainingError: the rows cannot teach a detector.
        JobCrashed: its process died, or raised something else; the log has it.
    """
    actor: Any = ray.remote(num_cpus=num_cpus, max_restarts=0)(Fit).remote()
    try:
        async for step in actor.steps.options(num_returns="streaming").remote(fit, work):
            yield await step
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EnsembleError):
            raise cause from None
        log_event(
            logging.ERROR,
            "training_failed",
            {"model": work.name, "error_type": type(cause).__name__, "error": str(cause)},
        )
        raise JobCrashed from None
    except RayError as error:
        log_event(
            logging.ERROR,
            "training_failed",
            {"model": work.name, "error_type": type(error).__name__, "error": str(error)},
        )
        raise JobCrashed from None
    finally:
        ray.kill(actor)  # of one that has ended, nothing
