"""Audit log (P31): every action on the store has its line, and changed lines are detected."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, PointerMoved, QuotaExceeded
from ensemble.store import audit_history, audit_log
from ensemble.store.audit_history import archive_lines, archived_lines
from ensemble.store.audit_log import (
    LOG,
    Action,
    AuditedAction,
    AuditEntry,
    Outcome,
    read_audit,
    verify_audit,
)
from ensemble.store.files import canonical_json
from ensemble.store.layout import Actor, Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.deletion import apply_retention, delete_bundle
from ensemble.store.releases.aliases import Alias, clear_challenger, set_challenger, set_model_alias
from ensemble.store.releases.release import promote, roll_back
from ensemble.store.signing import Signer

MODEL = ModelName("anomaly-flow")
Publish = Callable[..., BundleRef]


@pytest.fixture
def amys(store: Store) -> Store:
    """The store with amy as actor and a fixed clock."""
    return replace(store, actor=Actor("amy", "terminal"), clock=lambda: 1_795_000_000.0)


def log_of(store: Store) -> Path:
    return store.state / LOG


def lines(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(store).read_bytes().splitlines()]


def summary(entry: AuditEntry) -> tuple[str, str, Outcome]:
    return entry.act, entry.what, entry.outcome


def test_an_entry_has_actor_action_target_digest_time_and_origin(
    amys: Store, acme: Tenant, publish: Publish
) -> None:
    """P31."""
    ref = publish(amys)

    (entry,) = read_audit(amys, acme, limit=10)

    assert entry == AuditEntry(
        1,
        "2026-11-18T11:06:40Z",
        "amy",
        "terminal",
        "acme",
        "publish",
        "anomaly-flow/1",
        ref.manifest_sha256,
        Outcome.DONE,
        "",
    )


def test_every_action_is_logged(
    amys: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """P31: publish, promote, roll back, alias, delete; the newest first."""
    first, second, third = publish(amys, 1.0), publish(amys, 2.0), publish(amys, 3.0)
    one, two = release_of(amys, first), release_of(amys, second)
    promote(amys, acme, one, 0, signer=signer)
    promote(amys, acme, two, 1, signer=signer)
    roll_back(amys, acme, 2, signer=signer)
    set_challenger(amys, acme, two, 0, signer=signer)
    clear_challenger(amys, acme, 1, signer=signer)
    set_model_alias(amys, acme, MODEL, Alias.CHAMPION, first, 0, signer=signer)
    delete_bundle(amys, acme, MODEL, third.version)
    apply_retention(amys, acme, newest=1)

    entries = read_audit(amys, acme, limit=100)

    assert [(entry.act, entry.what) for entry in reversed(entries)] == [
        ("publish", "anomaly-flow/1"),
        ("publish", "anomaly-flow/2"),
        ("publish", "anomaly-flow/3"),
        ("publish_release", "release 1"),
        ("publish_release", "release 2"),
        ("promote", "release 1"),
        ("promote", "release 2"),
        ("roll_back", "release 1"),
        ("set_alias", "challenger: release 2"),
        ("clear_alias", "challenger"),
        ("set_alias", "champion: anomaly-flow/1"),
        ("delete", "anomaly-flow/3"),
    ]
    assert {entry.outcome for entry in entries} == {Outcome.DONE}
    assert {len(entry.digest) for entry in entries} == {64}
    assert verify_audit(amys).problems == ()


def test_a_refused_action_is_logged_with_its_code(
    amys: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    with pytest.raises(PointerMoved):
        promote(amys, acme, two_releases[0], 7, signer=signer)
    with pytest.raises(ArtifactMissing):
        delete_bundle(amys, acme, MODEL, 9)

    refused = read_audit(amys, acme, limit=2)

    assert [(*summary(entry), entry.code) for entry in refused] == [
        ("delete", "anomaly-flow/9", Outcome.FAILED, "ARTIFACT_MISSING"),
        ("promote", "release 1", Outcome.FAILED, "POINTER_MOVED"),
    ]


def test_an_action_that_fails_midway_is_logged_as_failed(
    amys: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(amys)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            publish(amys)

    (entry, _) = read_audit(amys, acme, limit=10)
    assert (*summary(entry), entry.code) == ("publish", "anomaly-flow/2", Outcome.FAILED, "ENOSPC")


def test_an_action_that_cannot_be_logged_is_not_started(
    store: Store, publish: Publish, tmp_path: Path
) -> None:
    """P31: an action stops if the log is a link."""
    publish(store)
    log_of(store).rename(tmp_path / "elsewhere")
    log_of(store).symlink_to(tmp_path / "elsewhere")

    with pytest.raises((OSError, ArtifactCorrupt)):
        publish(store)

    assert sorted(
        path.name
        for path in (store.state / "tenants" / "acme" / "bundles" / "anomaly-flow").iterdir()
    ) == ["1"]


def test_an_action_whose_process_died_stays_begun(
    amys: Store, acme: Tenant, publish: Publish
) -> None:
    publish(amys)
    log = log_of(amys)
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])

    assert summary(read_audit(amys, acme, limit=1)[0]) == (
        "publish",
        "anomaly-flow/1",
        Outcome.BEGUN,
    )


def test_a_tenant_reads_only_its_own_lines(store: Store, publish: Publish) -> None:
    """P10: tenant `a` does not match `a_b` or a name inside another field."""
    for tenant, model in (("a", "a_b"), ("a_b", "m"), ("b", "m")):
        publish(store, tenant=tenant, model=model)

    assert [entry.tenant for entry in read_audit(store, Tenant("a"), limit=10)] == ["a"]
    assert [entry.tenant for entry in read_audit(store, Tenant("c"), limit=10)] == []
    assert [entry.tenant for entry in read_audit(store, None, limit=2)] == ["b", "a_b"]


def test_hostile_text_stays_one_short_line(store: Store, acme: Tenant, publish: Publish) -> None:
    hostile = 'x\n{"number":1}\u2028' + "y" * 5000
    publish(replace(store, actor=Actor(hostile, hostile)))

    assert len(log_of(store).read_bytes().splitlines()) == 2
    assert read_audit(store, acme, limit=1)[0].who == hostile[:200]


SPOILT = {
    "changed": lambda lines: [lines[0], lines[1].replace(b"acme", b"evil"), *lines[2:]],
    "removed": lambda lines: [lines[0], *lines[2:]],
    "repeated": lambda lines: [lines[0], lines[1], lines[1], *lines[2:]],
    "in another order": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "the first removed": lambda lines: lines[1:],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_changed_line_is_detected(
    store: Store, publish: Publish, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    for _ in range(3):
        publish(store)
    assert verify_audit(store).problems == ()

    log_of(store).write_bytes(b"".join(spoil(log_of(store).read_bytes().splitlines(keepends=True))))

    assert verify_audit(store).problems


def test_a_truncated_end_is_detected_with_a_remembered_head(store: Store, publish: Publish) -> None:
    """The chain alone cannot reveal it, as the module's docstring explains."""
    publish(store)
    remembered = verify_audit(store).head
    publish(store)
    assert verify_audit(store, remembered=remembered).problems == ()

    log_of(store).write_bytes(log_of(store).read_bytes().splitlines(keepends=True)[0])

    assert verify_audit(store).problems == ()
    assert verify_audit(store, remembered=remembered).problems


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_cut_short_by_a_crash_is_reported_and_skipped(
    store: Store, acme: Tenant, publish: Publish, cut: int
) -> None:
    publish(store)
    log_of(store).write_bytes(log_of(store).read_bytes() + b"{" * cut)
    assert verify_audit(store).torn == 1

    publish(store)

    report = verify_audit(store)
    assert (report.torn, report.lines, report.problems) == (1, 4, ())
    assert [entry.what for entry in read_audit(store, acme, limit=9)] == [
        "anomaly-flow/2",
        "anomaly-flow/1",
    ]


