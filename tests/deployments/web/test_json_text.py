"""What is in a JSON text, before it is decoded: names, values, and halves of surrogate pairs."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.web import SMALL_TEXT_BYTES, check_names, decode_apart, json_text
from deployments.web.json_text import count_names, outline, without_half_pairs
from ensemble.errors import MalformedJson

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text('":,[]{}\\aé\n'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('":,\\a'), inner, max_size=4)
    ),
    max_leaves=12,
)
ESCAPES = st.lists(
    st.sampled_from(
        [rb"\ud800", rb"\udc00", rb"\uDBff", rb"\uDFFF", rb"\\", rb"\n", rb"\u00e9", b"ud800", b"x"]
    )
).map(b"".join)


@pytest.fixture(autouse=True, params=[7, 1 << 18], ids=["small pieces", "one piece"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "PIECE", request.param)


@given(value=VALUES)
def test_names_are_counted_whatever_the_texts_contain(value: Any) -> None:
    text = json.dumps(value).encode()

    assert outline(text).names == count_names(value)
    assert outline(text).objects == text.count(b"{") - inside_texts(value, "{")


def inside_texts(value: Any, character: str) -> int:
    """Count a character in the texts of a value."""
    if isinstance(value, str):
        return value.count(character)
    if isinstance(value, list):
        return sum(inside_texts(inner, character) for inner in value)
    if isinstance(value, dict):
        return sum(
            inside_texts(name, character) + inside_texts(inner, character)
            for name, inner in value.items()
        )
    return 0


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        '[{"a": 1}, {"a": 1, "\\u0061": 2}]',
        '{"\\"": 1, "\\"": 2}',
    ],
)
def test_a_name_that_is_given_twice_is_refused_at_any_depth(text: str) -> None:
    with pytest.raises(MalformedJson):
        check_names(text.encode())


@given(text=ESCAPES)
def test_half_a_pair_is_replaced_and_a_whole_one_is_not(text: bytes) -> None:
    assert without_half_pairs(text) == replaced_one_by_one(text)


def replaced_one_by_one(text: bytes) -> bytes:
    """Read the text from the left, as a decoder does."""
    pattern = rb"(\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F].."
    return re.sub(pattern, lambda found: found[1] or rb"\ufffd", text)


HOSTILE = [
    pytest.param(rb"\ud800", id="half pairs"),
    pytest.param(rb"\ud83d\ude00", id="pairs"),
    pytest.param(rb"\\", id="backslashes"),
    pytest.param(rb"\"", id="escaped quotes"),
    pytest.param(b'"', id="quotes"),
    pytest.param(b'"",', id="empty texts"),
    pytest.param(b",", id="commas"),
    pytest.param(b"{", id="braces"),
    pytest.param(b"x", id="one text"),
]


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("pieces", [1 << 18], indirect=True)
def test_eight_mebibytes_of_anything_take_no_time_that_a_caller_could_notice(part: bytes) -> None:
    """B9: half surrogate pairs in a body of 8 MiB took ten seconds, and stopped all tenants."""
    body = part * ((8 << 20) // len(part))
    began = time.thread_time()

    outline(body)
    without_half_pairs(body)

    assert time.thread_time() - began < 1.0  # measured: 60 ms


def test_a_large_body_is_decoded_beside_the_event_loop_and_a_small_one_on_it() -> None:
    async def decoded_by(size: int) -> int:
        return await decode_apart(lambda _: threading.get_ident(), b"x" * size)

    assert asyncio.run(decoded_by(SMALL_TEXT_BYTES)) == threading.get_ident()
    assert asyncio.run(decoded_by(SMALL_TEXT_BYTES + 1)) != threading.get_ident()
