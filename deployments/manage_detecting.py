"""The routes that use a model: rate rows with it, and have every replica load it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from deployments import manage_wire as wire
from deployments.auth import ScopedRoute
from deployments.edge import as_json
from deployments.keys import Scope
from deployments.lending import find_model
from deployments.manage_reading import LAYERS_MODELS, actor_of, model_of, no_query_but, tenant_of
from deployments.replicas import Replicas
from deployments.settings import Settings
from deployments.store_desk import StoreDesk
from deployments.tenancy import Tenancy
from ensemble.building import LAYERS
from ensemble.errors import EnsembleError
from ensemble.states import SlotState
from ensemble.store.names import ModelName, Tenant

__all__ = ["DetectionRoutes"]

DETECTORS = "detectors"
UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class DetectionRoutes:
    """The routes.

    Attributes:
        detectors: the replicas that serve tabular detectors.
        layers: layer -> its replicas, in the application that scores.
        desk: does the work on the store.
        tenancy: says on whose models a tenant lives.
        settings: limits.
    """

    detectors: Replicas
    layers: Mapping[str, Replicas]
    desk: StoreDesk
    tenancy: Tenancy
    settings: Settings

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        return [
            ScopedRoute("/{name}/load", self._load, needs=Scope.MANAGE, methods=["POST"]),
        ]

    async def _load(self, request: Request) -> Response:
        """S4-13 and C-26: the serving replicas load it, and each says how it stands."""
        no_query_but(request)
        tenant, model = tenant_of(request), model_of(request)
        await self.desk.ask(actor_of(request), lambda store: find_model(store, self.tenancy.lineage(tenant), model))
        said = [line for layer in LAYERS_MODELS.get(model, ()) for line in await self._loaded_by(layer, model, tenant)]
        return as_json(wire.Loading(str(model), said))

    async def _loaded_by(self, layer: str, model: ModelName, tenant: Tenant) -> list[wire.Replica]:
        states = await self.layers[layer].ask_all("load", str(tenant))
        return [line for state in states for line in _of_slot(layer, model, state)]


def _of_slot(layer: str, model: ModelName, state: SlotState | EnsembleError) -> list[wire.Replica]:
    """What one replica of a layer said: a line for each kind of event that the model rates."""
    if isinstance(state, EnsembleError):
        return [wire.Replica(layer, "", UNREACHABLE, "", state.code)]
    kinds = [kind for kind, models in LAYERS[layer].kinds.items() if model in models and kind in state.kinds]
    return [wire.Replica(layer, str(kind), str(one.status), one.version, one.reason) for kind in kinds for one in [state.kinds[kind]]]
