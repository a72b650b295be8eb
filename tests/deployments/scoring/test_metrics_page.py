"""`GET /metrics`: the metrics of one replica as Prometheus text, under the names of `METRICS`."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.observability.metrics import LATENCY_BOUNDARIES_S, METRICS, Instrument, set_state
from deployments.scoring.metrics_page import TextMeter
from tests.support.asgi_clients import Event, IngressClient, OpenIngress
from tests.support.fake_classifier import flow
from tests.support.recorded_telemetry import RecordingMeter

KINDS = {
    Instrument.COUNTER: "counter",
    Instrument.GAUGE: "gauge",
    Instrument.STATE_SET: "gauge",
    Instrument.HISTOGRAM: "histogram",
}


def record(meter: TextMeter, name: str) -> None:
    metric = METRICS[name]
    labels = {label: f"a {label}" for label in metric.labels}
    match metric.instrument:
        case Instrument.COUNTER:
            meter.count(name, 2.0, **labels)
        case Instrument.HISTOGRAM:
            meter.observe(name, 0.003, **labels)
        case _:
            meter.level(name, 0.5, **labels)


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_is_written_with_its_name_help_and_labels(
    name: str,
) -> None:
    meter = TextMeter("r1", RecordingMeter())
    record(meter, name)

    text = meter.text().decode()
    (family,) = text_string_to_metric_families(text)

    assert (family.type, family.documentation) == (
        KINDS[METRICS[name].instrument],
        METRICS[name].meaning,
    )
    assert f"# HELP {name} " in text
    expected = {label: f"a {label}" for label in METRICS[name].labels} | {"replica": "r1"}
    for sample in family.samples:
        assert {label: value for label, value in sample.labels.items() if label != "le"} == expected
        assert sample.name.startswith(name)


def test_the_page_names_the_complete_source() -> None:
    """C-29: the canonical exporter is Ray's."""
    first, second, *_ = TextMeter("r1", RecordingMeter()).text().decode().splitlines()

    assert "replica" in first
    assert "Ray's metrics exporter" in second


def test_two_meters_of_one_process_are_independent() -> None:
    one, other = TextMeter("r1", RecordingMeter()), TextMeter("r2", RecordingMeter())
    one.count("axon_layer_retries_total", layer="anomaly")

    assert "axon_layer_retries_total" not in other.text().decode()


def test_a_state_set_has_one_state_that_is_set() -> None:
    meter = TextMeter("r1", RecordingMeter())
    set_state(meter, "axon_breaker_state", "open", ["closed", "half_open", "open"], layer="anomaly")

    assert (
        'axon_breaker_state{layer="anomaly",replica="r1",state="open"} 1.0' in meter.text().decode()
    )
    assert meter.text().decode().count("} 0.0") == 2


def test_a_histogram_has_the_buckets_of_the_table() -> None:
    meter = TextMeter("r1", RecordingMeter())
    meter.observe("axon_layer_latency_seconds", 0.003, layer="anomaly")

    (family,) = text_string_to_metric_families(meter.text().decode())

    found = [float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels]
    assert found == [*LATENCY_BOUNDARIES_S, float("inf")]


def test_a_count_of_zero_writes_no_line() -> None:
    meter = TextMeter("r1", RecordingMeter())
    meter.count("axon_layer_retries_total", 0, layer="anomaly")

    assert "axon_layer_retries_total" not in meter.text().decode()


def test_threads_that_record_at_once_lose_nothing() -> None:
    """A slot records its loads in a thread of its own."""
    meter = TextMeter("r1", RecordingMeter())
    threads = [
        threading.Thread(
            target=lambda: [
                meter.count("axon_layer_retries_total", layer="anomaly") for _ in range(1000)
            ]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 'axon_layer_retries_total{layer="anomaly",replica="r1"} 8000.0' in meter.text().decode()


def test_both_meters_record_everything() -> None:
    ray = RecordingMeter()
    text = TextMeter("r1", ray)
    text.count("axon_layer_retries_total", 3, layer="anomaly")
    text.level("axon_coverage", 0.5, kind="flow")
    text.observe("axon_layer_latency_seconds", 0.003, layer="anomaly")
    text.refresh()

    assert ray.total("axon_layer_retries_total") == 3
    assert ray.value("axon_coverage", kind="flow") == 0.5
    assert (len(ray.observed), ray.refreshed) == (1, 1)
    for line in (
        '_retries_total{layer="anomaly",replica="r1"} 3.0',
        'axon_coverage{kind="flow",replica="r1"} 0.5',
        'seconds_sum{layer="anomaly"',
    ):
        assert line in text.text().decode()


def test_the_page_counts_what_this_replica_scored(
    client: IngressClient, flow_events: list[Event]
) -> None:
    assert client.post("/v1/score", flow_events[0]).status_code == 200

    answer = client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert sum(sample.value for sample in families["axon_events_scored"].samples) == 1
    assert {
        sample.labels["replica"] for family in families.values() for sample in family.samples
    } == {"local"}


def test_the_page_has_the_metrics_of_the_older_service(open_classifier: OpenIngress) -> None:
    """S2-06: predictions_total{model}, inference_latency_seconds."""
    client = open_classifier()
    client.post(
        "/predict/batch", {"flows": [{"features": flow()}] * 3, "model_name": "decision_tree"}
    )

    text = client.get("/metrics").text

    assert 'predictions_total{model="decision_tree",replica="local"} 3.0' in text
    assert 'inference_latency_seconds_count{model="decision_tree",replica="local"} 1.0' in text
