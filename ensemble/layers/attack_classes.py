"""Classes of a model of flows: benign first, its attack families, and sometimes `unknown`."""

from __future__ import annotations

from ensemble.errors import ArtifactIncompatible

__all__ = ["BENIGN_CLASS", "UNKNOWN_CLASS", "read_classes"]

BENIGN_CLASS = "BENIGN"
UNKNOWN_CLASS = "unknown"  # synthetic flows: unlike benign ones, and of no family


def read_classes(named: object, what: str) -> tuple[str, ...]:
    """Read the classes of a bundle.

    Args:
        named: the value in its JSON.
        what: name of the model, for the error.

    Raises:
        ArtifactIncompatible: benign is not first or is the only class, or a class is repeated.
    """
    classes = tuple(str(name) for name in named) if isinstance(named, list | tuple) else ()
    is_short = len(classes) < 2  # noqa: PLR2004  # benign and one other
    if is_short or classes[0] != BENIGN_CLASS or len(set(classes)) != len(classes):
        raise ArtifactIncompatible(
            what, "benign first and at least one other class, each once", f"{classes}"
        )
    return classes
