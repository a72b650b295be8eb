"""The terminal: `axon VERB`. A verb's file is imported when the verb runs or its help is read."""

from __future__ import annotations

from deployments.cli.lazy_group import lazy_app

__all__ = ["app", "main"]

app = lazy_app("")


def main() -> None:
    """Run the verb that the command line names; the entry point of the console script."""
    app(prog_name="axon")
