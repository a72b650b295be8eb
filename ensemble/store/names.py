"""Names in the store: tenants, models, versions and releases; a name cannot lead to another path.

A name is lower-case ASCII, so two names that look alike are the same name. A tenant, a model and a
version have a directory each. Nothing is found by joining names with "_" or by a pattern, so
tenant `a` cannot read tenant `a_b`. Versions are rising whole numbers and are ordered as numbers,
never by text or time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from ensemble.errors import ArtifactUntrusted, MalformedEvent

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BundleRef", "ModelName", "ReleaseRef", "Tenant", "beneath", "parse_serial"]

# the first character excludes ".", ".." and hidden files
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# one spelling of each number, no sign or leading zero; below 2**53, so all JSON readers agree
_SERIAL = re.compile(r"[1-9][0-9]{0,14}")


class _Slug(str):
    """A name that is checked when it is made, so that other code need not check it again."""

    __slots__ = ()
    what: ClassVar[str] = "name"

    def __new__(cls, text: str) -> Self:
        """Check and make a name.

        Raises:
            MalformedEvent: it does not match `[a-z0-9][a-z0-9._-]{0,62}`; the error does not
                contain the text.
        """
        if not isinstance(text, str) or not cls.is_one(text):
            raise MalformedEvent(
                cls.what,
                "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
            )
        return super().__new__(cls, text)

    @classmethod
    def is_one(cls, text: str) -> bool:
        """Whether `text` is a valid name."""
        return _SLUG.fullmatch(text) is not None


class Tenant(_Slug):
    """Name of a tenant, the owner of models."""

    __slots__ = ()
    what = "tenant"


class ModelName(_Slug):
    """Name of a model, e.g. `anomaly-flow`: one layer's model for one kind of event."""

    __slots__ = ()
    what = "model"


@dataclass(frozen=True, slots=True)
class BundleRef:
    """Reference to a published bundle: its place, and the digest that proves it.

    Attributes:
        version: serial of the bundle within its tenant and model, from 1.
        manifest_sha256: digest of the manifest's bytes, 64 hexadecimal digits; the manifest
            contains the digests of the files.
    """

    tenant: Tenant
    model: ModelName
    version: int
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """Reference to a published release of a tenant, with the digest of its bytes."""

    serial: int
    sha256: str

    def __str__(self) -> str:
        return f"release {self.serial}"


def parse_serial(name: str) -> int | None:
    """Parse a serial; None if `name` is not one."""
    return int(name) if _SERIAL.fullmatch(name) else None


def beneath(root: Path, *parts: str) -> Path:
    """Return the path `parts` below `root`, which need not exist yet.

    Raises:
        ArtifactUntrusted: it is outside the root: a part is "..", absolute, or a symbolic link.
    """
    home = root.resolve()
    place = home.joinpath(*parts)
    if place.resolve() != place or not place.is_relative_to(home):
        raise ArtifactUntrusted("/".join(parts), "leads out of the store, or through a link")
    return place
