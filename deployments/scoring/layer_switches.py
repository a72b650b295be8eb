"""The switches of operators (`controls.json`), applied to the layers of an ingress replica.

A change applies at once on the replica that received it, and within seconds on all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from deployments.observability import Meter, log_event
from deployments.scoring.layer_client import LayerClient
from ensemble.errors import LoadTimeout
from ensemble.runtime import (
    CONTROLS,
    Controls,
    LoadFailure,
    change_controls,
    failure_of,
    read_controls,
)
from ensemble.store import AuditedAction

__all__ = ["ChangeNotBegun", "LayerSwitches"]

RELOAD_WITHIN_S = 1.0  # one small file; a start does not wait longer for a slow disk
UPDATE_WITHIN_S = 5.0  # the file is flushed to the disk while an operator waits


class ChangeNotBegun(OSError):
    """A change that was not begun, because an earlier one hangs on the disk; it is not queued."""


class LayerSwitches:
    """The controls file, and the layers that the settings disable, applied to the layers.

    Args:
        layers: are enabled, disabled and reset.
        state: folder of the controls file.
        always_disabled: layers that only a change of the settings enables again, whatever the
            file contains.
        meter: records whether the file can be read.
    """

    def __init__(
        self, layers: LayerClient, state: Path, always_disabled: frozenset[str], meter: Meter
    ) -> None:
        self._layers, self._state, self._meter = layers, state, meter
        self.always_disabled = always_disabled
        self._controls: Controls | None = None  # None before the first reload
        self._error = ""
        # one task at a time: a hanging disk occupies one thread, not one more at every reload
        self._reading: asyncio.Task[Controls] | None = None
        self._writing: asyncio.Task[Controls] | None = None
        self._lock = asyncio.Lock()  # what was read before a change must not be applied after it

    @property
    def controls(self) -> Controls:
        """The controls that apply."""
        return self._controls or Controls()

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    async def reload(self) -> None:
        """Read the file and apply it; a file that cannot be read changes nothing."""
        if self._lock.locked() and self._is_writing:
            return  # a change that hangs on the disk must not stop the monitor
        async with self._lock:
            if self._reading is None:
                self._reading = asyncio.create_task(asyncio.to_thread(read_controls, self._state))
            await asyncio.wait({self._reading}, timeout=RELOAD_WITHIN_S)
            if not self._reading.done():
                self._reload_failed(failure_of(LoadTimeout(CONTROLS, RELOAD_WITHIN_S)))
                return
            reading, self._reading = self._reading, None
            error = reading.exception()
            if error is None:
                self._apply(reading.result())
            else:
                # a thread raises no BaseException that this process would survive
                self._reload_failed(failure_of(error))  # type: ignore[arg-type]

    async def update(
        self, change: Callable[[Controls], Controls], audited: AuditedAction | None = None
    ) -> Controls:
        """Change the file for all ingress replicas, and apply it here at once.

        Args:
            change: from the present controls to the new ones.
            audited: the action of an operator, which is not taken unless the audit log has its
                first line; None for a change that the service makes by itself.

        Raises:
            ArtifactError: the current file or the audit log is broken.
            ChangeNotBegun: an earlier change hangs on the disk; nothing has changed.
            LoadTimeout: the disk hangs; the change may still be written once it responds.
            OSError: it cannot be written; nothing has changed.
        """
        async with self._lock:
            if self._is_writing:
                raise ChangeNotBegun("an earlier change is still being written")
            self._reading = None
            writing = asyncio.create_task(asyncio.to_thread(self._change, change, audited))
            self._writing = writing
            # retrieve the error of a task whose caller got a timeout
            writing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.wait({writing}, timeout=UPDATE_WITHIN_S)
            if not writing.done():
                raise LoadTimeout(CONTROLS, UPDATE_WITHIN_S)
            changed = writing.result()
            self._apply(changed)
            return changed

    def _change(
        self, change: Callable[[Controls], Controls], audited: AuditedAction | None
    ) -> Controls:
        if audited is None:
            return change_controls(self._state, change)
        with audited:
            audited.begin()
            return change_controls(self._state, change)

    def _reload_failed(self, error: LoadFailure) -> None:
        """Keep the previous controls; before the first reload, those of the settings apply."""
        self._meter.level("axon_controls_readable", 0.0)
        if self._controls is None:
            self._layers.disabled = self.always_disabled
        if error.code != self._error:
            self._error = error.code
            fields = {
                "code": error.code,
                "cause": error.cause,
                "error": error.message,
                "action": "keeping_previous_switches",
            }
            log_event(logging.ERROR, "controls_unreadable", fields)

    def _apply(self, controls: Controls) -> None:
        before, self._controls, self._error = self._controls, controls, ""
        self._meter.level("axon_controls_readable", 1.0)
        if before is not None:  # resets from before this process began do not apply to it
            for layer in sorted(controls.resets_since(before)):
                self._layers.reset(layer)
                log_event(logging.INFO, "layer_reset", {"layer": layer})
        disabled = controls.disabled | self.always_disabled
        for layer in sorted(disabled ^ self._layers.disabled):
            event = "layer_disabled" if layer in disabled else "layer_enabled"
            log_event(logging.WARNING, event, {"layer": layer})
        self._layers.disabled = disabled
