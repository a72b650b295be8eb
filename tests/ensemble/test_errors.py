"""The error tree: every error carries its fields, builds its sentence, and survives pickling."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from ensemble import errors
from ensemble.errors import (
    ArtifactError,
    EnsembleError,
    EventError,
    JobError,
    LayerError,
    NotReplayable,
    ServiceError,
    TrainingError,
)

EXAMPLES = {"str": "some {name}", "int": 12345, "float": 12345.0}


def family_of(error: type[EnsembleError]) -> list[type[EnsembleError]]:
    return [error, *(below for child in error.__subclasses__() for below in family_of(child))]


def arguments_of(error: type[EnsembleError]) -> dict[str, str | float]:
    """Make an argument for each field of an error; None without a constructor of its own."""
    if (
        "self" not in inspect.signature(error.__init__).parameters
        or error.__init__ is Exception.__init__
    ):
        return {}
    parameters = [
        p for p in inspect.signature(error).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    values = {}
    for number, parameter in enumerate(parameters):
        example = EXAMPLES[str(parameter.annotation)]
        values[parameter.name] = (
            example.format(name=parameter.name) if isinstance(example, str) else example + number
        )
    return values


EVERY_ERROR = [
    pytest.param(error, id=error.__name__) for error in dict.fromkeys(family_of(EnsembleError))
]
WITH_FIELDS = [param for param in EVERY_ERROR if arguments_of(param.values[0])]


@pytest.mark.parametrize("error", EVERY_ERROR)
@pytest.mark.parametrize(
    "carry",
    [
        pytest.param(lambda e: pickle.loads(pickle.dumps(e)), id="pickle"),  # noqa: S301
        pytest.param(copy.copy, id="copy"),
    ],
)  # our own bytes
def test_an_error_survives_pickling_between_two_processes(
    error: type[EnsembleError], carry: object
) -> None:
    """Ray pickles errors; one that loses a field, or cannot be rebuilt, hides the cause."""
    raised = error(*arguments_of(error).values())

    arrived = carry(raised)  # type: ignore[operator]

    assert type(arrived) is error
    assert vars(arrived) == vars(raised)
    assert (str(arrived), arrived.code) == (str(raised), raised.code)


@pytest.mark.parametrize("error", WITH_FIELDS)
def test_an_error_has_every_field_and_names_each_in_its_sentence(
    error: type[EnsembleError],
) -> None:
    """A sentence without its fields sends the reader back to the code."""
    given = arguments_of(error)

    raised = error(**given)

    assert {name: getattr(raised, name) for name in given} == given
    assert all(
        str(value) in str(raised).replace(",", "") for value in given.values()
    )  # 12,345 is 12345


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    """Clients, metrics and the runbook tell errors apart by nothing else."""
    codes = [param.values[0].code for param in EVERY_ERROR]

    assert len(set(codes)) == len(codes)
    assert all(code == code.upper() and code.replace("_", "").isalpha() for code in codes)


def test_every_error_is_in_the_branch_of_the_party_that_must_act() -> None:
    """Seven branches: the HTTP edge and the slot decide by the branch what happens next."""
    branches = (
        EventError,
        ArtifactError,
        LayerError,
        ServiceError,
        TrainingError,
        NotReplayable,
        JobError,
    )

    assert set(EnsembleError.__subclasses__()) == set(branches)
    assert all(
        len([b for b in branches if issubclass(param.values[0], b)]) == 1
        for param in EVERY_ERROR[1:]
    )


def test_the_tree_at_the_top_of_the_page_shows_every_error() -> None:
    names = {param.values[0].__name__ for param in EVERY_ERROR}

    assert set(errors.__all__) == names
    assert all(name in str(errors.__doc__) for name in names)


def test_every_error_of_the_caller_names_the_place() -> None:
    """`field` is in the answer, so that a caller with a thousand events can find the one."""
    raised = [error(*arguments_of(error).values()) for error in family_of(EventError)]

    assert all(isinstance(error.field, str) for error in raised)
    assert [error.field for error in raised if "field" in arguments_of(type(error))] == [
        "some field"
    ] * 4
