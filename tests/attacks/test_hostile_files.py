"""Hostile model files: code in pickles, arrays and zip files, and small files that exhaust memory.

Each maker writes a file that runs code when it is opened the usual way, which the first test shows.
Axon runs none of it: the reader builds only known types, and the child process that reads can open
no file and start no process.
"""

from __future__ import annotations

import builtins
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import joblib.numpy_pickle
import numpy as np
import pytest
import torch

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactUntrusted
from ensemble.legacy import safe_unpickle
from ensemble.legacy.decode import Terms
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, SCALER
from ensemble.legacy.sandbox import Limits, decode_apart, read_answer
from ensemble.legacy.sandbox_child import answer
from ensemble.store.bundles.manifest import installed_libraries

MIB = 1 << 20
TERMS = Terms(64 * MIB, installed_libraries()["scikit-learn"])
LIMITS = Limits(file_bytes=64 * MIB, memory_bytes=128 * MIB, cpu_s=10, wall_s=60.0)
JOBLIB_FILES = (FOREST, FREQUENCIES, SCALER)
Maker = Callable[[Path], bytes]


class _Calls:
    """An object that pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def touches(canary: Path) -> str:
    return f"touch {canary}"


def by_system(canary: Path) -> bytes:
    return pickle.dumps(_Calls(os.system, touches(canary)))


def by_eval(canary: Path) -> bytes:
    return pickle.dumps(_Calls(eval, f"open({str(canary)!r}, 'w').close()"))


def by_open(canary: Path) -> bytes:
    return pickle.dumps(_Calls(builtins.open, str(canary), "w"))


def by_old_opcodes(canary: Path) -> bytes:
    """GLOBAL and REDUCE of protocol 0, as in the first exploits."""
    return f"cposix\nsystem\n(S'{touches(canary)}'\ntR.".encode()


def by_instance(canary: Path) -> bytes:
    """INST: a call without REDUCE."""
    return f"(S'{touches(canary)}'\niposix\nsystem\n.".encode()


def by_import_chain(canary: Path) -> bytes:
    """`builtins.getattr(importlib.import_module('os'), 'system')(...)`: harmless names."""
    text = touches(canary).encode()
    system = b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(S'os'\ntRS'system'\ntR"
    return system + b"(S'" + text + b"'\ntR."


def by_stack_global(module: str, name: str) -> Maker:
    """STACK_GLOBAL with names from the stack.

    A name can be split at another dot, or reach through an allowed module.
    """

    def make(canary: Path) -> bytes:
        def short(text: str) -> bytes:
            return b"\x8c" + bytes([len(text)]) + text.encode()

        return (
            b"\x80\x04" + short(module) + short(name) + b"\x93" + short(touches(canary)) + b"\x85R."
        )

    return make


def by_extension(canary: Path) -> bytes:
    """EXT4 with an unregistered code."""
    return b"\x80\x02\x84" + struct.pack("<i", 0x7FFFFFF) + f"(S'{touches(canary)}'\ntR.".encode()


def in_objects_of_an_array(canary: Path) -> bytes:
    """An array of objects is a pickle inside the pickle, which joblib reads separately."""
    file = io.BytesIO()
    joblib.dump({"array": np.array([_Calls(os.system, touches(canary))], dtype=object)}, file)
    return file.getvalue()


def in_npz(canary: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, array=np.array([_Calls(os.system, touches(canary))], dtype=object))
    return file.getvalue()


def in_torch_zip(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"0.weight": _Calls(os.system, touches(canary))}, file)
    return file.getvalue()


def in_old_torch_file(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save(
        {"0.weight": _Calls(os.system, touches(canary))}, file, _use_new_zipfile_serialization=False
    )
    return file.getvalue()


def packed(make: Maker, pack: Callable[[bytes], bytes]) -> Maker:
    return lambda canary: pack(make(canary))


PICKLES: dict[str, Maker] = {
    "os.system": by_system,
    "eval": by_eval,
    "open": by_open,
    "protocol 0": by_old_opcodes,
    "INST": by_instance,
    "import chain": by_import_chain,
    "STACK_GLOBAL": by_stack_global("posix", "system"),
    "array of objects": in_objects_of_an_array,
    "compressed by zlib": packed(by_system, zlib.compress),
    "compressed by gzip": packed(by_system, gzip.compress),
    "compressed by bz2": packed(by_system, bz2.compress),
    "compressed by xz": packed(by_system, lzma.compress),
}
# harmless alone, but they would run code if the reader compared names carelessly
TRICKS: dict[str, Maker] = {
    "a name split at another dot": by_stack_global("sklearn", "tree._tree.Tree"),
    "a module as a name": by_stack_global("sklearn.tree._tree.Tree", ""),
    "through an allowed module": by_stack_global("numpy", "f2py.os.system"),
    "through an allowed class": by_stack_global("collections", "Counter.fromkeys.__globals__"),
    "a name with a dot": by_stack_global("numpy", "dtype.__subclasses__"),
    "an extension code": by_extension,
}
INSIDE_OTHERS: dict[str, Maker] = {
    "npz": in_npz,
    "torch zip": in_torch_zip,
    "old torch file": in_old_torch_file,
}
EVERY = PICKLES | TRICKS | INSIDE_OTHERS


def cases(makers: Iterable[str]) -> list[Any]:
    return [pytest.param(EVERY[name], id=name) for name in makers]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists once code of a hostile file has run."""
    return tmp_path / "canary"


