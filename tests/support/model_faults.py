"""Faults of a published model (RELIABILITY, F1 to F24): each is a function on a model's files.

A fault strikes at one of three stages: the content before publication, which the trusted key then
signs; the manifest before it is signed; or the folder after publication.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ensemble.store.bundles.codecs import ARRAYS, CONFIG, GOLDEN
from ensemble.store.files import canonical_json
from tests.support.file_faults import FILE_FAULTS, FileFault, put

__all__ = ["CANARY", "MODELS", "MODEL_FAULTS", "ModelFault"]

Files = Mapping[str, bytes]
Arrays = dict[str, NDArray[Any]]

FLOW_MODELS = ("anomaly-flow", "behavior-flow", "classifier-flow")
PROVEN = (*FLOW_MODELS, "anomaly-process", "posture-inventory")  # with golden events of their own
CALIBRATED = FLOW_MODELS
MODELS = {
    "anomaly-flow": "anomaly",
    "anomaly-process": "anomaly",
    "behavior-flow": "behavior",
    "classifier-flow": "classifier",
    "posture-inventory": "resilience",
    "posture-knowledge": "resilience",
}
"""Model of the shipped release -> its layer."""
CANARY = Path(tempfile.gettempdir()) / f"axon-canary-{os.getpid()}"
"""Exists once code of a hostile file has run."""
MISSING, CORRUPT = {"ARTIFACT_MISSING"}, {"ARTIFACT_CORRUPT"}
UNTRUSTED, INCOMPATIBLE = {"ARTIFACT_UNTRUSTED"}, {"ARTIFACT_INCOMPATIBLE"}


@dataclass(frozen=True)
class ModelFault:
    """A fault of one model.

    Attributes:
        codes: codes of the errors that may report it; empty if the model serves all the same.
        content: changes the files before publication.
        manifest: changes the text of the manifest before it is signed.
        folder: changes the published folder.
        models: names of the models that can have it.
        is_trusted: whether a trusted key signs the manifest.
    """

    codes: frozenset[str]
    content: Callable[[Files], Files] = dict
    manifest: Callable[[bytes], bytes] = bytes
    folder: Callable[[Path], object] = lambda _: None
    models: tuple[str, ...] = tuple(MODELS)
    is_trusted: bool = True


def _content(codes: set[str], change: Callable[[Files], Files], **fault: Any) -> ModelFault:
    return ModelFault(frozenset(codes), content=change, **fault)


def _arrays(change: Callable[[Arrays], Arrays], **fault: Any) -> ModelFault:
    """A trusted publisher signs other arrays: they decode, but are not this model's."""

    def changed(files: Files) -> Files:
        arrays = safetensors.numpy.load(files[ARRAYS])
        return {**files, ARRAYS: safetensors.numpy.save(change(dict(sorted(arrays.items()))))}

    return _content(INCOMPATIBLE, changed, **fault)


def _config(
    codes: set[str], change: Callable[[dict[str, Any]], object], **fault: Any
) -> ModelFault:
    def changed(files: Files) -> Files:
        config = json.loads(files[CONFIG])
        return {**files, CONFIG: json.dumps(change(config)).encode() + b"\n"}

    return _content(codes, changed, **fault)


def _manifest(codes: set[str], change: Callable[[dict[str, Any]], Any], **fault: Any) -> ModelFault:
    def changed(text: bytes) -> bytes:
        manifest = json.loads(text)
        change(manifest)
        return canonical_json.encode(manifest)

    return ModelFault(frozenset(codes), manifest=changed, **fault)


def _folder(codes: set[str], change: Callable[[Path], object], **fault: Any) -> ModelFault:
    return ModelFault(frozenset(codes), folder=change, **fault)


def _on_arrays(fault: FileFault) -> ModelFault:
    spoil, errors = fault
    return _folder({error.code for error in errors}, lambda folder: spoil(folder / ARRAYS))


