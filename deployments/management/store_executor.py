"""Work on the model store in threads: bounded, with a timeout, under the caller's name.

A disk can hang for ever, and a thread that hangs with it cannot be ended. So the number of threads
is bounded, and callers wait with a timeout. Queued work is cancelled at the timeout; running work
may still complete after the caller got 503.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from deployments.config import Settings, SigningRefused, TrustedStore
from deployments.observability import log_event
from ensemble.errors import ServiceError, SigningUnavailable, StoreFull, StoreUnavailable
from ensemble.store import Actor, Store

__all__ = ["StoreExecutor", "with_timeout"]

Answer = TypeVar("Answer")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreExecutor:
    """Runs work on the store of the settings.

    Args:
        settings: paths and trust of the store, number of threads and timeout.
    """

    def __init__(self, settings: Settings) -> None:
        self._within_s = settings.management.store_within_s
        self._open = TrustedStore(settings)
        self._threads = ThreadPoolExecutor(
            settings.management.store_threads, thread_name_prefix="store"
        )

    async def run(self, actor: Actor, work: Callable[[Store], Answer]) -> Answer:
        """Call `work` with the store, in a thread.

        Args:
            actor: caller, for the audit log.
            work: called once.

        Raises:
            EnsembleError: see `with_timeout`.
        """
        return await with_timeout(
            asyncio.wrap_future(self._threads.submit(self._work, actor, work)), self._within_s
        )

    def close(self) -> None:
        """Cancel queued work; do not wait for running work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self, actor: Actor, work: Callable[[Store], Answer]) -> Answer:
        return work(replace(self._open(), actor=actor))


async def with_timeout(work: Awaitable[Answer], within_s: float) -> Answer:
    """Run `work`, which uses the disk of the store, with a timeout and errors of the public tree.

    Raises:
        StoreUnavailable: the work did not end in time, or the operating system refused.
        StoreFull: the disk is full.
        SigningUnavailable: there is no key to sign with; the log says what to do.
        EnsembleError: an error that `work` raised.
    """
    try:
        return await asyncio.wait_for(work, within_s)
    except TimeoutError:
        refusal: ServiceError = StoreUnavailable()
        problem_text = f"no result within {within_s:g} s"
    except SigningRefused as refused:
        refusal, problem_text = SigningUnavailable(), str(refused)
    except OSError as problem:
        refusal = StoreFull() if problem.errno in NO_ROOM else StoreUnavailable()
        problem_text = errno.errorcode.get(problem.errno or 0, type(problem).__name__)
    log_event(logging.ERROR, "store_call_failed", {"code": refusal.code, "problem": problem_text})
    raise refusal
