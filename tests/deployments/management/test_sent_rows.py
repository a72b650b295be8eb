"""Rows of a request: they are decoded a few at a time, so memory stays near the body's size."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from starlette.requests import Request

from deployments.management.request_bodies import RowsToTrain
from deployments.management.request_parsing import BodyReader
from deployments.management.sent_rows import SentRows
from ensemble.errors import EnsembleError, TooManyRows
from ensemble.training.data.tabular_rows import training_table
from tests.support.training_rows import rows

MOST_ROWS, LIMIT = 100_000, 8 << 20
READER = BodyReader(LIMIT, MOST_ROWS)


def read(body: bytes) -> SentRows:
    """Read a body as the route of training does."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    request = Request({"type": "http", "headers": []}, receive)
    return SentRows(asyncio.run(READER.rows(request, RowsToTrain)).network_data)


FULL = [
    pytest.param(json.dumps(rows(1)[0]), id="rows of three numbers"),
    pytest.param("{" + ",".join(f'"{name:05}":1' for name in range(8000)) + "}", id="many names"),
    pytest.param('{"a": [' + "{}," * 30_000 + "{}]}", id="objects in rows"),
    pytest.param('{"packet_count": "' + "x" * 100_000 + '"}', id="long texts"),
    pytest.param("{}", id="four million rows"),
    pytest.param("[" + "1," * 3_000_000 + "1]", id="three million values in one row"),
    pytest.param("1", id="numbers in place of rows"),
    pytest.param("[" + "{}," * 20 + "1]", id="rows that are lists"),
]


@pytest.mark.parametrize("row", FULL)
def test_a_full_body_of_rows_needs_less_than_four_times_its_size(row: str) -> None:
    """P28: a training of 8 MiB needed 23 times the memory of its body."""
    count = (LIMIT - 100) // (len(row) + 2)
    body = f'{{"network_data": [{", ".join([row] * count)}]}}'.encode()
    tracemalloc.start()
    try:
        training_table(read(body))
    except EnsembleError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 4 * len(body)


def test_rows_are_counted_before_they_become_objects() -> None:
    with pytest.raises(TooManyRows):
        read(b'{"network_data": [' + b"{}," * MOST_ROWS + b"{}]}")
