"""Trust: the trust list, which is read strictly, the signing key, and `axon trust`."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.app import build
from deployments.cli import console, publish_target
from deployments.cli.local_store import own_store
from deployments.config.settings import ROOT, read_settings
from deployments.config.trust import (
    SigningRefused,
    parse_trust_file,
    read_signer,
    read_trust,
    read_trust_file,
)
from deployments.config.trusted_store import TrustedStore
from ensemble.errors import ArtifactUntrusted
from ensemble.store.names import Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.signing import Signer, Trust

Axon = Callable[..., Result]
DEFAULT = Tenant("default")


@pytest.fixture
def axon(monkeypatch: pytest.MonkeyPatch) -> Axon:
    """`axon("trust", "init")` runs the command on a wide terminal."""
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The path in AXON_SIGNING_KEY; there is no key yet."""
    return tmp_path / "home" / "signing.key"


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


# -- the file


def test_the_shipped_list_pins_the_shipped_models() -> None:
    """DESIGN, decision 11: every shipped pointer, release and manifest, and nothing else."""
    shipped = read_trust_file(ROOT / "configs" / "trust.yaml")
    files = {
        path.relative_to(ROOT / "artifacts").as_posix()
        for path in (ROOT / "artifacts").rglob("*")
        if path.suffix in {"", ".json"}
    }
    documents = {
        file for file in files if re.search(r"/(CURRENT|manifest\.json|releases/\d+\.json)$", file)
    }

    assert set(shipped.pinned) == documents
    assert read_pointer(own_store(), DEFAULT).release


WRONG = {
    "no mapping": "[]",
    "nothing": "",
    "not YAML": "keys: [",
    "bytes": b"\xff\xfe\x00",
    "an unknown word": "keys: {}\npinned: {}\ntrust_all: true\n",
    "a key without its id": "keys: {abc: AAAA}\npinned: {}\n",
    "a key that is too short": 'keys: {"0123456789abcdef": "AAAA"}\npinned: {}\n',
    "a key that is no base64": 'keys: {"0123456789abcdef": "%%%"}\npinned: {}\n',
    "the id of another key": f'keys: {{"0123456789abcdef": "{"A" * 43}="}}\npinned: {{}}\n',
    "a pin that is a number": "keys: {}\npinned: {CURRENT: 5}\n",
    "a pin that is too short": "keys: {}\npinned: {CURRENT: abc}\n",
    "a pin in upper case": f"keys: {{}}\npinned: {{CURRENT: {'AB' * 32}}}\n",
    "no pins": "keys: {}\n",
    "an object": "keys: !!python/object/apply:os.getcwd []\npinned: {}\n",
    "too long": "#" * (1 << 20) + "\nkeys: {}\npinned: {}\n",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_trust_list_with_a_mistake_is_refused(own_trust: Path, text: str | bytes) -> None:
    """P36: a list read in part could trust a key that the operator did not mean."""
    own_trust.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ValidationError):
        read_trust_file(own_trust)


def test_one_message_lists_all_mistakes_of_a_trust_list(axon: Axon, own_trust: Path) -> None:
    """P36, at the terminal, as for the settings."""
    own_trust.write_text('keys: {abc: AAAA}\npinned: {CURRENT: "7"}\nmore: 1\n')

    output = refused(axon("models"))

    assert all(
        place in output for place in ("trust.keys.abc", "trust.pinned.CURRENT", "trust.more")
    )


@pytest.mark.parametrize(
    "break_it", [Path.unlink, lambda path: path.write_text("keys: [")], ids=["gone", "not YAML"]
)
def test_no_service_is_built_with_a_wrong_trust_list(
    own_trust: Path, break_it: Callable[[Path], object]
) -> None:
    break_it(own_trust)

    with pytest.raises(ValidationError, match="trust"):
        build({})


def test_a_replica_starts_with_a_broken_trust_list_and_trusts_nothing(
    own_trust: Path,
) -> None:
    """P1: a constructor cannot fail; without a list every file is refused."""
    own_trust.unlink()

    store = TrustedStore(read_settings())()

    assert store.trust == Trust({}, frozenset())
    with pytest.raises(ArtifactUntrusted):
        read_pointer(store, DEFAULT)


