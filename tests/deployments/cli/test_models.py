"""`axon models`: the model store at the terminal, from its list to its audit log."""

from __future__ import annotations

import getpass
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.cli.local_store import own_store
from deployments.config.trust import read_signer
from ensemble.store.bundles.metadata import Metadata
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import publish_release
from tests.support.publishing import NOW, TRAINING

Axon = Callable[..., Result]
Publish = Callable[..., BundleRef]
DEFAULT = Tenant("default")


@pytest.fixture
def axon(monkeypatch: pytest.MonkeyPatch) -> Axon:
    """`axon("models", "info", "anomaly-flow")`, on a wide terminal."""
    monkeypatch.setattr(console, "out", Console(width=300))
    monkeypatch.setattr(console, "err", Console(width=300, stderr=True))
    monkeypatch.setenv("TERM", "dumb")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def own(axon: Axon, publish: Publish, no_fsync: None) -> Callable[..., BundleRef]:
    """`own(value)`: publish a model with this machine's key, beside the shipped ones."""
    del no_fsync
    assert axon("trust", "init").exit_code == 0

    def one(value: float = 1.0, **more: Any) -> BundleRef:
        store = own_store()
        return publish(
            store,
            value,
            **(
                {"tenant": "default", "model": "tabular", "signer": read_signer(store.trust)} | more
            ),
        )

    return one


@pytest.fixture
def release(own: Callable[..., BundleRef]) -> Callable[[], ReleaseRef]:
    """`release()`: another release of the configured tenant, with a model of its own in it."""

    def one() -> ReleaseRef:
        store, ref = own_store(), own()
        return publish_release(
            store, DEFAULT, [ref], {}, notes="[red]mine", now=NOW, signer=read_signer(store.trust)
        )

    return one


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def serves() -> int:
    return read_pointer(own_store(), DEFAULT).release


def test_the_list_marks_the_serving_release_and_the_challenger(
    axon: Axon, release: Callable[[], ReleaseRef]
) -> None:
    number = release().serial
    done(axon("models", "challenger", number))

    listed = done(axon("models"))

    assert "serves" in listed
    assert "challenger" in listed
    assert "[red]mine" in listed, "a stranger's text is printed, not obeyed"
    printed = json.loads(done(axon("models", "--json")))
    assert (printed["serves"], printed["challenger"]) == (serves(), number)
    assert {model["model_name"] for model in printed["models"]} >= {"tabular", "anomaly-flow"}
    assert (
        printed["releases"][0] | {"release": number, "notes": "[red]mine", "problem": ""}
        == printed["releases"][0]
    )


def test_a_shipped_model_is_described(axon: Axon) -> None:
    """S4-05 without a path of this machine."""
    printed = json.loads(done(axon("models", "info", "anomaly-flow", "--json")))

    assert printed["path"] == "tenants/default/bundles/anomaly-flow/2"
    assert (printed["in_use"], printed["aliases"], printed["is_shipped"]) == (
        True,
        ["champion"],
        True,
    )
    assert "anomaly-flow" in done(axon("models", "info", "anomaly-flow", "--version", "champion"))


def test_metadata_of_the_publisher_is_shown(axon: Axon, own: Callable[..., BundleRef]) -> None:
    own(
        training=TRAINING
        | Metadata(
            label="[b]x\x1b[31m", model_type="IsolationForest", user_metadata={"ticket": "SEC-12"}
        ).in_training()
    )

    shown = done(axon("models", "info", "tabular", "--version", "1"))

    assert "IsolationForest" in shown
    assert "ticket: SEC-12" in shown
    assert "[b]x?[31m" in shown
    assert "IsolationForest" in done(axon("models", "versions", "tabular"))
    assert json.loads(done(axon("models", "versions", "tabular", "--json")))[0][
        "user_metadata"
    ] == {"ticket": "SEC-12"}


def test_a_broken_model_is_shown_with_exit_code_one(
    axon: Axon, own: Callable[..., BundleRef], folder_of: Callable[..., Path]
) -> None:
    (folder_of(own_store(), own()) / "manifest.json").unlink()

    result = axon("models", "info", "tabular", "--version", "1")

    assert result.exit_code == 1
    assert "not in the store" in result.stdout
    assert "not in the store" in done(axon("models", "versions", "tabular"))


def test_inherited_models_are_listed_and_described(
    axon: Axon, own: Callable[..., BundleRef]
) -> None:
    own()

    listed = json.loads(done(axon("models", "--tenant", "guest", "--json")))["models"]
    info = json.loads(done(axon("models", "info", "anomaly-flow", "--tenant", "guest", "--json")))
    versions = done(axon("models", "versions", "anomaly-flow", "--tenant", "guest", "--json"))

    inherited = {(one["model_name"], one["tenant_id"], one["shared"]) for one in listed}
    assert ("anomaly-flow", "default", True) in inherited
    assert "tabular" not in {name for name, *_ in inherited}, "no champion, so not visible"
    assert (info["tenant_id"], info["shared"]) == ("default", True)
    assert [one["shared"] for one in json.loads(versions)] == [True]
    assert "tenant default" in done(axon("models", "--tenant", "guest"))
    assert not json.loads(done(axon("models", "info", "tabular", "--json")))["shared"]


