"""Who the tenants are.

Groups from a file that need not be there, and whose pointer is in charge of whom.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.config.settings import ROOT, Settings, read_settings
from deployments.config.tenants import Limit, Tenants, read_tenants
from ensemble.store.names import Tenant
from tests.deployments.conftest import Told

ACME, RETAIL, DEFAULT = Tenant("acme"), Tenant("retail"), Tenant("default")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tenants.yaml").write_text("tenants:\n  acme: {group: retail}\n  globex: {}\n")
    return read_settings(
        {"store": {"tenants": str(tmp_path / "tenants.yaml"), "shipped": str(tmp_path / "shipped")}}
    )


@pytest.fixture
def point(settings: Settings) -> Callable[[str], None]:
    """`point("acme")`: the tenant has a pointer, whatever it is worth."""

    def one(tenant: str) -> None:
        folder = settings.state / "tenants" / tenant
        folder.mkdir(parents=True)
        (folder / "CURRENT").write_text("torn")

    return one


def test_a_tenant_lives_on_its_own_models_then_its_groups_then_the_generic_ones(
    settings: Settings,
) -> None:
    tenancy = Tenants(settings)

    assert tenancy.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert tenancy.lineage(Tenant("globex")) == (Tenant("globex"), DEFAULT)
    assert tenancy.lineage(Tenant("nobody-knows")) == (Tenant("nobody-knows"), DEFAULT)


def test_the_generic_tenants_live_on_nobody_below_them(settings: Settings) -> None:
    generic = settings.model_copy(
        update={"store": settings.store.model_copy(update={"parents": ["shared"]})}
    )

    assert Tenants(generic).lineage(DEFAULT) == (DEFAULT, Tenant("shared"))
    assert Tenants(generic).lineage(Tenant("shared")) == (Tenant("shared"),)


def test_the_nearest_pointer_is_in_charge_even_if_it_is_broken(
    settings: Settings, point: Callable[[str], None]
) -> None:
    """A broken pointer is that tenant's trouble.

    It does not make it somebody else's customer without a word.
    """
    tenancy = Tenants(settings)
    assert tenancy.serving_tenant(ACME) == DEFAULT

    point("retail")
    assert tenancy.serving_tenant(ACME) == RETAIL

    point("acme")
    assert tenancy.serving_tenant(ACME) == ACME
    assert tenancy.serving_tenant(Tenant("globex")) == DEFAULT


def test_a_change_of_the_file_counts_without_a_restart(settings: Settings) -> None:
    tenancy = Tenants(settings)
    assert tenancy.lineage(Tenant("globex")) == (Tenant("globex"), DEFAULT)

    settings.tenants.write_text("tenants:\n  globex: {group: retail}\n")

    assert tenancy.lineage(Tenant("globex")) == (Tenant("globex"), RETAIL, DEFAULT)
    assert tenancy.lineage(ACME) == (ACME, DEFAULT)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("tenants: {Acme: {}}", id="a name that is none"),
        pytest.param("tenants: {acme: {group: ../x}}", id="a group that climbs"),
        pytest.param("tenants: {acme: {gruop: retail}}", id="a misspelt key"),
        pytest.param("tenants: [acme]", id="a list"),
        pytest.param("{{{", id="no YAML"),
        pytest.param("just text", id="text"),
    ],
)
def test_a_wrong_file_is_refused_whole_and_what_was_read_before_goes_on(
    settings: Settings, told: Told, text: str
) -> None:
    tenancy = Tenants(settings)
    assert tenancy.lineage(ACME) == (ACME, RETAIL, DEFAULT)

    settings.tenants.write_text(text)

    assert tenancy.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert tenancy.lineage(ACME) == (ACME, RETAIL, DEFAULT)
    assert told.events.count("tenants_file_refused") == 1
    with pytest.raises(ValidationError):
        read_tenants(settings.tenants)


@pytest.mark.parametrize("text", ["", "tenants:\n", "{}"])
def test_an_empty_file_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "tenants.yaml").write_text(text)

    assert read_tenants(tmp_path / "tenants.yaml").tenants == {}
    assert read_tenants(tmp_path / "none.yaml").tenants == {}


def test_a_tenant_may_have_limits_of_its_own_as_the_file_was_looked_at_last(
    settings: Settings, tmp_path: Path
) -> None:
    """Asked in every request, so it does not look at the disk."""
    tenancy = Tenants(settings)
    (tmp_path / "tenants.yaml").write_text(
        "tenants:\n  acme: {requests_per_s: 50.0}\n  globex: {}\n"
    )
    assert tenancy.limit(ACME) is None

    tenancy.lineage(ACME)

    assert tenancy.limit(ACME) == Limit(requests_per_s=50.0, burst=None)
    assert tenancy.limit(Tenant("globex")) == Limit()
    assert tenancy.limit(Tenant("nobody-knows")) is None


@pytest.mark.parametrize(
    "limit",
    ["requests_per_s: 0", "requests_per_s: .inf", "burst: 0.5", "burst: .nan", "burst: many"],
)
def test_a_limit_that_would_admit_nobody_is_refused(tmp_path: Path, limit: str) -> None:
    (tmp_path / "tenants.yaml").write_text(f"tenants:\n  acme: {{{limit}}}\n")

    with pytest.raises(ValidationError):
        read_tenants(tmp_path / "tenants.yaml")


def test_the_example_of_a_tenants_file_is_one() -> None:
    assert read_tenants(ROOT / "configs" / "tenants.example.yaml").tenants
