"""A fit in a Ray process of its own, which ends with the fit and can be killed.

The process gets the table as arrays and yields its progress step by step, and the trained model
last. It runs at low priority, so that scoring goes first where cores are few, and is never reused,
because its priority would stay low.

It is an actor, because an actor can be killed at any moment. Ray 2.60 can end the calling process
if a task is cancelled just as it completes (its check "Tried to complete task that was not
pending"), and every fit is stopped at about that moment.
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
    """The arguments of `fit_steps`."""

    table: TrainingTable
    name: str
    seed: int
    metadata: Metadata


def fit(work: FitWork) -> Iterator[Step | Trained]:
    """Fit at low priority, step by step; runs in the actor's process."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    from ensemble.training.recipes.tabular import (  # noqa: PLC0415  # loads scikit-learn: seconds
        fit_steps,
    )

    yield from fit_steps(work.table, name=work.name, seed=work.seed, metadata=work.metadata)


class Fit:
    """The actor; Ray titles its process by this name."""

    def steps(
        self, fit: Callable[[FitWork], Iterator[Step | Trained]], work: FitWork
    ) -> Iterator[Step | Trained]:
        """Yield the steps of `fit`."""
        yield from fit(work)


async def run_in_ray(work: FitWork, *, num_cpus: float) -> AsyncGenerator[Step | Trained, None]:
    """Fit in a process of the cluster; closing the generator kills the process.

    Args:
        work: the arguments of the fit.
        num_cpus: CPUs that Ray reserves for the fit, which waits until they are free.

    Raises:
        TrainingError: the rows do not suffice for a detector.
        JobCrashed: the process died, or raised another error, which is logged.
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
        ray.kill(actor)  # no effect on one that has ended
