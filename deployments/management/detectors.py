"""The tabular detectors of all tenants, as a deployment: rows in, threat levels out. Reads the store, and writes nothing.

A detector is loaded when it is asked for first: the champion of its name. While it is used, its
alias is looked at every two seconds; a new
champion is loaded beside the one that serves, proven, and takes its place in one step. What cannot
be loaded changes nothing: the last good
one goes on, and says so. Only so many are kept; the one used last longest ago makes room. Each is
looked after by itself, in threads, so
that one tenant's load, or a file that hangs, never holds up another's rows.
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

from deployments.config.settings import Settings
from deployments.config.trusted_store import TrustedStore
from deployments.host.memory import available_bytes
from deployments.observability.log import LogThrottle, log_event
from ensemble.errors import ArtifactMissing, FeatureMismatch, LoadTimeout, TooManyRows
from ensemble.features.tabular import Missing, admit_rows
from ensemble.layers.tabular import TabularDetector
from ensemble.runtime.builder import proven_detector
from ensemble.runtime.model_state import LoadFailure, failure_of
from ensemble.store import Alias, BundleRef, ModelName, Store, Tenant, Trust, get_alias, open_bundle

__all__ = ["Detections", "DetectorState", "Detectors", "LoadOutcome", "LoadReport"]

LOOK_EVERY_S = 2.0  # at the alias of a detector that is used: one small file
LOAD_WITHIN_S = 10.0  # RELIABILITY F13: a hanging disk costs a load, not the replica
LOADS_A_DETECTOR = (
    2  # threads for loads, for each detector that may be held: one that hangs, and one that goes on
)
SCORING_THREADS = 2

Key = tuple[Tenant, ModelName]


class LoadOutcome(StrEnum):
    """How a load went."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"
    LAST_GOOD = "last_good"  # the champion cannot be had: an older one serves on
    # the champion serves, and is not the version that was asked for: make it champion first
    OTHER_VERSION = "other_version"


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector says of some rows, in columns; a row that was refused has no place in them.

    Attributes:
        model: its name.
        version: that answered.
        manifest_sha256: of that version.
        is_last_good: an older version answered, because the champion cannot be had.
        features: that it reads.
        rows: int (m,), positions of the rows that were rated among those that came.
        anomaly_score: float64 (m,), each in [0, 1]; higher is stranger.
        threat_level: m words: low, medium, high, critical.
        is_anomaly: bool (m,), at least medium.
        refused: position -> what is wrong with that row.
        filled: values that were missing and counted as 0.
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
    """One detector that a replica holds.

    Attributes:
        loaded_at: seconds since 1970.
        code: of the error for which the champion cannot be had, "" where it serves.
    """

    tenant: str
    model: str
    version: int
    manifest_sha256: str
    loaded_at: float
    code: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a load went in one replica (C-26).

    Attributes:
        replica: host and process.
        version: that serves now.
        code: of the error for which the champion cannot be had, "" where it serves.
        message: its sentence.
        seconds: that it took.
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
class _Held:
    """A detector that serves, and what was seen when it was looked at last."""

    ref: BundleRef
    detector: TabularDetector
    serial: int  # of the alias; one that is older is not believed
    trust: Trust  # under which both were proven
    loaded_at: float
    looked_at: float
    trouble: LoadFailure | None = None


