"""Controls: disabled layers, resets and rolled-back releases, in one file that replicas poll.

The file is not signed, so that an operator can change it without a publisher's key. It contains no
model and can make none trusted. A process that can write into the state folder gains nothing more
than by deleting the models there: layers that abstain, which every verdict shows (`coverage`,
`disabled`), or an older proven release instead of a newer one. It cannot make an event benign: too
little coverage is `indeterminate`. So the folder needs the same protection as without this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from ensemble.errors import ArtifactCorrupt, ArtifactMissing
from ensemble.store.files import (
    decode,
    encode,
    exclusive,
    make_directory,
    open_directory,
    read_bounded,
    refuse_other_format,
    to_dataclass,
    write_atomic,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONTROLS", "Controls", "change_controls", "read_controls"]

CONTROLS: Final = "controls.json"
FORMAT: Final = 2
OLD_FORMAT: Final = 1  # Axon 0.1.0 named `rolled_back` `retreated`
LIMIT_BYTES = 1 << 16  # hundreds of entries; every replica reads the file every two seconds
LONGEST_REASON = 200  # characters of the reason for a rollback
_LAYER = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Controls:
    """The operators' switches and the rolled-back releases.

    Attributes:
        disabled: layers that an operator disabled; they are not called.
        resets: layer -> how often an operator reset its error state. A reader that sees the
            number change resets its own.
        rolled_back: promotion, `<tenant>#<pointer serial>><release>` -> why its release was rolled
            back. The promotion is not followed again.
    """

    disabled: frozenset[str] = frozenset()
    resets: Mapping[str, int] = field(default_factory=dict)
    rolled_back: Mapping[str, str] = field(default_factory=dict)

    def with_disabled(self, layer: str) -> Self:
        """Copy with `layer` disabled."""
        return replace(self, disabled=self.disabled | {layer})

    def with_enabled(self, layer: str) -> Self:
        """Copy without `layer` among the disabled ones."""
        return replace(self, disabled=self.disabled - {layer})

    def with_reset(self, layer: str) -> Self:
        """Copy with one more reset of `layer`."""
        return replace(self, resets={**self.resets, layer: self.resets.get(layer, 0) + 1})

    def with_rollback(self, promotion: str, reason: str) -> Self:
        """Copy with `promotion` marked as rolled back.

        Earlier marks of the tenant are dropped: its pointer cannot return to an older serial.
        """
        tenant = promotion.partition("#")[0]
        others = {
            one: why for one, why in self.rolled_back.items() if one.partition("#")[0] != tenant
        }
        return replace(self, rolled_back={**others, promotion: reason[:LONGEST_REASON]})

    def resets_since(self, before: Controls) -> frozenset[str]:
        """Layers that were reset since a reader read `before`.

        Any difference of the numbers counts: after the file is deleted, they begin at one again.
        """
        return frozenset(
            layer for layer, count in self.resets.items() if count != before.resets.get(layer, 0)
        )


def read_controls(state: Path) -> Controls:
    """Read the controls; without a file nothing is disabled, reset or rolled back.

    Args:
        state: folder that a running Axon writes; need not exist.

    Raises:
        ArtifactCorrupt: `change_controls` did not write this file. The caller continues with the
            controls that it has.
        ArtifactIncompatible: a later version of Axon wrote it; likewise.
        ArtifactUnreadable: the file exists and cannot be read; likewise.
    """
    try:
        with open_directory(state, what=CONTROLS) as directory:
            data = read_bounded(directory, CONTROLS, limit=LIMIT_BYTES, what=CONTROLS)
    except ArtifactMissing:
        return Controls()
    return _parse(data)


def change_controls(state: Path, change: Callable[[Controls], Controls]) -> Controls:
    """Change the controls on disk; readers see the old file or the new one.

    Args:
        state: folder that a running Axon writes; created if missing.
        change: makes the new controls from the current ones. Called once, holding the lock.

    Returns:
        The new controls, which are on disk.

    Raises:
        ArtifactError: the current file cannot be read, as in `read_controls`. It is not replaced,
            because that would enable what an operator disabled.
        ValueError: the file would be longer than readers accept.
        OSError: the disk is full, read-only or failing. Nothing has changed, unless only the last
            fsync failed.
    """
    make_directory(state)
    with exclusive(state):
        before = read_controls(state)
        after = change(before)
        if after == before:
            return before
        data = _encode(after)
        if len(data) > LIMIT_BYTES:
            raise ValueError(
                f"{CONTROLS} would be {len(data):,} bytes, readers accept {LIMIT_BYTES:,}"
            )
        write_atomic(state, state / CONTROLS, data, mode=0o644)
    return after


@dataclass(frozen=True, slots=True)
class _ControlsFile:
    format: int
    disabled: list[str]
    resets: dict[str, int]
    rolled_back: dict[str, str]


@dataclass(frozen=True, slots=True)
class _OldControlsFile:
    format: int
    disabled: list[str]
    resets: dict[str, int]
    retreated: dict[str, str]


def _encode(controls: Controls) -> bytes:
    return encode(
        {
            "format": FORMAT,
            "disabled": sorted(controls.disabled),
            "resets": dict(controls.resets),
            "rolled_back": dict(controls.rolled_back),
        }
    )


def _parse(data: bytes) -> Controls:
    value = decode(data, what=CONTROLS)
    if isinstance(value, dict) and value.get("format") == OLD_FORMAT:
        old = to_dataclass(value, _OldControlsFile, what=CONTROLS)
        return _checked(old.disabled, old.resets, old.retreated)
    refuse_other_format(value, FORMAT, what=CONTROLS)
    found = to_dataclass(value, _ControlsFile, what=CONTROLS)
    return _checked(found.disabled, found.resets, found.rolled_back)


def _checked(disabled: list[str], resets: dict[str, int], rolled_back: dict[str, str]) -> Controls:
    names = [*disabled, *resets]
    if not all(_LAYER.fullmatch(name) for name in names) or disabled != sorted(set(disabled)):
        raise ArtifactCorrupt(CONTROLS, "names something that is not a layer, or one twice")
    if not all(count > 0 for count in resets.values()):
        raise ArtifactCorrupt(CONTROLS, "has a reset count below one")
    return Controls(frozenset(disabled), resets, rolled_back)
