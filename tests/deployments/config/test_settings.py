"""Settings and composition: a documented file, and the applications that are built of it.

One mistake refuses all settings, and the error lists every mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve import Application

from deployments import app as composition
from deployments.config.settings import ROOT, Settings, read_settings
from deployments.layers.deployment import LayerDeployment
from deployments.scoring.app import IngressApp
from ensemble.layers.catalog import LAYERS

DEFAULTS = ROOT / "configs" / "default.yaml"
CONFIGS = [
    pytest.param(ROOT / "serve_config.yaml", id="serve_config"),
    pytest.param(ROOT / "configs" / "gpu.yaml", id="gpu"),
]


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, (*above, name))
        else:
            yield (*above, name)


def mistakes(overrides: Mapping[str, Any]) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        read_settings(overrides)
    return {".".join(map(str, error["loc"])) for error in caught.value.errors()}


# -- the file


def test_the_default_file_has_every_setting_and_no_other() -> None:
    assert set(leaves(yaml.safe_load(DEFAULTS.read_text()))) == set(fields(Settings))


def test_every_setting_has_a_comment_with_its_unit_or_reason() -> None:
    """STYLE section 10: a setting of several layers is explained at the first of them."""
    explained: set[str] = set()
    silent: list[str] = []
    for line in DEFAULTS.read_text().splitlines():
        found = re.match(r"\s+(\w+): *[^#\s][^#]*(?:# *(?P<reason>.*))?$", line)
        if not found:
            continue
        if len((found["reason"] or "").split()) >= 2:
            explained.add(found[1])
        elif found[1] not in explained:
            silent.append(found[1])

    assert not silent
    assert explained == {path[-1] for path in fields(Settings)}


def test_no_setting_has_a_default_in_the_code() -> None:
    """STYLE section 9: a default in the code would hide a decision."""

    def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from models(field.annotation)

    assert all(
        field.is_required() for model in models(Settings) for field in model.model_fields.values()
    )


# -- reading it


def test_overrides_replace_their_settings_only() -> None:
    changed = read_settings(
        {"ingress": {"deadline_ms": 99}, "layers": {"behavior": {"gpus": "auto"}}}
    )

    assert changed.ingress.deadline_ms == 99
    assert changed.layers.behavior.gpus == "auto"
    before = read_settings()
    assert changed.ingress.max_events == before.ingress.max_events
    assert changed.layers.anomaly == before.layers.anomaly


def test_the_environment_overrides_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AXON_STATE", str(tmp_path / "elsewhere"))

    assert read_settings({"store": {"state": "somewhere"}}).state == tmp_path / "elsewhere"


@pytest.mark.parametrize("value", [None, ""])
def test_by_default_the_state_folder_is_in_the_repository(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("AXON_STATE") if value is None else monkeypatch.setenv("AXON_STATE", value)

    assert read_settings().state == ROOT / "var"
    assert read_settings().shipped == ROOT / "artifacts"


def test_the_key_file_is_in_the_state_folder_unless_its_path_is_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_state: Path
) -> None:
    assert read_settings().keys == own_state / "keys.json"
    assert read_settings({"auth": {"keys": "/etc/axon/keys.json"}}).keys == Path(
        "/etc/axon/keys.json"
    )

    monkeypatch.setenv("AXON_KEYS", str(tmp_path / "mine.json"))
    assert read_settings({"auth": {"keys": "/etc/axon/keys.json"}}).keys == tmp_path / "mine.json"


def test_off_without_quotes_is_read_as_text() -> None:
    """YAML reads it as false; the operator means the text."""
    assert read_settings(yaml.safe_load("auth: {mode: off}")).auth.mode == "off"
    assert read_settings({"auth": {"mode": "off"}}).auth.mode == "off"
    assert read_settings().auth.mode == "keys"


def test_one_message_lists_all_mistakes() -> None:
    """P36: an unknown key, a wrong type, a number out of range and a misspelt section at once."""
    wrong = {
        "ingress": {"deadline_ms": -1, "deadline": 5, "max_events": "many"},
        "fusion": {"min_coverage": 1.5},
        "layers": {"behavior": {"gpus": "some"}, "logs": {}},
        "posturr": {},
    }

    found = mistakes(wrong)

    for place in (
        "ingress.deadline_ms",
        "ingress.deadline",
        "ingress.max_events",
        "fusion.min_coverage",
        "layers.logs.import",
        "posturr",
    ):
        assert place in found
    assert any(place.startswith("layers.behavior.gpus") for place in found)


IMPOSSIBLE = [
    ({"ingress": {"deadline_ms": float("nan")}}, "ingress.deadline_ms"),
    ({"ingress": {"deadline_ms": float("inf")}}, "ingress.deadline_ms"),
    ({"ingress": {"deadline_ms": 0}}, "ingress.deadline_ms"),
    ({"ingress": {"max_events": 0}}, "ingress.max_events"),
    ({"ingress": {"max_events": 1.5}}, "ingress.max_events"),
    ({"ingress": {"max_body_bytes": 0}}, "ingress.max_body_bytes"),
    ({"ingress": None}, "ingress"),
    ({"ingress": 5}, "ingress"),
    ({"fusion": {"min_coverage": -0.1}}, "fusion.min_coverage"),
    ({"fusion": {"posture_bound": 3}}, "fusion.posture_bound"),
    ({"guard": {"open_s": 9.0}}, "guard"),
    ({"guard": {"bad_share": 0.0}}, "guard.bad_share"),
    ({"guard": {"calls_in_flight": 0}}, "guard.calls_in_flight"),
    ({"rollout": {"shares": []}}, "rollout.shares"),
    ({"rollout": {"shares": [0.1, 0.5]}}, "rollout"),
    ({"rollout": {"shares": [0.5, 0.1, 1.0]}}, "rollout"),
    ({"rollout": {"max_events_per_s": [1.0]}}, "rollout"),
    ({"rollout": {"step_s": 60.0}}, "rollout"),
    ({"posture": {"expired_after_days": 0}}, "posture.expired_after_days"),
    ({"store": {"tenant": None}}, "store.tenant"),
    ({"auth": {"mode": "on"}}, "auth.mode"),
    ({"auth": {"mode": True}}, "auth.mode"),
    ({"auth": {"requests_per_s": 0}}, "auth.requests_per_s"),
    ({"auth": {"burst": 0.5}}, "auth.burst"),
    ({"auth": {"stall_s": -1.0}}, "auth.stall_s"),
    ({"layers": {"anomaly": {"min_replicas": 0}}}, "layers.anomaly.min_replicas"),
]


@pytest.mark.parametrize(("overrides", "place"), IMPOSSIBLE)
def test_an_impossible_setting_is_refused_by_its_place(
    overrides: Mapping[str, Any], place: str
) -> None:
    assert place in mistakes(overrides)


def test_settings_survive_serialization() -> None:
    """Settings travel between processes as JSON values."""
    before = read_settings({"layers": {"behavior": {"gpus": 0.5}}})

    assert Settings.model_validate(before.model_dump(mode="json")) == before


# -- the files that operators start with


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shipped_config_file_has_both_applications_on_loopback_with_valid_equal_settings(
    config: Path,
) -> None:
    """Serve's default for config files is 0.0.0.0; different settings would make two services."""
    file = yaml.safe_load(config.read_text())

    application, management = file["applications"]
    assert [one["import_path"] for one in file["applications"]] == [
        "deployments.app:build",
        "deployments.app:build_management",
    ]
    assert [one["route_prefix"] for one in file["applications"]] == ["/", "/models"]
    assert application["args"] == management["args"]
    assert file["http_options"]["host"] == "127.0.0.1"
    assert (
        file["http_options"]["request_timeout_s"] * 1000
        > read_settings(application["args"]).ingress.deadline_ms
    )


