"""Trust: whose models are loaded, and the key that signs: configs/trust.yaml and a private file.

A list that is wrong is refused whole, with every mistake named. The private key never comes near
the repository; a file that others can read is no key.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deployments.config.settings import Settings
from ensemble.store import Signer, Trust, key_id_of

__all__ = [
    "KEY_VARIABLE",
    "SigningRefused",
    "TrustFile",
    "key_path",
    "parse_trust_file",
    "read_key",
    "read_signer",
    "read_trust",
    "read_trust_file",
]

KEY_VARIABLE = "AXON_SIGNING_KEY"
TRUST_LIMIT_BYTES = 1 << 20  # some ten thousand pins
KEY_LIMIT_BYTES = 4 << 10  # an Ed25519 key is 119 bytes
PUBLIC_BYTES = 32


class SigningRefused(Exception):
    """There is no key to sign with, or the trust list cannot be changed.

    The sentence says what to do.
    """


def _public(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != PUBLIC_BYTES:
        raise ValueError("a public key is 32 bytes in base64")
    return text


KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Public = Annotated[str, AfterValidator(_public)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _nothing_is_empty(value: Any) -> Any:  # noqa: ANN401  # whatever YAML has there
    """`keys:` with nothing below it is an empty mapping to people, and None to YAML."""
    return {} if value is None else value


class TrustFile(BaseModel):
    """Content of configs/trust.yaml.

    Attributes:
        keys: key id -> public key in base64: who may sign.
        pinned: what -> SHA-256 of a file that is trusted as it is; the name is for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: Annotated[dict[KeyId, Public], BeforeValidator(_nothing_is_empty)]
    pinned: Annotated[dict[str, Sha256], BeforeValidator(_nothing_is_empty)]

    @model_validator(mode="before")
    @classmethod
    # a path, the bytes in it, or what YAML makes of them
    def _read(cls, source: Any) -> Any:  # noqa: ANN401
        try:
            data = _bounded(source, TRUST_LIMIT_BYTES) if isinstance(source, Path) else source
            return yaml.safe_load(data.decode()) if isinstance(data, bytes) else data
        except (OSError, _TooLong) as problem:
            raise ValueError(f"{source} cannot be read: {_spoken(problem)}") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            raise ValueError("the trust list is no YAML") from None

    @model_validator(mode="after")
    def _ids_are_of_their_keys(self) -> TrustFile:
        for key_id, public in self.keys.items():
            if key_id != key_id_of(base64.b64decode(public)):
                raise ValueError(f"key {key_id} has the id of another key")
        return self

    def trust(self) -> Trust:
        """The same, for the store."""
        return Trust(
            {key_id: base64.b64decode(public) for key_id, public in self.keys.items()},
            frozenset(self.pinned.values()),
        )


class _Outer(BaseModel):
    """So that every mistake is told with its place, as one of the settings'."""

    trust: TrustFile


def read_trust_file(path: Path) -> TrustFile:
    """The trust list in `path`, strictly.

    Raises:
        pydantic.ValidationError: not there, not readable, too long, no YAML, or wrong; all
            mistakes in one message.
    """
    return _Outer.model_validate({"trust": path}).trust


def parse_trust_file(data: bytes) -> TrustFile:
    """The trust list that `data` spells.

    Raises:
        pydantic.ValidationError: no YAML, or wrong; all mistakes in one message.
    """
    return _Outer.model_validate({"trust": data}).trust


def read_trust(settings: Settings) -> Trust:
    """Whom the settings say to believe.

    Raises:
        pydantic.ValidationError: as `read_trust_file`.
    """
    return read_trust_file(settings.trust).trust()


def key_path() -> Path:
    """Where the private key is.

    The file that AXON_SIGNING_KEY names, or ~/.config/axon/signing.key.
    """
    named = os.environ.get(KEY_VARIABLE)
    return Path(named) if named else Path.home() / ".config" / "axon" / "signing.key"


def read_signer(trust: Trust) -> Signer:
    """Read the signing key of this machine; `trust` must list it.

    Raises:
        SigningRefused: there is none, others can read it, or it is not trusted here.
    """
    path = key_path()
    try:
        signer = read_key(path)
    except FileNotFoundError:
        raise SigningRefused(
            f"there is no key to sign with at {path}: `axon trust init` makes one"
        ) from None
    if signer.key_id not in trust.keys:
        raise SigningRefused(
            f"key {signer.key_id} in {path} is not on the trust list: `axon trust init` puts "
            "it there"
        )
    return signer


def read_key(path: Path) -> Signer:
    """The private key in `path`, which only its owner may read.

    Raises:
        FileNotFoundError: it is not there.
        SigningRefused: others may read it, or it is no key.
    """
    try:
        return Signer.from_pem(_private(path))
    except FileNotFoundError:
        raise
    except (OSError, _TooLong) as problem:
        raise SigningRefused(f"the signing key {path} cannot be read: {_spoken(problem)}") from None
    except ValueError as problem:
        raise SigningRefused(f"the signing key {path} {problem}") from None


class _TooLong(Exception):
    """A file that no honest one of its kind is as long as."""


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _TooLong(f"it is longer than {limit:,} bytes")
    return data


def _private(path: Path) -> bytes:
    """The bytes of a key file, which only its owner may read.

    Raises:
        SigningRefused: others may.
        OSError, _TooLong: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise SigningRefused(f"the signing key {path} is not a file")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise SigningRefused(
                f"the signing key {path} can be read by others: `chmod 600 {path}`, and if "
                "it was so for long, make a new one"
            )
        data = file.read(KEY_LIMIT_BYTES + 1)
    if len(data) > KEY_LIMIT_BYTES:
        raise _TooLong(f"it is longer than {KEY_LIMIT_BYTES:,} bytes")
    return data


def _spoken(problem: Exception) -> str:
    return (
        (problem.strerror or "the system does not say why").lower()
        if isinstance(problem, OSError)
        else str(problem)
    )
