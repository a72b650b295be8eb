"""The tabular detectors of all tenants, as a deployment: rows in, threat levels out.

The champion of a model is loaded when it is first used. While it is in use, its alias is polled
every two seconds; a new champion is loaded beside the one that serves, checked, and replaces it in
one step. After a failed load the last good version goes on serving and reports why. The cache is
bounded and evicts the least recently used detector. Each detector is loaded on its own, in threads,
so that one tenant's load, or a hanging file, does not delay another tenant's rows. The deployment
only reads the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.config import Settings, TrustedStore
from deployments.host import available_bytes
from deployments.observability import LogThrottle, log_event
from ensemble.errors import ArtifactMissing, FeatureMismatch, LoadTimeout, TooManyRows
from ensemble.features.tabular import Missing, admit_rows
from ensemble.layers.tabular import TabularDetector
from ensemble.runtime import LoadFailure, failure_of, proven_detector
from ensemble.store import Alias, BundleRef, ModelName, Store, Tenant, Trust, get_alias, open_bundle

__all__ = ["Detections", "DetectorState", "Detectors", "LoadOutcome", "LoadReport"]

POLL_EVERY_S = 2.0  # of the alias of a detector in use: one small file
STALE_S = 6.0  # without a poll, as nothing used the detector: it is polled before it answers
LOAD_WITHIN_S = 10.0  # RELIABILITY F13: a hanging disk costs a load, not the replica
LOAD_THREADS_PER_DETECTOR = 2  # one load may hang while another goes on
SCORING_THREADS = 2

Key = tuple[Tenant, ModelName]


class LoadOutcome(StrEnum):
    """Outcome of a load."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"
    LAST_GOOD = "last_good"  # the champion cannot be loaded: an older version goes on serving
    # the champion serves, but is not the requested version: promote that one first
    OTHER_VERSION = "other_version"


@dataclass(frozen=True, slots=True)
class Detections:
    """The results of a detector for m of the rows, in columns; refused rows are not in them.

    Attributes:
        model: name of the model.
        version: number of the version that rated the rows.
        manifest_sha256: SHA-256 of that version's manifest.
        is_last_good: an older version rated the rows, because the champion cannot be loaded.
        features: names of the features that it reads.
        rows: int (m,), positions of the rated rows in the request.
        anomaly_score: float64 (m,), each in [0, 1]; higher is more anomalous.
        threat_level: m of low, medium, high, critical.
        is_anomaly: bool (m,), whether the level is at least medium.
        refused: position -> error of that row.
        filled: number of missing values that were read as 0.
    """

    model: str
    version: int
    manifest_sha256: str
    is_last_good: bool
    features: tuple[str, ...]
    rows: NDArray[np.intp]
    anomaly_score: NDArray[np.float64]
    threat_level: NDArray[np.str_]
    is_anomaly: NDArray[np.bool_]
    refused: Mapping[int, FeatureMismatch]
    filled: int


