"""`axon models delete`, `retention`, `export`, `import`, `quarantine` and `audit`: the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.console import Column, coloured, minutes, plain, print_json, table
from deployments.cli.local_store import chosen_tenant, own_registry, own_store
from deployments.cli.models import Name
from deployments.cli.options import JsonOption, TenantOption
from ensemble.errors import ArtifactCorrupt, ArtifactUnreadable, ArtifactUntrusted, MalformedEvent
from ensemble.store import (
    ARCHIVE_LIMIT_BYTES,
    ModelName,
    Outcome,
    list_quarantine,
    quarantine_bundle,
    quarantine_file,
    verify_audit,
)
from ensemble.store.files import write_new

__all__ = ["audit", "delete", "delete_release", "export", "import_", "quarantine", "retention"]

COLOURS = {Outcome.DONE: "green", Outcome.FAILED: "red", Outcome.BEGUN: "yellow"}
ArchiveFile = Annotated[
    Path, typer.Argument(help="The archive, e.g. release-7.tar.gz; `tar` can list it.")
]


def delete(
    name: Name,
    *,
    version: Annotated[
        int, typer.Option(min=1, help="Version to delete; it has no default, for safety.")
    ],
    tenant: TenantOption = None,
) -> None:
    """Delete one model version permanently.

    Refused for a version that serves, that a rollback can reach, that is a challenger, or that was
    shipped with Axon.
    """
    owner = chosen_tenant(tenant)
    own_registry(owner).delete(ModelName(name), version)
    console.out.print(f"deleted {name}/{version} of tenant {owner}; its number is not used again")


def delete_release(
    release: Annotated[int, typer.Argument(min=1, help="Number of the release.")],
    *,
    tenant: TenantOption = None,
) -> None:
    """Delete one release permanently; its models stay.

    Refused as in `axon models delete`.
    """
    owner = chosen_tenant(tenant)
    own_registry(owner).delete_release(release)
    console.out.print(f"deleted release {release} of tenant {owner}; its number is not used again")


def retention(
    *,
    newest: Annotated[
        int,
        typer.Option(
            "--keep",
            min=1,
            help="Number of the newest releases, and versions of each model, that stay.",
        ),
    ],
    tenant: TenantOption = None,
) -> None:
    """Delete unreferenced releases and model versions, keeping the newest N."""
    removed = own_registry(chosen_tenant(tenant)).retain(newest)
    for one in (*removed.releases, *removed.bundles):
        console.out.print(f"deleted {one}")
    if not removed.releases and not removed.bundles:
        console.out.print("nothing to delete")


def export(
    file: ArchiveFile,
    *,
    name: Annotated[
        str | None,
        typer.Option("--model", help="One model alone, instead of a release with all its models."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version of that model; default: its champion.")
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(min=1, help="Number of the release; default: the one that serves."),
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Write a release or one model into a signed file.

    An existing file is not replaced.
    """
    if (name is None and version is not None) or (name is not None and release is not None):
        raise MalformedEvent("--model", "give --model with its --version, or --release, or neither")
    owner = chosen_tenant(tenant)
    registry = own_registry(owner)
    what, data = (
        registry.export_release(release)
        if name is None
        else registry.export(ModelName(name), version)
    )
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
    console.out.print(f"wrote {what} of tenant {owner}, {len(data):,} bytes")


def import_(
    file: ArchiveFile,
    *,
    quarantine: Annotated[
        bool,
        typer.Option("--quarantine", help="Quarantine a refused file, for an investigation."),
    ] = False,
    tenant: TenantOption = None,
) -> None:
    """Import an exported file as new versions of this tenant.

    Nothing is promoted. A file without a trusted signature is refused.
    """
    owner = chosen_tenant(tenant)
    registry, data = own_registry(owner), _read(file)
    try:
        imported = registry.import_archive(data)
    except (ArtifactCorrupt, ArtifactUntrusted) as refusal:
        if quarantine:
            record = quarantine_file(
                registry.store, owner, data, str(refusal), what=f"an archive, {file.name}"
            )
            console.err.print(f"the file is in quarantine as number {record.number}")
        raise
    for ref in imported.bundles:
        console.out.print(
            f"published {ref.model} version {ref.version}, from {imported.origin}", markup=False
        )
    if imported.release:
        serial = imported.release.serial
        console.out.print(
            f"published release {serial} of tenant {owner}; "
            f"`axon models promote {serial}` makes it serve"
        )


