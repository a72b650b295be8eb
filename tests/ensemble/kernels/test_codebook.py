"""Codebook and subspace: distance to the nearest benign shape, and the residual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.errors import ArtifactIncompatible
from ensemble.kernels.codebook import Codebook
from ensemble.layers.flow_anomaly import Subspace

SCALED = st.floats(-5, 5, width=32)  # what a scaler lets through
ROWS = arrays(np.float32, st.tuples(st.integers(1, 6), st.just(4)), elements=SCALED)
CENTRES = arrays(np.float64, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-5, 5))


@given(ROWS, CENTRES)
def test_the_distance_is_that_to_the_nearest_centre(rows: np.ndarray, centres: np.ndarray) -> None:
    """Compared with the table of all differences."""
    every = np.linalg.norm(rows[:, None].astype(np.float64) - centres[None], axis=2)  # (n, k)

    distance, which = Codebook(centres).nearest(rows)

    assert distance == pytest.approx(every.min(axis=1), abs=1e-6)
    assert every[np.arange(len(rows)), which] == pytest.approx(every.min(axis=1), abs=1e-6)


@given(ROWS, CENTRES)
def test_a_row_is_as_far_alone_as_in_a_batch(rows: np.ndarray, centres: np.ndarray) -> None:
    """P15: the reason for float64."""
    codebook = Codebook(centres)
    together, _ = codebook.nearest(rows)

    assert [codebook.nearest(row[None])[0][0] for row in rows] == pytest.approx(
        together.tolist(), abs=1e-6
    )


def test_a_centre_itself_is_at_distance_0() -> None:
    centres = np.array([[0.0, 1.0], [3.0, 4.0]])

    distance, which = Codebook(centres).nearest(centres.astype(np.float32))

    assert distance.tolist() == [0.0, 0.0]
    assert which.tolist() == [0, 1]


@pytest.mark.parametrize(
    "centres",
    [
        pytest.param(np.empty((0, 4)), id="no centre"),
        pytest.param(np.zeros(4), id="one dimension"),
        pytest.param(np.array([[0.0, np.nan]]), id="NaN"),
        pytest.param(np.array([[0.0, np.inf]]), id="infinity"),
    ],
)
def test_an_invalid_codebook_is_rejected(centres: np.ndarray) -> None:
    with pytest.raises(ArtifactIncompatible):
        Codebook(centres)


@st.composite
def subspaces(draw: st.DrawFn) -> Subspace:
    """One to three orthonormal directions of four."""
    wide = np.random.default_rng(draw(st.integers(0, 10_000))).normal(size=(4, 4))
    return Subspace(
        draw(arrays(np.float64, 4, elements=st.floats(-2, 2))),
        np.linalg.qr(wide)[0][: draw(st.integers(1, 3))],
    )


@given(subspaces(), ROWS)
def test_the_residual_is_what_no_benign_direction_reaches(
    subspace: Subspace, rows: np.ndarray
) -> None:
    """It is orthogonal to every direction, and at most as long as the way from the centre."""
    residual = subspace.residual(rows)

    assert residual @ subspace.directions.T == pytest.approx(
        np.zeros((len(rows), len(subspace.directions))), abs=1e-6
    )
    assert (
        np.linalg.norm(residual, axis=1) <= np.linalg.norm(rows - subspace.centre, axis=1) + 1e-6
    ).all()


@given(subspaces(), arrays(np.float64, 4, elements=st.floats(-3, 3)))
def test_a_row_within_the_benign_directions_has_no_residual(
    subspace: Subspace, steps: np.ndarray
) -> None:
    row = subspace.centre + steps[: len(subspace.directions)] @ subspace.directions

    assert subspace.residual(row[None].astype(np.float32)) == pytest.approx(
        np.zeros((1, 4)), abs=1e-5
    )


def test_the_residual_points_away_from_the_benign_plane() -> None:
    """The explanation shows its sign."""
    plane = Subspace(np.array([0.0, 0.0, 1.0]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))

    assert plane.residual(np.array([[7.0, -3.0, 3.5]], np.float32)).tolist() == [[0.0, 0.0, 2.5]]


@pytest.mark.parametrize(
    ("centre", "directions"),
    [
        pytest.param(np.zeros(3), np.eye(4)[:2], id="another width"),
        pytest.param(np.zeros(4), np.eye(4)[0], id="one dimension"),
        pytest.param(np.zeros(4), np.empty((0, 4)), id="no direction"),
        pytest.param(np.zeros(4), np.array([[2.0, 0, 0, 0]]), id="a direction of length 2"),
        pytest.param(
            np.zeros(4), np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]), id="one direction twice"
        ),
        pytest.param(np.zeros(4), np.full((1, 4), np.nan), id="a direction of NaN"),
        pytest.param(np.array([np.nan, 0, 0, 0]), np.eye(4)[:2], id="a centre of NaN"),
        pytest.param(np.array([np.inf, 0, 0, 0]), np.eye(4)[:2], id="a centre of infinity"),
    ],
)
def test_an_invalid_subspace_is_rejected(centre: np.ndarray, directions: np.ndarray) -> None:
    """A direction longer than 1 would explain more than the row has."""
    with pytest.raises(ArtifactIncompatible):
        Subspace(centre, directions)
