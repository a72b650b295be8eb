"""The key file and the keys in memory (P30, I8, C-25).

What the file holds, which tokens are accepted, and what a broken file changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.web import api_keys, key_ring
from deployments.web.api_keys import (
    Key,
    KeyRefused,
    Scope,
    create_key,
    list_keys,
    revoke_key,
)
from deployments.web.key_ring import KeyRing
from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactIncompatible, ArtifactUntrusted
from ensemble.store.files import atomic
from ensemble.store.names import Tenant
from tests.support.recorded_telemetry import RecordedLog

ACME = Tenant("acme")
NOW = 1_790_000_000.0  # a day of 2026


class Clocks:
    """A wall clock and a monotonic clock that stand still until a test moves them."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 100.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def file(own_state: Path) -> Path:
    return own_state / "keys.json"


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def ring(file: Path, clocks: Clocks) -> KeyRing:
    return KeyRing(file, now=lambda: clocks.wall, clock=lambda: clocks.steady)


@pytest.fixture
def make(file: Path) -> Callable[..., tuple[Key, str]]:
    """`make("acme", expires_at=...)`: a key for scoring."""

    def one(
        tenant: str = "acme", expires_at: float | None = None, now: float = NOW
    ) -> tuple[Key, str]:
        return create_key(file, Tenant(tenant), [Scope.SCORE], "", expires_at, now)

    return one


Make = Callable[..., tuple[Key, str]]


# -- which tokens are accepted


def test_a_key_says_whose_it_is_and_what_for(file: Path, ring: KeyRing) -> None:
    made, token = create_key(file, ACME, [Scope.SCORE, Scope.READ], "collector", NOW + 60, NOW)
    ring.reload()

    found = ring.find(token)

    assert found == made
    assert found == Key(
        made.id,
        "collector",
        ACME,
        frozenset({Scope.SCORE, Scope.READ}),
        made.sha256,
        NOW,
        NOW + 60,
        None,
    )


def test_nobody_is_admitted_before_the_first_look(make: Make, ring: KeyRing) -> None:
    _, token = make()

    assert ring.find(token) is None


def test_a_wrong_secret_opens_nothing_also_under_an_id_that_exists(
    make: Make, ring: KeyRing
) -> None:
    (_, one), (_, other) = make(), make("globex")
    ring.reload()

    assert ring.find(one[:14] + other[14:]) is None
    assert ring.find(one[:-1] + ("A" if one[-1] != "A" else "B")) is None


def test_the_secret_of_a_key_does_not_open_in_another_spelling(make: Make, ring: KeyRing) -> None:
    """Two bits of the last of 43 characters decode to nothing.

    The text itself is hashed, so each secret has one spelling only.
    """
    _, token = make()
    ring.reload()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    admitted = [last for last in letters if ring.find(token[:-1] + last)]

    assert admitted == [token[-1]]


MISSHAPEN = [
    pytest.param(lambda _: "", id="empty"),
    pytest.param(lambda token: token + "A", id="longer"),
    pytest.param(lambda token: token[:-1], id="shorter"),
    pytest.param(lambda token: f" {token}", id="blank before"),
    pytest.param(lambda token: f"{token}\n", id="line break after"),
    pytest.param(lambda token: token.upper(), id="upper case"),
    pytest.param(lambda token: token[:-1] + "é", id="not ASCII"),
    pytest.param(lambda token: token.replace("axon_", "axon-"), id="other prefix"),
    pytest.param(lambda token: token + "A" * (1 << 20), id="a mebibyte"),
    pytest.param(lambda _: "\ud800" * 57, id="lone surrogates"),
]


@pytest.mark.parametrize("spoil", MISSHAPEN)
def test_what_is_no_key_is_refused_without_an_error(
    make: Make, ring: KeyRing, spoil: Callable[[str], str]
) -> None:
    _, token = make()
    ring.reload()

    assert ring.find(spoil(token)) is None


def test_a_key_is_refused_from_the_moment_it_expires(
    make: Make, ring: KeyRing, clocks: Clocks
) -> None:
    """Without a reload: the key ring reads the clock itself."""
    _, token = make(expires_at=NOW + 60)
    ring.reload()

    clocks.pass_s(59.9)
    assert ring.find(token) is not None
    clocks.pass_s(0.1)
    assert ring.find(token) is None


