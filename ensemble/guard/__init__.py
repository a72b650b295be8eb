"""The guard around a layer: deadline, circuit breaker, bulkhead and retry budget.

Four small state machines. They decide, and the caller acts: none of them waits, sleeps or knows
what a call is.
"""

from ensemble.guard.bulkhead import Bulkhead
from ensemble.guard.circuit_breaker import BreakerRules, BreakerState, CircuitBreaker, Ticket
from ensemble.guard.deadline import Deadline
from ensemble.guard.retry_budget import RetryBudget

__all__ = [
    "BreakerRules",
    "BreakerState",
    "Bulkhead",
    "CircuitBreaker",
    "Deadline",
    "RetryBudget",
    "Ticket",
]