@pytest.mark.parametrize(
    ("file", "field"), [("CURRENT", "problem"), ("CHALLENGER", "challenger_problem")]
)
def test_a_broken_pointer_or_challenger_is_reported(
    axon: Axon, release: Callable[[], ReleaseRef], file: str, field: str
) -> None:
    number = release().serial
    done(axon("models", "promote", number))
    done(axon("models", "challenger", number))
    folder = own_store().state / "tenants" / "default"
    (folder / file).chmod(0o644)
    (folder / file).write_bytes(b"{}\n")

    shown = done(axon("models"))
    listed = json.loads(done(axon("models", "--json")))

    assert f"the {'pointer' if file == 'CURRENT' else 'challenger'} is broken: " in shown
    assert "[red]mine" in shown, "the releases are listed all the same"
    assert listed[field] == "ARTIFACT_UNTRUSTED"


def test_promote_roll_back_and_promote_the_challenger(
    axon: Axon, release: Callable[[], ReleaseRef]
) -> None:
    """P8, issue 4: each is one call."""
    before, number = serves(), release().serial
    done(axon("models", "promote", number))
    assert serves() == number
    done(axon("models", "rollback"))
    assert serves() == before
    assert "not in the store" in refused(axon("models", "rollback", "--to", number)), (
        "what was left is gone to by promoting it"
    )

    assert "has no challenger" in done(axon("models", "challenger"))
    assert "challenger" in refused(axon("models", "promote", "challenger"))
    done(axon("models", "challenger", number))
    assert f"release {number}" in done(axon("models", "challenger"))
    done(axon("models", "promote", "challenger", "--at-once"))
    assert serves() == number
    assert "has no challenger" in done(axon("models", "challenger"))
    done(axon("models", "challenger", before))
    done(axon("models", "challenger", "--clear"))
    assert "has no challenger" in done(axon("models", "challenger"))


def test_promoting_the_challenger_by_its_number_clears_the_alias(
    axon: Axon, release: Callable[[], ReleaseRef]
) -> None:
    number = release().serial
    done(axon("models", "challenger", number))

    done(axon("models", "promote", number))

    assert "has no challenger" in done(axon("models", "challenger"))


def test_a_model_outside_releases_gets_aliases(axon: Axon, own: Callable[..., BundleRef]) -> None:
    own(1.0)
    own(2.0)
    assert "no champion" in done(axon("models", "alias", "tabular", "champion"))

    done(axon("models", "alias", "tabular", "champion", "--version", 1))

    assert "version 1" in done(axon("models", "alias", "tabular", "champion"))
    assert json.loads(done(axon("models", "info", "tabular", "--json")))["version"] == 1
    done(axon("models", "alias", "tabular", "champion", "--clear"))
    assert json.loads(done(axon("models", "info", "tabular", "--json")))["version"] == 2


def test_a_referenced_version_is_not_deleted(axon: Axon, release: Callable[[], ReleaseRef]) -> None:
    """F22."""
    first, second = release().serial, release().serial
    done(axon("models", "promote", second))

    assert "it serves" in refused(axon("models", "delete", "tabular", "--version", 2))
    assert "it serves" in refused(axon("models", "delete-release", second))
    assert "came with Axon" in refused(axon("models", "delete", "anomaly-process", "--version", 1))
    assert "not used again" in done(axon("models", "delete-release", first))
    assert "not used again" in done(axon("models", "delete", "tabular", "--version", 1))
    assert "not in the store" in refused(axon("models", "delete", "tabular", "--version", 1))
    assert refused(axon("models", "delete", "tabular")), "never by guessing"


def test_retention_prints_what_it_deleted(axon: Axon, own: Callable[..., BundleRef]) -> None:
    for value in range(4):
        own(float(value))

    assert done(axon("models", "retention", "--keep", 2)).split("\n")[:2] == [
        "deleted tabular/1",
        "deleted tabular/2",
    ]
    assert "nothing to delete" in done(axon("models", "retention", "--keep", 2))
    refused(axon("models", "retention", "--keep", 0))


