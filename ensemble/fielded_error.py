"""An error that is declared by its fields, a code and a sentence, and that Ray can pickle.

The fields are the annotated attributes, in order; they are the parameters of the constructor and
the placeholders of the sentence.
"""

from __future__ import annotations

from inspect import Parameter, Signature, get_annotations
from typing import ClassVar, dataclass_transform

__all__ = ["FieldedError"]


@dataclass_transform(eq_default=False)
class FieldedError(Exception):
    """An error that is its fields, its code and a sentence."""

    code = ""
    cause = ""
    sentence = ""
    __signature__: ClassVar[Signature] = Signature()

    def __init_subclass__(cls, *, code: str = "", cause: str = "") -> None:
        """Make the annotated attributes of a subclass the parameters of its constructor."""
        super().__init_subclass__()
        cls.code, cls.cause = code or cls.code, cause or cls.cause  # Ray's subclass has neither
        kind, none = Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty
        own = [
            Parameter(name, kind, default=vars(cls).get(name, none), annotation=annotation)
            for name, annotation in get_annotations(cls).items()
        ]
        cls.__signature__ = Signature([*cls.__signature__.parameters.values(), *own])

    def __init__(self, *values: object, **named: object) -> None:
        """Set the fields, and put them all into `args`, so that Ray can pickle the error."""
        given = self.__signature__.bind(*values, **named)
        given.apply_defaults()
        super().__init__(*given.arguments.values())
        vars(self).update(given.arguments)

    def __str__(self) -> str:
        return self.sentence.format_map(vars(self)).removeprefix(": ")  # where `field` is ""
