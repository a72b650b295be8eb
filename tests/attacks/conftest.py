"""Fixtures of the attacks: the service of tests/deployments."""

from __future__ import annotations

from tests.support.service_fixtures import *  # noqa: F403  # all fixtures of a service