def test_an_export_can_be_imported_by_another_tenant(
    axon: Axon, own: Callable[..., BundleRef], release: Callable[[], ReleaseRef], tmp_path: Path
) -> None:
    own()
    number = release().serial
    file, one = tmp_path / "release.tar.gz", tmp_path / "tabular.tar.gz"
    done(axon("models", "export", file, "--release", number))
    done(axon("models", "export", one, "--model", "tabular", "--version", 1))
    done(axon("models", "export", tmp_path / "shipped.tar.gz"))
    assert "nothing is replaced" in refused(axon("models", "export", file))

    printed = done(axon("models", "import", file, "--tenant", "banks"))

    assert "published tabular version 1, from default: release" in printed
    assert "promote 1" in printed
    done(axon("models", "import", one, "--tenant", "banks"))
    assert (
        json.loads(
            done(axon("models", "info", "tabular", "--version", 2, "--tenant", "banks", "--json"))
        )["origin"]["tenant"]
        == "default"
    )
    done(axon("models", "import", tmp_path / "shipped.tar.gz", "--tenant", "banks"))


def test_an_untrusted_file_is_refused_and_quarantined_only_on_request(
    axon: Axon, own: Callable[..., BundleRef], tmp_path: Path
) -> None:
    own()
    file = tmp_path / "evil[red].tar.gz"
    file.write_bytes(b"\x80\x04evil")

    assert "ARTIFACT" not in refused(axon("models", "import", file))
    assert "is empty" in done(axon("models", "quarantine"))
    assert "number 1" in refused(axon("models", "import", file, "--quarantine"))
    assert "evil[red].tar.gz" in done(axon("models", "quarantine"))
    assert "cannot be read" in refused(axon("models", "import", tmp_path / "nowhere"))


def test_a_hostile_version_is_quarantined(axon: Axon, release: Callable[[], ReleaseRef]) -> None:
    done(axon("models", "promote", release().serial))

    assert "it serves" in refused(
        axon("models", "quarantine", "tabular", "--version", 1, "--reason", "poisoned")
    )
    done(
        axon(
            "models",
            "quarantine",
            "tabular",
            "--version",
            1,
            "--reason",
            "poisoned",
            "--even-in-use",
        )
    )

    assert "poisoned" in done(axon("models", "quarantine"))
    assert "--version" in refused(axon("models", "quarantine", "tabular"))


def test_the_log_shows_the_user_and_where_it_was_changed(
    axon: Axon, own: Callable[..., BundleRef], own_state: Path
) -> None:
    """P31: the user comes from the system, not from an environment variable."""
    own()
    refused(axon("models", "delete", "tabular", "--version", 7))

    entries = json.loads(done(axon("models", "audit", "--json")))

    me = pwd.getpwuid(os.getuid()).pw_name
    assert [(one["act"], one["what"], one["outcome"], one["code"]) for one in entries] == [
        ("delete", "tabular/7", "failed", "ARTIFACT_MISSING"),
        ("publish", "tabular/1", "done", ""),
    ]
    assert {(one["who"], one["where"]) for one in entries} == {(me, "terminal")}
    assert "tabular/7" in done(axon("models", "audit"))
    head = done(axon("models", "audit", "--verify")).split("head ")[1].split(":")[0]
    assert done(axon("models", "audit", "--head", head))

    log = own_state / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"tabular/1", b"tabular/9"))
    touched = axon("models", "audit", "--verify")
    assert (touched.exit_code, "changed or removed" in touched.stdout) == (1, True)


def test_the_user_cannot_be_forged(
    axon: Axon, own: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert getpass.getuser() == "somebody-else"
    own()

    assert json.loads(done(axon("models", "audit", "--json")))[0]["who"] != "somebody-else"


@pytest.mark.parametrize(
    "verb",
    [
        ["info", "../x"],
        ["info", "nothing"],
        ["versions", "nothing"],
        ["info", "anomaly-flow", "--version", "newest"],
        ["promote", "latest"],
        ["challenger", "1", "--clear"],
        ["alias", "anomaly-flow", "winner", "--version", "1"],
        ["export", "x.tar.gz", "--version", "1"],
        ["delete", "anomaly-flow", "--version", "1", "--tenant", "../default"],
        ["audit", "--tenant", "*"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own")
def test_contradictory_options_are_refused_in_one_sentence(axon: Axon, verb: list[str]) -> None:
    refused(axon("models", *verb))


def test_a_tenant_before_the_verb_is_the_tenant_of_the_verb(
    axon: Axon, own: Callable[..., BundleRef]
) -> None:
    """`axon models --tenant T VERB` acted on the configured tenant."""
    own()
    own()
    own(tenant="acme")

    before = done(axon("models", "--tenant", "acme", "versions", "tabular", "--json"))
    done(axon("models", "--tenant", "acme", "retention", "--keep", "1"))
    left = json.loads(done(axon("models", "versions", "tabular", "--json")))

    assert before == done(axon("models", "versions", "tabular", "--tenant", "acme", "--json"))
    assert len(json.loads(before)) == 1
    assert len(left) == 2
