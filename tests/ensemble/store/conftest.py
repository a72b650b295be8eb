"""A small store to break: one tenant, tiny models, a disk that does not wait."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.layers.model import Parts
from ensemble.store.codecs import Golden
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.publish import publish_bundle

NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
TRAINING = {"recipe": "toy", "data_sha256": "0" * 64, "seed": 7, "rows": 3}

Publish = Callable[..., BundleRef]


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real fsyncs cost 4 ms each here and prove nothing while the power is on; the crash tests model the power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def acme() -> Tenant:
    return Tenant("acme")


@pytest.fixture
def flow() -> ModelName:
    return ModelName("anomaly-flow")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "var", None)


@pytest.fixture
def two_roots(tmp_path: Path) -> Store:
    return Store(tmp_path / "var", tmp_path / "artifacts")


@pytest.fixture
def parts_of() -> Callable[[float], Parts]:
    return lambda value: Parts({"weights": np.full((2, 3), value, dtype=np.float32)}, {"value": value, "names": ["a", "b"]})


@pytest.fixture
def publish(parts_of: Callable[[float], Parts]) -> Publish:
    """`publish(store, value=..., tenant=..., model=...)`: a tiny bundle whose arrays hold `value`."""

    def one(
        store: Store,
        value: float = 1.0,
        *,
        tenant: str = "acme",
        model: str = "anomaly-flow",
        pictures: Mapping[str, bytes] | None = None,
        training: Mapping[str, Any] = TRAINING,
    ) -> BundleRef:
        return publish_bundle(
            store,
            Tenant(tenant),
            ModelName(model),
            parts_of(value),
            Golden([{"kind": "flow", "id": "g1"}], [0.25]),
            card="# A toy\n",
            pictures=pictures or {},
            feature_schema="",
            training=training,
            now=NOW,
        )

    return one


@pytest.fixture
def folder_of() -> Callable[[Store, BundleRef], Path]:
    return lambda store, ref: store.state / "tenants" / ref.tenant / "bundles" / ref.model / str(ref.version)


class DieAt:
    """Runs an act in a child that is killed before its k-th change to the disk.

    The store changes the disk through `os` and `fcntl` only (`ensemble/store/durable.py`), so wrapping these sees every step.
    """

    CHANGES = ("open", "write", "fsync", "fchmod", "mkdir", "chmod", "rename", "replace", "unlink", "rmdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, k: int, act: Callable[[], object], *, power_cut: bool = False) -> bool:
        """Whether `act` was done before step k came. A power cut empties the files that were written and not yet fsynced."""
        child = os.fork()
        if child == 0:
            self._die(k, act, power_cut=power_cut)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the act raised"
        return not os.WIFSIGNALED(status)

    def record(self, act: Callable[[], object]) -> list[str]:
        """The steps of `act`, in order, e.g. `fsync manifest.json`."""
        steps: list[str] = []
        with self._monkeypatch.context() as patch:
            self._watch(lambda step, _: steps.append(step), patch.setattr)
            act()
        return steps

    def _die(self, k: int, act: Callable[[], object], *, power_cut: bool) -> None:
        steps = 0
        unsafe: dict[int, int] = {}  # inode -> a descriptor of our own, for files whose bytes are not on the disk

        def before(step: str, fd: int | None) -> None:
            nonlocal steps
            if steps == k:
                for held in unsafe.values() if power_cut else ():
                    os.ftruncate(held, 0)
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            if fd is not None and step.startswith("write"):
                unsafe.setdefault(os.fstat(fd).st_ino, os.dup(fd))
            if fd is not None and step.startswith("fsync"):
                unsafe.pop(os.fstat(fd).st_ino, None)

        try:
            self._watch(before, setattr)
            act()
        except BaseException:  # noqa: BLE001  # the child must not go on as a second pytest
            os._exit(1)
        os._exit(0)

    def _watch(self, before: Callable[[str, int | None], None], patch: Callable[[Any, str, Any], None]) -> None:
        for name in self.CHANGES:
            patch(os, name, self._wrapped(name, getattr(os, name), before))
        lock = fcntl.flock
        patch(fcntl, "flock", lambda *args: (before("flock", None), lock(*args))[1])

    @staticmethod
    def _wrapped(name: str, honest: Callable[..., Any], before: Callable[[str, int | None], None]) -> Callable[..., Any]:
        def watched(target: Any, *args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[0] & os.O_CREAT:
                return honest(target, *args, **kwargs)  # reading changes nothing
            fd = target if isinstance(target, int) else None
            path = Path(Path(f"/proc/self/fd/{fd}").readlink() if fd is not None else args[0] if name in {"rename", "replace"} else target)
            before(f"{name} {'staged' if path.parent.name == '.staging' else path.name}", fd)
            return honest(target, *args, **kwargs)

        return watched


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    return DieAt(monkeypatch)


@pytest.fixture
def steps_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    return DieAt(monkeypatch).record
