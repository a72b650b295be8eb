"""The operator's switches: they survive restarts, are never torn, and never stop a reader."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactIncompatible
from ensemble.runtime.controls import (
    CONTROLS,
    LIMIT_BYTES,
    Controls,
    change_controls,
    read_controls,
)
from ensemble.store.files import atomic

LAYERS = st.sampled_from(["anomaly", "behavior", "resilience", "logs"])
STEPS = st.sampled_from([Controls.with_disabled, Controls.with_enabled, Controls.with_reset])


def test_without_a_file_nothing_is_disabled(tmp_path: Path) -> None:
    assert read_controls(tmp_path) == Controls()
    assert read_controls(tmp_path / "not" / "there") == Controls()


def test_a_change_is_read_by_later_readers(tmp_path: Path) -> None:
    """S1-06: they survive a restart. The state folder need not exist before."""
    state = tmp_path / "state"

    changed = change_controls(
        state,
        lambda now: (
            now.with_disabled("behavior").with_reset("anomaly").with_rollback("acme/7", "flips 3 %")
        ),
    )

    assert read_controls(state) == changed
    assert changed.disabled == {"behavior"}
    assert (changed.resets, changed.rolled_back) == ({"anomaly": 1}, {"acme/7": "flips 3 %"})


def test_a_file_of_version_0_1_0_is_read_and_rewritten_at_the_next_change(tmp_path: Path) -> None:
    """Format 1 named the rolled-back releases `retreated`."""
    (tmp_path / CONTROLS).write_bytes(
        b'{"disabled":["behavior"],"format":1,"resets":{"anomaly":2},'
        b'"retreated":{"acme#7>9":"flips 3 %"}}\n'
    )
    expected = Controls(frozenset({"behavior"}), {"anomaly": 2}, {"acme#7>9": "flips 3 %"})

    assert read_controls(tmp_path) == expected

    change_controls(tmp_path, lambda now: now.with_enabled("behavior"))

    assert (tmp_path / CONTROLS).read_bytes() == (
        b'{"disabled":[],"format":2,"resets":{"anomaly":2},'
        b'"rolled_back":{"acme#7>9":"flips 3 %"}}\n'
    )


def test_a_disabled_layer_is_enabled_again(tmp_path: Path) -> None:
    """S1-07."""
    change_controls(tmp_path, lambda now: now.with_disabled("behavior").with_disabled("anomaly"))

    change_controls(tmp_path, lambda now: now.with_enabled("behavior"))

    assert read_controls(tmp_path).disabled == {"anomaly"}


@given(steps=st.lists(st.tuples(STEPS, LAYERS), max_size=12))
def test_any_history_reads_back_as_it_was_written(
    steps: list[tuple[Callable[[Controls, str], Controls], str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    state, expected = tmp_path_factory.mktemp("state"), Controls()
    for step, layer in steps:
        expected = step(expected, layer)
        change_controls(state, partial(step, layer=layer))

    assert read_controls(state) == expected


def test_a_reader_resets_what_was_reset_since_its_last_read() -> None:
    """S1-09; also after the file was deleted and its counts began at one again."""
    before = Controls(resets={"anomaly": 1, "behavior": 4})

    assert before.with_reset("behavior").resets_since(before) == {"behavior"}
    assert Controls(resets={"behavior": 1}).resets_since(before) == {"behavior"}
    assert Controls().resets_since(before) == frozenset()
    assert before.resets_since(before) == frozenset()


def test_concurrent_changes_are_all_kept(tmp_path: Path) -> None:
    """Each change starts from the result of the other, under one lock."""
    threads = [
        threading.Thread(
            target=change_controls,
            args=(tmp_path, lambda now: now.with_reset("anomaly").with_reset("behavior")),
        )
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read_controls(tmp_path).resets == {"anomaly": 16, "behavior": 16}


BROKEN = [
    pytest.param(b"", id="empty"),
    pytest.param(b"{", id="cut"),
    pytest.param(b"\xff\xfe", id="no text"),
    pytest.param(
        b'{"disabled":["anomaly"],"format":2,"resets":{},"rolled_back":{}}',
        id="no newline: not as written",
    ),
    pytest.param(
        b'{"disabled":[],"format":2,"more":1,"resets":{},"rolled_back":{}}\n', id="a field too many"
    ),
    pytest.param(b'{"disabled":[],"format":2,"resets":{}}\n', id="a field too few"),
    pytest.param(b'{"disabled":["../x"],"format":2,"resets":{},"rolled_back":{}}\n', id="no layer"),
    pytest.param(
        b'{"disabled":["b","a"],"format":2,"resets":{},"rolled_back":{}}\n', id="not in order"
    ),
    pytest.param(
        b'{"disabled":["a","a"],"format":2,"resets":{},"rolled_back":{}}\n', id="one twice"
    ),
    pytest.param(
        b'{"disabled":[],"format":2,"resets":{"a":0},"rolled_back":{}}\n', id="reset no time"
    ),
    pytest.param(
        b'{"disabled":[],"format":2,"resets":{"a":true},"rolled_back":{}}\n', id="reset true times"
    ),
    pytest.param(
        b'{"disabled":[],"format":1,"resets":{},"rolled_back":{}}\n',
        id="format 1 with a field of format 2",
    ),
    pytest.param(b" " * (LIMIT_BYTES + 1), id="too long"),
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_broken_file_is_an_error_and_not_an_empty_file(tmp_path: Path, data: bytes) -> None:
    """Read as an empty file, it would enable what an operator disabled."""
    (tmp_path / CONTROLS).write_bytes(data)

    with pytest.raises(ArtifactCorrupt, match=r"controls\.json"):
        read_controls(tmp_path)
    with pytest.raises(ArtifactCorrupt):
        change_controls(tmp_path, lambda now: now.with_disabled("anomaly"))
    assert (tmp_path / CONTROLS).read_bytes() == data


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("/etc/hostname")], ids=["a folder", "a link"]
)
def test_a_path_that_is_not_a_plain_file_is_refused(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """Fault F15."""
    make(tmp_path / CONTROLS)

    with pytest.raises(ArtifactError):
        read_controls(tmp_path)


def test_a_file_of_a_later_version_is_incompatible_and_not_corrupt(tmp_path: Path) -> None:
    (tmp_path / CONTROLS).write_bytes(
        json.dumps({"format": 3}, separators=(",", ":")).encode() + b"\n"
    )

    with pytest.raises(ArtifactIncompatible):
        read_controls(tmp_path)


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault F20."""
    before = change_controls(tmp_path, lambda now: now.with_disabled("anomaly"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_new", full)
    with pytest.raises(OSError, match="No space"):
        change_controls(tmp_path, lambda now: now.with_enabled("anomaly"))

    assert read_controls(tmp_path) == before


def test_no_file_is_written_that_readers_would_refuse(tmp_path: Path) -> None:
    """P26: no file grows without bound."""
    many = Controls(rolled_back={f"acme/{serial}": "r" * 200 for serial in range(400)})

    with pytest.raises(ValueError, match="readers accept"):
        change_controls(tmp_path, lambda _: many)

    assert read_controls(tmp_path) == Controls()


def test_a_change_without_effect_writes_nothing(tmp_path: Path) -> None:
    change_controls(tmp_path, lambda now: now.with_disabled("anomaly"))
    before = (tmp_path / CONTROLS).stat().st_ino

    change_controls(tmp_path, lambda now: now.with_disabled("anomaly"))

    assert (tmp_path / CONTROLS).stat().st_ino == before


def test_the_reason_of_a_rollback_is_cut_to_a_line() -> None:
    assert len(Controls().with_rollback("acme/7", "x" * 5_000).rolled_back["acme/7"]) == 200
