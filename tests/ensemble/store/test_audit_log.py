"""The audit log (P31).

Nothing is done to the store without its line, and what was done to the lines is found.
"""

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

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, PointerMoved
from ensemble.store import audit_log
from ensemble.store.audit_log import LOG, AuditEntry, Outcome, read_audit, verify_audit
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
    """The store as amy acts on it, at a time of her own."""
    return replace(store, actor=Actor("amy", "terminal"), clock=lambda: 1_795_000_000.0)


def log_of(store: Store) -> Path:
    return store.state / LOG


def lines(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(store).read_bytes().splitlines()]


def told(entry: AuditEntry) -> tuple[str, str, Outcome]:
    return entry.act, entry.what, entry.outcome


def test_an_act_says_who_did_what_with_which_digest_when_and_from_where(
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


def test_every_act_leaves_its_line(
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


def test_what_is_refused_is_told_with_its_code(
    amys: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    with pytest.raises(PointerMoved):
        promote(amys, acme, two_releases[0], 7, signer=signer)
    with pytest.raises(ArtifactMissing):
        delete_bundle(amys, acme, MODEL, 9)

    refused = read_audit(amys, acme, limit=2)

    assert [(*told(entry), entry.code) for entry in refused] == [
        ("delete", "anomaly-flow/9", Outcome.FAILED, "ARTIFACT_MISSING"),
        ("promote", "release 1", Outcome.FAILED, "POINTER_MOVED"),
    ]


def test_an_act_that_fails_on_the_way_says_so(
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
    assert (*told(entry), entry.code) == ("publish", "anomaly-flow/2", Outcome.FAILED, "ENOSPC")


def test_without_a_line_nothing_is_done(store: Store, publish: Publish, tmp_path: Path) -> None:
    """P31: a log that leads elsewhere stops the act, not the other way round."""
    publish(store)
    log_of(store).rename(tmp_path / "elsewhere")
    log_of(store).symlink_to(tmp_path / "elsewhere")

    with pytest.raises((OSError, ArtifactCorrupt)):
        publish(store)

    assert sorted(
        path.name
        for path in (store.state / "tenants" / "acme" / "bundles" / "anomaly-flow").iterdir()
    ) == ["1"]


def test_an_act_whose_process_died_stays_begun(amys: Store, acme: Tenant, publish: Publish) -> None:
    publish(amys)
    log = log_of(amys)
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])

    assert told(read_audit(amys, acme, limit=1)[0]) == ("publish", "anomaly-flow/1", Outcome.BEGUN)


def test_a_tenant_reads_its_own_lines_only(store: Store, publish: Publish) -> None:
    """P10: `a` is no beginning of `a_b`, and a name in a text is no tenant."""
    for tenant, model in (("a", "a_b"), ("a_b", "m"), ("b", "m")):
        publish(store, tenant=tenant, model=model)

    assert [entry.tenant for entry in read_audit(store, Tenant("a"), limit=10)] == ["a"]
    assert [entry.tenant for entry in read_audit(store, Tenant("c"), limit=10)] == []
    assert [entry.tenant for entry in read_audit(store, None, limit=2)] == ["b", "a_b"]


def test_text_of_a_stranger_stays_one_short_line(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    hostile = 'x\n{"number":1}\u2028' + "y" * 5000
    publish(replace(store, actor=Actor(hostile, hostile)))

    assert len(log_of(store).read_bytes().splitlines()) == 2
    assert read_audit(store, acme, limit=1)[0].who == hostile[:200]


SPOILT = {
    "changed": lambda kept: [kept[0], kept[1].replace(b"acme", b"evil"), *kept[2:]],
    "taken out": lambda kept: [kept[0], *kept[2:]],
    "put in again": lambda kept: [kept[0], kept[1], kept[1], *kept[2:]],
    "in another order": lambda kept: [kept[0], kept[2], kept[1], *kept[3:]],
    "the first taken out": lambda kept: kept[1:],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_line_that_was_touched_is_found(
    store: Store, publish: Publish, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    for _ in range(3):
        publish(store)
    assert verify_audit(store).problems == ()

    log_of(store).write_bytes(b"".join(spoil(log_of(store).read_bytes().splitlines(keepends=True))))

    assert verify_audit(store).problems


def test_an_end_that_was_cut_off_is_found_by_who_remembers_it(
    store: Store, publish: Publish
) -> None:
    """The chain alone cannot show it; the page says so."""
    publish(store)
    remembered = verify_audit(store).head
    publish(store)
    assert verify_audit(store, remembered=remembered).problems == ()

    log_of(store).write_bytes(log_of(store).read_bytes().splitlines(keepends=True)[0])

    assert verify_audit(store).problems == ()
    assert verify_audit(store, remembered=remembered).problems


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_that_a_crash_cut_short_is_told_and_survived(
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


def test_a_log_that_is_only_a_piece_of_a_line_is_begun_anew(store: Store, publish: Publish) -> None:
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
    report = verify_audit(store)

    assert len(files) == 4
    assert all(path.stat().st_size < 2 * 1500 for path in files)
    assert (report.problems, report.last) == ((), 40)
    assert report.first > 1
    assert [entry.what for entry in read_audit(store, acme, limit=5)] == [
        f"anomaly-flow/{n}" for n in (20, 19, 18, 17, 16)
    ]
    assert len(read_audit(store, acme, limit=1000)) == (40 - report.first + 1) // 2

    files[1].unlink()
    assert verify_audit(store).problems


def test_the_oldest_file_of_the_log_is_missed_before_it_may_go(
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


def test_what_is_set_aside_while_one_reads_is_not_passed_over(
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


def test_the_log_is_verified_between_two_lines_never_in_one(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is just being written is no torn one."""
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
            verifier.join(timeout=0.3)  # long enough to look, if it may
            data = data[20:]
        append(directory, name, data, mode=mode)

    monkeypatch.setattr(audit_log.atomic, "append", slowly)
    publish(store)
    verifier.join()

    assert [report.torn for report in seen] == [0]


def test_acts_of_many_at_once_are_one_chain(store: Store, publish: Publish) -> None:
    start = threading.Barrier(4)

    def one(tenant: str) -> None:
        start.wait()
        for _ in range(5):
            publish(store, tenant=tenant)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, ["a", "b", "c", "d"]))

    assert (verify_audit(store).lines, verify_audit(store).problems) == (40, ())


def test_a_log_that_was_never_written_is_empty_and_whole(store: Store, acme: Tenant) -> None:
    assert read_audit(store, acme, limit=1) == ()
    assert (verify_audit(store).problems, verify_audit(store).last) == ((), 0)
    assert not store.state.exists()
