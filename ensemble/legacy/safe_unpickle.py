"""Safe reader of pickles: a joblib file becomes plain values and inert records; no code runs.

A pickle is a program. This reader, the only one in Axon, resolves only the names on an exact list
for each of the four files. In place of every class of scikit-learn it creates a `Record` that
stores its arguments and does nothing, so that no constructor and no `__setstate__` of a library
receives untrusted bytes. Only numpy's array readers do, and such bytes can make them crash or loop
(RELIABILITY, fact 1). Call this module only in the child process of `ensemble.legacy.sandbox`.

An array may not be longer than the rest of the file, so that a few bytes cannot allocate a hundred
gigabytes. A compressed file is unpacked up to a limit. Source: the format of joblib 1.6
(`NumpyUnpickler`, an inner class: pinned, and checked by a test).
"""

from __future__ import annotations

import bz2
import collections
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactUntrusted

__all__ = ["FOREST_NAMES", "FREQUENCY_NAMES", "SCALER_NAMES", "Record", "unpickle"]

Name = tuple[str, str]  # module and name, separate: "a.b" + "c" is not "a" + "b.c"

_MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")  # the second is of numpy 1
_ARRAYS: frozenset[Name] = frozenset(
    {("joblib.numpy_pickle", "NumpyArrayWrapper"), ("numpy", "ndarray"), ("numpy", "dtype")}
    | {(module, name) for module in _MULTIARRAY for name in ("_reconstruct", "scalar")}
)
_CHANCE: frozenset[Name] = frozenset(
    {
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._mt19937", "MT19937"),
    }
)
FOREST_NAMES: frozenset[Name] = (
    _ARRAYS
    | _CHANCE
    | {
        ("sklearn.ensemble._iforest", "IsolationForest"),
        ("sklearn.tree._classes", "ExtraTreeRegressor"),
        ("sklearn.tree._tree", "Tree"),
    }
)
SCALER_NAMES: frozenset[Name] = _ARRAYS | {
    ("sklearn.preprocessing._data", name)
    for name in ("StandardScaler", "MinMaxScaler", "RobustScaler", "PowerTransformer")
}
FREQUENCY_NAMES: frozenset[Name] = (
    _ARRAYS
    | {("collections", name) for name in ("Counter", "OrderedDict", "defaultdict")}
    | {("builtins", "int"), ("builtins", "float")}
)
_REAL: Mapping[Name, Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # named in every pickled array
    **{(module, "_reconstruct"): np._core.multiarray._reconstruct for module in _MULTIARRAY},  # type: ignore[attr-defined]  # noqa: SLF001
    # named in every pickled number of numpy
    **{(module, "scalar"): np._core.multiarray.scalar for module in _MULTIARRAY},  # type: ignore[attr-defined]  # noqa: SLF001
    ("collections", "Counter"): collections.Counter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
}


class Record:
    """Inert replacement of a library's object: its name, constructor arguments and state."""

    name: str = ""

    def __new__(cls, *made_of: object, **_: object) -> Self:
        """Store the arguments."""
        own = super().__new__(cls)
        own.made_of, own.state = made_of, {}
        return own

    def __init__(self, *_: object, **__: object) -> None:
        self.made_of: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: object) -> None:
        """Store the state."""
        self.state = state

    def get(self, key: str) -> Any:  # noqa: ANN401  # untrusted: the caller checks it
        """Look up a value of the state; None if it is absent."""
        return self.state.get(key) if isinstance(self.state, dict) else None


def unpickle(data: bytes, what: str, allowed: frozenset[Name], *, limit_bytes: int) -> Any:  # noqa: ANN401  # any content
    """Decode a joblib file, with `Record`s in place of the objects of libraries.

    Args:
        data: the file, compressed (zlib, gzip, bz2, xz, lzma) or not.
        what: file name, for errors.
        allowed: modules and names that it may refer to.
        limit_bytes: largest unpacked size.

    Raises:
        ArtifactUntrusted: it refers to another name.
        ArtifactCorrupt: it cannot be decoded, or is larger than allowed.
    """
    plain = _unpacked(data, what, limit_bytes)
    reader = _Reader(plain, what, allowed)
    try:
        found = reader.load()
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # an untrusted file may raise any error
        raise ArtifactCorrupt(what, f"cannot be decoded ({type(error).__name__})") from None
    if reader.left_bytes:
        raise ArtifactCorrupt(what, f"continues for {reader.left_bytes:,} bytes after its end")
    return found


class _Reader(NumpyUnpickler):  # type: ignore[misc]  # joblib has no types
    """Unpickler that builds objects of numpy and Python on the list, and records for the others."""

    def __init__(self, data: bytes, what: str, allowed: frozenset[Name]) -> None:
        super().__init__("", io.BytesIO(data), ensure_native_byte_order=False)
        self._size, self._what, self._allowed = len(data), what, allowed
        self._records: dict[Name, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  # as in the base class
        requested = (module, name)
        if requested not in self._allowed:
            raise ArtifactUntrusted(
                self._what,
                f"asks for {ascii(module)[:63]} {ascii(name)[:63]}, which such a file does "
                "not need",
            )
        if name == NumpyArrayWrapper.__name__:
            return _BoundedArray
        return _REAL.get(requested) or self._records.setdefault(
            requested, type(name, (Record,), {"name": name})
        )

    @property
    def left_bytes(self) -> int:
        """Number of bytes of the file that are not read yet."""
        return self._size - int(self.file_handle.tell())


class _BoundedArray(NumpyArrayWrapper):  # type: ignore[misc]  # joblib has no types
    """Array in the file, at most as long as the rest of the file."""

    # The signature is that of the base class.
    def read(self, unpickler: _Reader, ensure_native_byte_order: bool) -> Any:  # noqa: ANN401, FBT001
        shape, dtype = tuple(self.shape), self.dtype
        if not isinstance(dtype, np.dtype) or not all(
            type(side) is int and side >= 0 for side in shape
        ):
            raise TypeError("an array without a shape and a type")
        size = 1
        for side in shape:
            size *= side  # integers of Python: a product cannot overflow to a small number
        if not dtype.hasobject and size * dtype.itemsize > unpickler.left_bytes:
            what = unpickler._what  # noqa: SLF001  # `_Reader` is of this module
            raise ArtifactCorrupt(what, "holds an array that is longer than the file")
        return self.read_array(unpickler, ensure_native_byte_order)


class _Decompressor(Protocol):
    """Common interface of the decompressors of zlib, bz2 and lzma."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Decompress to at most `max_length` bytes."""
        ...


_PACKED: Mapping[bytes, Callable[[], _Decompressor]] = {
    b"\x78": zlib.decompressobj,
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00": lzma.LZMADecompressor,
}


def _unpacked(data: bytes, what: str, limit_bytes: int) -> bytes:
    """Decompress `data`, at most to the limit, so that a decompression bomb cannot fill memory."""
    unpacker = next((make() for magic, make in _PACKED.items() if data.startswith(magic)), None)
    if unpacker is None:
        return data
    try:
        plain = unpacker.decompress(data, limit_bytes + 1)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise ArtifactCorrupt(what, f"cannot be unpacked ({type(error).__name__})") from None
    if len(plain) > limit_bytes:
        raise ArtifactCorrupt(what, f"unpacks to more than {limit_bytes:,} bytes")
    # A file without its last byte would still decode (RELIABILITY, fact 2).
    if not unpacker.eof or unpacker.unused_data:
        raise ArtifactCorrupt(what, "does not end where its compressed bytes end")
    return plain