class Detectors:
    """One replica.

    Args:
        settings: as JSON values.
        open_store: the store as it is trusted now; None for that of the settings.
        clock: seconds that only rise.
        now: seconds since 1970.
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
        self._held: OrderedDict[Key, _Held] = OrderedDict()  # used last, last
        self._looks: dict[
            Key, tuple[asyncio.Task[_Held], float]
        ] = {}  # what is looked at now, and since when
        self._loading = ThreadPoolExecutor(
            LOADS_A_DETECTOR * self._limits.detectors_at_once, "load-detector"
        )
        self._scoring = ThreadPoolExecutor(SCORING_THREADS, "score-rows")
        self._pace = LogThrottle(clock)

    async def detect(
        self,
        tenant: str,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        missing: str = Missing.REFUSE,
    ) -> Detections:
        """Rate rows.

        Args:
            tenant: whose detector.
            name: of the detector.
            rows: feature -> value; of those, what the detector reads.
            missing: `error_response` or `zero`, what a row means that lacks a feature.

        Raises:
            TooManyRows: more than one request may have.
            ArtifactMissing: this tenant has no such detector that serves.
            ArtifactError: it has one, which cannot be loaded, and no older one to go on with.
        """
        if len(rows) > self._limits.max_rows:
            raise TooManyRows(len(rows), self._limits.max_rows)
        how, held = Missing(missing), await self._serving((Tenant(tenant), ModelName(name)))
        return await asyncio.wrap_future(self._scoring.submit(_rate, held, rows, how))

    async def load(self, tenant: str, name: str, version: int | None = None) -> LoadReport:
        """Look at a detector now, load its champion if it is another, and say how it stands (S4-13).

        Args:
            tenant: whose.
            name: of the detector.
            version: that is to serve. Which one does is said by the alias alone, for every
                replica, so this is only compared; None for any.

        Raises:
            ArtifactError: as in `detect`.
        """
        key, began = (Tenant(tenant), ModelName(name)), self._clock()
        if key in self._looks:  # it may have read the alias of before
            await asyncio.wait({self._looks[key][0]}, timeout=LOAD_WITHIN_S)
        before = self._held.get(key)
        held = await self._look(key)
        if held.trouble is not None:
            outcome = LoadOutcome.LAST_GOOD
        elif version not in (None, held.ref.version):
            outcome = LoadOutcome.OTHER_VERSION
        else:
            outcome = (
                LoadOutcome.UNCHANGED
                if before is not None and before.detector is held.detector
                else LoadOutcome.LOADED
            )
        return LoadReport(
            replica=f"{socket.gethostname()}:{os.getpid()}",
            tenant=str(key[0]),
            model=str(key[1]),
            version=held.ref.version,
            manifest_sha256=held.ref.manifest_sha256,
            outcome=outcome,
            code=held.trouble.code if held.trouble else "",
            message=held.trouble.message if held.trouble else "",
            seconds=self._clock() - began,
        )

    async def state(self, tenant: str | None = None) -> list[DetectorState]:
        """The detectors that are held, of one tenant or of all; those used last at the end."""
        return [
            DetectorState(
                tenant=str(owner),
                model=str(name),
                version=held.ref.version,
                manifest_sha256=held.ref.manifest_sha256,
                loaded_at=held.loaded_at,
                code=held.trouble.code if held.trouble else "",
            )
            for (owner, name), held in self._held.items()
            if tenant in (None, owner)
        ]

    async def _serving(self, key: Key) -> _Held:
        """The detector that answers now; without one, the one that a look finds."""
        held = self._held.get(key)
        if held is None:
            return await self._look(key)
        self._held.move_to_end(key)
        if key not in self._looks:
            if self._clock() - held.looked_at >= LOOK_EVERY_S:
                self._begin_look(key)  # beside: nobody waits for it
        elif self._clock() - self._looks[key][1] >= LOAD_WITHIN_S:
            held = self._in_trouble(key, held, LoadTimeout(f"detector {key[1]}", LOAD_WITHIN_S))
        return held

    async def _look(self, key: Key) -> _Held:
        """The detector after a look, which is shared by all who wait for it."""
        if key not in self._looks:
            self._begin_look(key)
        task, since = self._looks[key]
        done, _ = await asyncio.wait(
            {task}, timeout=max(0.0, since + LOAD_WITHIN_S - self._clock())
        )
        if done:
            return task.result()
        late, held = LoadTimeout(f"detector {key[1]}", LOAD_WITHIN_S), self._held.get(key)
        if held is None:
            self._tell_trouble(key, failure_of(late))
            raise late
        return self._in_trouble(key, held, late)

    def _begin_look(self, key: Key) -> None:
        task = asyncio.create_task(self._looked(key))
        self._looks[key] = (task, self._clock())
        task.add_done_callback(lambda done: self._end_look(key, done))

    def _end_look(self, key: Key, done: asyncio.Task[_Held]) -> None:
        del self._looks[key]
        if not done.cancelled():
            done.exception()  # whoever waits has it; the log has it too

    async def _looked(self, key: Key) -> _Held:
        before = self._held.get(key)
        try:
            found = await asyncio.wrap_future(self._loading.submit(self._load, key, before))
        except Exception as error:  # whatever it is: the last good one goes on
            if before is None:
                self._tell_trouble(key, failure_of(error))
                raise
            return self._in_trouble(key, before, error)
        if found is None:
            self._held.pop(key, None)  # it was withdrawn, or never was
            raise ArtifactMissing(f"a champion of model {key[1]}")
        if before is None or found.detector is not before.detector:
            about = {
                "tenant": key[0],
                "model": key[1],
                "version": found.ref.version,
                "digest": found.ref.manifest_sha256,
            }
            log_event(logging.INFO, "model_loaded", about, "Model loaded successfully")
        self._pace.end(_spoken(key))
        self._held[key] = found
        if before is None:
            self._held.move_to_end(key)
        while len(self._held) > self._limits.detectors_at_once:
            self._held.popitem(last=False)
        return found

    def _load(self, key: Key, before: _Held | None) -> _Held | None:
        """What a look at the files finds, in a thread; None where nothing is champion."""
        store, (tenant, model) = self._open_store(), key
        is_believed = (
            before is not None and before.trust == store.trust
        )  # what a key that is gone signed is forgotten, its serial too
        seen = before.serial if before is not None and is_believed else 0
        named = get_alias(store, tenant, model, Alias.CHAMPION, not_below=seen)
        if not named.number:
            return None
        ref = BundleRef(tenant, model, named.number, named.sha256)
        if before is not None and is_believed and before.ref == ref:
            return replace(before, serial=named.serial, looked_at=self._clock(), trouble=None)
        detector = proven_detector(open_bundle(store, ref, available_bytes=available_bytes))
        return _Held(ref, detector, named.serial, store.trust, self._now(), self._clock())

    def _in_trouble(self, key: Key, held: _Held, error: Exception) -> _Held:
        """The last good one goes on, and says why."""
        failure = failure_of(error)
        self._tell_trouble(key, failure)
        troubled = replace(held, looked_at=self._clock(), trouble=failure)
        if key in self._held:
            self._held[key] = troubled
        return troubled

    def _tell_trouble(self, key: Key, failure: LoadFailure) -> None:
        suppressed = self._pace.again(("load", _spoken(key)), f"{failure.code} {failure.message}")
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


def _spoken(key: Key) -> str:
    return "/".join(key)


def _rate(held: _Held, rows: Sequence[Mapping[str, Any]], missing: Missing) -> Detections:
    detector = held.detector
    admitted = admit_rows(rows, detector.features, missing)
    said = detector.score(admitted.values)
    return Detections(
        model=str(held.ref.model),
        version=held.ref.version,
        manifest_sha256=held.ref.manifest_sha256,
        is_last_good=held.trouble is not None,
        features=detector.features,
        rows=admitted.rows,
        anomaly_score=said.anomaly_score,
        threat_level=said.threat_level,
        is_anomaly=said.is_anomaly,
        refused=admitted.refused,
        filled=admitted.filled,
    )