@pytest.mark.parametrize("make", cases([name for name in PICKLES if name != "compressed by xz"]))
def test_these_files_run_code_when_joblib_loads_them(
    make: Maker, canary: Path, tmp_path: Path
) -> None:
    """Fact 5: the code runs before any check of the object. Harmless files would prove nothing."""
    file = tmp_path / "model.joblib"
    file.write_bytes(make(canary))

    joblib.load(file)

    assert canary.exists()


@pytest.mark.parametrize("name", JOBLIB_FILES)
@pytest.mark.parametrize("make", cases(EVERY))
def test_no_code_of_a_hostile_file_runs(make: Maker, name: str, canary: Path) -> None:
    """F17: in each of the three files that are pickles; the name of a file decides its format."""
    with pytest.raises((ArtifactUntrusted, ArtifactCorrupt)):
        read_answer(name, answer(name, make(canary), TERMS), LIMITS)

    assert not canary.exists()


@pytest.mark.parametrize("make", cases(EVERY))
def test_no_code_of_a_hostile_file_runs_where_weights_are_expected(
    make: Maker, canary: Path
) -> None:
    """F17: `weights_only`."""
    with pytest.raises(ArtifactCorrupt, match="cannot be decoded as weights alone"):
        read_answer(CLASSIFIER, answer(CLASSIFIER, make(canary), TERMS), LIMITS)

    assert not canary.exists()


@pytest.mark.parametrize("make", cases(["os.system", "array of objects", "compressed by zlib"]))
def test_no_code_of_a_hostile_file_runs_in_the_real_child(make: Maker, canary: Path) -> None:
    with pytest.raises(ArtifactUntrusted, match="which such a file does not need"):
        decode_apart(FOREST, make(canary), LIMITS)

    assert not canary.exists()


