"""Signatures: one line after the text, over kind and text; no file in a store extends the trust."""

from __future__ import annotations

import base64
import pickle
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ensemble.errors import ArtifactCorrupt, ArtifactUntrusted
from ensemble.store.signing import Document, Signer, Trust, key_id_of, signed_for

TEXT = b'{"a":1}\n'


def test_a_signed_file_is_its_text_and_one_line_more(signer: Signer, trust: Trust) -> None:
    data = signer.sign(TEXT, Document.RELEASE)

    text, line = data.splitlines(keepends=True)
    assert text == TEXT
    assert line.startswith(f"ed25519 {signer.key_id} ".encode())
    assert trust.prove(data, Document.RELEASE, what="it") == TEXT


def test_anyone_with_a_library_can_check_a_signature(signer: Signer) -> None:
    """RFC 8032, with only the kind of document before the text."""
    signature = base64.b64decode(signer.sign(TEXT, Document.POINTER).split()[-1])

    ed25519.Ed25519PublicKey.from_public_bytes(signer.public).verify(
        signature, b"axon pointer v1\n" + TEXT
    )


def test_a_key_is_named_by_the_digest_of_its_public_half(signer: Signer) -> None:
    assert signer.key_id == sha256(signer.public).hexdigest()[:16] == key_id_of(signer.public)


NO_SIGNATURES = {
    "nothing": (b"", ArtifactCorrupt),
    "no newline": (b"x", ArtifactCorrupt),
    "a text alone": (TEXT, ArtifactUntrusted),
    "an empty second line": (TEXT + b"\n", ArtifactUntrusted),
    "another word": (TEXT + b"none\n", ArtifactUntrusted),
    "another algorithm": (
        TEXT + b"none " + b"0" * 16 + b" " + b"A" * 86 + b"==\n",
        ArtifactUntrusted,
    ),
}


@pytest.mark.parametrize(("data", "refusal"), NO_SIGNATURES.values(), ids=NO_SIGNATURES.keys())
def test_an_unsigned_file_is_not_trusted(
    trust: Trust, data: bytes, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        trust.prove(data, Document.RELEASE, what="it")


def test_a_third_line_is_refused(signer: Signer, trust: Trust) -> None:
    for data in (
        signer.sign(TEXT, Document.RELEASE) + b"more\n",
        TEXT + signer.sign(TEXT, Document.RELEASE),
    ):
        with pytest.raises(ArtifactUntrusted):
            trust.prove(data, Document.RELEASE, what="it")


def test_an_empty_trust_trusts_nothing(signer: Signer) -> None:
    """No setting trusts everything, and the smallest trust trusts nothing."""
    with pytest.raises(ArtifactUntrusted, match=signer.key_id):
        Trust({}, frozenset()).prove(
            signer.sign(TEXT, Document.RELEASE), Document.RELEASE, what="it"
        )


def test_a_pinned_file_needs_no_signature_and_may_have_one(signer: Signer) -> None:
    """Shipped files are trusted by their digest, with or without a maintainer's signature."""
    for data in (TEXT, signer.sign(TEXT, Document.RELEASE)):
        pinning = Trust({}, frozenset({sha256(data).hexdigest()}))

        assert pinning.prove(data, Document.RELEASE, what="it") == TEXT
        with pytest.raises(ArtifactUntrusted):
            pinning.prove(data.replace(b"1", b"2", 1), Document.RELEASE, what="it")


def test_a_trust_list_with_a_wrong_key_id_is_refused(
    signer: Signer, untrusted_signer: Signer
) -> None:
    with pytest.raises(ValueError, match="another key's id"):
        Trust({signer.key_id: untrusted_signer.public}, frozenset())
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        Trust({signer.key_id: b""}, frozenset())
    with pytest.raises(ValueError, match="SHA-256"):
        Trust({}, frozenset({"*"}))


def test_nothing_is_signed_that_readers_would_refuse(
    signer: Signer, untrusted_signer: Signer, trust: Trust
) -> None:
    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        signed_for(trust, untrusted_signer, TEXT, Document.RELEASE, limit=1000, what="it")
    with pytest.raises(ArtifactCorrupt, match="allowed are 100"):
        signed_for(trust, signer, TEXT, Document.RELEASE, limit=100, what="it")
    with pytest.raises(ValueError, match="one line"):
        signer.sign(b"two\nlines\n", Document.RELEASE)


def test_a_private_key_comes_back_from_its_file_and_is_not_printed(signer: Signer) -> None:
    pem = signer.to_pem()

    again = Signer.from_pem(pem)
    assert again.key_id == signer.key_id
    assert again.sign(TEXT, Document.RELEASE) == signer.sign(TEXT, Document.RELEASE)
    assert repr(again) == "Signer()"
    assert Signer.new().key_id != Signer.new().key_id


def test_a_private_key_cannot_be_pickled(signer: Signer) -> None:
    """A replica never signs, so no object that Ray transfers can contain a key."""
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def pem_of(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    how: serialization.KeySerializationEncryption,
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


NO_KEYS = {
    "nothing": b"",
    "text": b"hello",
    "another kind of key": pem_of(
        ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    ),
    "under a password": pem_of(
        ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"x")
    ),
}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_a_bad_key_file_is_refused_without_repeating_its_content(data: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"^is (not an unencrypted private key in PEM|not an Ed25519 key)$"
    ):
        Signer.from_pem(data)
