"""Resilience: how easily could this host be compromised, and how much would that cost?

The layer rates the host and ignores the event: a flow to an unpatched, internet-facing server
deserves more suspicion than the same flow to a patched workstation.
Score: 0 resilient .. 0.5 an ordinary host .. 1 an easy and costly target.

For each CVE i on a host (constants below, each with its reason):

    p_i     = epss_i, mixed with the average EPSS by the weight w_epss:
              w_epss * epss_i + (1 - w_epss) * 0.03
              and at least  w_kev * 0.9  when i is in the KEV catalogue
    c_i     = p_i * reach(exposure) * product over the controls of what each lets through
    s_i     = CVSS base score / 10, mixed with 0.7 by the weight w_cvss
    chance  = 1 - product over k of (1 - c_(k)) ^ (1/k),             c_(1) >= c_(2) >= ...
    damage  = 1 - product over k of (1 - (c s)_(k)) ^ (1/k)
    risk    = damage * criticality = chance * impact,
              so that   impact = criticality * damage / chance
    raw     = risk / (risk + risk of the ordinary host)
    score   = 0.5 + w_inventory * max(w_epss, w_kev) * (raw - 0.5)

*A noisy-OR that does not saturate.* EPSS estimates exploitation anywhere in the world, and the CVEs
of one host are far from independent (one attacker, one patch day). The plain product is therefore 1
for every host with some hundred old CVEs. Here the k-th most likely CVE counts with exponent 1/k:
n alike CVEs count as 1 + 1/2 + .. + 1/n independent ones, 500 as 6.8. More CVEs, and more likely
ones, still always raise the result. Every host also has one CVE that is not listed yet, of average
EPSS and severity (the leak of the noisy-OR): a scan without findings does not prove safety.

*Why 0.5 is neutral.* `raw` is the logistic function of ln(risk / risk of the ordinary host). The
ordinary host is internal, of medium criticality, without known controls, with ten listed CVEs of
average EPSS and severity. A host without data counts as the ordinary one, which scores 0.5 by
construction: `host_unknown`, `host_not_given`. A score of 0.5 shifts nothing.

*Age.* Each source has its date and loses weight with age (`source_age.py`). The lost weight goes to
what is believed without the source: average EPSS, no floor, CVSS 7.0. Without a usable scan, or
with neither EPSS nor KEV (severity alone gives no chance), the layer has no opinion of the host:
0.5 and `posture_expired`. All of it is in the notes.

Fit for: ranking hosts, and shifting a doubtful verdict. Unfit for: claiming that an attack happens;
a probability in the strict sense (reach and controls are judgement). Cost: a dict look-up an event;
each host is computed once a day.
Source: EPSS: Jacobs et al., "Exploit Prediction Scoring System (EPSS)", ACM DTRAP 2021, and
"Enhancing Vulnerability Prioritization", WEIS 2023; KEV: CISA, BOD 22-01, 2021; severity and
requirement weights: FIRST, CVSS 3.1 specification, section 7.4; noisy-OR: Pearl, "Probabilistic
Reasoning in Intelligent Systems", 1988, section 4.3; leak: Henrion, UAI 1987.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.events import EventBatch
from ensemble.layers.posture import (
    CONTROLS,
    CRITICALITIES,
    EPSS_STEPS,
    EXPOSURES,
    NO_CVSS,
    NO_EPSS,
    PostureInventory,
    PostureKnowledge,
    cve_name,
    host_key,
)
from ensemble.layers.source_age import AgeLimits, SourceAge
from ensemble.model import ModelScores

__all__ = [
    "HOST_NOT_GIVEN",
    "HOST_UNKNOWN",
    "NEUTRAL",
    "POSTURE_EXPIRED",
    "PostureInventory",
    "PostureKnowledge",
    "ResiliencePosture",
]

NEUTRAL = 0.5
HOST_UNKNOWN = "host_unknown"
HOST_NOT_GIVEN = "host_not_given"
POSTURE_EXPIRED = "posture_expired"

# Mean over 360,142 CVEs on 2026-08-16: 0.028. A CVE that EPSS does not list (mostly new ones)
# counts as average.
AVERAGE_EPSS = 0.03
# NVD to 2015: mean 7.4 by version 3, 6.2 by version 2. A CVE without a base score counts as this.
AVERAGE_CVSS = 7.0
# KEV supersedes EPSS: exploitation was observed (FIRST, EPSS FAQ). NIST CSWP 41 (2025) uses 1.0.
# Our choice is 0.9: catalogues err, and hosts with one and with five such CVEs stay apart.
KEV_FLOOR = 0.9
# Our choice, half a decade a step. The steps "small, controlled, open" are from CISA's SSVC, which
# gives them no numbers.
REACH = {"isolated": 0.05, "internal": 0.3, "internet": 1.0}
# CVSS 3.1, table 16 (security requirements): 0.5, 1, 1.5; `critical` continues the line by a step.
CRITICALITY = {"low": 0.5, "medium": 1.0, "high": 1.5, "critical": 2.0}
# Share of attempts that a control lets through. Our choice: no study gives one number for all
# attacks. No control is assumed to stop more than half.
LETS_THROUGH = {
    "allowlisting": 0.5,
    "edr": 0.5,
    "firewall": 0.7,
    "mfa": 0.8,
    "segmentation": 0.6,
    "waf": 0.7,
}
# Listed CVEs of the ordinary host. Our choice, and the one constant that moves the neutral point.
ORDINARY_CVES = 10
MOST_CERTAIN = 0.999  # keeps log(1 - c) finite

DAY_S = 86_400
_ORDINARY_CHANCE = AVERAGE_EPSS * REACH["internal"]
_ORDINARY_IMPACT = AVERAGE_CVSS / 10 * CRITICALITY["medium"]
_HARMONIC = float((1.0 / np.arange(1, ORDINARY_CVES + 2)).sum())  # ten listed, one unlisted CVE
ORDINARY_RISK = float(
    -np.expm1(_HARMONIC * np.log1p(-_ORDINARY_CHANCE * _ORDINARY_IMPACT))
)  # 0.0189


@dataclass(slots=True)
class _Day:
    """Results of one day. A host is computed on first use; concurrent threads write equal values.

    Attributes:
        day: days since 1970-01-01 UTC.
        sources: ages of EPSS, KEV and CVSS.
        is_done: bool (h,), whether the host is computed.
        scores: float64 (h,); `chances` and `impacts` likewise.
        worst: int64 (h,), key of the worst listed CVE, -1 where the host has none.
        notes: one a host, "" where there is none.
    """

    day: int
    sources: tuple[SourceAge, SourceAge, SourceAge]
    is_done: NDArray[np.bool_]
    scores: NDArray[np.float64]
    chances: NDArray[np.float64]
    impacts: NDArray[np.float64]
    worst: NDArray[np.int64]
    notes: list[str]


class ResiliencePosture:
    """Scores of hosts by their posture; reads only `batch.hosts`, for any kind of event.

    It is built from two artifacts, so that a nightly inventory does not carry all known CVEs.
    Results are cached for a day. Thread-safe.
    """

    def __init__(
        self,
        knowledge: PostureKnowledge,
        inventory: PostureInventory,
        *,
        now: Callable[[], float],
        stale_after_days: int = 30,
        expired_after_days: int = 730,
    ) -> None:
        """Look up every CVE of the inventory in the knowledge once.

        Args:
            knowledge: what is known of CVEs.
            inventory: what is known of hosts.
            now: the clock, seconds since 1970-01-01 UTC.
            stale_after_days: up to this age a source has its full weight.
            expired_after_days: past this age it is not used; more than `stale_after_days`.
        """
        self._limits = AgeLimits(stale_after_days, expired_after_days)
        self.knowledge, self.inventory = knowledge, inventory
        self._now = now
        rows = knowledge.find(inventory.cves)
        is_known = rows >= 0
        steps = np.full(len(rows), NO_EPSS, np.uint16)
        steps[is_known] = knowledge.epss[rows[is_known]]
        tenths = np.full(len(rows), NO_CVSS, np.uint8)
        tenths[is_known] = knowledge.cvss[rows[is_known]]
        self._kev = np.zeros(len(rows), np.bool_)
        self._kev[is_known] = knowledge.kev[rows[is_known]]
        self._epss = np.where(steps == NO_EPSS, AVERAGE_EPSS, steps / EPSS_STEPS)
        self._severity = np.where(tenths == NO_CVSS, AVERAGE_CVSS, tenths / 10.0) / 10.0
        owner = np.repeat(np.arange(len(inventory)), inventory.starts[1:] - inventory.starts[:-1])
        # CVEs without EPSS, (h,)
        self._unlisted = np.bincount(owner[steps == NO_EPSS], minlength=len(inventory))
        self._reach = np.array([REACH[word] for word in EXPOSURES])[inventory.exposures]
        for bit, control in enumerate(CONTROLS):
            self._reach = np.where(
                inventory.controls >> bit & 1, self._reach * LETS_THROUGH[control], self._reach
            )
        self._criticality = np.array([CRITICALITY[word] for word in CRITICALITIES])[
            inventory.criticalities
        ]
        self._today: _Day | None = None

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score the host of each event.

        Args:
            batch: n events of any kind.
            explain: also return `chance` float64 (n,) in [0, 1], `impact` float64 (n,) in [0, 2]
                and `worst_cve` str (n,), "" where there is none. Their values are those before age
                pulls the score to 0.5. An unknown host has those of the ordinary host.

        Returns:
            scores float64 (n,), each in [0, 1]; exactly 0.5 with a note where the layer has no
            opinion.
        """
        today = self._day()
        find = self.inventory.rows.get
        hosts = np.fromiter(
            (find(host_key(host), -1) for host in batch.hosts), np.intp, len(batch.hosts)
        )  # (n,)
        is_known = hosts >= 0
        known = hosts[is_known]
        if not today.is_done[known].all():
            self._compute(today, np.unique(known[~today.is_done[known]]))
        scores = np.full(len(hosts), NEUTRAL)
        scores[is_known] = today.scores[known]
        notes: dict[int, str] = {}
        for row, host in enumerate(hosts.tolist()):
            note = (
                today.notes[host]
                if host >= 0
                else HOST_UNKNOWN
                if host_key(batch.hosts[row])
                else HOST_NOT_GIVEN
            )
            if note:
                notes[row] = note
        epss, kev, _ = today.sources
        abstains = "" if epss.is_used or kev.is_used else POSTURE_EXPIRED
        return ModelScores(scores, notes, self._details(today, hosts) if explain else {}, abstains)

    def source_ages(self) -> tuple[SourceAge, ...]:
        """Age and weight of EPSS, KEV and CVSS today, for status and the terminal."""
        return self._day().sources

    def _day(self) -> _Day:
        day = int(self._now() // DAY_S)
        today = self._today
        if today is None or today.day != day:
            knowledge, h = self.knowledge, len(self.inventory)
            dates = (
                ("epss", knowledge.epss_day),
                ("kev", knowledge.kev_day),
                ("cvss", knowledge.cvss_day),
            )
            epss, kev, cvss = (self._limits.age(source, date, day) for source, date in dates)
            zeros = np.zeros(h)
            today = _Day(
                day,
                (epss, kev, cvss),
                np.zeros(h, np.bool_),
                zeros,
                zeros.copy(),
                zeros.copy(),
                np.full(h, -1, np.int64),
                [""] * h,
            )
            # One reference: a thread that started yesterday finishes with yesterday's results.
            self._today = today
        return today

    def _compute(self, today: _Day, hosts: NDArray[np.intp]) -> None:
        """Compute `hosts`, int (k,), without repeats, and mark them done."""
        k = len(hosts)
        epss, kev, cvss = today.sources
        starts = self.inventory.starts.astype(np.intp)
        sizes = starts[hosts + 1] - starts[hosts]
        owner = np.repeat(np.arange(k), sizes)  # which of the k hosts has the CVE
        places = np.arange(len(owner)) + np.repeat(
            starts[hosts] - (np.cumsum(sizes) - sizes), sizes
        )
        exploited = epss.weight * self._epss[places] + (1.0 - epss.weight) * AVERAGE_EPSS
        exploited = np.maximum(exploited, np.where(self._kev[places], kev.weight * KEV_FLOOR, 0.0))
        severity = cvss.weight * self._severity[places] + (1.0 - cvss.weight) * AVERAGE_CVSS / 10
        # the CVE that is not listed yet comes last, one for each host
        owner = np.append(owner, np.arange(k))
        chances = np.minimum(
            np.append(exploited, np.full(k, AVERAGE_EPSS)) * self._reach[hosts][owner], MOST_CERTAIN
        )
        damages = chances * np.append(severity, np.full(k, AVERAGE_CVSS / 10))
        chance, damage = _noisy_or(chances, owner, k), _noisy_or(damages, owner, k)
        risk = damage * self._criticality[hosts]
        raw = risk / (risk + ORDINARY_RISK)

        today.chances[hosts] = chance
        today.impacts[hosts] = risk / chance
        today.worst[hosts] = self._worst(damages[: len(places)], owner[: len(places)], places, k)
        for place, host in enumerate(hosts.tolist()):
            scan = self._limits.age("inventory", int(self.inventory.scan_days[host]), today.day)
            weight = scan.weight * max(epss.weight, kev.weight)
            has_expired = not scan.is_used or not (epss.is_used or kev.is_used)
            today.scores[host] = (
                NEUTRAL if has_expired else NEUTRAL + weight * (raw[place] - NEUTRAL)
            )
            unlisted = int(self._unlisted[host])
            notes = (
                POSTURE_EXPIRED if has_expired else "",
                *(age.note for age in (scan, *today.sources)),
                f"CVEs without EPSS: {unlisted}" if unlisted else "",
            )
            today.notes[host] = "; ".join(note for note in notes if note)
        today.is_done[hosts] = True  # last: a thread that reads it as done finds all of it

    def _worst(
        self,
        damages: NDArray[np.float64],
        owner: NDArray[np.intp],
        places: NDArray[np.intp],
        k: int,
    ) -> NDArray[np.int64]:
        """Key of the most damaging listed CVE of each of k hosts, int64 (k,); -1 without one.

        Among equals the lowest key.
        """
        worst = np.full(k, -1, np.int64)
        order = np.lexsort((-places, damages, owner))  # ascending: the last one written stays
        worst[owner[order]] = self.inventory.cves[places[order]]
        return worst

    def _details(
        self, today: _Day, hosts: NDArray[np.intp]
    ) -> dict[str, NDArray[np.float64] | NDArray[np.str_]]:
        is_known = hosts >= 0
        known = hosts[is_known]
        chance = np.full(len(hosts), -np.expm1(_HARMONIC * np.log1p(-_ORDINARY_CHANCE)))
        impact = ORDINARY_RISK / chance
        chance[is_known], impact[is_known] = today.chances[known], today.impacts[known]
        worst = np.full(len(hosts), -1, np.int64)
        worst[is_known] = today.worst[known]
        names = np.array([cve_name(key) if key >= 0 else "" for key in worst.tolist()], np.str_)
        return {"chance": chance, "impact": impact, "worst_cve": names}


def _noisy_or(values: NDArray[np.float64], owner: NDArray[np.intp], k: int) -> NDArray[np.float64]:
    """1 - product of (1 - v) ^ (1/rank) over the values of each host, ranked from the greatest.

    Args:
        values: float64 (m,), each in [0, 1).
        owner: int (m,), in 0..k-1, every host at least once.
        k: number of hosts.

    Returns:
        float64 (k,). Each host is summed alone, in order of rank: it has the same bits in any
        batch.
    """
    order = np.lexsort((-values, owner))
    sizes = np.bincount(owner, minlength=k)
    rank = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    log_survival = np.bincount(owner[order], np.log1p(-values[order]) / rank, minlength=k)
    return -np.expm1(log_survival)
