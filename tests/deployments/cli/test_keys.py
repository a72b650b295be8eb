"""`axon keys`.

Made once, listed without a secret, revoked; what a user can mend is one sentence and exit code 2.
P30.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.web.api_keys import Scope, list_keys
from deployments.web.key_ring import KeyRing
from ensemble.store.audit_log import LOG, Outcome, read_audit
from ensemble.store.layout import Store
from ensemble.store.signing import Trust

KEY = re.compile(r"axon_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\n")
CREATE = ("create", "--tenant", "acme", "--scope", "score")


@pytest.fixture
def axon_keys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`axon_keys("list")`: in a narrow terminal, which must not break a key."""
    monkeypatch.setenv("TERM", "dumb")

    def run(*words: str, width: int = 40) -> Result:
        monkeypatch.setattr(console, "out", Console(width=width))
        monkeypatch.setattr(console, "err", Console(width=width, stderr=True))
        return CliRunner().invoke(cli.app, ["keys", *words])

    return run


Axon = Callable[..., Result]


def test_the_key_alone_is_on_standard_output_and_the_advice_beside_it(
    axon_keys: Axon, own_state: Path
) -> None:
    made = axon_keys(*CREATE, "--scope", "read", "--name", "collector", "--expires-days", "30")

    assert made.exit_code == 0, made.output
    found = KEY.fullmatch(made.stdout)
    assert found
    for said in (
        found[1],
        "acme",
        "read, score",
        "expires",
        "only now",
        f"axon keys revoke {found[1]}",
    ):
        assert said in made.stderr
    assert made.stdout.strip() not in made.stderr
    (kept,) = list_keys(own_state / "keys.json")
    assert (kept.name, kept.tenant, kept.scopes) == ("collector", "acme", {Scope.SCORE, Scope.READ})
    assert kept.expires_at is not None
    assert kept.expires_at - kept.created_at == pytest.approx(30 * 86400)


def test_a_key_that_was_made_opens_until_it_is_revoked(axon_keys: Axon, own_state: Path) -> None:
    token = axon_keys(*CREATE).stdout.strip()
    ring = KeyRing(own_state / "keys.json")
    ring.reload()
    assert ring.find(token) is not None

    revoked = axon_keys("revoke", token[5:13])
    ring.reload()

    assert revoked.exit_code == 0, revoked.output
    assert ring.find(token) is None


def test_the_list_says_what_a_key_is_for_and_never_the_key_or_its_hash(
    axon_keys: Axon, own_state: Path
) -> None:
    live, gone = (
        axon_keys(*CREATE, "--name", name).stdout.strip() for name in ("collector", "laptop")
    )
    axon_keys("revoke", gone[5:13])

    listed = axon_keys("list", width=200)

    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert all(said in lines[live[5:13]] for said in ("live", "acme", "score", " - ", "collector"))
    assert all(said in lines[gone[5:13]] for said in ("revoked", "laptop"))
    for secret in (
        live[14:],
        gone[14:],
        *(key.sha256 for key in list_keys(own_state / "keys.json")),
    ):
        assert secret not in listed.output


def test_a_narrow_terminal_still_shows_whole_ids(axon_keys: Axon) -> None:
    token = axon_keys(*CREATE, "--name", "a collector with a long name in Berlin").stdout.strip()

    assert token[5:13] in axon_keys("list", width=70).stdout


def test_without_keys_the_list_says_how_to_make_one(axon_keys: Axon, own_state: Path) -> None:
    assert "axon keys create" in axon_keys("list", width=200).stdout
    assert not own_state.exists()


MENDABLE = [
    pytest.param(
        ("create", "--tenant", "Acme", "--scope", "score"), "tenant: 1 to 63 of", id="wrong tenant"
    ),
    pytest.param(
        ("create", "--tenant", "acme", "--scope", "scores"),
        "a scope is one of score, train, manage, operate, read",
        id="wrong scope",
    ),
    pytest.param((*CREATE, "--name", "[red]"), "a name is", id="wrong name"),
    pytest.param(("revoke", "0badcafe"), "there is no key with that id", id="unknown id"),
]


@pytest.mark.parametrize(("words", "sentence"), MENDABLE)
def test_what_a_user_can_mend_is_one_sentence(
    axon_keys: Axon, own_state: Path, words: tuple[str, ...], sentence: str
) -> None:
    refused = axon_keys(*words, width=200)

    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not refused.stdout
    assert not (own_state / "keys.json").exists()


@pytest.mark.parametrize(
    "words", [CREATE, ("list",), ("revoke", "0badcafe")], ids=lambda words: words[0]
)
def test_every_verb_refuses_a_file_that_others_may_read(
    axon_keys: Axon, own_state: Path, words: tuple[str, ...]
) -> None:
    axon_keys(*CREATE)
    (own_state / "keys.json").chmod(0o644)

    refused = axon_keys(*words, width=200)

    assert refused.exit_code == 2
    assert "chmod 600" in refused.stderr


def test_the_file_of_the_environment_is_the_one_that_is_written(
    axon_keys: Axon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXON_KEYS", str(tmp_path / "secrets" / "axon.json"))

    axon_keys(*CREATE)

    assert len(list_keys(tmp_path / "secrets" / "axon.json")) == 1


@pytest.mark.parametrize("verb", ["create", "list", "revoke"])
def test_the_help_teaches(axon_keys: Axon, verb: str) -> None:
    printed = axon_keys(verb, "--help")

    assert printed.exit_code == 0
    assert "key" in printed.stdout.lower()


def test_who_made_and_revoked_a_key_is_in_the_audit_log_and_the_key_is_not(
    axon_keys: Axon, own_state: Path
) -> None:
    """P31."""
    token = axon_keys(*CREATE).stdout.strip()
    key_id, secret = token[5:13], token[14:]
    axon_keys("revoke", key_id)
    axon_keys("revoke", "00000000")

    acts = read_audit(Store(own_state, None, Trust({}, frozenset())), None, limit=10)
    said = [(one.act, one.what, one.tenant, one.where, one.outcome) for one in acts]
    assert said == [
        (act, f"key {key_id} for score", "acme", "terminal", Outcome.DONE)
        for act in ("revoke_key", "create_key")
    ]
    assert all(one.who for one in acts)
    assert secret not in (own_state / LOG).read_text()


def test_no_key_is_made_without_its_line(axon_keys: Axon, own_state: Path) -> None:
    """P31: no key is changed if the audit log is a link to elsewhere."""
    own_state.mkdir()
    (own_state / LOG).symlink_to(own_state / "elsewhere")

    made = axon_keys(*CREATE, width=200)

    assert (made.exit_code, made.stdout) == (2, "")
    assert "audit" in made.stderr
    assert list_keys(own_state / "keys.json") == ()
