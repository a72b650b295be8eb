"""The OpenAPI documents of both applications, with the default settings and without their parts."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from deployments.config.settings import read_settings
from deployments.management.app import ManageApp
from deployments.scoring.app import IngressApp
from tests.support.asgi_clients import settings_values
from tests.support.recorded_telemetry import RecordingMeter

__all__ = ["management_document", "scoring_document"]


@cache
def scoring_document() -> dict[str, Any]:
    """The document of the scoring application."""
    app = IngressApp(settings_values(read_settings()), {}, RecordingMeter())
    found: dict[str, Any] = json.loads(app._openapi)
    return found


@cache
def management_document() -> dict[str, Any]:
    """The document of the management application."""
    app = ManageApp(settings_values(read_settings()), None, meter=RecordingMeter())
    app.__serve_build_asgi_app__()
    found: dict[str, Any] = json.loads(app._openapi)
    return found