def test_the_gpu_file_gives_the_torch_layer_a_share_if_there_is_a_gpu() -> None:
    file = yaml.safe_load((ROOT / "configs" / "gpu.yaml").read_text())

    settings = read_settings(file["applications"][0]["args"])

    assert settings.layers.behavior.gpus == "auto"
    assert {settings.layer(name).gpus for name in LAYERS if name != "behavior"} == {0}


# -- the application


def bound(application: Application) -> Any:
    return application._bound_deployment


def layers_of(application: Application) -> dict[str, Any]:
    return {name: bound(layer) for name, layer in bound(application).init_args[1].items()}


def gpus_of(application: Application, layer: str) -> tuple[float, float]:
    """The share that is scheduled, and the share that the process limits itself to."""
    deployment = layers_of(application)[layer]
    return deployment.ray_actor_options["num_gpus"], deployment.init_args[2]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A cluster with a number of GPUs; None for no cluster."""
    gpus: float | None = request.param
    monkeypatch.setattr(composition.ray, "is_initialized", lambda: gpus is not None)
    monkeypatch.setattr(
        composition.ray, "cluster_resources", lambda: {"CPU": 2.0} | ({"GPU": gpus} if gpus else {})
    )


def test_the_application_has_an_ingress_and_one_deployment_per_layer() -> None:
    application = composition.build({})

    ingress = bound(application)
    assert ingress.name == "ingress"
    assert issubclass(ingress.func_or_class, IngressApp)
    assert layers_of(application).keys() == LAYERS.keys()
    for name, layer in layers_of(application).items():
        assert layer.name == name
        assert layer.func_or_class is LayerDeployment
        assert layer.init_args[0] == name


def test_every_deployment_scales_on_its_own() -> None:
    settings = read_settings()
    application = composition.build({})

    for name, deployment in {**layers_of(application), "ingress": bound(application)}.items():
        wanted = settings.ingress if name == "ingress" else settings.layer(name)
        scaling = deployment._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas) == (
            wanted.min_replicas,
            wanted.max_replicas,
        )
        assert scaling.target_ongoing_requests == wanted.target_ongoing_requests
        assert scaling.upscale_delay_s == wanted.upscale_delay_s
        assert deployment._deployment_config.max_ongoing_requests == wanted.max_ongoing_requests
        assert deployment.ray_actor_options["num_cpus"] == wanted.num_cpus


def test_arguments_reach_every_deployment() -> None:
    application = composition.build(
        {"store": {"tenant": "acme"}, "layers": {"anomaly": {"max_replicas": 7}}}
    )

    assert bound(application).init_args[0]["store"]["tenant"] == "acme"
    assert {layer.init_args[1]["store"]["tenant"] for layer in layers_of(application).values()} == {
        "acme"
    }
    assert layers_of(application)["anomaly"]._deployment_config.autoscaling_config.max_replicas == 7


def test_wrong_arguments_are_refused_before_anything_is_built() -> None:
    """P36: a running service never sees a wrong configuration."""
    with pytest.raises(ValidationError):
        composition.build({"ingres": {}})


SHARES = [
    pytest.param(None, "auto", 0.0, id="no cluster, auto"),
    pytest.param(None, 0.5, 0.0, id="no cluster, half"),
    pytest.param(0.0, "auto", 0.0, id="no GPU, auto"),
    pytest.param(0.0, 0.5, 0.0, id="no GPU, half"),
    pytest.param(0.0, 1, 0.0, id="no GPU, 1"),
    pytest.param(1.0, "auto", 0.25, id="one GPU, auto"),
    pytest.param(1.0, 0.5, 0.5, id="one GPU, half"),
    pytest.param(1.0, 1, 1.0, id="one GPU, 1"),
    pytest.param(1.0, 0, 0.0, id="one GPU, 0"),
    pytest.param(4.0, "auto", 0.25, id="four GPUs, auto"),
]


@pytest.mark.parametrize(("cluster", "share", "given"), SHARES, indirect=["cluster"])
def test_a_layer_gets_the_gpu_share_that_the_cluster_can_give(
    cluster: None, share: float | str, given: float
) -> None:
    """DESIGN, decision 7, fault R8.

    A request for a GPU that the cluster does not have would wait forever.
    """
    del cluster
    application = composition.build({"layers": {"behavior": {"gpus": share}}})

    assert gpus_of(application, "behavior") == (given, given)
    assert gpus_of(application, "anomaly") == (0.0, 0.0)


@pytest.mark.parametrize("share", [1.5, 2, 8, -0.25, float("nan"), "half"])
def test_a_share_that_no_layer_can_use_is_refused(share: float | str) -> None:
    """A layer computes on one device.

    Ray would wait forever for a second GPU, and cannot schedule one and a half.
    """
    assert any(
        place.startswith("layers.behavior.gpus")
        for place in mistakes({"layers": {"behavior": {"gpus": share}}})
    )
