"""Controls: layers disabled, resets, rolled-back releases; one file that replicas poll.

It is not signed, and that is a choice: it holds no model and can make none trusted, and whoever
operates Axon changes it without a publisher's key. Whoever may write into the state folder gains
from it what deleting the models there would give them too: layers that do not speak, which every
verdict says (`coverage`, `disabled`), or an older proven release in the place of a newer one. They
cannot make an event benign: too little coverage is `indeterminate`. So the folder is worth the same
guard as before, and no more.
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
FORMAT: Final = 1
LIMIT_BYTES = (
    1 << 16
)  # hundreds of entries; a reader every two seconds must never have much to read
LONGEST_REASON = 200  # characters of why a release was retreated from
_LAYER = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Controls:
    """The switches of the operators, and rolled-back releases.

    Attributes:
        disabled: layers that an operator switched off; they are not asked.
        resets: layer -> how often its error state was cleared; a reader that sees the number
            rise clears its own.
        retreated: promotion, `<tenant>#<pointer serial>><release>` -> why its release was left
            again; it is not gone to a second time.
    """

    disabled: frozenset[str] = frozenset()
    resets: Mapping[str, int] = field(default_factory=dict)
    retreated: Mapping[str, str] = field(default_factory=dict)

    def with_disabled(self, layer: str) -> Self:
        """The same, and `layer` is off."""
        return replace(self, disabled=self.disabled | {layer})

    def with_enabled(self, layer: str) -> Self:
        """The same, and `layer` is not off by this file."""
        return replace(self, disabled=self.disabled - {layer})

    def with_reset(self, layer: str) -> Self:
        """The same, and the error state of `layer` is to be cleared once more."""
        return replace(self, resets={**self.resets, layer: self.resets.get(layer, 0) + 1})

    def with_retreat(self, promotion: str, reason: str) -> Self:
        """The same, and `promotion` is not followed again.

        The tenant's older pointers can never come back.
        """
        tenant = promotion.partition("#")[0]
        others = {
            one: why for one, why in self.retreated.items() if one.partition("#")[0] != tenant
        }
        return replace(self, retreated={**others, promotion: reason[:LONGEST_REASON]})

    def resets_since(self, before: Controls) -> frozenset[str]:
        """Layers whose error state is to be cleared by a reader that saw `before` last.

        By difference, not by order: a file that was removed and begun anew counts from one again.
        """
        return frozenset(
            layer for layer, count in self.resets.items() if count != before.resets.get(layer, 0)
        )


def read_controls(state: Path) -> Controls:
    """What is switched now; nothing where there is no file.

    Args:
        state: folder that a running Axon writes; need not exist.

    Raises:
        ArtifactCorrupt: it is not what `change_controls` writes. The caller goes on with what
            it had.
        ArtifactUnreadable: it is there, and the system will not give it. Likewise.
    """
    try:
        with open_directory(state, what=CONTROLS) as directory:
            data = read_bounded(directory, CONTROLS, limit=LIMIT_BYTES, what=CONTROLS)
    except ArtifactMissing:
        return Controls()
    return _parse(data)


def change_controls(state: Path, change: Callable[[Controls], Controls]) -> Controls:
    """Switch something, on the disk before this returns; a reader sees the old file or the new one.

    Args:
        state: folder that a running Axon writes; made where it does not exist.
        change: the new switches from those of now. Called once, holding the lock.

    Returns:
        The switches as they are now.

    Raises:
        ArtifactCorrupt: the file of now is broken; it is not replaced, because that would
            enable what somebody disabled.
        ValueError: more switches than a reader would read.
        OSError: the disk is full, read-only or failing; nothing has changed, unless only the
            last fsync failed.
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
                f"{CONTROLS} would be {len(data):,} bytes, readers take {LIMIT_BYTES:,}"
            )
        write_atomic(state, state / CONTROLS, data, mode=0o644)
    return after


@dataclass(frozen=True, slots=True)
class _ControlsFile:
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
            "retreated": dict(controls.retreated),
        }
    )


def _parse(data: bytes) -> Controls:
    value = decode(data, what=CONTROLS)
    refuse_other_format(value, FORMAT, what=CONTROLS)
    found = to_dataclass(value, _ControlsFile, what=CONTROLS)
    names = [*found.disabled, *found.resets]
    if not all(_LAYER.fullmatch(name) for name in names) or found.disabled != sorted(
        set(found.disabled)
    ):
        raise ArtifactCorrupt(CONTROLS, "names something that is no layer, or one twice")
    if not all(count > 0 for count in found.resets.values()):
        raise ArtifactCorrupt(CONTROLS, "counts a reset less than once")
    return Controls(frozenset(found.disabled), found.resets, found.retreated)
