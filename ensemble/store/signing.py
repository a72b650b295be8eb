"""Trust: Ed25519 signatures of manifests, releases and pointers, and pinned digests.

A signed document is two lines: its canonical JSON and the signature. The signature is not in a
separate `.sig` file, so that a pointer is replaced in one step; two files would not match for a
moment. Digests of a manifest in a release, or of a release in a pointer, are over the whole file.

The signature also covers the kind of document, so a release cannot be passed off as a pointer.
Trust comes from outside the store and cannot be switched off; an empty `Trust` trusts nothing.

Source: RFC 8032 (Ed25519), by the library `cryptography`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ensemble.errors import ArtifactCorrupt, ArtifactUntrusted

__all__ = ["NO_TRUST", "Document", "Signer", "Trust", "key_id_of", "signed_by", "signed_for"]

PUBLIC_BYTES = 32
_LINE = re.compile(rb"ed25519 (?P<key>[0-9a-f]{16}) (?P<signature>[A-Za-z0-9+/]{86}==)\n")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Document(StrEnum):
    """Kind of document; the signature covers it."""

    MANIFEST = "manifest"
    RELEASE = "release"
    POINTER = "pointer"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing key.

    The private key stays inside: it is not printed, compared or written by the store.
    """

    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def new(cls) -> Self:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Read the key in an unencrypted PKCS #8 PEM file.

        Raises:
            ValueError: it is not such a file or not an Ed25519 key; the message has no content of
                the file.
        """
        try:
            private = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
            raise ValueError("is not an unencrypted private key in PEM") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("is not an Ed25519 key")  # noqa: TRY004  # the file is wrong, not a type
        return cls(private)

    def to_pem(self) -> bytes:
        """Encode as unencrypted PKCS #8 PEM, for a file that only its owner can read."""
        plain = serialization.NoEncryption()
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
        )

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """Id of this key in signatures and in the trust list."""
        return key_id_of(self.public)

    def sign(self, text: bytes, document: Document) -> bytes:
        """Return the whole file: `text`, which is one line, and its signature."""
        if text.count(b"\n") != 1 or not text.endswith(b"\n"):
            raise ValueError("only a text of one line can be signed")
        signature = self._private.sign(_signed(text, document))
        return (
            text + b"ed25519 " + self.key_id.encode() + b" " + base64.b64encode(signature) + b"\n"
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """The trusted keys and digests.

    Attributes:
        keys: key id -> public key, 32 bytes; a document signed by one of them is trusted.
        pinned: SHA-256 of files that are trusted with or without a signature: those shipped with
            Axon.
    """

    keys: Mapping[str, bytes]
    pinned: frozenset[str]

    def __post_init__(self) -> None:
        for key_id, public in self.keys.items():
            if len(public) != PUBLIC_BYTES or key_id != key_id_of(public):
                raise ValueError("a public key is not an Ed25519 key, or has another key's id")
        if not all(_SHA256.fullmatch(digest) for digest in self.pinned):
            raise ValueError("a pinned digest is not a SHA-256 in hexadecimal")

    def prove(self, data: bytes, document: Document, *, what: str) -> bytes:
        """Check the signature or pin of `data` and return its text. Parse nothing before.

        Args:
            data: the whole file; the reader has limited its length.
            document: kind of document that the signature must cover.
            what: name of the file in errors.

        Raises:
            ArtifactCorrupt: it is empty, or its last line is cut short.
            ArtifactUntrusted: it has no signature and no pin, its key is not trusted, or its
                signature is invalid.
        """
        if not data.endswith(b"\n"):
            raise ArtifactCorrupt(what, "is cut short")
        text, newline, line = data.partition(b"\n")
        text += newline
        if hashlib.sha256(data).hexdigest() in self.pinned:
            return text if _LINE.fullmatch(line) else data
        if not line:
            raise ArtifactUntrusted(what, "is not signed, and its digest is not pinned")
        signed = _LINE.fullmatch(line)
        if signed is None:
            raise ArtifactUntrusted(what, "its last line is not a signature")
        key_id = signed["key"].decode()
        public = self.keys.get(key_id)
        if public is None:
            raise ArtifactUntrusted(what, f"is signed by key {key_id}, which is not trusted here")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(
                _decoded(signed["signature"]), _signed(text, document)
            )
        except InvalidSignature:
            raise ArtifactUntrusted(
                what,
                "its signature is invalid: it was changed, or signed as another kind of document",
            ) from None
        return text


NO_TRUST = Trust({}, frozenset())
"""Trust in nothing, for a store of which only the audit log or the names of files are used."""


def signed_for(
    trust: Trust, signer: Signer, text: bytes, document: Document, *, limit: int, what: str
) -> bytes:
    """Sign `text`, after checking that readers with `trust` will accept it.

    Raises:
        ArtifactUntrusted: the key is not on the trust list, so no reader would load the file.
        ArtifactCorrupt: it is longer than `limit`.
    """
    data = signer.sign(text, document)
    if len(data) > limit:
        raise ArtifactCorrupt(what, f"is {len(data):,} bytes, allowed are {limit:,}")
    trust.prove(data, document, what=what)
    return data


def signed_by(data: bytes) -> str:
    """Return the key id in a document's signature, "" if it has none; it is not verified."""
    line = _LINE.fullmatch(data.partition(b"\n")[2])
    return line["key"].decode() if line else ""


def key_id_of(public: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def _signed(text: bytes, document: Document) -> bytes:
    """Return the bytes that the signature covers: the kind of document, then its text."""
    return f"axon {document} v1\n".encode() + text


def _decoded(signature: bytes) -> bytes:
    """Decode a signature from base64; another spelling of the same bytes is refused."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except binascii.Error:
        raise InvalidSignature from None
    if base64.b64encode(raw) != signature:
        raise InvalidSignature
    return raw
