"""A tenant's slot in a layer's process: polled by a thread, and subject to the layer switches."""

from __future__ import annotations

from collections.abc import Callable

from deployments.config import Settings
from ensemble.errors import ArtifactError, LoadTimeout
from ensemble.runtime import Controls, LayerSlot, PollingThread, read_controls

__all__ = ["PolledSlot"]

POLL_EVERY_S = 2.0  # RELIABILITY F1: of pointer and files
LOAD_WITHIN_S = 10.0  # RELIABILITY F13: a hanging disk costs a load, not the replica


class PolledSlot:
    """One tenant's models of one layer; loads in the background from its construction on.

    Args:
        tenant: owner of the models.
        slot: loads and scores.
        settings: the state folder, and the layers disabled by configuration.
        on_poll: called after every poll.
    """

    def __init__(
        self, tenant: str, slot: LayerSlot, settings: Settings, on_poll: Callable[[], None]
    ) -> None:
        self.tenant, self.slot = tenant, slot
        self._settings, self._on_poll = settings, on_poll
        self._controls: Controls | None = None
        self._thread = PollingThread(
            f"{slot.layer}-{tenant}",
            self.poll,
            self._abandon_load,
            every_s=POLL_EVERY_S,
            limit_s=LOAD_WITHIN_S,
        )
        slot.wake = self._thread.wake
        self._thread.start()

    def poll(self) -> None:
        """Apply the layer switches, then load what is new or missing."""
        layer = self.slot.layer
        try:
            controls = read_controls(self._settings.state)
        except ArtifactError:  # the ingress reports it; the previous switches stay in effect
            controls = self._controls or Controls()
        if self._controls is not None and layer in controls.resets_since(self._controls):
            self.slot.reset()
        self._controls = controls
        self.slot.is_disabled = layer in controls.disabled.union(self._settings.controls.disabled)
        self.slot.refresh()
        self._on_poll()

    def stop(self) -> None:
        """Stop polling."""
        self._thread.stop()

    def _abandon_load(self) -> None:
        self.slot.abandon_load(LoadTimeout(f"the models of layer {self.slot.layer}", LOAD_WITHIN_S))
