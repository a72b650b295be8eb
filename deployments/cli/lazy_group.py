"""A group of verbs that imports a verb's module only when the verb runs or its help is read.

So `axon --help` imports no detector, web framework or Ray, and `axon serve` prepares the
environment before Ray reads it.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from deployments.cli.errors import user_errors
from deployments.cli.verbs import ABOUT_AXON, VERBS, Verb

__all__ = ["lazy_app"]


class LazyGroup(TyperGroup):
    """The verbs of `VERBS` below `path`, listed with their lines of help.

    Errors of all verbs are reported in this one place.
    """

    path = ""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  # what Typer passes on
        super().__init__(**attributes)
        self.commands.update(
            {
                name: TyperCommand(name, help=verb.help, rich_help_panel=verb.panel)
                for name, verb in verbs_below(self.path).items()
            }
        )

    def resolve_command(
        self,
        ctx: Any,  # noqa: ANN401  # Typer's own context
        args: list[str],
    ) -> tuple[str | None, Any, list[str]]:
        """Find the verb at the beginning of `args` and import it.

        Options of the group become defaults of the options of the verb.
        """
        name, listed, rest = super().resolve_command(ctx, args)
        ctx.default_map = {name: ctx.params}
        return name, listed and load(f"{self.path} {name}".strip()), rest

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer's own context, the verb's own result
        """Run the verb; report in one sentence an error that the operator can fix."""
        with user_errors():
            return super().invoke(ctx)


def verbs_below(path: str) -> dict[str, Verb]:
    """Return the verbs of a group by name, in the order of the help; "" is `axon` itself."""
    return {
        name: verb
        for full, verb in VERBS.items()
        for group, _, name in [full.rpartition(" ")]
        if group == path
    }


def load(path: str) -> TyperCommand | TyperGroup:
    """Import a verb, for example `models info`, and make its command."""
    if verbs_below(path):
        return typer.main.get_group(lazy_app(path))
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    single.command(path.rpartition(" ")[2])(_function(VERBS[path]))
    command = typer.main.get_command(single)
    assert isinstance(command, TyperCommand)  # noqa: S101  # an application of one command is one
    return command


def lazy_app(path: str) -> typer.Typer:
    """Make the application of a group of verbs.

    Without a verb, the function of the group runs, if it has one: `axon models` lists the models.
    """
    group = type("Group", (LazyGroup,), {"path": path})
    verb = VERBS.get(path, ABOUT_AXON)
    function = _function(verb) if verb.function else None
    return typer.Typer(
        name=path.rpartition(" ")[2] or "axon",
        cls=group,
        callback=function or _needs_a_verb,
        invoke_without_command=function is not None,
        no_args_is_help=function is None,
        help=verb.help if function is None else inspect.getdoc(function),
        add_completion=not path,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )


def _needs_a_verb() -> None:
    """Do nothing: without a verb, Typer prints the help of the group."""


def _function(verb: Verb) -> Any:  # noqa: ANN401  # each verb has its own arguments
    module, _, name = verb.function.partition(":")
    return getattr(import_module(f"deployments.cli.{module}"), name)
