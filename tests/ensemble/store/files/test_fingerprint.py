"""Fingerprints of files and folders."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ensemble.store.files import file_fingerprint, folder_fingerprint


def test_an_unchanged_file_has_the_same_fingerprint(tmp_path: Path) -> None:
    path = _write(tmp_path / "file", "one")

    before = file_fingerprint(path)
    path.read_bytes()

    assert file_fingerprint(path) == before


def test_a_file_written_in_place_with_its_old_size_and_time_has_changed(tmp_path: Path) -> None:
    path = _write(tmp_path / "file", "one")
    before, found = file_fingerprint(path), path.stat()

    path.write_text("two")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    assert path.stat().st_mtime_ns == found.st_mtime_ns
    assert file_fingerprint(path) != before


@pytest.mark.parametrize("field", ["st_ino", "st_size"])
def test_a_change_within_one_tick_of_a_coarse_clock_is_noticed(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """File times tick every few milliseconds, on some disks every two seconds."""
    fields = dict.fromkeys(("st_dev", "st_ino", "st_mode", "st_size"), 1)
    found = SimpleNamespace(**fields, st_mtime_ns=1, st_ctime_ns=1)
    monkeypatch.setattr(Path, "stat", lambda _: found)
    before = file_fingerprint(Path("file"))

    setattr(found, field, 2)

    assert file_fingerprint(Path("file")) != before


def test_a_link_has_changed_when_it_points_to_another_file(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap: it replaces the folder link in the middle."""
    for folder, text in (("first", "one"), ("second", "two")):
        (tmp_path / folder).mkdir()
        _write(tmp_path / folder / "file", text)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "file").symlink_to("data/file")
    before = file_fingerprint(tmp_path / "file")

    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")

    assert file_fingerprint(tmp_path / "file") != before


def test_a_file_that_cannot_be_examined_is_its_error_number(tmp_path: Path) -> None:
    path = _write(tmp_path / "file", "one")

    assert file_fingerprint(path / "below a file") == errno.ENOTDIR
    path.unlink()
    assert file_fingerprint(path) == errno.ENOENT
    assert file_fingerprint(_write(path, "one")) != errno.ENOENT


def test_an_unchanged_folder_has_the_same_fingerprint(tmp_path: Path) -> None:
    _write(tmp_path / "a", "one")
    _write(tmp_path / "b", "two")

    assert folder_fingerprint(tmp_path) == folder_fingerprint(tmp_path)


def test_a_folder_has_changed_when_a_file_of_it_was_written_added_or_removed(
    tmp_path: Path,
) -> None:
    path = _write(tmp_path / "a", "one")
    found = [folder_fingerprint(tmp_path)]

    path.write_text("other")
    found.append(folder_fingerprint(tmp_path))
    _write(tmp_path / "b", "two")
    found.append(folder_fingerprint(tmp_path))
    path.unlink()
    found.append(folder_fingerprint(tmp_path))

    assert len(set(found)) == len(found)


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    target = _write(tmp_path / "target", "one")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    before = folder_fingerprint(folder)

    target.write_text("other")

    assert folder_fingerprint(folder) == before


def test_a_folder_that_cannot_be_listed_is_its_error_number(tmp_path: Path) -> None:
    assert folder_fingerprint(tmp_path / "missing") == errno.ENOENT
    assert folder_fingerprint(_write(tmp_path / "file", "one")) == errno.ENOTDIR


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
