"""The request router: a replica that can score this kind of event comes before one that cannot.

A replica in fallback answers fastest, so that the shortest queue, which Serve goes by, would lead
most of the traffic to it and blind
more than its share of the answers. Therefore every replica reports the kinds of event it speaks of,
and those that speak are asked
first. A replica that just started has reported nothing yet and waits its turn. Where none speaks,
any is asked: an abstention is an answer.
For a tenant with models of its own, a replica that has them in memory comes before one that would
have to load them first.
Source: Beyer et al., "Site Reliability Engineering", O'Reilly 2016, chapter 20, on the backend that
fails fast and attracts more.
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
        """The replicas to choose from: Serve's own, less those that would only abstain."""
        near: set[ReplicaID] = super().apply_locality_routing(pending_request)
        arguments = pending_request.args if pending_request is not None else ()
        kind = getattr(arguments[0], "kind", None) if arguments else None
        if kind is None:  # not a batch to score: whoever is asked for its state
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
        """Give a replica to the call it was chosen for.

        Serve's own order would give it to the one that waits longest, of whatever kind.
        """
        waiting = self._pending_requests_to_fulfill
        for place, call in enumerate(
            waiting
        ):  # by identity: calls of one HTTP request share their request id
            if call.metadata is request_metadata and not call.future.done():
                del waiting[place]
                waiting.appendleft(call)
                super()._fulfill_next_pending_request(replica, request_metadata)
                return


def routing_stats(home: SlotState, slots: Mapping[str, SlotState]) -> dict[str, float]:
    """The routing statistics of a replica: 1.0 for each kind it can score, alone and by tenant.

    Args:
        home: state of the slot that answers for the generic tenant.
        slots: tenant -> state of its slot; the home slot's among them.
    """
    speaks = [str(kind) for kind, how in home.kinds.items() if how.status in SPEAKING]
    speaks += [
        f"{tenant}/{kind}"
        for tenant, state in slots.items()
        for kind, how in state.kinds.items()
        if how.status in SPEAKING
    ]
    return dict.fromkeys(speaks, 1.0)
