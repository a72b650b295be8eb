"""How `axon keys` is called.

What it does is in `deployments.cli.keys`, which is imported when a verb runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.errors import user_errors

__all__ = ["keys"]

keys = typer.Typer(
    help="Who may ask, in whose name and for what. A tenant is whoever a key says, never what a request says.",
    no_args_is_help=True,
)


@keys.command("create")
def create_key(
    *,
    tenant: Annotated[str, typer.Option(help="In whose name the holder asks.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="`score` asks for verdicts, `read` looks at models and jobs, `train` starts jobs, `manage` promotes, deletes and "
            "switches; say it again for more than one.",
        ),
    ],
    name: Annotated[
        str, typer.Option(help="What it is for, e.g. `collector berlin`; for people.")
    ] = "",
    expires_days: Annotated[
        float | None,
        typer.Option(min=0.001, max=36500, help="Days until it is refused; never without this."),
    ] = None,
) -> None:
    """Make a key. It alone goes to standard output, once: `axon keys create --tenant acme --scope score > key.txt`.

    Only its hash is kept. Give every program a key of its own with the least scopes it needs, so
    that one can be revoked alone.
    To rotate a key, make a new one, hand it out, then revoke the old one. Send it as
    `Authorization: Bearer KEY`.
    """
    from deployments.cli.keys import create

    with user_errors(console.err):
        create(tenant, scope, name, expires_days, out=console.out, err=console.err)


@keys.command("list")
def list_keys() -> None:
    """Every key.

    Its id, whose it is, what for, and whether it is live, expired or revoked. Never the key or its
    hash.
    """
    from deployments.cli.keys import show

    with user_errors(console.err):
        show(console.out)


@keys.command("revoke")
def revoke_key(
    key: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The 8 digits between the two `_` of a key; `axon keys list` shows them.",
        ),
    ],
) -> None:
    """Take a key back, for good. A running service refuses it within seconds."""
    from deployments.cli.keys import revoke

    with user_errors(console.err):
        revoke(key, console.out)
