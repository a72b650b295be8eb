"""Input formats: files of events, recognised by their content and read into columns.

A format is one file in this package that offers `SOURCE`. `find_source` searches the package, so
that a new format needs no other change. JSON lines of events are not here: they are the wire
format, and `deployments/` parses them with the types of the HTTP API.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from ensemble.sources.cicflowmeter import SOURCE as CICFLOWMETER
from ensemble.sources.source import Block, Refused, Rows, Source, open_unpacked, read_head

__all__ = ["Block", "Refused", "Rows", "Source", "find_source", "open_unpacked", "sources"]


def sources() -> list[Source]:
    """List the formats of this package, in the order of their file names."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    return [module.SOURCE for module in modules if hasattr(module, "SOURCE")]


def find_source(path: Path, others: Sequence[Source] = ()) -> Source:
    """Find the first format that recognises a file, in this package and then in `others`.

    If none does, it is CICFlowMeter, whose reader names the missing columns of a header.
    """
    head = read_head(path)
    known = [*sources(), *others]
    return next((one for one in known if one.sniff(head, path.name)), CICFLOWMETER)
