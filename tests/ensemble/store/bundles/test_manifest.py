"""Manifests: each value has one text, and no other text is accepted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.store.bundles.manifest import (
    PAYLOAD,
    FileEntry,
    Manifest,
    encode_manifest,
    installed_libraries,
    parse_manifest,
)
from ensemble.store.files import canonical_json
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.names import ModelName, Tenant

MANIFEST = Manifest(
    format=1,
    tenant=Tenant("acme"),
    model=ModelName("anomaly-flow"),
    serial=3,
    created_at="2026-11-20T08:15:00Z",
    files=tuple(FileEntry(name, 5, "ab" * 32) for name in PAYLOAD),
    libraries={"python": "3.11.9", "numpy": "2.4.6"},
    feature_schema="",
    training={
        "recipe": "toy",
        "data_sha256": "0" * 64,
        "seed": 7,
        "rows": 3,
        "note": {"deep": [1, 2.5, None]},
    },
)


def parse(data: bytes) -> Manifest:
    return parse_manifest(data, what="m/1/manifest.json")


def changed(**fields: object) -> bytes:
    """The canonical text of the manifest with some fields set, and those set to `...` left out."""
    value = asdict(MANIFEST) | fields
    return canonical_json.encode({name: field for name, field in value.items() if field is not ...})


def first_file(**fields: object) -> bytes:
    files = [asdict(entry) for entry in MANIFEST.files]
    return changed(files=[files[0] | fields, *files[1:]])


def one_more_file(name: str) -> bytes:
    files = [asdict(entry) for entry in MANIFEST.files]
    return changed(
        files=sorted([*files, files[0] | {"name": name}], key=lambda entry: str(entry["name"]))
    )


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    assert parse(encode_manifest(MANIFEST)) == MANIFEST


def test_the_names_in_it_are_checked_names() -> None:
    assert type(parse(encode_manifest(MANIFEST)).tenant) is Tenant


def test_its_text_is_sorted_without_spaces_and_ends_in_one_newline() -> None:
    text = encode_manifest(MANIFEST).decode("ascii")

    assert text.startswith(
        '{"created_at":"2026-11-20T08:15:00Z","feature_schema":"","files":[{"name":"CARD.md","sha256":'
    )
    assert text.endswith("}\n")
    assert text.count("\n") == 1


TEXT = encode_manifest(MANIFEST)
NOT_OURS = {
    "empty": b"",
    "cut": TEXT[:-2],
    "no newline": TEXT[:-1],
    "two newlines": TEXT + b"\n",
    "spaces": json.dumps(asdict(MANIFEST), sort_keys=True).encode() + b"\n",
    "other order": json.dumps(asdict(MANIFEST), separators=(",", ":")).encode() + b"\n",
    "repeated key": TEXT.replace(b'"serial":3', b'"serial":9,"serial":3'),
    "repeated key, same value": TEXT.replace(b'"serial":3', b'"serial":3,"serial":3'),
    "repeated key, deep": TEXT.replace(b'"seed":7', b'"seed":7,"seed":7'),
    "byte order mark": b"\xef\xbb\xbf" + TEXT,
    "utf-16": TEXT.decode().encode("utf-16"),
    "a byte that is no text": TEXT.replace(b"toy", b"t\xffy"),
    "NaN": TEXT.replace(b"2.5", b"NaN"),
    "infinity": TEXT.replace(b"2.5", b"-Infinity"),
    "overflow": TEXT.replace(b"2.5", b"1e400"),
    "thousands of digits": TEXT.replace(b"2.5", b"9" * 5000),
    "too deep": TEXT.replace(b"2.5", b"[" * 5000 + b"]" * 5000),
    "too long": changed(feature_schema="x" * (64 << 10)),
    "a list": canonical_json.encode([asdict(MANIFEST)]),
    "null": b"null\n",
    "extra field": changed(pickle="yes"),
    "missing field": changed(feature_schema=...),
    "format is text": changed(format="1"),
    "format is true": changed(format=True),
    "serial is a float": changed(serial=3.0),
    "serial is true": changed(serial=True),
    "serial is 0": changed(serial=0),
    "tenant climbs": changed(tenant="../root"),
    "tenant is a number": changed(tenant=7),
    "model in capitals": changed(model="ANOMALY"),
    "time without zone": changed(created_at="2026-11-20T08:15:00"),
    "time in another spelling": changed(created_at="2026-11-20T8:15:00Z"),
    "training is a list": changed(training=[]),
    "training without seed": changed(training={"recipe": "toy", "data_sha256": "", "rows": 3}),
    "training with seed true": changed(training=MANIFEST.training | {"seed": True}),
    "library is a number": changed(libraries={"numpy": 2}),
    "file with extra field": first_file(mode=493),
    "file of negative size": first_file(size_bytes=-1),
    "file of 1 TiB": first_file(size_bytes=1 << 40),
    "digest too short": first_file(sha256="ab"),
    "digest in capitals": first_file(sha256="AB" * 32),
    "digest with a newline": first_file(sha256="ab" * 32 + "\n"),
    "a file that climbs": one_more_file("../../CURRENT"),
    "an absolute file": one_more_file("/etc/passwd"),
    "a pickle": one_more_file("model.pkl"),
    "the manifest itself": one_more_file("manifest.json"),
    "a payload not named": changed(files=[asdict(entry) for entry in MANIFEST.files[1:]]),
    "a file named twice": changed(
        files=[asdict(MANIFEST.files[0])] * 2 + [asdict(entry) for entry in MANIFEST.files[1:]]
    ),
    "files out of order": changed(files=[asdict(entry) for entry in reversed(MANIFEST.files)]),
}


@pytest.mark.parametrize("data", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_a_manifest_that_the_encoder_would_not_write_is_refused(data: bytes) -> None:
    """F18: tampering that a lenient parser would not notice."""
    with pytest.raises(ArtifactCorrupt):
        parse(data)


def test_a_repeated_key_is_named_in_the_error() -> None:
    """Common parsers silently use the last of two."""
    with pytest.raises(ArtifactCorrupt, match="repeated key"):
        parse(NOT_OURS["repeated key"])


@pytest.mark.parametrize(
    "data",
    [changed(format=2), changed(format=2, signature="x", serial=...)],
    ids=["number", "number and fields"],
)
def test_another_format_is_incompatible_and_not_corrupt(data: bytes) -> None:
    """A manifest of a newer Axon is intact; this version is too old to read it."""
    with pytest.raises(ArtifactIncompatible) as refused:
        parse(data)

    assert (refused.value.expected, refused.value.found) == ("format 1", "format 2")


def test_a_picture_may_be_named() -> None:
    files = tuple(
        sorted((*MANIFEST.files, FileEntry("roc.png", 1, "cd" * 32)), key=lambda entry: entry.name)
    )

    assert parse(encode_manifest(replace(MANIFEST, files=files))).files == files


@pytest.mark.parametrize(
    "value",
    [{"a": float("nan")}, {"a": [float("inf")]}, {1: "a"}, {"a": {2: "b", 10: "c"}}],
    ids=["NaN", "infinity", "number as key", "deep number as key"],
)
def test_a_manifest_that_could_not_be_read_back_cannot_be_written(value: Any) -> None:
    with pytest.raises(ValueError, match=r"finite|text"):
        canonical_json.encode(value)


def test_the_libraries_are_named_without_importing_them() -> None:
    libraries = installed_libraries()

    assert set(libraries) == {"python", "numpy", "scikit-learn", "torch", "safetensors"}
    assert libraries["numpy"]


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        timestamp(datetime(2026, 11, 20))  # noqa: DTZ001
