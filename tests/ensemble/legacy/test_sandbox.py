"""Sandbox: the answers of the child, its deaths, and a parent that survives and trusts nothing.

A few real processes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactIncompatible,
    ArtifactUntrusted,
    LoadTimeout,
)
from ensemble.kernels.isolation_forest import Forest
from ensemble.legacy import sandbox
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, SCALER
from ensemble.legacy.sandbox import decode_apart, read_answer
from ensemble.legacy.sandbox_child import answer
from ensemble.model import below
from tests.support.legacy_models import LAUNCHES, LIMITS, TERMS, pickled


def test_a_forest_comes_back_as_arrays(
    four: Mapping[str, bytes], forest: IsolationForest, later: NDArray[np.float32]
) -> None:
    parts = decode_apart(FOREST, four[FOREST], LIMITS)

    ours = Forest.from_arrays(below("forest.", parts.arrays), 78)
    assert np.abs(ours.score_samples(later) + forest.score_samples(later)).max() <= 1e-6


def test_a_network_comes_back_as_arrays(four: Mapping[str, bytes]) -> None:
    """Lazy modules of torch are imported before files are closed off."""
    assert decode_apart(CLASSIFIER, four[CLASSIFIER], LIMITS).arrays["weight.3"].shape == (1, 64)


def test_counts_and_scalers_come_back(four: Mapping[str, bytes]) -> None:
    assert decode_apart(FREQUENCIES, four[FREQUENCIES], LIMITS).config == {"launches": LAUNCHES}
    assert decode_apart(SCALER, four[SCALER], LIMITS).arrays["centre"].shape == (78,)


def test_an_error_of_the_child_is_the_same_error_here() -> None:
    with pytest.raises(ArtifactCorrupt) as refused:
        decode_apart(FREQUENCIES, pickled([1]), LIMITS)

    assert (refused.value.file, refused.value.problem) == (
        FREQUENCIES,
        "Process frequencies is not a dictionary",
    )


def in_child(monkeypatch: pytest.MonkeyPatch, code: str, before: str = "") -> None:
    """Run `code` in the child in place of decoding, under the same limits."""
    boot = sandbox.BOOT.removesuffix("main()")
    lines = (
        f"{before}\nimport ensemble.legacy.sandbox_child as child\n"
        f"def act(*_):\n    {code}\nchild.answer = act\nchild.main()"
    )
    monkeypatch.setattr(sandbox, "BOOT", f"{boot}\n{lines}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("os.kill(os.getpid(), 11)", "SIGSEGV", id="segmentation fault"),
        pytest.param("os.abort()", "SIGABRT", id="abort"),
        pytest.param("raise SystemExit(3)", "status 3", id="exit"),
        pytest.param(
            "while True: sys.stdout.buffer.write(bytes(1 << 20))",
            "longer than",
            id="endless answer",
        ),
        pytest.param("return b'lies'", "cannot be read", id="nonsense"),
    ],
)
def test_any_failure_of_the_child_is_an_error_here(
    monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    """Fact 1: 13 % of single flipped bits caused a SIGSEGV; `except` does not help."""
    in_child(monkeypatch, code, before="import os, sys")

    with pytest.raises(ArtifactCorrupt, match=words):
        decode_apart(FREQUENCIES, b"", replace(LIMITS, memory_bytes=64 << 20))


def test_an_endless_loop_ends_at_its_cpu_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact 1: 1 % of single flipped bits never ended."""
    in_child(monkeypatch, "while True: pass")

    with pytest.raises(LoadTimeout):
        decode_apart(FREQUENCIES, b"", replace(LIMITS, cpu_s=1))


def test_a_child_that_waits_for_ever_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    in_child(monkeypatch, "time.sleep(3600)", before="import time")

    with pytest.raises(LoadTimeout) as refused:
        decode_apart(FREQUENCIES, b"", replace(LIMITS, wall_s=1.0))

    assert refused.value.limit_s == 1.0


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """F16."""
    in_child(
        monkeypatch,
        "return real(*_)",
        before=(
            "import ensemble.legacy.sandbox_child as c\nreal, c.decode = c.answer, lambda "
            "*_: bytes(1 << 32)"
        ),
    )

    with pytest.raises(ArtifactCorrupt, match="of memory that it may use"):
        decode_apart(FREQUENCIES, b"", LIMITS)


