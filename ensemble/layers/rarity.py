"""Process rarity: is this a program that this user usually runs?

The table has three levels: the entity (the user if it is in the table, else the host), the group of
the entity, and everyone. An entity with few events is rated mostly against the wider levels; an
unknown one entirely, with a note. The group of a host is the letters at the beginning of its name
(`ws-17` -> `ws`, `WORKSTATION5.corp` -> `workstation`; for an IPv4 address its /24), because fleets
name machines by their purpose. The group of a user is that of the hosts with most of its events.

The raw rarity is a log likelihood ratio, divided by its scatter for this entity in training:

    ratio    = log( P(name | other) / P(name | entity) )
    P(other) = 0.995 P(everyone) + 0.005 / (V + 1)
    rarity   = min(ratio / scatter of the entity, 4.5)

A program that is common elsewhere and new to this user is therefore anomalous, a program without
any launch in training more so, and for a user with varying habits the ratio must be larger. For an
unknown entity only rare names are evidence: it has no habits yet.

Fit for: masqueraders, living-off-the-land tools, dropped binaries. Unfit for: a malicious act by a
program that this user runs daily.
Known limit: an account shared by many machines (SYSTEM) is one entity.
Source: likelihood ratio of self against others: Maxion, Townsend, "Masquerade detection using
truncated command lines", DSN 2002; the estimate of P: `ensemble.kernels.backoff_counts`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import ProcessBatch
from ensemble.features.process import image_names
from ensemble.kernels.backoff_counts import EVERYONE, BackedOffCounts

__all__ = ["CEILING", "Rarity", "RarityTable", "host_group"]

# Share of P(other) that is uniform over all names; chosen on process_masquerade.
UNKNOWN_NAME_SHARE = 0.005
# In scatters: above it, one event would dominate a block of events (chosen on process_masquerade).
CEILING = 4.5
LEAST_SCATTER = 0.5  # nats; an entity that ran only one program has no measurable scatter
PAIRS_AT_ONCE = 1 << 20  # (place, name) pairs in memory while scatters are computed

_LETTERS = re.compile(r"[a-z]+")
_IPV4 = re.compile(r"(\d{1,3}\.\d{1,3}\.\d{1,3})\.\d{1,3}")


def host_group(host: str) -> str:
    """Group of a host: the leading letters of its name, or the /24 of an IPv4 address; else ""."""
    folded = host.casefold()
    address = _IPV4.fullmatch(folded)
    if address:
        return address.group(1) + ".0/24"
    letters = _LETTERS.match(folded)
    return letters.group() if letters else ""


@dataclass(frozen=True, slots=True)
class Rarity:
    """Rarity of the events of a batch.

    Attributes:
        raw: float64 (n,), finite, at most `CEILING`; higher is rarer.
        places: int64 (n,), the place in the table against which each event was rated.
        notes: row -> note that the entity is unknown, and against what it was rated instead.
        knows_entity: bool (n,), whether the user or the host is in the table.
        knows_name: bool (n,), whether the program is.
    """

    raw: NDArray[np.float64]
    places: NDArray[np.int64]
    notes: Mapping[int, str]
    knows_entity: NDArray[np.bool_]
    knows_name: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RarityTable:
    """Launch counts by entity, group and everyone.

    Places are numbered in the order everyone, groups, hosts, users. Process names are in the form
    of `image_name`; hosts and users are case-folded.

    Attributes:
        names: the V process names of training, sorted.
        groups: host groups, sorted.
        hosts: sorted.
        users: sorted.
        counts: launches of each name in each place.
        scatter: float64 (k,), nats, standard deviation of the ratio over the programs that each
            place runs, at least `LEAST_SCATTER`.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    hosts: tuple[str, ...]
    users: tuple[str, ...]
    counts: BackedOffCounts
    scatter: NDArray[np.float64]
    _name_id: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _group_id: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _host_id: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _user_id: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = 1 + len(self.groups) + len(self.hosts) + len(self.users)
        if self.counts.n_names != len(self.names) or self.counts.wider.size != places:
            raise _wrong(
                f"counts of {len(self.names)} names in {places} places",
                f"{self.counts.n_names} in {self.counts.wider.size}",
            )
        if (
            self.scatter.shape != (places,)
            or not np.isfinite(self.scatter).all()
            or (self.scatter < LEAST_SCATTER).any()
        ):
            raise _wrong(
                f"a scatter of {LEAST_SCATTER} or more for each place",
                f"shape {self.scatter.shape} or other values",
            )
        first = 1 + len(self.groups)
        if self.counts.wider[:first].any() or (self.counts.wider >= first).any():
            raise _wrong("groups around entities, and everyone around groups", "another order")
        self.scatter.flags.writeable = False
        starts = (0, 1, first, first + len(self.hosts))
        for attribute, known, start in zip(
            _LOOKUPS, (self.names, self.groups, self.hosts, self.users), starts, strict=True
        ):
            lookup = {name: start + i for i, name in enumerate(known)}
            if len(lookup) != len(known):
                raise _wrong("every name once", "one twice")
            object.__setattr__(self, attribute, lookup)

    @classmethod
    def fit(cls, batch: ProcessBatch, background: Mapping[str, int] | None = None) -> Self:
        """Count the launches of `batch`.

        Args:
            batch: at least one event; all are assumed benign.
            background: name -> launches elsewhere, added to everyone only; None for none.
        """
        background = background or {}
        launched = image_names(batch.names)
        hosts, users = _folded(batch.hosts), _folded(batch.users)
        groups = [host_group(host) for host in hosts]
        names = tuple(sorted({*launched, *background}))
        known_groups, known_hosts, known_users = (
            tuple(sorted(set(column) - {""})) for column in (groups, hosts, users)
        )
        first_host = 1 + len(known_groups)
        group_id = {name: 1 + i for i, name in enumerate(known_groups)}
        host_id = {name: first_host + i for i, name in enumerate(known_hosts)}
        user_id = {name: first_host + len(known_hosts) + i for i, name in enumerate(known_users)}
        wider = np.zeros(first_host + len(known_hosts) + len(known_users), np.int64)
        for host, place in host_id.items():
            wider[place] = group_id.get(host_group(host), EVERYONE)
        for user, group in _usual_groups(users, groups).items():
            wider[user_id[user]] = group_id.get(group, EVERYONE)
        name_id = {name: i for i, name in enumerate(names)}
        name = _ids(launched, name_id, 0)
        everyone = np.zeros(len(batch), np.int64)
        columns = [
            everyone,
            _ids(groups, group_id, EVERYONE),
            _ids(hosts, host_id, EVERYONE),
            _ids(users, user_id, EVERYONE),
        ]
        is_there = np.concatenate(
            [everyone == EVERYONE, *(column != EVERYONE for column in columns[1:])]
        )
        elsewhere = np.repeat(
            _ids(list(background), name_id, 0), np.array(list(background.values()), np.int64)
        )
        counts = BackedOffCounts.of(
            wider,
            np.concatenate([np.concatenate(columns)[is_there], np.zeros_like(elsewhere)]),
            np.concatenate([np.tile(name, len(columns))[is_there], elsewhere]),
            len(names),
        )
        return cls(names, known_groups, known_hosts, known_users, counts, _scatter(counts))

    @classmethod
    def of_everyone(cls, launches: Mapping[str, int]) -> Self:
        """Make a table without users, hosts and groups.

        Args:
            launches: name -> launches, each at least 1; several spellings of one program are added
                up.
        """
        together: Counter[str] = Counter()
        for name, program in zip(launches, image_names(launches), strict=True):
            together[program] += launches[name]
        names = tuple(sorted(together))
        times = np.array([together[name] for name in names], np.int64)
        counts = BackedOffCounts(np.zeros(1, np.int64), np.arange(len(names)), times, len(names))
        return cls(names, (), (), (), counts, _scatter(counts))

    def rate(self, batch: ProcessBatch) -> Rarity:
        """Rate each event, with a note for each that was rated against a wider level."""
        hosts, users = _folded(batch.hosts), _folded(batch.users)
        user = _ids(users, self._user_id, EVERYONE)
        host = _ids(hosts, self._host_id, EVERYONE)
        places = np.where(user != EVERYONE, user, host)
        knows_entity = places != EVERYONE
        is_unknown = np.flatnonzero(~knows_entity)
        places[is_unknown] = _ids(
            [host_group(hosts[row]) for row in is_unknown], self._group_id, EVERYONE
        )
        notes = {
            row: _note(
                is_user=bool(users[row]),
                has_host=bool(hosts[row]),
                is_host_known=host[row] != EVERYONE,
                place=int(places[row]),
            )
            for row in np.flatnonzero(user == EVERYONE).tolist()
            if users[row] or host[row] == EVERYONE
        }
        names = _ids(image_names(batch.names), self._name_id, len(self.names))
        raw = np.minimum(_ratio(self.counts, places, names) / self.scatter[places], CEILING)
        return Rarity(raw, places, notes, knows_entity, names < len(self.names))

    def launches(self) -> dict[str, int]:
        """Launches of each name by everyone: the background of the next table."""
        return dict(
            zip(
                self.names,
                self.counts.count(*_everyone_ran(self.names)).astype(int).tolist(),
                strict=True,
            )
        )

    def to_parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values for a bundle; `from_parts` builds an equal table."""
        config = {
            "names": list(self.names),
            "groups": list(self.groups),
            "hosts": list(self.hosts),
            "users": list(self.users),
        }
        return {**self.counts.to_arrays(), "scatter": self.scatter}, config

    @classmethod
    def from_parts(cls, arrays: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> Self:
        """Build the table from a bundle.

        Raises:
            ArtifactIncompatible: a list or array is missing, of another shape, or has an impossible
                value.
        """
        lists = []
        for key in ("names", "groups", "hosts", "users"):
            some = config.get(key)
            if not isinstance(some, list) or not all(isinstance(name, str) for name in some):
                raise _wrong(f"a list of strings {key}", type(some).__name__)
            lists.append(tuple(some))
        scatter = arrays.get("scatter")
        if scatter is None or scatter.dtype != np.float64:
            raise _wrong("float64 scatters", "none" if scatter is None else str(scatter.dtype))
        return cls(
            lists[0],
            lists[1],
            lists[2],
            lists[3],
            BackedOffCounts.from_arrays(arrays, len(lists[0])),
            scatter,
        )


_LOOKUPS = ("_name_id", "_group_id", "_host_id", "_user_id")


def _ratio(
    counts: BackedOffCounts, places: NDArray[np.int64], names: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log likelihood ratio of another entity against the place itself, nats, float64 (n,)."""
    everyone = counts.probability(np.zeros_like(places), names)
    other = (1.0 - UNKNOWN_NAME_SHARE) * everyone + UNKNOWN_NAME_SHARE / (counts.n_names + 1)
    ratio: NDArray[np.float64] = np.log(other / counts.probability(places, names))
    return ratio