def test_a_list_that_changes_is_read_again_and_a_broken_one_changes_nothing(
    own_trust: Path,
) -> None:
    """P7: an added key takes effect without a restart.

    P5: a list that breaks during operation changes nothing.
    """
    before = own_trust.read_text()
    own_trust.write_text("keys: {}\npinned: {}\n")
    store_now = TrustedStore(read_settings())
    assert not store_now().trust.pinned

    own_trust.write_text(before)
    mended = store_now().trust
    own_trust.write_text("no: list")

    assert mended.pinned
    assert store_now().trust == mended


def test_axon_trust_names_another_list(own_trust: Path) -> None:
    assert read_settings().trust == own_trust
    assert read_settings({"store": {"trust": "elsewhere.yaml"}}).trust == own_trust


# -- init


def test_init_makes_a_key_that_only_its_owner_can_read_and_trusts_it(
    axon: Axon, key: Path, own_trust: Path
) -> None:
    before = own_trust.read_text()

    result = axon("trust", "init")

    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    signer = Signer.from_pem(key.read_bytes())
    assert list(read_trust(read_settings()).keys) == [signer.key_id]
    assert signer.key_id in result.stdout
    assert read_signer(read_trust(read_settings())).key_id == signer.key_id
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert [line for line in own_trust.read_text().splitlines() if line.startswith("#")] == comments
    assert read_trust_file(own_trust).pinned == yaml.safe_load(before)["pinned"]


def test_init_does_not_change_an_existing_key(axon: Axon, key: Path, own_trust: Path) -> None:
    """At a second run, or in a fresh checkout: a key is never overwritten."""
    shipped = own_trust.read_text()
    axon("trust", "init")
    pem, trusted = key.read_bytes(), own_trust.read_text()

    assert "trusted already" in axon("trust", "init").stdout
    assert (key.read_bytes(), own_trust.read_text()) == (pem, trusted)
    own_trust.write_text(shipped)
    assert axon("trust", "init").exit_code == 0
    assert key.read_bytes() == pem
    assert len(read_trust_file(own_trust).keys) == 1


def test_two_keys_may_be_trusted_at_once(axon: Axon, tmp_path: Path, own_trust: Path) -> None:
    """Rotation: the new key is trusted before the old one is removed."""
    axon("trust", "init")

    result = axon("trust", "init", "--key", tmp_path / "next.key")

    assert result.exit_code == 0, result.output
    assert f"AXON_SIGNING_KEY={tmp_path / 'next.key'}" in result.stdout
    assert len(read_trust_file(own_trust).keys) == 2


def test_a_private_key_is_not_made_in_the_repository(axon: Axon, own_trust: Path) -> None:
    before = own_trust.read_text()

    assert "inside the repository" in refused(
        axon("trust", "init", "--key", ROOT / "configs" / "signing.key")
    )
    assert not (ROOT / "configs" / "signing.key").exists()
    assert own_trust.read_text() == before


