"""What things in the store are called, and why a name can never become another place.

A name is lower-case ASCII, so two names that look alike are the same name. A tenant, a model and a
version are a directory each: nothing is ever found by joining names with "_" or by a pattern, so
tenant `a` cannot see tenant `a_b`. Versions are whole numbers that rise; the order of two versions
is the order of their numbers, never of text or of time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ensemble.errors import ArtifactUntrusted, MalformedEvent

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BundleRef", "ModelName", "ReleaseRef", "Tenant", "beneath", "parse_serial"]

_SLUG = re.compile(
    r"[a-z0-9][a-z0-9._-]{0,62}"
)  # the first character keeps out ".", ".." and every hidden file
_SERIAL = re.compile(
    r"[1-9][0-9]{0,14}"
)  # one spelling a number: no sign, no leading zero; below 2**53, so JSON readers agree


class _Slug(str):
    """A name that was checked when it was made, so that code which holds one need not ask again."""

    __slots__ = ()
    what: ClassVar[str] = "name"

    def __new__(cls, text: str) -> Self:
        """The name `text`.

        Raises:
            MalformedEvent: not `[a-z0-9][a-z0-9._-]{0,62}`; the text itself is not repeated.
        """
        if not isinstance(text, str) or not cls.is_one(text):
            raise MalformedEvent(
                cls.what,
                "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
            )
        return super().__new__(cls, text)

    @classmethod
    def is_one(cls, text: str) -> bool:
        """Whether `text` may be such a name."""
        return _SLUG.fullmatch(text) is not None


class Tenant(_Slug):
    """Name of a tenant, the owner of models."""

    __slots__ = ()
    what = "tenant"


class ModelName(_Slug):
    """One layer's model for one kind of event, e.g. `anomaly-flow`."""

    __slots__ = ()
    what = "model"


@dataclass(frozen=True, slots=True)
class BundleRef:
    """One published bundle: where to find it, and the digest that proves it.

    Attributes:
        version: the serial of the bundle among all of its tenant and model, from 1.
        manifest_sha256: digest of the manifest's bytes, 64 hexadecimal digits; the manifest
            holds the digests of the files.
    """

    tenant: Tenant
    model: ModelName
    version: int
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """One published release of a tenant, and the digest of its bytes."""

    serial: int
    sha256: str

    def __str__(self) -> str:
        return f"release {self.serial}"


def parse_serial(name: str) -> int | None:
    """The number that `name` spells, or None where it is no serial."""
    return int(name) if _SERIAL.fullmatch(name) else None


def beneath(root: Path, *parts: str) -> Path:
    """The place `parts` below `root`, of which some or all may not exist yet.

    Raises:
        ArtifactUntrusted: the place is elsewhere: a part climbs, is absolute, or is a symbolic
            link.
    """
    home = root.resolve()
    place = home.joinpath(*parts)
    if place.resolve() != place or not place.is_relative_to(home):
        raise ArtifactUntrusted("/".join(parts), "leads out of the store, or through a link")
    return place
