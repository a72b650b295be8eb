"""Security events, one by one and as columns.

Callers send events; layers read columns. A batch holds the events of one kind, in their order of
arrival. It is built once, at admission, from validated values, which are not checked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["EventBatch", "FlowBatch", "Kind", "ProcessBatch", "ProcessEvent"]


class Kind(StrEnum):
    """Kind of an event; it decides which layers may have an opinion."""

    FLOW = "flow"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One process start.

    Attributes:
        name: image name, e.g. `powershell.exe`.
        parent: image name of the parent, "" if unknown.
        command_line: as the operating system reported it, "" if unknown.
        user: account, "" if unknown.
        host: machine, "" if unknown.
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
        ids: the caller's name of each flow, "" if it gave none.
        hosts: the machine whose posture matters, "" if unknown.
        features: float32 (n, 78), finite, read-only; in the order of
            `ensemble.features.flow.FEATURE_NAMES`.
        flags: row -> remarks of the admission, e.g. `rates_undefined`; rows without one are absent.
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
        """Rows `start` to `stop`, exclusive."""
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
        """Build the columns of `events`, without flags."""
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
        """Rows `start` to `stop`, exclusive."""
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
