"""How `axon models` is called.

What it does is in `deployments.commands`, which is imported when a verb runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.console import TenantOption
from deployments.cli.errors import user_errors

__all__ = ["models"]

models = typer.Typer(
    help="What the store holds and what serves: list, promote, roll back, try in shadow, delete, export, and who did it.",
    invoke_without_command=True,
)
Name = Annotated[
    str, typer.Argument(help="Name of the model, e.g. anomaly-flow; `axon models` lists them.")
]
Version = Annotated[
    int,
    typer.Option(min=1, help="Which one; there is no default, so that nothing is hit by guessing."),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
AtOnce = Annotated[
    bool, typer.Option("--at-once", help="All traffic at once, not in measured steps.")
]
ModelFile = Annotated[
    Path, typer.Argument(help="The file, e.g. release-7.tar.gz: any tar can look into it.")
]


@models.callback()
def list_models(
    context: typer.Context, *, tenant: TenantOption = None, as_json: Json = False
) -> None:
    """What the store holds and what serves; `axon models promote N` points to another release."""
    if context.invoked_subcommand is None:
        from deployments.cli.models import show_models

        with user_errors(console.err):
            show_models(tenant, console.out, as_json=as_json)


@models.command("info")
def model_info(
    name: Name,
    *,
    version: Annotated[
        str | None,
        typer.Option(help="Number, `champion` or `challenger`; the champion, else the newest."),
    ] = None,
    tenant: TenantOption = None,
    as_json: Json = False,
) -> None:
    """All that is known of one version.

    Type, parameters, hashes, what it was trained on, what names it. Exit code 1: it is broken.
    """
    from deployments.cli.models import show_info

    with user_errors(console.err):
        if not show_info(name, version, tenant, console.out, as_json=as_json):
            raise typer.Exit(1)


@models.command("versions")
def model_versions(name: Name, *, tenant: TenantOption = None, as_json: Json = False) -> None:
    """Every version of one model, the newest first."""
    from deployments.cli.models import show_versions

    with user_errors(console.err):
        show_versions(name, tenant, console.out, as_json=as_json)


@models.command("promote")
def promote_release(
    release: Annotated[
        str,
        typer.Argument(help="Number of the release, or `challenger`; an older one is a roll-back."),
    ],
    *,
    tenant: TenantOption = None,
    at_once: AtOnce = False,
) -> None:
    """Point a tenant to one of its releases, after proving it.

    A challenger that is promoted is none any more.
    """
    from deployments.cli.releases import promote_release as run

    with user_errors(console.err):
        run(release, tenant, console.out, at_once=at_once)


@models.command("rollback")
def roll_back(
    *,
    to: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of an earlier release; the last that loads unless said otherwise."
        ),
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Point to the release before, all traffic at once.

    Doing it again goes back further; the last five are kept for it.
    """
    from deployments.cli.releases import roll_back_release

    with user_errors(console.err):
        roll_back_release(to, tenant, console.out)


@models.command("challenger")
def challenger(
    release: Annotated[
        int | None,
        typer.Argument(
            min=1, help="Number of the release to try; nothing shows which one is tried now."
        ),
    ] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Try none any more.")] = False,
    tenant: TenantOption = None,
) -> None:
    """Try a release in shadow, beside the one that serves: it scores, and answers nobody."""
    from deployments.cli.releases import change_challenger

    with user_errors(console.err):
        change_challenger(release, tenant, console.out, clear=clear)


@models.command("alias")
def alias(
    name: Name,
    word: Annotated[str, typer.Argument(help="`champion` or `challenger`.")],
    *,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Which one gets the word; nothing shows which one has it."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the word away.")] = False,
    tenant: TenantOption = None,
) -> None:
    """Say which version of a model that no release names is meant by `champion` or `challenger`."""
    from deployments.cli.releases import change_alias

    with user_errors(console.err):
        change_alias(name, word, version, tenant, console.out, clear=clear)


@models.command("delete")
def delete(name: Name, *, version: Version, tenant: TenantOption = None) -> None:
    """Remove one version, for good.

    Refused where it serves, could be rolled back to, is tried in shadow, or came with Axon.
    """
    from deployments.cli.storage import delete_version

    with user_errors(console.err):
        delete_version(name, version, tenant, console.out)


@models.command("delete-release")
def delete_release(
    release: Annotated[int, typer.Argument(min=1, help="Number of the release; its models stay.")],
    *,
    tenant: TenantOption = None,
) -> None:
    """Remove one release, for good; refused as in `delete`."""
    from deployments.cli.storage import delete_one_release

    with user_errors(console.err):
        delete_one_release(release, tenant, console.out)


@models.command("retention")
def retention(
    *,
    keep: Annotated[
        int,
        typer.Option(
            min=1, help="So many of the newest releases, and versions of each model, stay."
        ),
    ],
    tenant: TenantOption = None,
) -> None:
    """Remove what nothing needs and is older than the newest so many."""
    from deployments.cli.storage import retain

    with user_errors(console.err):
        retain(keep, tenant, console.out)


@models.command("export")
def export(
    file: ModelFile,
    *,
    name: Annotated[
        str | None,
        typer.Option("--model", help="One model alone, instead of a release with all its models."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Of that model; its champion unless said otherwise.")
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(min=1, help="Which release; the one that serves unless said otherwise."),
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Write a release, or one model, into one file, signatures and all.

    A file that is there is not replaced.
    """
    from deployments.cli.storage import export_file

    with user_errors(console.err):
        export_file(file, name, version, release, tenant, console.out)


@models.command("import")
def import_(
    file: ModelFile,
    *,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Keep a file that is refused, set aside, for who looks into it."
        ),
    ] = False,
    tenant: TenantOption = None,
) -> None:
    """Publish what an exported file holds as new versions of your own.

    Nothing is promoted. What nobody trusted signed is refused.
    """
    from deployments.cli.storage import import_file

    with user_errors(console.err):
        import_file(file, tenant, console.out, console.err, quarantine=quarantine)


@models.command("quarantine")
def quarantine(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a model to set aside; nothing lists what is set aside."),
    ] = None,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Which one.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at it.")] = "",
    even_in_use: Annotated[
        bool,
        typer.Option("--even-in-use", help="Also where it serves; roll back first if you can."),
    ] = False,
    tenant: TenantOption = None,
) -> None:
    """Set a hostile version aside, where nothing looks it up. Axon releases nothing from there."""
    from deployments.cli.storage import set_aside

    with user_errors(console.err):
        set_aside(name, version, reason, tenant, console.out, even_in_use=even_in_use)


@models.command("audit")
def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Follow the chain through the whole log. Exit code 1: it was touched."
        ),
    ] = False,
    head: Annotated[
        str,
        typer.Option(
            help="The head that an earlier `--verify` told: nothing up to it may be gone."
        ),
    ] = "",
    tenant: TenantOption = None,
    as_json: Json = False,
) -> None:
    """Who published, promoted, rolled back or deleted what, when, from where, and how it ended.

    The newest first.
    """
    from deployments.cli.storage import check_audit, show_audit

    with user_errors(console.err):
        if verify or head:
            if not check_audit(head, console.out):
                raise typer.Exit(1)
            return
        show_audit(limit, tenant, console.out, as_json=as_json)