def _first(
    change: Callable[[NDArray[Any]], NDArray[Any]], *, of: str = ""
) -> Callable[[Arrays], Arrays]:
    """Change the largest array whose dtype has one of the kinds `of`, any kind for ""."""

    def changed(arrays: Arrays) -> Arrays:
        name = max(
            (name for name, array in arrays.items() if not of or array.dtype.kind in of),
            key=lambda name: arrays[name].size,
        )
        return arrays | {name: np.ascontiguousarray(change(arrays[name]))}

    return changed


def _with(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def changed(array: NDArray[Any]) -> NDArray[Any]:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return changed


def _all(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda array: np.full_like(array, value)


def _without_largest(arrays: Arrays) -> Arrays:
    largest = max(arrays, key=lambda name: arrays[name].size)
    return {name: array for name, array in arrays.items() if name != largest}


def _in_place_of(name: str, data: Callable[[], bytes]) -> Callable[[Files], Files]:
    return lambda files: {**files, name: data()}


class _Calls:
    """An object that pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, array=np.array([_Calls()], dtype=object))
    return file.getvalue()


def _bomb(declared_bytes: int) -> bytes:
    """Ten KiB of safetensors that declare so many bytes."""
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [declared_bytes], "data_offsets": [0, declared_bytes]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(10 << 10)


def _golden(change: Callable[[dict[str, Any]], object]) -> Callable[[Files], Files]:
    def changed(files: Files) -> Files:
        golden = json.loads(files[GOLDEN])
        change(golden)
        return {**files, GOLDEN: canonical_json.encode(golden)}

    return changed


def _move_scores(golden: dict[str, Any]) -> None:
    golden["scores"] = [score + 1e-4 if score < 0.5 else score - 1e-4 for score in golden["scores"]]


def _forget_scores(golden: dict[str, Any]) -> None:
    golden["events"], golden["scores"] = [], []


def _rename_first_file(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][0]["name"] = name


def _another(folder: Path) -> None:
    """Put the arrays of another version in place: of equal length, and intact."""
    put(folder / ARRAYS, (folder / ARRAYS).read_bytes()[::-1])


def _edit(folder: Path) -> None:
    """Change the text of the manifest as an attacker without a key does."""
    path = folder / "manifest.json"
    put(path, path.read_bytes().replace(b'"rows":', b'"rows": ', 1))


def _duplicate_key(text: bytes) -> bytes:
    return text.replace(b'"format":1,', b'"format":1,"format":1,', 1)


MODEL_FAULTS: dict[str, ModelFault] = {
    **{name: _on_arrays(fault) for name, fault in FILE_FAULTS.items()},
    "F2 no manifest": _folder(MISSING, lambda folder: (folder / "manifest.json").unlink()),
    "F2 no golden events": _folder(MISSING, lambda folder: (folder / GOLDEN).unlink()),
    "F6 other libraries": _manifest(
        set(),
        lambda manifest: manifest.update(libraries=dict.fromkeys(manifest["libraries"], "0.0.1")),
    ),
    "F7 an array missing": _arrays(_without_largest),
    "F7 an array too many": _arrays(lambda arrays: arrays | {"extra": np.zeros(3, np.float32)}),
    "F7 another shape": _arrays(_first(lambda array: array[..., :-1])),
    "F7 another number of dimensions": _arrays(_first(lambda array: array[None])),
    "F7 another type": _arrays(_first(lambda array: array.astype(np.bool_))),
    "F8 no arrays": _arrays(lambda _: {}),
    "F8 an empty configuration": _config(INCOMPATIBLE, lambda _: {}),
    "F8 a configuration of null": _config(CORRUPT, lambda _: None),
    "F8 a configuration that is a list": _config(CORRUPT, lambda _: []),
    "F9 a weight of NaN": _arrays(
        _first(_with(np.nan), of="f"), models=(*FLOW_MODELS, "anomaly-process")
    ),
    "F9 an infinite weight": _arrays(
        _first(_with(np.inf), of="f"), models=(*FLOW_MODELS, "anomaly-process")
    ),
    "F9 huge weights": _arrays(_first(_all(3e38), of="f"), models=FLOW_MODELS),
    "F9 huge numbers": _arrays(
        _first(lambda array: np.full_like(array, np.iinfo(array.dtype).max), of="iu"),
        models=("anomaly-process", "posture-inventory", "posture-knowledge"),
    ),
    "F9 a calibration that is not a number": _config(
        CORRUPT | INCOMPATIBLE,
        lambda config: config["calibration"].update(log_odds=["nan"]) or config,
        models=CALIBRATED,
    ),
    "F9 NaN in the configuration": _config(
        CORRUPT | INCOMPATIBLE, lambda config: config | {"calibration": float("nan")}
    ),
    "F10 features of another schema": _manifest(
        INCOMPATIBLE,
        lambda manifest: manifest.update(feature_schema="0" * 64),
        models=(*FLOW_MODELS, "anomaly-process"),
    ),
    "F10 features in another order": _arrays(
        lambda arrays: arrays | {"scaler.positions": arrays["scaler.positions"][::-1].copy()},
        models=FLOW_MODELS,
    ),
    "F10 a feature less": _arrays(
        lambda arrays: arrays | {"scaler.positions": arrays["scaler.positions"][:-1].copy()},
        models=FLOW_MODELS,
    ),
    "F11 other golden scores": _content(INCOMPATIBLE, _golden(_move_scores), models=PROVEN),
    "F11 no golden scores": _content(CORRUPT, _golden(_forget_scores), models=PROVEN),
    "F15 a name that climbs": _manifest(
        CORRUPT, lambda manifest: _rename_first_file(manifest, "../CARD.md")
    ),
    "F15 an absolute name": _manifest(
        CORRUPT, lambda manifest: _rename_first_file(manifest, "/etc/passwd")
    ),
    "F16 an array of 100 GiB": _content(CORRUPT, _in_place_of(ARRAYS, lambda: _bomb(100 << 30))),
    "F16 a length beyond the file": _content(
        CORRUPT, _in_place_of(ARRAYS, lambda: (1 << 62).to_bytes(8, "little") + bytes(100))
    ),
    "F16 a configuration 200,000 deep": _content(
        CORRUPT, _in_place_of(CONFIG, lambda: b"[" * 200_000 + b"]" * 200_000)
    ),
    "F17 a pickle as arrays": _content(
        CORRUPT, _in_place_of(ARRAYS, lambda: pickle.dumps(_Calls()))
    ),
    "F17 a pickle as configuration": _content(
        CORRUPT, _in_place_of(CONFIG, lambda: pickle.dumps(_Calls()))
    ),
    "F17 a pickle inside npz": _content(CORRUPT, _in_place_of(ARRAYS, _npz)),
    "F18 a changed manifest": _folder(CORRUPT, _edit),
    "F18 a manifest of an untrusted key": ModelFault(frozenset(UNTRUSTED), is_trusted=False),
    "F18 a manifest with another field": _manifest(
        CORRUPT, lambda manifest: manifest.update(trusted=True)
    ),
    "F18 a manifest with a key twice": ModelFault(frozenset(CORRUPT), manifest=_duplicate_key),
    "F18 a manifest of another tenant": _manifest(
        UNTRUSTED, lambda manifest: manifest.update(tenant="other")
    ),
    "F19 the manifest of an older version": _manifest(
        UNTRUSTED, lambda manifest: manifest.update(serial=manifest["serial"] + 1)
    ),
    "F19 the arrays of another version": _folder(CORRUPT, _another),
    "F24 published a century from now": _manifest(
        set(), lambda manifest: manifest.update(created_at="2126-11-20T08:15:00Z")
    ),
    "F24 a name of 255 bytes beside the files": _folder(
        CORRUPT, lambda folder: put_new(folder / ("x" * 255))
    ),
    "F24 names like versions beside the version": _folder(
        set(), lambda folder: [(folder.parent / name).mkdir(exist_ok=True) for name in TWINS]
    ),
}
"""Name, which begins with its row -> the fault."""
TWINS = ("1.10", "1.9", "\uff11", "01", "x" * 255)


def put_new(path: Path) -> None:
    path.parent.chmod(0o755)
    path.write_bytes(b"")
