"""Guards of a call to a layer: deadline, circuit breaker, bulkhead and retry budget.

Each is a small state machine that decides whether and how long a call may run. The caller makes the
calls; no guard waits or sleeps.
"""

from ensemble.guard.bulkhead import Bulkhead
from ensemble.guard.circuit_breaker import BreakerRules, BreakerState, CircuitBreaker, Ticket
from ensemble.guard.deadline import Deadline
from ensemble.guard.fair_queue import FairQueue
from ensemble.guard.retry_budget import RetryBudget

__all__ = [
    "BreakerRules",
    "BreakerState",
    "Bulkhead",
    "CircuitBreaker",
    "Deadline",
    "FairQueue",
    "RetryBudget",
    "Ticket",
]
