"""What `axon serve` makes of a Serve config file.

Every application of it, with one set of settings.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from deployments.cli import console
from deployments.cli.errors import CommandFailed
from deployments.cli.serve import _Application, _plan, _report_missing_keys, _start_other
from deployments.config.settings import ROOT, Settings, read_settings
from deployments.web.api_keys import Scope, create_key, revoke_key
from ensemble.store.names import Tenant


def plan_of(folder: Path, **change: Any) -> Any:
    """The plan of the shipped file, with another first or second application."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    for place, name in enumerate(("scoring", "management")):
        config["applications"][place] |= change.get(name, {})
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    return _plan(file, None, None, change.get("auth"))


def test_the_settings_of_the_first_application_hold_for_the_others_too(tmp_path: Path) -> None:
    """Two stores, or two trust lists, would be two services."""
    plan = plan_of(
        tmp_path,
        scoring={"args": {"store": {"state": "/s", "trust": "/t"}}},
        management={"args": {"store": {"trust": "/u"}}},
    )

    assert [(one.name, one.route_prefix) for one in plan.applications] == [
        ("axon", "/"),
        ("axon-models", "/models"),
    ]
    assert plan.applications[0].args == {"store": {"state": "/s", "trust": "/t"}}
    assert plan.applications[1].args == {"store": {"state": "/s", "trust": "/u"}}


def test_keys_are_off_for_all_or_for_none(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, management={"args": {"auth": {"mode": "keys"}}}, auth="off")

    assert [one.args["auth"] for one in plan.applications] == [{"mode": "off"}] * 2


@pytest.mark.parametrize("applications", [None, [], [{"name": "axon"}], "axon"])
def test_a_file_without_applications_is_refused(tmp_path: Path, applications: object) -> None:
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump({"applications": applications}))

    with pytest.raises(CommandFailed, match="applications"):
        _plan(file, None, None, None)


def test_an_application_that_cannot_be_started_is_told_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(application: _Application, *, wait: bool) -> None:
        assert not wait
        raise ImportError(application.import_path)

    assert not _start_other(_Application("axon-models", "/models", "no.such:thing", {}), run)
    assert [(vars(record)["event"], vars(record)["application"]) for record in caplog.records] == [
        ("application_not_started", "axon-models")
    ]


def reported_keys(settings: Settings) -> str:
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "out", Console(file=text, width=200))
        _report_missing_keys(settings)
    return text.getvalue()


def test_a_service_that_nobody_can_ask_says_how_a_key_is_made(own_state: Path) -> None:
    settings = read_settings({"store": {"state": str(own_state)}})
    expired, revoked = (
        create_key(settings.keys, Tenant("acme"), [Scope.READ], "", at, 1.0)[0]
        for at in (2.0, None)
    )
    revoke_key(settings.keys, revoked.id, 2.0)

    assert expired.expires_at == 2.0
    assert "axon keys create" in reported_keys(settings)


def test_a_service_that_can_be_asked_says_nothing_of_keys(own_state: Path) -> None:
    settings = read_settings({"store": {"state": str(own_state)}})
    create_key(settings.keys, Tenant("acme"), [Scope.READ], "", None, 1.0)

    assert reported_keys(settings) == ""
    assert reported_keys(read_settings({"auth": {"mode": "off"}})) == ""


def test_a_file_of_keys_that_cannot_be_read_is_told_at_the_start(own_state: Path) -> None:
    settings = read_settings({"store": {"state": str(own_state)}})
    create_key(settings.keys, Tenant("acme"), [Scope.READ], "", None, 1.0)
    settings.keys.write_bytes(b"{")

    assert "every caller is refused" in reported_keys(settings)