def test_a_log_with_only_a_torn_line_starts_again_at_one(store: Store, publish: Publish) -> None:
    store.state.mkdir()
    log_of(store).write_bytes(b'{"act"')

    publish(store)

    assert (verify_audit(store).torn, verify_audit(store).lines) == (1, 2)


def test_the_log_is_bounded_and_its_chain_goes_on_over_its_files(
    store: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "FULL_BYTES", 1500)
    monkeypatch.setattr(audit_log, "MOST_FULL_FILES", 3)
    for _ in range(20):
        publish(store)

    files = sorted(path for path in store.state.iterdir() if path.name.startswith("audit"))
    files = [path for path in files if path.name != "audit-of-acme.jsonl"]
    report = verify_audit(store)

    assert len(files) == 4
    assert all(path.stat().st_size < 2 * 1500 for path in files)
    assert (report.problems, report.last) == ((), 40)
    assert report.first > 1
    assert [entry.what for entry in read_audit(store, acme, limit=5)] == [
        f"anomaly-flow/{n}" for n in (20, 19, 18, 17, 16)
    ]
    assert [entry.number for entry in read_audit(store, acme, limit=1000)] == [*range(39, 0, -2)]
    assert len(read_audit(store, None, limit=1000)) == (40 - report.first + 1) // 2

    files[1].unlink()
    assert verify_audit(store).problems


