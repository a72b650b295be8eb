"""The routes that use a model: rate rows with it, and tell every replica to load it now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deployments.management import detection_responses, request_bodies
from deployments.management.caller_registry import CallerRegistry
from deployments.management.contract import MODEL, OF_MODEL, READING_STORE, ROW, done
from deployments.management.detectors import Detections, LoadReport
from deployments.management.replicas import Replicas
from deployments.management.request_parsing import (
    BodyReader,
    model_of,
    reject_unknown_query,
    tenant_of,
)
from deployments.management.sent_rows import ROWS, SentRows
from deployments.web import (
    JSON,
    READING_ERRORS,
    Authenticator,
    Body,
    ErrorBody,
    Scope,
    ScopedRoute,
    as_json,
    caller_of,
    encode,
)
from ensemble.errors import (
    ArtifactMissing,
    DeploymentUnavailable,
    EnsembleError,
    EventError,
    FeatureMismatch,
    MalformedEvent,
    NotServing,
)
from ensemble.layers import LAYERS, layers_by_model
from ensemble.runtime import SlotState
from ensemble.store import ModelName, Tenant, VisibleModel
from ensemble.verdicts import LayerStatus

__all__ = ["DETECTORS", "DetectionRoutes"]

DETECTORS = "detectors"
RESULTS_AT_ONCE = 1000
_NO_RESULTS = b"[]}"  # the end of a response without results
UNREACHABLE, NOT_LOADED = "unreachable", "not_loaded"


@dataclass(frozen=True, slots=True)
class DetectionRoutes:
    """The routes that use a model.

    Attributes:
        authenticator: counts rows against the rate limit of the caller's tenant.
        detectors: the replicas that serve tabular detectors.
        layers: layer -> its replicas in the scoring application.
        registry: runs work on the registry of the caller's tenant.
        read_body: reads JSON bodies.
    """

    authenticator: Authenticator
    detectors: Replicas
    layers: Mapping[str, Replicas]
    registry: CallerRegistry
    read_body: BodyReader

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        return [
            ScopedRoute(
                "/{name}/detect",
                self._detect,
                needs=Scope.SCORE,
                methods=["POST"],
                tag="detection",
                summary="Rate rows; a bad row gets an error in place of its result",
                parameters=[MODEL],
                body=Body(request_bodies.DetectRequest, {"one row": {"network_data": [dict(ROW)]}}),
                answers=done(detection_responses.Detections),
                errors=[
                    *READING_ERRORS,
                    *READING_STORE,
                    *OF_MODEL,
                    "TOO_MANY_ROWS",
                    "DEPLOYMENT_UNAVAILABLE",
                    "INSUFFICIENT_MEMORY",
                    "LOAD_TIMEOUT",
                    "NOT_SERVING",
                ],
            ),
            ScopedRoute(
                "/{name}/load",
                self._load,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="detection",
                summary="Tell every replica to load the model now, and report their states",
                parameters=[MODEL],
                answers=done(detection_responses.Loading),
                errors=[*READING_STORE, *OF_MODEL, "NOT_SERVING", "DEPLOYMENT_UNAVAILABLE"],
            ),
        ]

    async def _detect(self, request: Request) -> Response:
        """Rate rows (S4-10) by the tenant's detector, else its group's, else the generic one."""
        reject_unknown_query(request)
        model = model_of(request)
        body = await self.read_body.rows(request, request_bodies.RowsToRate)
        await self.authenticator.consume(caller_of(request.scope), len(body.network_data))
        places, refused = await asyncio.to_thread(_check_rows, SentRows(body.network_data))
        rows = SentRows([body.network_data[place] for place in places])
        detections, owner = await self._rated(request, model, rows, body.missing)
        head = detection_responses.Detections(
            detections.model, detections.version, str(owner), detections.is_last_good, []
        )
        results = _results(body.network_data, places, detections, refused)
        return StreamingResponse(_in_parts(head, results), media_type=JSON)

    async def _rated(
        self, request: Request, model: ModelName, rows: SentRows, missing: str
    ) -> tuple[Detections, Tenant]:
        """Rate rows by the nearest detector of that name, and name its owner."""
        for owner in await self.registry.run(
            request, lambda registry: (registry.tenant, *registry.parents)
        ):
            try:
                return await self.detectors.call(
                    "detect", str(owner), str(model), rows, missing
                ), owner
            except ArtifactMissing:
                continue
        await self._find(request, model)
        raise NotServing

    async def _load(self, request: Request) -> Response:
        """Tell the serving replicas to load the model, and report each one (S4-13, C-26)."""
        reject_unknown_query(request)
        model = model_of(request)
        known = await self._find(request, model)
        if layers := layers_by_model().get(model):
            states = [
                line
                for layer in layers
                for line in await self._loaded_by(layer, model, tenant_of(request))
            ]
        else:
            reports = await self.detectors.broadcast("load", str(known.info.tenant_id), str(model))
            states = [_of_detectors(report) for report in reports]
        return as_json(detection_responses.Loading(str(model), states))

    async def _loaded_by(
        self, layer: str, model: ModelName, tenant: Tenant
    ) -> list[detection_responses.Replica]:
        states = await self.layers[layer].broadcast("load", str(tenant))
        return [line for state in states for line in _of_slot(layer, model, state)]

    async def _find(self, request: Request, model: ModelName) -> VisibleModel:
        return await self.registry.run(request, lambda registry: registry.describe(model))


def _check_rows(sent: SentRows) -> tuple[list[int], dict[int, EventError]]:
    """List the positions of the rows that can be decoded; each other row gets an error."""
    places: list[int] = []
    refused: dict[int, EventError] = {}
    for place in range(len(sent)):
        try:
            sent[place]
        except MalformedEvent as error:
            refused[place] = error
        else:
            places.append(place)
    return places, refused


def _results(
    sent: Sequence[msgspec.Raw],
    places: Sequence[int],
    detections: Detections,
    refused: Mapping[int, EventError],
) -> Iterator[detection_responses.Finding | detection_responses.RowRefused]:
    """Make the finding or the error of each row, in the order of the rows.

    A finding contains its row exactly as it was sent.

    Args:
        sent: all n rows.
        places: positions in `sent` of the rows that the detector got, ascending.
        detections: results of the detector for those.
        refused: position -> error, of the other rows.
    """
    errors = dict(refused)
    for row, error in detections.refused.items():
        _, _, feature = error.field.partition("].")
        errors[places[row]] = FeatureMismatch(f"{ROWS}[{places[row]}].{feature}", error.problem)
    rated = 0
    for place, text in enumerate(sent):
        if place in errors:
            yield detection_responses.RowRefused(place, _error_body(errors[place]))
            continue
        yield detection_responses.Finding(
            place,
            bool(detections.is_anomaly[rated]),
            float(detections.anomaly_score[rated]),
            str(detections.threat_level[rated]),
            text,
        )
        rated += 1


def _in_parts(
    head: detection_responses.Detections,
    results: Iterator[detection_responses.Finding | detection_responses.RowRefused],
) -> Iterator[bytes]:
    """Write the response a part at a time: all results as objects need more than the request."""
    opening = encode(head)
    yield opening[: -len(_NO_RESULTS)] + b"["
    comma = b""
    while block := list(islice(results, RESULTS_AT_ONCE)):
        yield comma + encode(block)[1:-1]
        comma = b","
    yield b"]}"


def _error_body(error: EventError) -> ErrorBody:
    return ErrorBody(error.code, str(error), error.field)


def _of_detectors(report: LoadReport | EnsembleError) -> detection_responses.Replica:
    if isinstance(report, ArtifactMissing):
        raise NotServing
    if isinstance(report, EnsembleError):
        return detection_responses.Replica(DETECTORS, "", _status_of(report), "", report.code)
    status = LayerStatus.LAST_GOOD if report.code else LayerStatus.LIVE
    return detection_responses.Replica(DETECTORS, "", status, str(report.version), report.code)


def _of_slot(
    layer: str, model: ModelName, state: SlotState | EnsembleError
) -> list[detection_responses.Replica]:
    """Report the state of a layer's model on one replica, for each kind of event that it scores."""
    if isinstance(state, EnsembleError):
        return [detection_responses.Replica(layer, "", _status_of(state), "", state.code)]
    kinds = [
        kind
        for kind, models in LAYERS[layer].kinds.items()
        if model in models and kind in state.kinds
    ]
    return [
        detection_responses.Replica(layer, str(kind), str(one.status), one.version, one.reason)
        for kind in kinds
        for one in [state.kinds[kind]]
    ]


def _status_of(error: EnsembleError) -> str:
    return UNREACHABLE if isinstance(error, DeploymentUnavailable) else NOT_LOADED
