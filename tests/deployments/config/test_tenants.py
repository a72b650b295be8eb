"""Tenants: groups and limits from an optional file, and the tenant whose release serves each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.config.settings import ROOT, Settings, read_settings
from deployments.config.tenants import Limit, Tenants, read_tenants
from ensemble.store.names import Tenant
from tests.support.recorded_telemetry import RecordedLog

ACME, RETAIL, DEFAULT = Tenant("acme"), Tenant("retail"), Tenant("default")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tenants.yaml").write_text("tenants:\n  acme: {group: retail}\n  globex: {}\n")
    return read_settings(
        {"store": {"tenants": str(tmp_path / "tenants.yaml"), "shipped": str(tmp_path / "shipped")}}
    )


@pytest.fixture
def point(settings: Settings) -> Callable[[str], None]:
    """`point("acme")` gives the tenant a pointer, valid or not."""

    def one(tenant: str) -> None:
        folder = settings.state / "tenants" / tenant
        folder.mkdir(parents=True)
        (folder / "CURRENT").write_text("torn")

    return one


def test_own_models_come_first_then_the_groups_then_the_generic_ones(
    settings: Settings,
) -> None:
    tenants = Tenants(settings)

    assert tenants.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert tenants.lineage(Tenant("globex")) == (Tenant("globex"), DEFAULT)
    assert tenants.lineage(Tenant("initech")) == (Tenant("initech"), DEFAULT)


def test_the_generic_tenants_never_inherit_from_their_children(settings: Settings) -> None:
    generic = settings.model_copy(
        update={"store": settings.store.model_copy(update={"parents": ["shared"]})}
    )

    assert Tenants(generic).lineage(DEFAULT) == (DEFAULT, Tenant("shared"))
    assert Tenants(generic).lineage(Tenant("shared")) == (Tenant("shared"),)


def test_the_nearest_pointer_decides_even_if_it_is_broken(
    settings: Settings, point: Callable[[str], None]
) -> None:
    """A broken pointer is reported, and does not silently make the tenant inherit."""
    tenants = Tenants(settings)
    assert tenants.serving_tenant(ACME) == DEFAULT

    point("retail")
    assert tenants.serving_tenant(ACME) == RETAIL

    point("acme")
    assert tenants.serving_tenant(ACME) == ACME
    assert tenants.serving_tenant(Tenant("globex")) == DEFAULT


def test_a_change_of_the_file_takes_effect_without_a_restart(settings: Settings) -> None:
    tenants = Tenants(settings)
    assert tenants.lineage(Tenant("globex")) == (Tenant("globex"), DEFAULT)

    settings.tenants.write_text("tenants:\n  globex: {group: retail}\n")

    assert tenants.lineage(Tenant("globex")) == (Tenant("globex"), RETAIL, DEFAULT)
    assert tenants.lineage(ACME) == (ACME, DEFAULT)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("tenants: {Acme: {}}", id="an invalid name"),
        pytest.param("tenants: {acme: {group: ../x}}", id="a group with a path"),
        pytest.param("tenants: {acme: {gruop: retail}}", id="a misspelt key"),
        pytest.param("tenants: [acme]", id="a list"),
        pytest.param("{{{", id="not YAML"),
        pytest.param("just text", id="text"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(
    settings: Settings, recorded_log: RecordedLog, text: str
) -> None:
    tenants = Tenants(settings)
    assert tenants.lineage(ACME) == (ACME, RETAIL, DEFAULT)

    settings.tenants.write_text(text)

    assert tenants.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert tenants.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert recorded_log.events.count("tenants_file_refused") == 1
    with pytest.raises(ValidationError):
        read_tenants(settings.tenants)


@pytest.mark.parametrize("text", ["", "tenants:\n", "{}"])
def test_an_empty_file_has_no_tenants(tmp_path: Path, text: str) -> None:
    (tmp_path / "tenants.yaml").write_text(text)

    assert read_tenants(tmp_path / "tenants.yaml").tenants == {}
    assert read_tenants(tmp_path / "none.yaml").tenants == {}


def test_a_tenant_may_have_limits_of_its_own_as_the_file_was_read_last(
    settings: Settings, tmp_path: Path
) -> None:
    """Every request reads the limit, so it does not read the disk."""
    tenants = Tenants(settings)
    (tmp_path / "tenants.yaml").write_text(
        "tenants:\n  acme: {requests_per_s: 50.0}\n  globex: {}\n"
    )
    assert tenants.limit(ACME) is None

    tenants.lineage(ACME)

    assert tenants.limit(ACME) == Limit(requests_per_s=50.0, burst=None)
    assert tenants.limit(Tenant("globex")) == Limit()
    assert tenants.limit(Tenant("initech")) is None


@pytest.mark.parametrize(
    "limit",
    ["requests_per_s: 0", "requests_per_s: .inf", "burst: 0.5", "burst: .nan", "burst: many"],
)
def test_a_limit_that_would_admit_no_request_is_refused(tmp_path: Path, limit: str) -> None:
    (tmp_path / "tenants.yaml").write_text(f"tenants:\n  acme: {{{limit}}}\n")

    with pytest.raises(ValidationError):
        read_tenants(tmp_path / "tenants.yaml")


def test_the_example_of_a_tenants_file_is_valid() -> None:
    assert read_tenants(ROOT / "configs" / "tenants.example.yaml").tenants