CANNOT = [
    pytest.param("open('/etc/hostname')", id="read a file"),
    pytest.param("open(CANARY, 'w')", id="write a file"),
    pytest.param("socket.socket()", id="open a socket"),
    pytest.param("subprocess.run(['/bin/true'], check=True)", id="start a program"),
    pytest.param("assert os.system('true') == 0", id="start a shell"),
    pytest.param("import sqlite3", id="import a library"),
]


@pytest.mark.parametrize("act", CANNOT)
def test_the_limited_child_can_open_and_start_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, act: str
) -> None:
    """After a successful attack on the reader. The child answers only if an attempt succeeded."""
    in_child(
        monkeypatch,
        f"{act}; return b'done'",
        before=f"import os, socket, subprocess\nCANARY = {str(tmp_path / 'canary')!r}",
    )

    with pytest.raises(ArtifactCorrupt, match="status 1"):
        decode_apart(FREQUENCIES, b"", LIMITS)

    assert list(tmp_path.iterdir()) == []


def test_the_child_has_no_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is not there cannot leak."""
    monkeypatch.setenv("AXON_SECRET", "s3cret")
    in_child(
        monkeypatch, "raise SystemExit(7 if 'AXON_SECRET' in os.environ else 5)", before="import os"
    )

    with pytest.raises(ArtifactCorrupt, match="status 5"):
        decode_apart(FREQUENCIES, b"", LIMITS)


# -- what the parent believes of an answer


def framed(header: object, rest: bytes = b"") -> bytes:
    return json.dumps(header).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}\n", id="an empty object"),
        pytest.param(framed([1]), id="a list"),
        pytest.param(framed({"arrays": 5, "config": 5}, b"12345"), id="sizes that are not true"),
        pytest.param(framed({"arrays": -3, "config": 8}, b"12345"), id="a negative size"),
        pytest.param(
            framed({"error": "SystemExit", "fields": ["1"]}), id="an error that is none of ours"
        ),
        pytest.param(
            framed({"error": "ArtifactCorrupt", "fields": ["1"]}), id="an error without its fields"
        ),
        pytest.param(b"[" * 5000, id="an endless header"),
    ],
)
def test_an_invalid_answer_is_an_error(reply: bytes) -> None:
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        read_answer(FOREST, reply, LIMITS)


def test_arrays_that_are_not_finite_are_refused_here_too() -> None:
    """The child read an untrusted file, so its answer is untrusted."""
    arrays, config = safetensors.numpy.save({"centre": np.array([np.nan])}), b"{}\n"

    with pytest.raises(ArtifactIncompatible):
        read_answer(
            SCALER, framed({"arrays": len(arrays), "config": len(config)}, arrays + config), LIMITS
        )


def test_untrusted_text_in_an_error_is_cut_and_cleaned() -> None:
    reply = framed({"error": "ArtifactUntrusted", "fields": ["x", "\x1b[2J" + "a" * 5000]})

    with pytest.raises(ArtifactUntrusted) as refused:
        read_answer(FOREST, reply, LIMITS)

    assert refused.value.problem.startswith("?[2Ja")
    assert len(refused.value.problem) == sandbox.FIELD_LIMIT


def test_flipped_bits_do_no_harm(benign: NDArray[np.float32], later: NDArray[np.float32]) -> None:
    """F5 without checksums, and fact 1: of 400 single flips, 52 crashed joblib and 4 looped.

    Here only numpy's reader receives the bytes, so hundreds of flips can be tried in this process.
    About one flip in twenty changes the scores unnoticed: `checksums.txt` is for these.
    """
    sound = pickled(IsolationForest(n_estimators=5, max_samples=64, random_state=5).fit(benign))
    generator = np.random.default_rng(1)
    outcomes = Counter[str]()
    for place, bit in zip(
        generator.integers(len(sound), size=300), generator.integers(8, size=300), strict=True
    ):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << bit
        try:
            parts = read_answer(FOREST, answer(FOREST, bytes(flipped), TERMS), LIMITS)
        except ArtifactError:
            outcomes["refused"] += 1
        else:
            scores = Forest.from_arrays(below("forest.", parts.arrays), 78).score_samples(
                later[:50]
            )
            outcomes["finite"] += bool(np.isfinite(scores).all())

    assert outcomes.total() == 300
    assert outcomes["refused"] > 50
