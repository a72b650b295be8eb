"""`axon models delete | retention | export | import | quarantine | audit`.

What is kept, what goes, and who did it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deployments.cli.local_store import now, own_store, plain
from deployments.cli.releases import release_numbered
from deployments.config.settings import read_settings
from deployments.config.trust import read_signer
from ensemble.errors import ArtifactCorrupt, ArtifactUnreadable, ArtifactUntrusted, MalformedEvent
from ensemble.store import (
    ARCHIVE_LIMIT_BYTES,
    ModelName,
    Outcome,
    Tenant,
    apply_retention,
    delete_bundle,
    delete_release,
    export_bundle,
    export_release,
    import_archive,
    list_quarantine,
    quarantine_bundle,
    quarantine_file,
    read_audit,
    read_pointer,
    resolve_bundle,
    verify_audit,
)
from ensemble.store.files import write_new

__all__ = [
    "check_audit",
    "delete_one_release",
    "delete_version",
    "export_file",
    "import_file",
    "retain",
    "set_aside",
    "show_audit",
]

COLOURS = {Outcome.DONE: "green", Outcome.FAILED: "red", Outcome.BEGUN: "yellow"}


def delete_version(name: str, version: int, tenant: str | None, console: Console) -> None:
    """Remove one version of a model, for good.

    Raises:
        ArtifactError: there is none, or it is needed.
    """
    owner = _tenant(tenant)
    delete_bundle(own_store(), owner, ModelName(name), version)
    console.print(
        f"deleted {name}/{version} of tenant {owner}; its number is not used again", highlight=False
    )


def delete_one_release(release: int, tenant: str | None, console: Console) -> None:
    """Remove one release, for good; its models stay.

    Raises:
        ArtifactError: there is none, or it is needed.
    """
    owner = _tenant(tenant)
    delete_release(own_store(), owner, release)
    console.print(
        f"deleted release {release} of tenant {owner}; its number is not used again",
        highlight=False,
    )


def retain(keep: int, tenant: str | None, console: Console) -> None:
    """Remove what nothing needs beyond the newest `keep`.

    Raises:
        ArtifactError: what is needed cannot be told now.
    """
    removed = apply_retention(own_store(), _tenant(tenant), keep=keep)
    for one in (*removed.releases, *removed.bundles):
        console.print(f"deleted {one}", highlight=False)
    if not removed.releases and not removed.bundles:
        console.print("nothing to delete", highlight=False)


def export_file(
    file: Path,
    name: str | None,
    version: int | None,
    release: int | None,
    tenant: str | None,
    console: Console,
) -> None:
    """Write a release, or one model, into one file.

    Args:
        file: is not replaced.
        name: of the model; None for a release.
        version: of the model; None for its champion.
        release: which; None for the one that serves.
        tenant: whose; None for the configured one.
        console: where it is told.

    Raises:
        ArtifactError: it does not open, or the file cannot be written.
        MalformedEvent: a version without a model, or a model and a release.
    """
    if (name is None and version is not None) or (name is not None and release is not None):
        raise MalformedEvent("--model", "give --model with its --version, or --release, or neither")
    store, owner = own_store(), _tenant(tenant)
    if name is not None:
        ref = resolve_bundle(store, owner, ModelName(name), version)
        data, what = export_bundle(store, ref), str(ref)
    else:
        wanted = (
            release_numbered(store, owner, release)
            if release is not None
            else read_pointer(store, owner).ref
        )
        data, what = export_release(store, owner, wanted), str(wanted)
    try:
        write_new(file.parent, file.name, data, mode=0o644)
    except FileExistsError:
        raise ArtifactUnreadable(
            "the file to export into", "is there already, and nothing is replaced"
        ) from None
    except OSError as problem:
        raise ArtifactUnreadable(
            "the file to export into", f"cannot be written ({problem.strerror})"
        ) from None
    console.print(f"wrote {what} of tenant {owner}, {len(data):,} bytes", highlight=False)


def import_file(
    file: Path, tenant: str | None, console: Console, err: Console, *, quarantine: bool
) -> None:
    """Publish what an exported file holds as the tenant's own; nothing is promoted.

    Args:
        file: as `export_file` wrote it.
        tenant: whose it becomes; None for the configured one.
        console: where it is told.
        err: where it is told that the file was set aside.
        quarantine: set a file aside that is refused as hostile or damaged.

    Raises:
        SigningRefused: there is no key to sign it with.
        ArtifactError: it cannot be read, nobody trusted signed it, or it is not what an export
            writes.
    """
    store, owner = own_store(), _tenant(tenant)
    signer, data = read_signer(store.trust), _read(file)
    try:
        imported = import_archive(store, owner, data, now=now(), signer=signer, quota=None)
    except (ArtifactCorrupt, ArtifactUntrusted) as refusal:
        if quarantine:
            aside = quarantine_file(
                store, owner, data, str(refusal), what=f"an archive, {file.name}"
            )
            err.print(f"the file is kept in quarantine as number {aside.number}", highlight=False)
        raise
    for ref in imported.bundles:
        console.print(
            f"published {ref.model} version {ref.version}, from {imported.origin}",
            highlight=False,
            markup=False,
        )
    if imported.release:
        serial = imported.release.serial
        console.print(
            f"published release {serial} of tenant {owner}; `axon models promote {serial}` makes it serve",
            highlight=False,
        )


def set_aside(
    name: str | None,
    version: int | None,
    reason: str,
    tenant: str | None,
    console: Console,
    *,
    even_in_use: bool,
) -> None:
    """List what is set aside, or set one version of a model aside.

    Raises:
        ArtifactError: there is none, or it is needed and `even_in_use` is not said.
        MalformedEvent: a name without a version.
    """
    store, owner = own_store(), _tenant(tenant)
    if name is not None:
        if version is None:
            raise MalformedEvent(
                "--version", "say which version of it; nothing is set aside by guessing"
            )
        one = quarantine_bundle(
            store, owner, ModelName(name), version, reason, even_in_use=even_in_use
        )
        console.print(
            f"set {one.what} of tenant {owner} aside as number {one.number}; nothing looks it up any more",
            highlight=False,
        )
        return
    table = Table(
        "number", "what", "since", "by", "sha256", "reason", box=None, header_style="bold"
    )
    for one in list_quarantine(store, owner):
        note = one.reason if one.is_there else f"{one.reason} (only this note is left)"
        table.add_row(
            str(one.number),
            plain(one.what),
            one.at,
            plain(one.who),
            one.digest[:12],
            plain(one.problem or note),
        )
    console.print(table if table.row_count else f"nothing of tenant {owner} is set aside")


def show_audit(limit: int, tenant: str | None, console: Console, *, as_json: bool) -> None:
    """The newest acts on a tenant's things.

    Raises:
        ArtifactError: the log cannot be read.
    """
    entries = read_audit(own_store(), _tenant(tenant), limit=limit)
    if as_json:
        console.print_json(json.dumps([asdict(entry) for entry in entries]))
        return
    table = Table(
        "line",
        "at",
        "who",
        "where",
        "act",
        "what",
        "sha256",
        "outcome",
        box=None,
        header_style="bold",
    )
    for one in entries:
        outcome = f"[{COLOURS[one.outcome]}]{one.outcome}[/] {one.code}".strip()
        texts = (plain(text) for text in (one.who, one.where, one.act, one.what))
        table.add_row(str(one.number), one.at, *texts, one.digest[:12], outcome)
    console.print(table if entries else "nothing was done yet", highlight=False)


def check_audit(head: str, console: Console) -> bool:
    """Follow the chain through the whole log; say where it was touched.

    Returns:
        Whether it was not.

    Raises:
        ArtifactError: the log cannot be read.
    """
    report = verify_audit(own_store(), remembered=head)
    for problem in report.problems:
        console.print(problem, highlight=False)
    if report.torn:
        console.print(
            f"{report.torn} lines were cut short by a crash; no act is among them", highlight=False
        )
    if not report.problems:
        console.print(
            f"{report.lines} lines, {report.first} to {report.last}, are as they were written",
            highlight=False,
        )
        console.print(
            f"head {report.head or '(none)'}: keep it elsewhere, and give it to --head next time",
            highlight=False,
            soft_wrap=True,
        )
    return not report.problems


def _tenant(named: str | None) -> Tenant:
    return Tenant(named or read_settings().store.tenant)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(ARCHIVE_LIMIT_BYTES + 1)
    except OSError as problem:
        raise ArtifactUnreadable(
            "the file to import", f"cannot be read ({problem.strerror})"
        ) from None
    if len(data) > ARCHIVE_LIMIT_BYTES:
        raise ArtifactCorrupt("the file to import", f"is longer than {ARCHIVE_LIMIT_BYTES:,} bytes")
    return data