@dataclass(frozen=True, slots=True)
class DetectorState:
    """One detector that a replica has loaded.

    Attributes:
        loaded_at: seconds since 1970.
        code: code of the error that prevents the champion from loading; "" where it serves.
    """

    tenant: str
    model: str
    version: int
    manifest_sha256: str
    loaded_at: float
    code: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The result of a load in one replica (C-26).

    Attributes:
        replica: host and process.
        version: number of the version that serves now.
        code: code of the error that prevents the champion from loading; "" where it serves.
        message: sentence of that error.
        seconds: duration of the load.
    """

    replica: str
    tenant: str
    model: str
    version: int
    manifest_sha256: str
    outcome: LoadOutcome
    code: str
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _LoadedDetector:
    """A detector that serves, and the state of its last poll."""

    ref: BundleRef
    detector: TabularDetector
    serial: int  # of the alias; an alias with a lower serial is a replay and is refused
    trust: Trust  # that verified both
    loaded_at: float
    polled_at: float
    failure: LoadFailure | None = None


class Detectors:
    """A replica of the tabular detectors.

    Args:
        settings: the settings as JSON values.
        open_store: returns the store with the current trust; None for that of the settings.
        clock: monotonic clock, seconds.
        now: wall clock, seconds since 1970.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        open_store: Callable[[], Store] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        own = Settings.model_validate(settings)
        self._limits, self._clock, self._now = own.management, clock, now
        self._open_store = open_store or TrustedStore(own)
        # the least recently used first
        self._loaded: OrderedDict[Key, _LoadedDetector] = OrderedDict()
        # polls in progress, each with its start
        self._polls: dict[Key, tuple[asyncio.Task[_LoadedDetector], float]] = {}
        self._loading = ThreadPoolExecutor(
            LOAD_THREADS_PER_DETECTOR * self._limits.detectors_at_once, "load-detector"
        )
        self._scoring = ThreadPoolExecutor(SCORING_THREADS, "score-rows")
        self._throttle = LogThrottle(clock)

    async def detect(
        self,
        tenant: str,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        missing: str = Missing.REFUSE,
    ) -> Detections:
        """Rate rows.

        Args:
            tenant: owner of the detector.
            name: name of the detector.
            rows: mappings of feature -> value; other fields are ignored.
            missing: `refuse` or `zero`, the treatment of a row that lacks a feature.

        Raises:
            TooManyRows: more than one request may have.
            ArtifactMissing: this tenant has no champion of that name.
            ArtifactError: the champion cannot be loaded, and no older version is loaded.
        """
        if len(rows) > self._limits.max_rows:
            raise TooManyRows(len(rows), self._limits.max_rows)
        how, loaded = Missing(missing), await self._serving((Tenant(tenant), ModelName(name)))
        return await asyncio.wrap_future(self._scoring.submit(_rate, loaded, rows, how))

    async def load(self, tenant: str, name: str, version: int | None = None) -> LoadReport:
        """Refresh a detector now: load its champion if that changed, and report the state (S4-13).

        Args:
            tenant: owner of the detector.
            name: name of the detector.
            version: version that the caller expects to serve; None for any. The alias alone
                decides which one does, for every replica, so this is only compared.

        Raises:
            ArtifactError: as in `detect`.
        """
        key, began = (Tenant(tenant), ModelName(name)), self._clock()
        if key in self._polls:  # that poll may have read the alias before it changed
            await asyncio.wait({self._polls[key][0]}, timeout=LOAD_WITHIN_S)
        before = self._loaded.get(key)
        loaded = await self._poll(key)
        if loaded.failure is not None:
            outcome = LoadOutcome.LAST_GOOD
        elif version not in (None, loaded.ref.version):
            outcome = LoadOutcome.OTHER_VERSION
        else:
            outcome = (
                LoadOutcome.UNCHANGED
                if before is not None and before.detector is loaded.detector
                else LoadOutcome.LOADED
            )
        return LoadReport(
            replica=f"{socket.gethostname()}:{os.getpid()}",
            tenant=str(key[0]),
            model=str(key[1]),
            version=loaded.ref.version,
            manifest_sha256=loaded.ref.manifest_sha256,
            outcome=outcome,
            code=loaded.failure.code if loaded.failure else "",
            message=loaded.failure.message if loaded.failure else "",
            seconds=self._clock() - began,
        )

    async def state(self, tenant: str | None = None) -> list[DetectorState]:
        """List the loaded detectors of one tenant or of all, the least recently used first."""
        return [
            DetectorState(
                tenant=str(owner),
                model=str(name),
                version=loaded.ref.version,
                manifest_sha256=loaded.ref.manifest_sha256,
                loaded_at=loaded.loaded_at,
                code=loaded.failure.code if loaded.failure else "",
            )
            for (owner, name), loaded in self._loaded.items()
            if tenant in (None, owner)
        ]

    async def _serving(self, key: Key) -> _LoadedDetector:
        """Return the loaded detector, or load it if there is none."""
        loaded = self._loaded.get(key)
        if loaded is None:
            return await self._poll(key)
        self._loaded.move_to_end(key)
        now = self._clock()
        _, began = self._polls.get(key, (None, now))
        unpolled_s = began - loaded.polled_at  # at the start of the poll in progress, if any
        if unpolled_s >= STALE_S:  # it may be withdrawn, or another one promoted
            return await self._poll(key)
        if key not in self._polls:
            if unpolled_s >= POLL_EVERY_S:
                self._begin_poll(key)  # in the background: no request waits for it
        elif now - began >= LOAD_WITHIN_S:
            loaded = self._with_failure(
                key, loaded, LoadTimeout(f"detector {key[1]}", LOAD_WITHIN_S)
            )
        return loaded

    async def _poll(self, key: Key) -> _LoadedDetector:
        """Return the detector after a poll, which all waiting requests share."""
        if key not in self._polls:
            self._begin_poll(key)
        task, since = self._polls[key]
        done, _ = await asyncio.wait(
            {task}, timeout=max(0.0, since + LOAD_WITHIN_S - self._clock())
        )
        if done:
            return task.result()
        late, loaded = LoadTimeout(f"detector {key[1]}", LOAD_WITHIN_S), self._loaded.get(key)
        if loaded is None:
            self._log_failure(key, failure_of(late))
            raise late
        return self._with_failure(key, loaded, late)

    def _begin_poll(self, key: Key) -> None:
        task = asyncio.create_task(self._run_poll(key))
        self._polls[key] = (task, self._clock())
        task.add_done_callback(lambda done: self._end_poll(key, done))

    def _end_poll(self, key: Key, done: asyncio.Task[_LoadedDetector]) -> None:
        del self._polls[key]
        if not done.cancelled():
            done.exception()  # mark it as retrieved; waiting requests and the log have it

    async def _run_poll(self, key: Key) -> _LoadedDetector:
        before = self._loaded.get(key)
        try:
            found = await asyncio.wrap_future(self._loading.submit(self._load, key, before))
        except Exception as error:  # whatever it is: the last good version goes on serving
            if before is None:
                self._log_failure(key, failure_of(error))
                raise
            return self._with_failure(key, before, error)
        if found is None:
            self._loaded.pop(key, None)  # there is no champion any more, or never was
            raise ArtifactMissing(f"a champion of model {key[1]}")
        if before is None or found.detector is not before.detector:
            about = {
                "tenant": key[0],
                "model": key[1],
                "version": found.ref.version,
                "digest": found.ref.manifest_sha256,
            }
            log_event(logging.INFO, "model_loaded", about, "Model loaded successfully")
        self._throttle.end(_label(key))
        self._loaded[key] = found
        if before is None:
            self._loaded.move_to_end(key)
        while len(self._loaded) > self._limits.detectors_at_once:
            self._loaded.popitem(last=False)
        return found

    def _load(self, key: Key, before: _LoadedDetector | None) -> _LoadedDetector | None:
        """Read the alias and load a new champion, in a thread; None where there is no champion."""
        store, (tenant, model) = self._open_store(), key
        # what a removed key signed no longer counts, nor does its serial
        is_trusted = before is not None and before.trust == store.trust
        serial = before.serial if before is not None and is_trusted else 0
        named = get_alias(store, tenant, model, Alias.CHAMPION, not_below=serial)
        if not named.number:
            return None
        ref = BundleRef(tenant, model, named.number, named.sha256)
        if before is not None and is_trusted and before.ref == ref:
            return replace(before, serial=named.serial, polled_at=self._clock(), failure=None)
        detector = proven_detector(open_bundle(store, ref, available_bytes=available_bytes))
        return _LoadedDetector(ref, detector, named.serial, store.trust, self._now(), self._clock())

    def _with_failure(self, key: Key, loaded: _LoadedDetector, error: Exception) -> _LoadedDetector:
        """Go on with the last good version, and record why."""
        failure = failure_of(error)
        self._log_failure(key, failure)
        failing = replace(loaded, polled_at=self._clock(), failure=failure)
        if key in self._loaded:
            self._loaded[key] = failing
        return failing

    def _log_failure(self, key: Key, failure: LoadFailure) -> None:
        suppressed = self._throttle.again(
            ("load", _label(key)), f"{failure.code} {failure.message}"
        )
        if suppressed is None:
            return
        about = {
            "tenant": key[0],
            "model": key[1],
            "code": failure.code,
            "cause": failure.cause,
            "suppressed": suppressed,
        }
        log_event(
            logging.ERROR, "model_load_failed", about, f"Failed to load model: {failure.message}"
        )


def _label(key: Key) -> str:
    return "/".join(key)


def _rate(
    loaded: _LoadedDetector, rows: Sequence[Mapping[str, Any]], missing: Missing
) -> Detections:
    detector = loaded.detector
    admitted = admit_rows(rows, detector.features, missing)
    scores = detector.score(admitted.values)
    return Detections(
        model=str(loaded.ref.model),
        version=loaded.ref.version,
        manifest_sha256=loaded.ref.manifest_sha256,
        is_last_good=loaded.failure is not None,
        features=detector.features,
        rows=admitted.rows,
        anomaly_score=scores.anomaly_score,
        threat_level=scores.threat_level,
        is_anomaly=scores.is_anomaly,
        refused=admitted.refused,
        filled=admitted.filled,
    )
