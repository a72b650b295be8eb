"""Age of a source of vulnerability data, and the weight that follows from it.

The weight is 1 up to `stale_after_days`, then falls on a straight line to 0 on the day after
`expired_after_days`. From then on the source is not used. A date in the future counts as age 0.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AgeLimits", "SourceAge"]


@dataclass(frozen=True, slots=True)
class SourceAge:
    """How old one source is, and what it therefore weighs.

    Attributes:
        source: `epss`, `kev`, `cvss` or `inventory`.
        age_days: whole days, at least 0; None if the source was never given.
        weight: 1 fresh .. 0 expired or never given.
        note: a warning for the reader of the score, "" when the source is fresh.
    """

    source: str
    age_days: int | None
    weight: float
    note: str

    @property
    def is_used(self) -> bool:
        """False once expired, and if the source was never given."""
        return self.weight > 0.0


@dataclass(frozen=True, slots=True)
class AgeLimits:
    """When a source begins to lose weight, and when it has none left.

    Attributes:
        stale_after_days: up to this age a source has its full weight; at least 0.
        expired_after_days: past this age it is not used; more than `stale_after_days`.
    """

    stale_after_days: int
    expired_after_days: int

    def __post_init__(self) -> None:
        if not 0 <= self.stale_after_days < self.expired_after_days:
            raise ValueError("a source must go stale before it expires")

    def age(self, source: str, date: int | None, day: int) -> SourceAge:
        """Age on `day` of a source of `date`, both in days since 1970-01-01 UTC."""
        if date is None:
            return SourceAge(source, None, 0.0, f"{source} not given")
        age = day - date
        if age < 0:
            return SourceAge(source, 0, 1.0, f"{source} dated {-age} days in the future")
        if age <= self.stale_after_days:
            return SourceAge(source, age, 1.0, "")
        if age > self.expired_after_days:
            return SourceAge(source, age, 0.0, f"{source} expired: {age} days")
        left = self.expired_after_days + 1 - age  # days of use left, this one included: at least 1
        weight = left / (self.expired_after_days + 1 - self.stale_after_days)
        return SourceAge(source, age, weight, f"{source} stale: {age} days")
