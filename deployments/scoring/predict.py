"""Predictions: the attack family of a flow, by the model that the caller names.

This is the API of the CICIDS2017 service. The classifier is called like the other layers: with its
guard, the same deadline, and the release that serves the caller. No other layer can replace it. If
it does not respond, the caller gets an error that shows whether a retry helps. Requests that arrive
together are sent to the classifier as one call, as events are.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.config import IngressSettings
from deployments.observability import Meter
from deployments.scoring import verdict_wire, wire
from deployments.scoring.bulk_gate import BulkGate, gather_all
from deployments.scoring.examples import ATTACK, BENIGN, PREDICTION
from deployments.scoring.micro_batcher import MicroBatcher
from deployments.scoring.named_deadline import DEADLINE, deadline_of
from deployments.scoring.pipeline import TenantPipeline
from deployments.scoring.predict_wire import (
    DEFAULT_MODEL,
    PredictBatchRequest,
    Prediction,
    PredictionBatch,
    PredictRequest,
    parse_flow,
    parse_flows,
)
from deployments.scoring.tenants import TenantPipelines
from deployments.web import (
    JSON,
    READING_ERRORS,
    Answer,
    Authenticator,
    Body,
    ErrorAnswer,
    ErrorBody,
    Scope,
    ScopedRoute,
    caller_of,
    decode_apart,
    encode,
    public_message,
    read_json,
    request_id_of,
)
from ensemble.errors import EnsembleError, EventError, LayerCrashed, ModelNotLoaded, UnknownModel
from ensemble.events import EventBatch, Kind
from ensemble.guard import Deadline
from ensemble.runtime import KNOWN_MODELS, Classification

__all__ = ["CLASSIFIER", "PredictRoutes", "Predictor"]

CLASSIFIER = "classifier"
ABOUT = (
    "One model makes the prediction; `/v1/score` gives the verdict of the whole ensemble. 409: the "
    "model is known but not loaded; the message gives the reason. 503: the classifier does not "
    "respond now; `Retry-After` says when to retry."
)
HEADERS = {
    "X-Request-ID": {
        "description": "The id that the request sent, or a new one",
        "schema": {"type": "string"},
    }
}
BENIGN_FLOW = {"features": BENIGN}
CLASSIFIER_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_LOADED",
    "LAYER_TIMEOUT",
    "LAYER_OPEN",
    "LAYER_OVERLOADED",
    "LAYER_CRASHED",
    "LAYER_ERROR",
    "LAYER_DISABLED",
    "LAYER_WARMING_UP",
)
"""Error codes of a request to which the classifier gave no prediction."""
Outcome = Prediction | EnsembleError
Waiting = tuple[wire.Features, float]  # a flow, and when it arrived (monotonic seconds)


class Predictor:
    """The client of the classifier's own API, in batches.

    Args:
        handle: handle of the classifier's deployment; None if the service runs without it.
        settings: sizes of batches.
        meter: counts the predictions.
        now: clock, seconds since 1970.
    """

    def __init__(
        self,
        handle: Any,  # noqa: ANN401  # Serve's handle makes its methods on the fly
        settings: IngressSettings,
        meter: Meter,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._classify = None if handle is None else handle.classify.remote
        self._settings, self._meter, self._now = settings, meter, now

    async def predict(
        self, pipeline: TenantPipeline, flow: wire.Features, model: str, since: float
    ) -> Prediction:
        """Predict the attack family of one flow, in a batch with other waiting flows.

        Args:
            pipeline: pipeline of the caller's tenant.
            flow: parsed features.
            model: name of the model.
            since: when the flow arrived (monotonic seconds).

        Raises:
            EventError: the flow is invalid, or the model is unknown.
            LayerError: the classifier does not respond.
        """
        _check_known(model)
        batchers = pipeline.prediction_batchers
        if model not in batchers:
            size, in_flight = self._settings.events_per_flush, self._settings.flushes_in_flight
            batchers[model] = MicroBatcher(
                self._flush(pipeline, model), batch_size=size, in_flight=in_flight
            )
        outcome: Outcome = await batchers[model].submit((flow, since), pipeline.tenant)
        if isinstance(outcome, EnsembleError):
            raise outcome
        return outcome

    async def predict_all(
        self,
        pipeline: TenantPipeline,
        flows: Sequence[wire.Features],
        model: str,
        deadline: Deadline,
    ) -> list[Outcome]:
        """Predict several flows, in order; an invalid flow gets an error at its position.

        Args:
            pipeline: pipeline of the caller's tenant.
            flows: parsed features.
            model: name of the model.
            deadline: of the oldest of them.

        Raises:
            EventError: the model is unknown.
            LayerError: the classifier does not respond.
        """
        _check_known(model)
        batch, places, rejected = wire.admit(
            Kind.FLOW, [wire.FlowRequest(features=flow) for flow in flows]
        )
        outcomes: list[Any] = [rejected.get(place) for place in range(len(flows))]
        if places:
            pipeline.in_flight += 1  # rescoring waits for requests in flight
            try:
                predicted = await self._predict(pipeline, batch, model, deadline)
            finally:
                pipeline.in_flight -= 1
            for place, outcome in zip(places, predicted, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _flush(
        self, pipeline: TenantPipeline, model: str
    ) -> Callable[[Sequence[Waiting]], Awaitable[Sequence[Outcome]]]:
        async def predict(waiting: Sequence[Waiting]) -> Sequence[Outcome]:
            deadline = Deadline(min(since for _, since in waiting), pipeline.layers.deadline_s)
            return await self.predict_all(pipeline, [flow for flow, _ in waiting], model, deadline)

        return predict

    async def _predict(
        self,
        pipeline: TenantPipeline,
        batch: EventBatch,
        model: str,
        deadline: Deadline,
    ) -> list[Outcome]:
        classify, release = self._classify, pipeline.release.name
        if classify is None:
            raise ModelNotLoaded(model, "this service runs without the classifier")

        async def request() -> Classification:
            classified: Classification = await classify(batch, release, model)
            if not classified.answers(release, len(batch)):
                raise LayerCrashed(CLASSIFIER)  # a response to another request
            return classified

        began = time.monotonic()
        classified = await pipeline.layers.call(CLASSIFIER, request, deadline)
        elapsed_s = time.monotonic() - began
        if classified.absence is not None:
            raise classified.absence
        self._meter.count("predictions_total", len(batch) - len(classified.abstained), model=model)
        self._meter.observe("inference_latency_seconds", elapsed_s, model=model)
        return _predictions(classified, model, elapsed_s=elapsed_s, at=self._now())


class PredictRoutes:
    """The routes `/predict` and `/predict/batch`.

    Args:
        predictor: calls the classifier.
        pipelines: pipelines by tenant.
        authenticator: counts each flow of a batch against the rate limit of its caller.
        bulk: gives the parts of batches their places in the classifier.
        settings: limits.
    """

    def __init__(
        self,
        predictor: Predictor,
        pipelines: TenantPipelines,
        authenticator: Authenticator,
        bulk: BulkGate,
        settings: IngressSettings,
    ) -> None:
        self._bulk = bulk
        self._predictor, self._pipelines = predictor, pipelines
        self._authenticator, self._settings = authenticator, settings

    def routes(self) -> list[ScopedRoute]:
        """Return the routes for the application."""
        return [
            ScopedRoute(
                "/predict",
                self._predict,
                needs=Scope.SCORE,
                methods=["POST"],
                tag="predictions",
                summary="Predict the attack family of a flow, by one model",
                about=ABOUT,
                body=Body(PredictRequest, {"a flow": {**BENIGN_FLOW, "model_name": DEFAULT_MODEL}}),
                answers={
                    200: Answer(Prediction, "The prediction", example=PREDICTION, headers=HEADERS)
                },
                errors=[*READING_ERRORS, "FEATURE_MISMATCH", *CLASSIFIER_ERRORS],
            ),
            ScopedRoute(
                "/predict/batch",
                self._predict_batch,
                needs=Scope.SCORE,
                methods=["POST"],
                tag="predictions",
                summary="Predict a batch; an invalid flow gets an error at its position",
                about=ABOUT,
                parameters=[DEADLINE],
                body=Body(
                    PredictBatchRequest,
                    {
                        "two flows": {
                            "flows": [BENIGN_FLOW, {"features": ATTACK}],
                            "model_name": DEFAULT_MODEL,
                        }
                    },
                ),
                answers={
                    200: Answer(PredictionBatch, "The predictions, in order", headers=HEADERS)
                },
                errors=[*READING_ERRORS, "TOO_MANY_EVENTS", "OVERLOADED", *CLASSIFIER_ERRORS],
            ),
        ]

    async def _predict(self, request: Request) -> Response:
        since = time.monotonic()
        flow, model = await decode_apart(parse_flow, await self._body(request))
        pipeline = await self._pipelines.for_tenant(caller_of(request.scope).tenant)
        return _response(request, await self._predictor.predict(pipeline, flow, model, since))

    async def _predict_batch(self, request: Request) -> Response:
        since = time.monotonic()
        parse = partial(parse_flows, limit=self._settings.max_events)
        parsed, model = await decode_apart(parse, await self._body(request))
        caller = caller_of(request.scope)
        await self._authenticator.consume(caller, len(parsed))
        pipeline = await self._pipelines.for_tenant(caller.tenant)
        _check_known(model)
        flows = [flow for flow in parsed if not isinstance(flow, EventError)]
        default_s = self._settings.batch_deadline_ms / 1000.0
        deadline = deadline_of(request.scope["headers"], since=since, default_s=default_s)
        size = self._bulk.part_events
        self._bulk.admit(caller.tenant, len(flows), deadline.ends)

        async def predict_part(start: int) -> list[Outcome]:
            part = flows[start : start + size]
            async with self._bulk.place(caller.tenant, len(part), deadline.ends):
                return await self._predictor.predict_all(pipeline, part, model, deadline)

        parts = await gather_all(predict_part(start) for start in range(0, len(flows), size))
        outcomes = chain.from_iterable(parts)
        in_order = [flow if isinstance(flow, EventError) else next(outcomes) for flow in parsed]
        return _response(
            request,
            PredictionBatch(
                [_row_error(one) if isinstance(one, EnsembleError) else one for one in in_order]
            ),
        )

    async def _body(self, request: Request) -> bytes:
        return await read_json(
            request.scope["headers"], request.receive, self._settings.max_body_bytes
        )


def _check_known(model: str) -> None:
    if model not in KNOWN_MODELS:
        raise UnknownModel(", ".join(KNOWN_MODELS))


def _predictions(
    classified: Classification, model: str, *, elapsed_s: float, at: float
) -> list[Outcome]:
    """Make a prediction for each row: its most likely label, the first of equally likely ones."""
    best = classified.probabilities.argmax(axis=1).tolist()
    elapsed_ms, timestamp = round(elapsed_s * 1000.0, 3), verdict_wire.timestamp(at)
    return [
        LayerCrashed(CLASSIFIER)
        if row in classified.abstained
        else Prediction(
            prediction=classified.labels[label],
            confidence=chances[label],
            probabilities=dict(zip(classified.labels, chances, strict=True)),
            model_name=model,
            model_version=classified.version,
            inference_time_ms=elapsed_ms,
            timestamp=timestamp,
        )
        for row, (label, chances) in enumerate(
            zip(best, classified.probabilities.tolist(), strict=True)
        )
    ]


def _response(request: Request, body: Prediction | PredictionBatch) -> Response:
    return Response(encode(body), media_type=JSON, headers={"X-Request-ID": request_id_of(request)})


def _row_error(error: EnsembleError) -> ErrorAnswer:
    field = error.field if isinstance(error, EventError) else ""
    return ErrorAnswer(ErrorBody(error.code, public_message(error), field))
