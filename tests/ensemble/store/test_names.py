"""Names: which are valid, and that no name leads out of the store."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import ArtifactUntrusted, MalformedEvent
from ensemble.store.layout import bundle_parts
from ensemble.store.names import ModelName, Tenant, beneath, parse_serial

ROOT = Path("/nonexistent-axon-store")
SLUG_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
slugs = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/etc",
    "a/b",
    "a\\b",
    "a\0",
    "A",
    "\uff41",
    "\u00e9",
    "e\u0301",
    "a\n",
    " a",
    "-a",
    "_a",
    ".a",
    "*",
    "a" * 64,
    "a%2f",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused(text: str) -> None:
    """F15, F24: names with "..", hidden, look-alike and too long names."""
    for kind in (Tenant, ModelName):
        with pytest.raises(MalformedEvent):
            kind(text)


@given(st.text(max_size=80))
def test_every_accepted_name_is_one_directory_below_the_root(text: str) -> None:
    """P10: the parser is the only check, so every name that passes must be harmless."""
    try:
        name = Tenant(text)
    except MalformedEvent:
        return

    assert name.isascii()
    assert name == name.lower()
    assert beneath(ROOT, name) == ROOT / name


@given(slugs, slugs, slugs, slugs)
def test_two_tenants_never_share_a_directory(
    tenant: str, model: str, other_tenant: str, other_model: str
) -> None:
    """C-22: the source joined names with "_": threat + acme_eu was the file of threat_acme + eu."""
    one = bundle_parts(Tenant(tenant), ModelName(model))
    other = bundle_parts(Tenant(other_tenant), ModelName(other_model))

    assert (one == other) == ((tenant, model) == (other_tenant, other_model))


def test_the_refusal_does_not_repeat_the_name() -> None:
    with pytest.raises(MalformedEvent) as refused:
        Tenant("<script>")

    assert "script" not in str(refused.value)
    assert refused.value.field == "tenant"


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedEvent):
        Tenant(7)  # type: ignore[arg-type]


def test_a_name_can_be_pickled() -> None:
    name = pickle.loads(pickle.dumps(Tenant("acme")))  # noqa: S301

    assert type(name) is Tenant
    assert name == "acme"


@pytest.mark.parametrize(
    "parts", [("..", "x"), ("/etc",), ("a", "..", "..", "x"), ("a", "..")], ids="/".join
)
def test_a_path_out_of_the_root_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactUntrusted):
        beneath(ROOT, *parts)


def test_a_link_inside_the_store_is_refused(tmp_path: Path) -> None:
    """F15: a link could make a tenant's directory another path."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inside")

    with pytest.raises(ArtifactUntrusted):
        beneath(tmp_path, "link", "x")


@pytest.mark.parametrize(
    "text",
    ["0", "01", "-1", "+1", "1.9", "1e3", "", " 1", "1\n", "\u0661", "1_0", "9" * 16],
    ids=ascii,
)
def test_a_serial_has_one_spelling(text: str) -> None:
    """F24: versions "1.10" and "1.9" do not exist."""
    assert parse_serial(text) is None


@given(st.integers(min_value=1, max_value=10**15 - 1))
def test_every_serial_is_read_back(serial: int) -> None:
    assert parse_serial(str(serial)) == serial