def test_a_revoked_key_is_refused_from_the_next_look_on_whatever_the_clock_says(
    make: Make, file: Path, ring: KeyRing, clocks: Clocks
) -> None:
    made, token = make()
    ring.reload()

    revoke_key(file, made.id, NOW + 10)
    ring.reload()

    clocks.wall = NOW - 1000
    assert ring.find(token) is None


def test_every_token_costs_the_same_whatever_is_wrong_with_it(
    make: Make, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P30: the duration does not reveal which ids exist.

    It is always one hash, one comparison of 64 characters and one reading of the clock.
    """
    made, token = make(expires_at=NOW + 60)
    ring.reload()
    compared: list[tuple[int, int]] = []

    def recorded(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("deployments.web.key_ring.hmac.compare_digest", recorded)
    asked_time: list[str] = []
    monkeypatch.setattr(ring, "_now", lambda: asked_time.append("asked") or NOW)

    unknown = "axon_" + ("00000001" if made.id != "00000001" else "00000002") + token[13:]
    wrong = token[:14] + "A" * 43
    for one in (unknown, wrong, token, "", token * 1000):
        ring.find(one)

    assert compared == [(64, 64)] * 5
    assert len(asked_time) == 5


def test_finding_a_key_touches_no_disk(
    make: Make, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop calls it in every request."""
    _, token = make()
    ring.reload()

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the disk was asked")

    for call in ("open", "stat", "lstat"):
        monkeypatch.setattr(os, call, forbidden)
    found = ring.find(token)
    monkeypatch.undo()

    assert found is not None


# -- what is kept


def test_a_key_has_256_bits_and_its_file_knows_only_the_hash(make: Make, file: Path) -> None:
    made, token = make()

    kept = file.read_text()

    assert len(token) == len("axon_") + 8 + 1 + 43
    assert made.sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert made.sha256 in kept
    assert token[14:] not in kept
    assert made.sha256 not in repr(made)


def test_only_its_owner_may_read_the_file_whatever_the_umask(make: Make, file: Path) -> None:
    before = os.umask(0)
    try:
        make()
        make()
    finally:
        os.umask(before)

    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_are_listed_in_the_order_they_were_made(make: Make, file: Path) -> None:
    made = [make(now=NOW + number)[0] for number in range(5)]

    assert list_keys(file) == tuple(made)


def test_without_a_file_there_are_no_keys(file: Path) -> None:
    assert list_keys(file) == ()
    assert not file.parent.exists()


def test_two_who_make_keys_at_once_lose_none(make: Make, file: Path) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend(make()[0].id for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(made) == sorted(key.id for key in list_keys(file))
    assert len(set(made)) == 20


def test_a_full_disk_leaves_the_file_of_before(
    make: Make, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    before = file.read_bytes()

    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_new", full)
    with pytest.raises(KeyRefused, match="no space left on device"):
        make()

    assert file.read_bytes() == before


def test_a_revoked_key_stays_in_the_list_with_the_time_of_the_first(make: Make, file: Path) -> None:
    made, _ = make()

    revoke_key(file, made.id, NOW + 5)
    again = revoke_key(file, made.id, NOW + 50)

    assert again.revoked_at == NOW + 5
    assert list_keys(file) == (again,)


@pytest.mark.parametrize("there", [True, False], ids=["another key is there", "no file is there"])
def test_revoking_what_is_not_there_changes_nothing_and_repeats_nothing(
    make: Make,
    file: Path,
    there: bool,  # noqa: FBT001
) -> None:
    """People paste whole keys, and an error may be written to a log."""
    if there:
        make()
    pasted = "axon_0badcafe_" + "s" * 43

    with pytest.raises(KeyRefused) as refused:
        revoke_key(file, pasted, NOW)

    assert "sss" not in str(refused.value)
    assert file.exists() == file.parent.exists() == there
    assert len(list_keys(file)) == there


def test_keys_dead_for_more_than_a_year_make_room(make: Make, file: Path) -> None:
    expired, revoked, lately, active = (
        make(expires_at=at)[0] for at in (NOW + 1, None, NOW + 300 * 86400, None)
    )
    revoke_key(file, revoked.id, NOW + 1)

    later, _ = make(now=NOW + 401 * 86400)

    assert {key.id for key in list_keys(file)} == {lately.id, active.id, later.id}
    assert expired.id != revoked.id


REFUSED = [
    pytest.param({"name": "line\nbreak"}, "a name is", id="line break in a name"),
    pytest.param({"name": "n" * 64}, "a name is", id="long name"),
    pytest.param({"name": "[red]"}, "a name is", id="markup in a name"),
    pytest.param({"scopes": []}, "at least one scope", id="no scope"),
    pytest.param({"expires_at": NOW}, "must be in the future", id="expired"),
    pytest.param({"expires_at": float("inf")}, "seconds since 1970", id="never, said wrongly"),
]


@pytest.mark.parametrize(("wrong", "sentence"), REFUSED)
def test_a_wrong_key_is_not_made(file: Path, wrong: dict[str, Any], sentence: str) -> None:
    asked: dict[str, Any] = {
        "tenant": ACME,
        "scopes": [Scope.READ],
        "name": "",
        "expires_at": None,
        "now": NOW,
        **wrong,
    }

    with pytest.raises(KeyRefused, match=sentence):
        create_key(file, **asked)

    assert not file.exists()


def test_there_are_never_more_keys_than_a_reader_takes(
    make: Make, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "LIMIT_BYTES", 1000)
    made = [make()[0] for _ in range(4)]

    with pytest.raises(KeyRefused, match="one more key"):
        make()

    assert len(list_keys(file)) == len(made)


# -- a file that is wrong


def entry(**changed: Any) -> dict[str, Any]:
    good = {
        "id": "0000000a",
        "name": "",
        "tenant": "acme",
        "scopes": ["read"],
        "sha256": "a" * 64,
        "created_at": NOW,
        "expires_at": None,
        "revoked_at": None,
    }
    return {**good, **changed}


def written(file: Path, value: object, mode: int = 0o600) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
    file.chmod(mode)


WRONG = [
    pytest.param({"format": 1, "keys": [entry(rights="all")]}, id="unknown field of a key"),
    pytest.param({"format": 1, "keys": [], "admin": True}, id="unknown field of the file"),
    pytest.param(
        {"format": 1, "keys": [{k: v for k, v in entry().items() if k != "revoked_at"}]},
        id="field missing",
    ),
    pytest.param({"format": 1, "keys": [entry(), entry(tenant="globex")]}, id="an id twice"),
    pytest.param({"format": 1, "keys": [entry(id="0000000b"), entry()]}, id="ids out of order"),
    pytest.param({"format": 1, "keys": [entry(id="A")]}, id="no id"),
    pytest.param({"format": 1, "keys": [entry(tenant="../acme")]}, id="no tenant"),
    pytest.param({"format": 1, "keys": [entry(name="\u001b[31m")]}, id="escape codes in a name"),
    pytest.param({"format": 1, "keys": [entry(scopes=[])]}, id="no scope"),
    pytest.param({"format": 1, "keys": [entry(scopes=["root"])]}, id="unknown scope"),
    pytest.param({"format": 1, "keys": [entry(scopes=["read", "read"])]}, id="a scope twice"),
    pytest.param({"format": 1, "keys": [entry(sha256="a" * 63)]}, id="no hash"),
    pytest.param({"format": 1, "keys": [entry(expires_at=-1.0)]}, id="before 1970"),
    pytest.param({"format": 1, "keys": [entry(created_at=1)]}, id="a whole number for a time"),
    pytest.param({"format": 1, "keys": [entry(revoked_at=False)]}, id="a boolean for a time"),
    pytest.param([entry()], id="a bare list"),
]


@pytest.mark.parametrize("value", WRONG)
def test_a_file_that_is_wrong_is_refused_whole(file: Path, value: object) -> None:
    written(file, value)
    before = file.read_bytes()

    with pytest.raises(ArtifactCorrupt, match="the key file"):
        list_keys(file)
    with pytest.raises(ArtifactCorrupt):
        create_key(file, ACME, [Scope.READ], "", None, NOW)

    assert file.read_bytes() == before


def test_the_same_file_without_a_mistake_is_read(file: Path) -> None:
    written(file, {"format": 1, "keys": [entry(), entry(id="0000000b")]})

    assert [key.id for key in list_keys(file)] == ["0000000a", "0000000b"]


def test_a_file_of_a_later_axon_is_said_to_be_one(file: Path) -> None:
    written(file, {"format": 2, "keyring": []})

    with pytest.raises(ArtifactIncompatible):
        list_keys(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666], ids=oct)
def test_a_file_that_others_may_read_or_write_is_refused_and_the_sentence_says_chmod(
    file: Path, mode: int
) -> None:
    written(file, {"format": 1, "keys": [entry()]}, mode)

    with pytest.raises(ArtifactUntrusted, match=r"chmod 600 keys\.json"):
        list_keys(file)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere.json"))
    file.symlink_to("elsewhere.json")


def second_name(file: Path) -> None:
    os.link(file, file.with_name("elsewhere.json"))


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def too_long(file: Path) -> None:
    with file.open("ab") as opened:
        opened.truncate(api_keys.LIMIT_BYTES + 1)


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def removed(file: Path) -> None:
    file.unlink()


def opened_to_all(file: Path) -> None:
    file.chmod(0o644)


SPOILT = [link, second_name, pipe, too_long, torn, opened_to_all]


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_not_plainly_the_file_is_not_read(
    make: Make, file: Path, spoil: Callable[[Path], None]
) -> None:
    make()
    spoil(file)

    with pytest.raises(ArtifactError):
        list_keys(file)


# -- a ring whose file changes


@pytest.mark.parametrize("spoil", [*SPOILT, removed])
def test_a_file_that_breaks_later_leaves_the_keys_of_before_and_is_said_once(
    make: Make, file: Path, ring: KeyRing, recorded_log: RecordedLog, spoil: Callable[[Path], None]
) -> None:
    _, token = make()
    ring.reload()
    spoil(file)

    for _ in range(3):
        ring.reload()

    assert ring.find(token) is not None
    assert recorded_log.events == ["keys_read", "keys_unreadable"]
    assert recorded_log("keys_unreadable")[0]["action"] == "keeping_previous_keys"
    assert str(file.parent) not in recorded_log("keys_unreadable")[0]["error"]


@pytest.mark.parametrize("spoil", [*SPOILT, removed])
def test_a_file_that_is_broken_at_the_start_admits_nobody(
    make: Make, file: Path, ring: KeyRing, recorded_log: RecordedLog, spoil: Callable[[Path], None]
) -> None:
    _, token = make()
    spoil(file)

    ring.reload()

    assert ring.find(token) is None
    assert [record["action"] for record in recorded_log("keys_unreadable")] == ["refusing_all_keys"]


def test_a_file_that_is_mended_is_read_at_the_next_look_also_if_it_looks_the_same(
    make: Make, ring: KeyRing, recorded_log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed read, an unchanged file must be read again, not taken for one already read."""
    _, token = make()
    monkeypatch.setattr(key_ring, "read_key_file", failing := Failing())
    ring.reload()
    assert ring.find(token) is None

    failing.is_well = True
    ring.reload()

    assert ring.find(token) is not None
    assert recorded_log.events == ["keys_unreadable", "keys_read"]


def test_a_disk_that_went_away_and_came_back_as_it_was_is_said_to_be_back(
    make: Make, file: Path, ring: KeyRing, recorded_log: RecordedLog
) -> None:
    make()
    ring.reload()

    away = file.parent.rename(file.parent.with_name("away"))
    ring.reload()
    away.rename(file.parent)
    ring.reload()

    assert recorded_log.events == ["keys_read", "keys_unreadable", "keys_read"]


class Failing:
    """Reload after the disk has recovered."""

    def __init__(self) -> None:
        self.is_well, self.calls, self._read = False, 0, key_ring.read_key_file

    def __call__(self, path: Path) -> bytes:
        self.calls += 1
        if not self.is_well:
            raise ArtifactCorrupt("the key file", "torn")
        return self._read(path)


def test_the_file_is_read_when_it_changed_and_every_minute(
    make: Make, ring: KeyRing, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload each second costs one call to the disk.

    If a network disk hides a change, it is found within a minute.
    """
    make()
    monkeypatch.setattr(key_ring, "read_key_file", reading := Failing())
    reading.is_well = True

    for _ in range(10):
        ring.reload()
        clocks.pass_s(1)
    assert reading.calls == 1

    make()
    before = reading.calls  # making a key reads the file too
    ring.reload()
    assert reading.calls == before + 1

    clocks.pass_s(60)
    ring.reload()
    assert reading.calls == before + 2


def test_a_file_that_did_not_change_is_not_parsed_again(
    make: Make, ring: KeyRing, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three thousand keys take half a second of the interpreter that answers requests."""
    _, token = make()
    ring.reload()
    monkeypatch.delattr(key_ring, "parse_keys")

    clocks.pass_s(61)
    ring.reload()

    assert ring.find(token) is not None


def test_a_new_key_is_news_and_the_same_file_is_none(
    make: Make, ring: KeyRing, clocks: Clocks, recorded_log: RecordedLog
) -> None:
    make()
    ring.reload()
    clocks.pass_s(61)
    ring.reload()
    make()
    ring.reload()

    assert [record["keys"] for record in recorded_log("keys_read")] == [1, 2]
