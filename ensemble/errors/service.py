"""Errors of a service that cannot do now what was well asked.

Ask again, or an operator must act. HTTP 409, 503 and 507.
"""

from __future__ import annotations

from ensemble.errors.root import EnsembleError

__all__ = [
    "DeploymentUnavailable",
    "ServiceError",
    "SigningUnavailable",
    "StoreFull",
    "StoreUnavailable",
]


class ServiceError(EnsembleError):
    """What was asked is well, and cannot be done now."""

    code = "SERVICE_ERROR"


class StoreUnavailable(ServiceError):
    """The store does not answer in time, or the system refuses it.

    What was begun may still be done: look before you ask again.
    """

    code = "STORE_UNAVAILABLE"


class StoreFull(ServiceError):
    """The disk of the store is full, or its quota is used up.

    Nothing was changed. Delete versions, or let retention do it.
    """

    code = "STORE_FULL"


class SigningUnavailable(ServiceError):
    """There is no key to sign with where management runs, or it is not on the trust list.

    `axon trust init` there.
    """

    code = "SIGNING_REFUSED"


class DeploymentUnavailable(ServiceError):
    """Those who should do it are not running, or do not answer now."""

    code = "DEPLOYMENT_UNAVAILABLE"