def test_without_the_allow_list_the_child_can_still_do_nothing(
    canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox is a second protection; the test disables the first."""
    boot = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import "
        "ensemble.legacy.sandbox_child as child; import pickle, os; "
        "child.answer = lambda name, data, terms: bytes(pickle.loads(data)); child.main()"
    )
    monkeypatch.setattr("ensemble.legacy.sandbox.BOOT", boot)

    for make in (by_system, by_open, by_eval):
        with pytest.raises(ArtifactError):
            decode_apart(FOREST, make(canary), LIMITS)

    assert not canary.exists()


@pytest.mark.parametrize("make", cases(TRICKS))
def test_only_a_complete_name_is_allowed(make: Maker, canary: Path) -> None:
    with pytest.raises((ArtifactUntrusted, ArtifactCorrupt)):
        safe_unpickle.unpickle(make(canary), FOREST, safe_unpickle.FOREST_NAMES, limit_bytes=MIB)


def test_a_pickle_with_the_name_of_a_json_file_is_rejected(canary: Path, tmp_path: Path) -> None:
    """CVE-2026-96775: a check that relied on the suffix. A bundle's JSON is never unpickled."""
    # the reader of every JSON file of the store
    from ensemble.store.files import canonical_json  # noqa: PLC0415

    for make in EVERY.values():
        with pytest.raises(ArtifactCorrupt):
            canonical_json.decode(make(canary), what="config.json")

    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["trust.yaml"]  # from a fixture


def test_joblib_still_reads_through_the_class_that_axon_restricts() -> None:
    """`NumpyUnpickler` and `NumpyArrayWrapper` are inner classes of joblib.

    This test fails if a release of joblib reads in another way.
    """
    assert issubclass(safe_unpickle._Reader, joblib.numpy_pickle.NumpyUnpickler)
    found = []

    class Watching(joblib.numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            found.append((module, name))
            return super().find_class(module, name)

    file = io.BytesIO()
    joblib.dump([np.zeros(3)], file)
    file.seek(0)
    Watching("", file, ensure_native_byte_order=False).load()

    assert ("joblib.numpy_pickle", "NumpyArrayWrapper") in found


def test_an_object_with_a_predict_method_is_not_a_model(canary: Path) -> None:
    """Fact 2: `hasattr(model, "predict")` would accept it; the reader does not even build it."""
    fake = b"\x80\x04" + pickle.dumps(_Calls(type, "Fake", (), {"predict": None}))[2:]

    with pytest.raises(ArtifactUntrusted, match="'builtins' 'type'"):
        read_answer(FOREST, answer(FOREST, fake, TERMS), LIMITS)

    assert not canary.exists()


# -- bombs


def an_array_of(shape: tuple[int, ...]) -> bytes:
    """Make a joblib file that declares an array and has no data."""
    return pickle.dumps(
        joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, shape, "C", np.dtype("<f8"))
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param((100 << 27,), "longer than the file", id="100 GiB"),
        pytest.param((1 << 62, 1 << 62), "longer than the file", id="a product that overflows"),
        pytest.param((1 << 80,), "longer than the file", id="beyond 64 bits"),
        pytest.param((-1,), "cannot be decoded", id="a negative length"),
        pytest.param((2.0,), "cannot be decoded", id="a length that is not an integer"),
    ],
)
def test_a_small_file_that_declares_a_huge_array_is_rejected(
    shape: tuple[Any, ...], message: str
) -> None:
    """F16: an array is never longer than the remaining bytes; nothing is allocated first."""
    with pytest.raises(ArtifactCorrupt, match=message):
        read_answer(FREQUENCIES, answer(FREQUENCIES, an_array_of(shape), TERMS), LIMITS)


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(zlib.compress, id="zlib"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(bz2.compress, id="bz2"),
        pytest.param(lzma.compress, id="xz"),
    ],
)
def test_decompression_stops_at_the_limit(
    pack: Callable[[bytes], bytes],
) -> None:
    """F16: of a small file that unpacks to a large one."""
    bomb = pack(bytes(65 * MIB))
    assert len(bomb) < MIB

    with pytest.raises(ArtifactCorrupt, match="unpacks to more than"):
        read_answer(FOREST, answer(FOREST, bomb, TERMS), LIMITS)


@pytest.mark.parametrize("name", [FOREST, CLASSIFIER])
def test_a_huge_array_made_by_a_call_ends_the_child_alone(name: str) -> None:
    """F16: every allow-list that can read arrays allows `numpy.ndarray((2**40,))`.

    A torch file can declare a large size in its zip entries.
    """
    if name == FOREST:
        bomb = b"\x80\x02cnumpy\nndarray\n(\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85tR."
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 29))
            archive.writestr("archive/version", b"3\n")
        bomb = file.getvalue()

    with pytest.raises(ArtifactCorrupt):
        decode_apart(name, bomb, LIMITS)


@pytest.mark.parametrize(
    "cut", [pytest.param(0, id="0 bytes"), 1, 0.5, pytest.param(-1, id="last byte off")]
)
@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)], ids=str)
def test_a_truncated_file_is_rejected(cut: float, compress: object) -> None:
    """F3, F4 and fact 2: joblib decodes a compressed file without its last byte."""
    file = io.BytesIO()
    joblib.dump({"cmd.exe": 3}, file, compress=compress)
    complete = file.getvalue()
    length = (
        cut
        if isinstance(cut, int) and cut >= 0
        else len(complete) - 1
        if cut == -1
        else len(complete) // 2
    )

    with pytest.raises(ArtifactCorrupt):
        read_answer(FREQUENCIES, answer(FREQUENCIES, complete[: int(length)], TERMS), LIMITS)


def test_bytes_after_the_end_are_rejected() -> None:
    with pytest.raises(ArtifactCorrupt, match="after its end"):
        read_answer(
            FREQUENCIES, answer(FREQUENCIES, pickle.dumps({"cmd.exe": 3}) + b"more", TERMS), LIMITS
        )


def test_an_error_has_the_rejected_name_without_control_characters(canary: Path) -> None:
    """The operator reads the error in a terminal."""
    result = answer(FOREST, by_stack_global("evil\x1b[2J\nmodule", "x" * 200)(canary), TERMS)

    with pytest.raises(ArtifactUntrusted) as refused:
        read_answer(FOREST, result, LIMITS)

    assert "evil\\x1b[2J\\nmodule" in refused.value.problem
    assert len(refused.value.problem) < 250
    assert json.loads(result)["error"] == "ArtifactUntrusted"
