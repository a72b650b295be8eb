"""The wire format of predictions: flows and the name of a model in, a label out.

A flow has the same 78 features as in `/v1/score` and is validated as strictly. A name that occurs
twice in one object is rejected, because two readers of the body could use different values.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from deployments.scoring import wire
from deployments.web import TWICE, check_size, decode_body, outline
from ensemble.errors import EventError, MalformedJson

__all__ = [
    "DEFAULT_MODEL",
    "FlowToPredict",
    "PredictBatchRequest",
    "PredictRequest",
    "Prediction",
    "PredictionBatch",
    "parse_flow",
    "parse_flows",
]

DEFAULT_MODEL = "random_forest"  # the model that the verdict of the ensemble uses


class PredictRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """A network flow, and the name of the model; default `random_forest`."""

    features: wire.Features
    model_name: wire.Name | UnsetType = UNSET


class FlowToPredict(Struct, forbid_unknown_fields=True, frozen=True):
    """One network flow of a batch."""

    features: wire.Features


class PredictBatchRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Network flows, and the name of one model for all of them; default `random_forest`."""

    flows: list[FlowToPredict]
    model_name: wire.Name | UnsetType = UNSET


class _RawBatch(Struct, forbid_unknown_fields=True):
    flows: list[msgspec.Raw]
    model_name: wire.Name | UnsetType = UNSET


class Prediction(Struct):
    """The prediction of one model for one flow."""

    prediction: str
    confidence: float
    probabilities: dict[str, float]
    model_name: str
    model_version: str
    inference_time_ms: float
    timestamp: str


class PredictionBatch(Struct):
    """The predictions, in the order of the flows."""

    # Prediction or ErrorAnswer: msgspec has no untagged unions of structs; OpenAPI names both
    predictions: list[Any]


_decode_one = msgspec.json.Decoder(PredictRequest).decode
_decode_flow = msgspec.json.Decoder(FlowToPredict).decode
_decode_batch = msgspec.json.Decoder(PredictBatchRequest).decode
_decode_raw = msgspec.json.Decoder(_RawBatch).decode


def parse_flow(body: bytes) -> tuple[wire.Features, str]:
    """Parse the features of one flow, and the requested model.

    Raises:
        MalformedJson: not JSON, or a name is given twice.
        MalformedEvent: JSON, but not a flow; `field` names the invalid part.
    """
    found = check_size(body, 1)
    request: PredictRequest = decode_body(_decode_one, body)
    if found.names != (request.model_name is not UNSET) + _names_of(request.features):
        raise MalformedJson(TWICE)
    return request.features, _model_of(request.model_name)


def parse_flows(body: bytes, *, limit: int) -> tuple[list[wire.Features | EventError], str]:
    """Parse the flows of a batch and the requested model; an invalid flow becomes its error.

    Raises:
        MalformedJson: not JSON, or a name of the batch itself is given twice.
        MalformedEvent: not a list of flows.
        TooManyEvents: more than `limit`.
    """
    found = check_size(body, limit)
    try:
        batch: PredictBatchRequest = _decode_batch(body)  # the common case: all are valid
        is_valid = found.names == _names_around(batch.model_name) + sum(
            _names_of(flow.features) for flow in batch.flows
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        is_valid = False
    if is_valid:
        wire.check_count(len(batch.flows), limit, "flows")
        return [flow.features for flow in batch.flows], _model_of(batch.model_name)
    raw: _RawBatch = decode_body(_decode_raw, body)
    flows = [bytes(flow) for flow in raw.flows]
    if found.names != _names_around(raw.model_name) + sum(outline(flow).names for flow in flows):
        raise MalformedJson(TWICE)
    wire.check_count(len(flows), limit, "flows")
    return [_flow_or_error(flow) for flow in flows], _model_of(raw.model_name)


def _flow_or_error(body: bytes) -> wire.Features | EventError:
    try:
        flow: FlowToPredict = decode_body(_decode_flow, body)
    except EventError as error:
        return error
    is_valid = outline(body).names == _names_of(flow.features)
    return flow.features if is_valid else MalformedJson(TWICE)


def _model_of(model_name: str | UnsetType) -> str:
    return DEFAULT_MODEL if isinstance(model_name, UnsetType) else model_name


def _names_around(model_name: str | UnsetType) -> int:
    """Count the names in the batch object: `flows`, and `model_name` if it is given."""
    return 1 + (model_name is not UNSET)


def _names_of(features: wire.Features) -> int:
    """Count the names in a flow: `features`, and each feature that is given by name."""
    return 1 + wire.names_in(features)