def _scatter(counts: BackedOffCounts) -> NDArray[np.float64]:
    """Standard deviation of the ratio in each place, float64 (k,), at least `LEAST_SCATTER`."""
    all_names = np.arange(counts.n_names + 1)
    step = max(1, PAIRS_AT_ONCE // all_names.size)
    variances: list[NDArray[np.float64]] = []
    for first in range(0, counts.wider.size, step):
        places = np.arange(first, min(first + step, counts.wider.size))
        place, name = np.repeat(places, all_names.size), np.tile(all_names, places.size)
        chance = counts.probability(place, name).reshape(places.size, -1)
        ratio = _ratio(counts, place, name).reshape(places.size, -1)
        mean = (chance * ratio).sum(axis=1, keepdims=True)
        variances.append((chance * (ratio - mean) ** 2).sum(axis=1))
    scatter: NDArray[np.float64] = np.sqrt(np.concatenate(variances))
    return np.maximum(scatter, LEAST_SCATTER)


def _usual_groups(users: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """User -> the group of hosts with most of its events; the alphabetical first on a tie."""
    most: dict[str, tuple[int, str]] = {}
    for (user, group), times in sorted(Counter(zip(users, groups, strict=True)).items()):
        if user and times > most.get(user, (0, ""))[0]:
            most[user] = (times, group)
    return {user: group for user, (_, group) in most.items()}


def _note(*, is_user: bool, has_host: bool, is_host_known: bool, place: int) -> str:
    """Note on an event whose user is not in the table."""
    if is_host_known:
        return "user_unknown: rated against its host"
    reason = "host_unknown" if has_host else "user_unknown" if is_user else "entity_missing"
    return f"{reason}: rated against {'everyone' if place == EVERYONE else 'its group'}"


def _folded(column: Sequence[str]) -> list[str]:
    return [text.casefold() for text in column]


def _ids(column: Sequence[str], lookup: Mapping[str, int], unknown: int) -> NDArray[np.int64]:
    return np.array([lookup.get(text, unknown) for text in column], np.int64)


def _everyone_ran(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.zeros(len(names), np.int64), np.arange(len(names))


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("rarity", expected, found)
