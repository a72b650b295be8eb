"""The classes that a model of flows tells apart.

Benign first, the attack families it learnt, and perhaps `unknown`.
"""

from __future__ import annotations

from ensemble.errors import ArtifactIncompatible

__all__ = ["BENIGN_CLASS", "UNKNOWN_CLASS", "read_classes"]

BENIGN_CLASS = "BENIGN"
UNKNOWN_CLASS = "unknown"  # made-up flows: unlike benign ones, and of no family


def read_classes(named: object, what: str) -> tuple[str, ...]:
    """The classes of a bundle.

    Args:
        named: as its JSON has them.
        what: whose they are, for the refusal.

    Raises:
        ArtifactIncompatible: benign is not first, it is alone, or a class stands twice.
    """
    classes = tuple(str(name) for name in named) if isinstance(named, list | tuple) else ()
    # benign and one other
    if len(classes) < 2 or classes[0] != BENIGN_CLASS or len(set(classes)) != len(classes):  # noqa: PLR2004
        raise ArtifactIncompatible(
            what, "benign first and at least one other class, each once", f"{classes}"
        )
    return classes