def quarantine(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of the model; without it, list the quarantine."),
    ] = None,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Version to quarantine.")] = None,
    reason: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    even_in_use: Annotated[
        bool,
        typer.Option(
            "--even-in-use", help="Also a version that serves; roll back first if you can."
        ),
    ] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quarantine a model version, or list the quarantine.

    Axon never loads a version from the quarantine and never releases one from it.
    """
    store, owner = own_store(), chosen_tenant(tenant)
    if name is not None:
        if version is None:
            raise MalformedEvent("--version", "give the version to quarantine; it has no default")
        one = quarantine_bundle(
            store, owner, ModelName(name), version, reason, even_in_use=even_in_use
        )
        console.out.print(
            f"{one.what} of tenant {owner} is in quarantine as number {one.number}; "
            "it cannot be loaded any more"
        )
        return
    records = list_quarantine(store, owner)
    if as_json:
        print_json([asdict(one) for one in records])
    elif not records:
        console.out.print(f"the quarantine of tenant {owner} is empty")
    else:
        console.out.print(
            table(
                [
                    "number",
                    "what",
                    "since",
                    "by",
                    Column("sha256", optional=True),
                    Column("reason", wraps=True),
                ],
                [
                    [
                        str(one.number),
                        plain(one.what),
                        minutes(one.at),
                        plain(one.who),
                        one.digest[:12],
                        plain(
                            one.problem
                            or (one.reason if one.is_there else f"{one.reason} (files are gone)")
                        ),
                    ]
                    for one in records
                ],
            )
        )


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries to show.")] = 50,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Verify the hash chain of the whole log. Exit code 1: it was changed."
        ),
    ] = False,
    head: Annotated[
        str,
        typer.Option(
            help="Head of the chain that an earlier `--verify` printed; fail if entries before it "
            "are missing."
        ),
    ] = "",
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log of the model store, newest first.

    Each entry names the user, the action, its target, the time, the place and the outcome.
    """
    if verify or head:
        _verify(head, as_json=as_json)
        return
    entries = own_registry(chosen_tenant(tenant)).audit(limit)
    if as_json:
        print_json([asdict(one) for one in entries])
    elif not entries:
        console.out.print("the audit log is empty")
    else:
        console.out.print(
            table(
                [
                    Column("line", optional=True),
                    "time",
                    "user",
                    "action",
                    Column("target", wraps=True),
                    "outcome",
                    Column("where", optional=True),
                    Column("sha256", optional=True),
                ],
                [
                    [
                        str(one.number),
                        minutes(one.at),
                        plain(one.who),
                        plain(one.act),
                        plain(one.what),
                        f"{coloured(one.outcome, COLOURS[one.outcome])} {one.code}".strip(),
                        plain(one.where),
                        one.digest[:12],
                    ]
                    for one in entries
                ],
            )
        )


def _verify(head: str, *, as_json: bool) -> None:
    """Verify the hash chain of the whole log; report changes, and exit with 1 if there are any."""
    report = verify_audit(own_store(), remembered=head)
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            console.out.print(problem)
        if report.torn:
            console.out.print(
                f"{report.torn} lines were cut short by a crash; no action is among them"
            )
        if not report.problems:
            console.out.print(
                f"{report.lines} lines, {report.first} to {report.last}, are as they were written"
            )
            console.out.print(
                f"head {report.head or '(none)'}: store it elsewhere; give it to --head next time",
                soft_wrap=True,
            )
    if report.problems:
        raise typer.Exit(1)


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
