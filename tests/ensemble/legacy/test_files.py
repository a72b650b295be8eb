"""The four files on disk: read once, both of a layer or neither, verified by checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing
from ensemble.legacy.files import (
    CHECKSUMS,
    CLASSIFIER,
    FOREST,
    FREQUENCIES,
    PAIRS,
    SCALER,
    present,
    read_pair,
)

MIB = 1 << 20
EVERY_FILE = [pytest.param(layer, name, id=name) for layer, pair in PAIRS.items() for name in pair]


def sums(folder: Path, algorithm: str, *, mark: str = " ") -> None:
    names = [name for pair in PAIRS.values() for name in pair]
    lines = [
        f"{hashlib.new(algorithm, (folder / name).read_bytes()).hexdigest()} {mark}{name}"
        for name in names
    ]
    (folder / CHECKSUMS).write_text("# made by hand\n\n" + "\n".join(lines) + "\n")


def read(folder: Path, layer: str = "anomaly") -> tuple[str, ...]:
    return read_pair(folder, layer, limit_bytes=64 * MIB).warnings


@pytest.mark.parametrize(("layer", "name"), EVERY_FILE)
def test_a_layer_needs_both_of_its_files(folder: Path, layer: str, name: str) -> None:
    """S0-02, S0-03, S0-07."""
    (folder / name).unlink()

    with pytest.raises(ArtifactMissing, match=name):
        read(folder, layer)


def test_the_present_files_are_listed_by_layer(folder: Path) -> None:
    (folder / FREQUENCIES).unlink()
    (folder / SCALER).unlink()
    (folder / CLASSIFIER).unlink()

    assert present(folder) == {"anomaly": (FOREST,), "behavior": ()}


@pytest.mark.parametrize(
    "mark",
    [
        pytest.param(" ", id="text"),
        pytest.param("*", id="binary"),
        pytest.param(" ./", id="with a dot"),
    ],
)
def test_sha256_verifies_the_files(folder: Path, mark: str) -> None:
    """S1-12."""
    sums(folder, "sha256", mark=mark)

    assert read(folder) == ()


def test_md5_is_accepted_with_a_warning(folder: Path) -> None:
    """C-08."""
    sums(folder, "md5")

    assert "MD5" in read(folder)[0]


def test_files_without_checksums_are_read_with_a_warning(folder: Path) -> None:
    assert CHECKSUMS in read(folder)[0]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize(("layer", "name"), EVERY_FILE)
def test_one_flipped_bit_is_refused_before_anything_is_decoded(
    folder: Path, algorithm: str, layer: str, name: str
) -> None:
    """F5, S1-11."""
    sums(folder, algorithm)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)

    with pytest.raises(ArtifactCorrupt, match="Model file corrupted"):
        read(folder, layer)


def test_a_file_that_is_not_in_the_checksums_is_rejected(folder: Path) -> None:
    sums(folder, "sha256")
    lines = (folder / CHECKSUMS).read_text().splitlines()
    (folder / CHECKSUMS).write_text("\n".join(line for line in lines if FOREST not in line))

    with pytest.raises(ArtifactMissing, match=CHECKSUMS):
        read(folder)


@pytest.mark.parametrize(
    "text", ["nonsense\n", f"{'0' * 32} a\n{'1' * 32} a\n", f"{'0' * 40} {FOREST}\n", "\xff\xfe"]
)
def test_unreadable_checksums_verify_nothing(folder: Path, text: str) -> None:
    (folder / CHECKSUMS).write_text(text)

    with pytest.raises(ArtifactCorrupt, match=CHECKSUMS):
        read(folder)


def as_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def as_hard_link(path: Path) -> None:
    os.link(path, path.with_suffix(".twin"))


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "become",
    [
        pytest.param(as_link, id="link"),
        pytest.param(as_hard_link, id="hard link"),
        pytest.param(as_pipe, id="pipe"),
        pytest.param(as_folder, id="folder"),
    ],
)
@pytest.mark.parametrize(("layer", "name"), EVERY_FILE)
def test_anything_but_a_plain_file_is_rejected_at_once(
    folder: Path, layer: str, name: str, become: Callable[[Path], None]
) -> None:
    """F13, F15: opening a pipe would hang, and a link leads elsewhere."""
    become(folder / name)

    with pytest.raises(ArtifactCorrupt):
        read(folder, layer)


def test_a_file_longer_than_allowed_is_refused_unread(folder: Path) -> None:
    """F16."""
    with (folder / FOREST).open("r+b") as file:
        file.truncate(1 << 36)  # sparse: it takes no room

    with pytest.raises(ArtifactCorrupt, match="allowed are"):
        read(folder)


def test_a_folder_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="folder of model files"):
        present(tmp_path / "nowhere")
