"""Trust: the list of trusted keys and digests in configs/trust.yaml, and the private signing key.

One mistake refuses the whole list, and the error lists every mistake. The private key is outside
the repository; a key file that other users can read is refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployments.config.settings import EMPTY_IF_NONE, Settings
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
TRUST_LIMIT_BYTES = 1 << 20  # about ten thousand pins
KEY_LIMIT_BYTES = 4 << 10  # an Ed25519 key is 119 bytes
PUBLIC_BYTES = 32


class SigningRefused(Exception):
    """There is no key to sign with, or the trust list cannot be changed.

    The message contains the next step for the operator.
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


class TrustFile(BaseModel):
    """Content of configs/trust.yaml.

    Attributes:
        keys: key id -> public key in base64; signatures by these keys are trusted.
        pinned: name for the reader -> SHA-256 of a file that is trusted without a signature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: Annotated[dict[KeyId, Public], EMPTY_IF_NONE]
    pinned: Annotated[dict[str, Sha256], EMPTY_IF_NONE]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, source: Any) -> Any:  # noqa: ANN401  # a path, the bytes in it, or parsed YAML
        try:
            data = _bounded(source, TRUST_LIMIT_BYTES) if isinstance(source, Path) else source
            return yaml.safe_load(data.decode()) if isinstance(data, bytes) else data
        except (OSError, _TooLong) as problem:
            raise ValueError(f"{source} cannot be read: {_message_of(problem)}") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            raise ValueError("the trust list is not YAML") from None

    @model_validator(mode="after")
    def _ids_are_of_their_keys(self) -> TrustFile:
        for key_id, public in self.keys.items():
            if key_id != key_id_of(base64.b64decode(public)):
                raise ValueError(f"key {key_id} has the id of another key")
        return self

    def trust(self) -> Trust:
        """The trust list for the store."""
        return Trust(
            {key_id: base64.b64decode(public) for key_id, public in self.keys.items()},
            frozenset(self.pinned.values()),
        )


class _Outer(BaseModel):
    """Adds `trust` to the place of every mistake, as in the settings."""

    trust: TrustFile


def read_trust_file(path: Path) -> TrustFile:
    """Read the trust list in `path` strictly.

    Raises:
        pydantic.ValidationError: the file is missing, unreadable, too long, not YAML, or has
            mistakes; one message lists all of them.
    """
    return _Outer.model_validate({"trust": path}).trust


def parse_trust_file(data: bytes) -> TrustFile:
    """Parse a trust list strictly.

    Raises:
        pydantic.ValidationError: not YAML, or with mistakes; one message lists all of them.
    """
    return _Outer.model_validate({"trust": data}).trust


def read_trust(settings: Settings) -> Trust:
    """Read the trust list of the settings.

    Raises:
        pydantic.ValidationError: as `read_trust_file`.
    """
    return read_trust_file(settings.trust).trust()


def key_path() -> Path:
    """Path of the private key: AXON_SIGNING_KEY, or ~/.config/axon/signing.key."""
    named = os.environ.get(KEY_VARIABLE)
    return Path(named) if named else Path.home() / ".config" / "axon" / "signing.key"


def read_signer(trust: Trust) -> Signer:
    """Read the signing key of this machine, which `trust` must list.

    Raises:
        SigningRefused: the key is missing, readable by other users, or not trusted here.
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
    """Read the private key in `path`, which must be readable by its owner only.

    Raises:
        FileNotFoundError: there is no such file.
        SigningRefused: other users may read it, or it is not a key.
    """
    try:
        return Signer.from_pem(_private(path))
    except FileNotFoundError:
        raise
    except (OSError, _TooLong) as problem:
        raise SigningRefused(
            f"the signing key {path} cannot be read: {_message_of(problem)}"
        ) from None
    except ValueError as problem:
        raise SigningRefused(f"the signing key {path} {problem}") from None


class _TooLong(Exception):
    """The file is longer than any valid one."""


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _TooLong(f"it is longer than {limit:,} bytes")
    return data


def _private(path: Path) -> bytes:
    """Read a key file that only its owner may read.

    Raises:
        SigningRefused: other users may read it.
        OSError, _TooLong: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise SigningRefused(f"the signing key {path} is not a file")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise SigningRefused(
                f"other users can read the signing key {path}: run `chmod 600 {path}`, and make a "
                "new key if they may have read it"
            )
        data = file.read(KEY_LIMIT_BYTES + 1)
    if len(data) > KEY_LIMIT_BYTES:
        raise _TooLong(f"it is longer than {KEY_LIMIT_BYTES:,} bytes")
    return data


def _message_of(problem: Exception) -> str:
    return (
        (problem.strerror or "the system gives no reason").lower()
        if isinstance(problem, OSError)
        else str(problem)
    )
