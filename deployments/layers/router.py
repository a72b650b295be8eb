"""Request router: replicas that can score this kind of event come before those that cannot.

A replica in fallback responds fastest. Serve prefers the shortest queue, so it would send most of
the traffic to that replica, which abstains. Therefore every replica reports the kinds of event that
it can score, and those replicas are called first. A replica that just started has reported nothing
yet, and gets no calls before its first report. If no replica can score, any is called: an
abstention is a valid response. For a tenant with models of its own, replicas that have them in
memory come before those that would have to load them.

Source: Beyer et al., "Site Reliability Engineering", O'Reilly 2016, chapter 20, on the backend that
fails fast and attracts more traffic.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.serve._private.common import ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import RunningReplica

from ensemble.runtime import SlotState
from ensemble.verdicts import SPEAKING

__all__ = ["SpeakingFirst", "routing_stats"]


class SpeakingFirst(PowerOfTwoChoicesRequestRouter):
    """Serve's power of two choices, among the replicas that can score the kind of event."""

    def apply_locality_routing(
        self, pending_request: PendingRequest | None = None
    ) -> set[ReplicaID]:
        """The candidates: Serve's own, without those that would abstain."""
        near: set[ReplicaID] = super().apply_locality_routing(pending_request)
        arguments = pending_request.args if pending_request is not None else ()
        kind = getattr(arguments[0], "kind", None) if arguments else None
        if kind is None:  # not a batch to score but, for instance, a request for the state
            return near
        tenant = str(arguments[1]).partition("/")[0] if len(arguments) > 1 else ""
        speaking = self._reporting(f"{tenant}/{kind}") or self._reporting(str(kind))
        return (near & speaking) or speaking or near

    def _reporting(self, what: str) -> set[ReplicaID]:
        return {
            replica.replica_id for replica in self._replicas_list if replica.routing_stats.get(what)
        }

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: RequestMetadata | None = None
    ) -> None:
        """Give a replica to the call that it was chosen for.

        Serve would give it to the call that waits longest, whatever its kind of event.
        """
        waiting = self._pending_requests_to_fulfill
        for place, call in enumerate(waiting):
            # compared by identity: all calls of one HTTP request have the same request id
            if call.metadata is request_metadata and not call.future.done():
                del waiting[place]
                waiting.appendleft(call)
                super()._fulfill_next_pending_request(replica, request_metadata)
                return


def routing_stats(default: SlotState, slots: Mapping[str, SlotState]) -> dict[str, float]:
    """Routing statistics of a replica: 1.0 for each kind of event it can score, also by tenant.

    Args:
        default: state of the slot that serves the generic tenant.
        slots: tenant -> state of its slot, the default slot included.
    """
    speaks = [str(kind) for kind, how in default.kinds.items() if how.status in SPEAKING]
    speaks += [
        f"{tenant}/{kind}"
        for tenant, state in slots.items()
        for kind, how in state.kinds.items()
        if how.status in SPEAKING
    ]
    return dict.fromkeys(speaks, 1.0)