LAYOUTS = [
    "pinned: {}\nkeys: {}\n",
    "keys:\npinned:\n",
    "keys: # keys\n  # none yet\npinned: {}\n",
    "# list\nkeys: {}   # signers\n\npinned:\n  CURRENT: '" + "0" * 64 + "'\n",
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_init_adds_to_a_list_of_any_layout(axon: Axon, own_trust: Path, text: str) -> None:
    own_trust.write_text(text)

    assert axon("trust", "init").exit_code == 0

    after = read_trust_file(own_trust)
    assert len(after.keys) == 1
    assert after.pinned == parse_trust_file(text.encode()).pinned
    assert [
        comment for comment in re.findall(r"#.*", text) if comment not in own_trust.read_text()
    ] == []


def test_a_list_that_cannot_be_changed_line_by_line_stays_as_it_is(
    axon: Axon, own_trust: Path
) -> None:
    text = "{keys: {}, pinned: {}}\n"
    own_trust.write_text(text)

    assert "a line of their own" in refused(axon("trust", "init"))
    assert own_trust.read_text() == text
    assert [path.name for path in own_trust.parent.glob(".trust*")] == []


# -- the key


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_other_users_can_read_is_refused(axon: Axon, key: Path, mode: int) -> None:
    axon("trust", "init")
    key.chmod(mode)

    output = refused(axon("models", "promote", "2"))

    assert "other users can read" in output
    assert "chmod 600" in output


NO_KEYS = {"nothing": b"", "text": b"hello\n", "long": b"x" * 10_000}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_a_file_that_is_not_a_key_is_refused_with_the_reason(key: Path, data: bytes) -> None:
    key.parent.mkdir()
    key.touch(0o600)
    key.write_bytes(data)

    with pytest.raises(SigningRefused, match=r"signing\.key (is no|cannot be read: it is longer)"):
        read_signer(Trust({}, frozenset()))


def test_a_pipe_in_the_place_of_a_key_does_not_hang(key: Path) -> None:
    key.parent.mkdir()
    os.mkfifo(key, 0o600)

    with pytest.raises(SigningRefused, match="is not a file"):
        read_signer(Trust({}, frozenset()))


def test_a_key_that_is_not_on_the_list_is_refused_before_it_signs(
    axon: Axon, own_trust: Path
) -> None:
    shipped = own_trust.read_text()
    axon("trust", "init")
    own_trust.write_text(shipped)

    assert "is not on the trust list" in refused(axon("models", "promote", "2"))


# -- publishing


PUBLISHING = [
    ["calibrate", "--benign", "flows.csv"],
    ["train", "flows", "--data", "flows.csv", "--publish"],
    ["train", "flows", "--benign", "flows.csv", "--publish"],
    ["train", "processes", "--benign", "starts.csv", "--publish"],
    ["train", "posture", "--inventory", "hosts.csv", "--publish"],
    ["models", "promote", "2"],
]


@pytest.mark.parametrize("verb", PUBLISHING, ids=" ".join)
def test_without_a_key_publishing_is_refused_before_any_work(
    axon: Axon, own_state: Path, verb: list[str]
) -> None:
    """The files named here are not even opened: the refusal comes before an hour of training."""
    output = refused(axon(*verb))

    assert "axon trust init" in output
    assert "there is no file" not in output
    assert not own_state.exists()


def test_without_a_key_training_still_reports(
    axon: Axon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only publishing needs a key."""
    monkeypatch.setattr(publish_target, "publish", None)
    (tmp_path / "hosts.csv").write_text((ROOT / "configs" / "inventory.demo.csv").read_text())

    assert axon("train", "posture", "--inventory", tmp_path / "hosts.csv").exit_code == 0


def test_promoting_reports_that_it_replaces_a_broken_pointer(axon: Axon, own_state: Path) -> None:
    """A corrupt CURRENT does not stop a promotion."""
    axon("trust", "init")
    assert axon("models", "promote", "2").exit_code == 0
    pointer = own_state / "tenants" / "default" / "CURRENT"
    before = read_pointer(own_store(), DEFAULT)
    pointer.write_bytes(b"")

    result = axon("models", "promote", "3", "--at-once")

    assert result.exit_code == 0, result.output
    assert "broken and is replaced" in result.stdout
    after = read_pointer(own_store(), DEFAULT, not_below=before.serial)
    assert (after.release, after.at_once, after.previous[0]) == (3, True, before.ref)


# -- show and pin


def test_show_lists_the_trusted_keys_and_pins(axon: Axon) -> None:
    assert "axon trust init" in axon("trust", "show").stdout
    axon("trust", "init")

    output = axon("trust", "show").stdout

    (key_id,) = read_trust(read_settings()).keys
    assert key_id in output
    assert "signs here" in output
    assert "tenants/default/CURRENT" in output
    assert all(digest in output for digest in read_trust(read_settings()).pinned)


@pytest.fixture
def own_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of artifacts/ that the settings name as shipped."""
    copy = tmp_path / "artifacts"
    shutil.copytree(ROOT / "artifacts", copy)
    honest = read_settings
    monkeypatch.setattr(
        "deployments.cli.trust.read_settings", lambda: honest({"store": {"shipped": str(copy)}})
    )
    return copy


def test_pin_trusts_the_shipped_models_as_they_are(
    axon: Axon, own_trust: Path, own_shipped: Path
) -> None:
    """The shipped list was made this way, so that a second run changes nothing."""
    del own_shipped
    shipped = own_trust.read_text()
    own_trust.write_text(re.sub(r"(?s)pinned:.*", "pinned: {}\n", shipped))

    assert axon("trust", "pin").exit_code == 0

    assert own_trust.read_text() == shipped


def test_pin_does_not_trust_what_would_not_load(
    axon: Axon, own_trust: Path, own_shipped: Path
) -> None:
    before = own_trust.read_text()
    (broken,) = own_shipped.glob("tenants/default/bundles/posture-inventory/*/config.json")
    broken.chmod(0o644)
    broken.write_bytes(b"{}\n")

    assert "Model file corrupted" in refused(axon("trust", "pin"))
    assert own_trust.read_text() == before
