"""What a client reads of an error is public text, and nothing else becomes public by accident."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from deployments.web import describe_code, public_message
from ensemble import errors
from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactInUse,
    EnsembleError,
    LayerTimeout,
    MalformedEvent,
    QuotaExceeded,
)

ERRORS = [getattr(errors, name) for name in errors.__all__]
MESSAGES = """
import json
from deployments.web import describe_code, public_message
from ensemble import errors
from ensemble.errors import LayerOpen, StoreFull
kinds = [getattr(errors, name) for name in errors.__all__]
texts = {kind.code: describe_code(kind.code) for kind in kinds}
examples = {"layer": public_message(LayerOpen("a")), "full": public_message(StoreFull())}
print(json.dumps(texts | examples))
"""


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.code))
def test_every_error_has_a_public_meaning(error: type[EnsembleError]) -> None:
    assert describe_code(error.code).endswith(".")


def test_no_client_reads_a_docstring() -> None:
    """An engineer may rewrite the docstring of an error: with none at all, answers are the same."""
    texts = [
        json.loads(subprocess.check_output([sys.executable, *options, "-c", MESSAGES]))
        for options in ([], ["-OO"])
    ]

    assert texts[0] == texts[1]
    assert texts[1]["layer"] == f"a did not answer: {describe_code('LAYER_OPEN')}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MalformedEvent("events[3]", "is no object"), "events[3]: is no object"),
        (
            QuotaExceeded("versions of mine", 1200),
            (
                "versions of mine: the limit of 1,200 is reached; "
                "delete some, or let `retention` do it"
            ),
        ),
        (ArtifactInUse("mine/3", "it serves"), "mine/3 is not removed: it serves"),
        (LayerTimeout("behavior"), "behavior did not answer: " + describe_code("LAYER_TIMEOUT")),
        (ArtifactCorrupt("/srv/models/weights.bin", "is cut"), describe_code("ARTIFACT_CORRUPT")),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_a_client_reads_the_sentence_of_an_error_that_names_no_file(
    error: EnsembleError, message: str
) -> None:
    assert public_message(error) == message
