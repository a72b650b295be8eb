"""Security events, one by one and as columns.

A caller sends events; every layer reads columns. A batch holds the columns of one kind, in the
order the events came, and is built once, at the door, from values that were already checked.
Nothing after the door checks them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["EventBatch", "FlowBatch", "Kind", "ProcessBatch", "ProcessEvent"]


class Kind(StrEnum):
    """What sort of thing happened; decides which layers may have an opinion."""

    FLOW = "flow"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One process start.

    Attributes:
        name: image name, e.g. `powershell.exe`.
        parent: image name of the parent, "" where unknown.
        command_line: as the operating system gave it, "" where unknown.
        user: account, "" where unknown.
        host: machine, "" where unknown.
    """

    name: str
    parent: str = ""
    command_line: str = ""
    user: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Network flows as columns.

    Attributes:
        ids: one a flow, as the caller named it, "" where it did not.
        hosts: the machine whose posture matters, "" where unknown.
        features: float32 (n, 78), finite, read-only; order of
            `ensemble.features.flow.FEATURE_NAMES`.
        flags: row -> what the door noticed, e.g. `rates_undefined`; rows without one are absent.
    """

    ids: tuple[str, ...]
    hosts: tuple[str, ...]
    features: NDArray[np.float32]
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The kind of every event of this batch."""
        return Kind.FLOW

    def part(self, start: int, stop: int) -> FlowBatch:
        """The rows from `start` to before `stop`."""
        return FlowBatch(
            self.ids[start:stop],
            self.hosts[start:stop],
            self.features[start:stop],
            _flags_of(self.flags, start, stop),
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ProcessBatch:
    """Process starts as columns; attributes as in `ProcessEvent`, each a tuple of n strings."""

    ids: tuple[str, ...]
    hosts: tuple[str, ...]
    users: tuple[str, ...]
    names: tuple[str, ...]
    parents: tuple[str, ...]
    command_lines: tuple[str, ...]
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Sequence[ProcessEvent], ids: Sequence[str] = ()) -> ProcessBatch:
        """Columns of `events`, without flags."""
        return cls(
            ids=tuple(ids) or ("",) * len(events),
            hosts=tuple(e.host for e in events),
            users=tuple(e.user for e in events),
            names=tuple(e.name for e in events),
            parents=tuple(e.parent for e in events),
            command_lines=tuple(e.command_line for e in events),
        )

    @property
    def kind(self) -> Kind:
        """The kind of every event of this batch."""
        return Kind.PROCESS

    def part(self, start: int, stop: int) -> ProcessBatch:
        """The rows from `start` to before `stop`."""
        at = slice(start, stop)
        flags = _flags_of(self.flags, start, stop)
        return ProcessBatch(
            self.ids[at],
            self.hosts[at],
            self.users[at],
            self.names[at],
            self.parents[at],
            self.command_lines[at],
            flags,
        )

    def __len__(self) -> int:
        return len(self.ids)


def _flags_of(
    flags: Mapping[int, tuple[str, ...]], start: int, stop: int
) -> dict[int, tuple[str, ...]]:
    return {row - start: noticed for row, noticed in flags.items() if start <= row < stop}


EventBatch = FlowBatch | ProcessBatch
