"""Codecs of parts and golden scores: round trips, and only plain finite numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactMissing
from ensemble.model import Parts
from ensemble.store.bundles.codecs import (
    ARRAYS,
    CONFIG,
    Golden,
    decode_golden,
    decode_parts,
    encode_golden,
    encode_parts,
)

GRID = np.arange(12, dtype=np.float64).reshape(3, 4)
LAYOUTS = {
    "plain": GRID,
    "transposed": GRID.T,
    "strided": GRID[:, ::2],
    "reversed": GRID[::-1],
    "other byte order": GRID.astype(">f8"),
    "one number": np.array(3.0),
    "no rows": np.zeros((0, 5), dtype=np.float32),
    "booleans": np.array([True, False]),
    "bytes": np.arange(256, dtype=np.uint8),
    "large whole numbers": np.array([2**63 - 1, -(2**63)]),
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_an_array_comes_back_whatever_its_layout_was(array: NDArray[Any]) -> None:
    """The library safetensors 0.8.0 silently scrambles a transposed array."""
    back = decode_parts(encode_parts(Parts({"a": array}, {}))).arrays["a"]

    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


@given(
    hnp.arrays(
        st.sampled_from(["f4", "f8", "i8", "u1"]),
        hnp.array_shapes(min_dims=0, max_side=4),
        elements=st.integers(0, 200),
    )
)
def test_every_small_array_comes_back(array: NDArray[Any]) -> None:
    back = decode_parts(encode_parts(Parts({"a": array}, {}))).arrays["a"]

    np.testing.assert_array_equal(back, array, strict=True)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_every_configuration_comes_back(config: dict[str, Any]) -> None:
    assert decode_parts(encode_parts(Parts({}, config))).config == config


def test_equal_parts_give_equal_bytes() -> None:
    one = encode_parts(Parts({"b": GRID, "a": GRID.astype(np.float32)}, {"y": 1, "x": 2}))
    other = encode_parts(Parts({"a": GRID.astype(np.float32), "b": GRID.copy()}, {"x": 2, "y": 1}))

    assert one == other


def test_decoded_arrays_are_read_only() -> None:
    back = decode_parts(encode_parts(Parts({"a": GRID}, {}))).arrays["a"]

    with pytest.raises(ValueError, match="read-only"):
        back[0, 0] = 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_when_written_and_when_read(value: Any) -> None:
    """F9: `nan >= 0.95` is False, so a NaN weight is a silent miss."""
    array = np.array([0.0, value], dtype=np.float32)
    files = {ARRAYS: safetensors.numpy.save({"weights": array}), CONFIG: b"{}\n"}

    with pytest.raises(ArtifactIncompatible, match="array weights"):
        encode_parts(Parts({"weights": array}, {}))
    with pytest.raises(ArtifactIncompatible, match="array weights"):
        decode_parts(files)


def test_an_array_with_a_reserved_name_is_refused() -> None:
    """Publishing decodes what it encodes, because such a bundle would not load."""
    with pytest.raises((ArtifactCorrupt, ArtifactIncompatible)):
        decode_parts(encode_parts(Parts({"__metadata__": GRID}, {})))


@pytest.mark.parametrize(
    "array",
    [np.array(["text"]), np.array([object()]), np.array([1j])],
    ids=["text", "objects", "complex"],
)
def test_an_array_of_anything_but_plain_numbers_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ArtifactIncompatible):
        encode_parts(Parts({"a": array}, {}))


WHOLE = encode_parts(Parts({"a": GRID}, {"k": 1}))
DAMAGED = {
    "arrays empty": {ARRAYS: b""},
    "arrays cut": {ARRAYS: WHOLE[ARRAYS][:-1]},
    "arrays claim 16 EiB": {ARRAYS: b"\xff" * 8 + WHOLE[ARRAYS][8:]},
    "a pickle": {ARRAYS: b"cos\nsystem\n(S'true'\ntR."},
    "a type that numpy has not": {
        ARRAYS: WHOLE[ARRAYS].replace(b'"F64"', b'"U64"').replace(b'"U64"', b'"C64"')
    },
    "configuration is a list": {CONFIG: b"[]\n"},
    "configuration repeats a key": {CONFIG: b'{"k":1,"k":1}\n'},
    "configuration has NaN": {CONFIG: b'{"k":NaN}\n'},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_bytes_of_another_format_are_refused(damage: dict[str, bytes]) -> None:
    with pytest.raises((ArtifactCorrupt, ArtifactIncompatible)):
        decode_parts(WHOLE | damage)


@pytest.mark.parametrize("name", [ARRAYS, CONFIG])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ArtifactMissing, match=name):
        decode_parts({other: data for other, data in WHOLE.items() if other != name})


def test_golden_scores_come_back_bit_for_bit() -> None:
    golden = Golden(({"kind": "process", "name": "a.exe", "command_line": "ä\n"},), (0.1 + 0.2,))

    assert decode_golden(encode_golden(golden)) == golden


@pytest.mark.parametrize("scores", [[0.5, 0.5], [], [1.5], [-0.1], [float("nan")]], ids=str)
def test_golden_scores_are_one_an_event_and_scores(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="golden"):
        Golden([{"id": "e"}], scores)


@pytest.mark.parametrize(
    "data",
    [
        b"{}\n",
        b'{"events":[],"scores":[0.5]}\n',
        b'{"events":[{}],"scores":[2.0]}\n',
        b'{"events":[],"extra":1,"scores":[]}\n',
    ],
    ids=["empty", "no event", "no score", "extra field"],
)
def test_a_golden_file_that_the_encoder_would_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorrupt):
        decode_golden(data)