def test_a_tenant_that_acts_much_shortens_no_other_history(
    store: Store, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B12: sixty refused acts of one tenant rotated the lines of another out."""
    monkeypatch.setattr(audit_log, "FULL_BYTES", 1500)
    monkeypatch.setattr(audit_log, "MOST_FULL_FILES", 3)
    monkeypatch.setattr(audit_history, "SHARE_BYTES", 3000)
    with AuditedAction(store, acme, Action.PUBLISH, "before the flood") as action:
        action.begin()
    for _ in range(60):
        loud = AuditedAction(store, Tenant("loud"), Action.PUBLISH, "m")
        with pytest.raises(QuotaExceeded), loud:
            raise QuotaExceeded("m", 1)

    (kept,) = read_audit(store, acme, limit=5)
    assert (kept.what, kept.outcome) == ("before the flood", Outcome.DONE)
    assert len(read_audit(store, Tenant("loud"), limit=100)) < 60
    assert (store.state / "audit-of-loud.jsonl").stat().st_size <= 3000
    assert verify_audit(store).problems == ()


@pytest.mark.parametrize("name", ["../escaped", 5, None, "UPPER"])
def test_a_line_with_a_forged_tenant_is_archived_nowhere(store: Store, name: object) -> None:
    store.state.mkdir(parents=True, exist_ok=True)
    good, forged = (canonical_json.encode({"tenant": one}) for one in ("acme", name))

    archive_lines(store.state, forged + b'{"torn\n[]\n' + good)

    archived = [path.name for path in store.state.parent.rglob("audit-of-*")]
    assert archived == ["audit-of-acme.jsonl"]
    assert archived_lines(store.state, Tenant("acme")) == [good]


def test_a_crash_while_lines_are_kept_shows_none_twice(
    store: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "FULL_BYTES", 1500)
    monkeypatch.setattr(audit_log, "MOST_FULL_FILES", 3)
    with monkeypatch.context() as crash:
        crash.setattr(audit_log.atomic, "remove", lambda _: None)  # it died before that
        for _ in range(20):
            publish(store)

    assert [entry.number for entry in read_audit(store, acme, limit=1000)] == [*range(39, 0, -2)]


def test_a_missing_oldest_file_is_detected_before_rotation_may_remove_it(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "FULL_BYTES", 1500)
    for _ in range(8):
        publish(store)
    assert verify_audit(store).problems == ()

    next(
        iter(sorted(store.state.glob("audit-*"), key=lambda path: int(path.stem.split("-")[1])))
    ).unlink()

    assert verify_audit(store).problems


def test_a_file_rotated_during_a_read_is_not_missed(
    store: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        publish(store)
    read, set_aside = audit_log._read, iter([6])

    def rotated(state: Path, name: str) -> bytes:
        for last in set_aside:
            audit_log._rotate(state, last)
        return read(state, name)

    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "_read", rotated)
        assert len(read_audit(store, acme, limit=10)) == 3

    report = verify_audit(store)
    assert (report.problems, report.last) == ((), 6), (
        "who died between setting a file aside and the next line took nothing"
    )


def test_a_verification_waits_for_the_line_being_written(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is being written is not reported as torn."""
    publish(store)
    seen: list[audit_log.AuditReport] = []
    verifier, append = (
        threading.Thread(target=lambda: seen.append(verify_audit(store))),
        audit_log.atomic.append,
    )

    def slowly(directory: Path, name: str, data: bytes, *, mode: int) -> None:
        if verifier.ident is None:
            append(directory, name, data[:20], mode=mode)
            verifier.start()
            verifier.join(timeout=0.3)  # long enough to finish, if it does not wait
            data = data[20:]
        append(directory, name, data, mode=mode)

    monkeypatch.setattr(audit_log.atomic, "append", slowly)
    publish(store)
    verifier.join()

    assert [report.torn for report in seen] == [0]


def test_concurrent_actions_form_one_chain(store: Store, publish: Publish) -> None:
    start = threading.Barrier(4)

    def one(tenant: str) -> None:
        start.wait()
        for _ in range(5):
            publish(store, tenant=tenant)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, ["a", "b", "c", "d"]))

    assert (verify_audit(store).lines, verify_audit(store).problems) == (40, ())


def test_a_missing_log_is_empty_and_valid(store: Store, acme: Tenant) -> None:
    assert read_audit(store, acme, limit=1) == ()
    assert (verify_audit(store).problems, verify_audit(store).last) == ((), 0)
    assert not store.state.exists()
