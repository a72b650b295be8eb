"""What an operator switched, applied to the fan-out of an ingress.

At once where it was asked for, within seconds everywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from deployments.observability.log import log_event
from deployments.observability.metrics import Meter
from ensemble.errors import LoadTimeout
from ensemble.runtime.controls import CONTROLS, Controls, change_controls, read_controls
from ensemble.runtime.model_state import LoadFailure, failure_of

__all__ = ["LayerSwitches", "Switchable"]

LOOK_WITHIN_S = 1.0  # one small file; a start does not wait longer for a slow disk
CHANGE_WITHIN_S = 5.0  # the same file, written through to the disk: somebody waits for it


class Switchable(Protocol):
    """The part of a fan-out that the switches work on.

    Attributes:
        disabled: layers that are not asked.
    """

    disabled: frozenset[str]

    def reset(self, layer: str) -> None:
        """Clear what is remembered of a layer's failures."""


class LayerSwitches:
    """The controls file, and what an operator's environment lays over it, applied to a fan-out.

    Args:
        fan_out: what is switched.
        state: folder of the controls file.
        always_disabled: layers that stay off whatever the file says.
        meter: where it is told whether the file can be read.
    """

    def __init__(
        self, fan_out: Switchable, state: Path, always_disabled: frozenset[str], meter: Meter
    ) -> None:
        self._fan_out, self._state, self._always, self._meter = (
            fan_out,
            state,
            always_disabled,
            meter,
        )
        self._controls: Controls | None = (
            None  # before the first look, resets of the past are no news
        )
        self._trouble = ""
        self._reading: asyncio.Task[Controls] | None = (
            None  # one at a time: a disk that hangs gets one thread, not one every look
        )
        self._writing: asyncio.Task[Controls] | None = None  # likewise
        self._turn = asyncio.Lock()  # what was read before a change must not be applied after it

    @property
    def controls(self) -> Controls:
        """As they were read last."""
        return self._controls or Controls()

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    @property
    def always_disabled(self) -> frozenset[str]:
        """Layers that only the environment can enable again."""
        return self._always

    async def look(self) -> None:
        """Read the file and apply it; what cannot be read changes nothing, and is said once."""
        if (
            self._turn.locked() and self._is_writing
        ):  # a disk that hangs with a change must not stop whoever looks
            return
        async with self._turn:
            if self._reading is None:
                self._reading = asyncio.create_task(asyncio.to_thread(read_controls, self._state))
            await asyncio.wait({self._reading}, timeout=LOOK_WITHIN_S)
            if not self._reading.done():
                self._keep(failure_of(LoadTimeout(CONTROLS, LOOK_WITHIN_S)))
                return
            reading, self._reading = self._reading, None
            error = reading.exception()
            if error is None:
                self._apply(reading.result())
            else:
                # a thread raises no BaseException that we would outlive
                self._keep(failure_of(error))  # type: ignore[arg-type]

    async def change(self, change: Callable[[Controls], Controls]) -> Controls:
        """Switch something: on the disk, for everybody, and here at once.

        Raises:
            ArtifactError: the file of now is broken.
            LoadTimeout: the disk hangs; whether the change is kept is known, and applied, when
                it answers again.
            OSError: it cannot be written; nothing has changed.
        """
        async with self._turn:
            if self._is_writing:
                raise LoadTimeout(CONTROLS, CHANGE_WITHIN_S)  # a thread hangs there already
            self._reading = None
            self._writing = asyncio.create_task(
                asyncio.to_thread(change_controls, self._state, change)
            )
            self._writing.add_done_callback(
                lambda ended: ended.cancelled() or ended.exception()
            )  # nobody may be left to ask
            await asyncio.wait({self._writing}, timeout=CHANGE_WITHIN_S)
            if not self._writing.done():
                raise LoadTimeout(CONTROLS, CHANGE_WITHIN_S)
            changed = self._writing.result()
            self._apply(changed)
            return changed

    def _keep(self, why: LoadFailure) -> None:
        """Go on with the switches of before; those of the environment hold from the start."""
        self._meter.level("axon_controls_readable", 0.0)
        if self._controls is None:
            self._fan_out.disabled = self._always
        if why.code != self._trouble:
            self._trouble = why.code
            fields = {
                "code": why.code,
                "cause": why.cause,
                "error": why.message,
                "action": "keeping_switches_of_before",
            }
            log_event(logging.ERROR, "controls_unreadable", fields)

    def _apply(self, controls: Controls) -> None:
        """Make the fan-out as `controls` say."""
        before, self._controls, self._trouble = self._controls, controls, ""
        self._meter.level("axon_controls_readable", 1.0)
        if before is not None:
            for layer in sorted(controls.resets_since(before)):
                self._fan_out.reset(layer)
                log_event(logging.INFO, "layer_reset", {"layer": layer})
        off = controls.disabled | self._always
        was = self._fan_out.disabled
        for layer in sorted(off ^ was):
            log_event(
                logging.WARNING,
                "layer_disabled" if layer in off else "layer_enabled",
                {"layer": layer},
            )
        self._fan_out.disabled = off
