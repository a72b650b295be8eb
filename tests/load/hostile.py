"""A hostile tenant beside a quiet one: `python -m tests.load.hostile`.

The quiet tenant sends 20 single events a second before, during and after the requests of the
hostile one. Each way of attack was a way to stop version 0.1.0. Its requests end after a number of
responses or after a time.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.flows import batch_body, made_up_flows, single_bodies
from tests.load.tenants import drive_together, serving
from tests.load.traffic import Load, Window, drive

QUIET, HOSTILE = "quiet", "hostile"
PER_S, CALM_S, CONNECTIONS = 20.0, 15.0, 16
BODY_BYTES = 8 << 20  # the limit of a body
SCORE, BATCH = "/v1/score", "/v1/score/batch"
FROM = "127.0.0.2"  # an address has a limit of connections, and the quiet tenant comes from another
IDLE_CONNECTIONS, SLOW_BODIES, BYTE_EVERY_S = 4200, 1100, 10.0


def main() -> None:
    """Print a row for each way: the quiet tenant before, during and after."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*requests_of(""), *SLOW]
    parser.add_argument("--ways", nargs="+", choices=names, default=names, metavar="WAY")
    parser.add_argument("--requests", type=int, default=10_000, help="most requests of each way")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time of each way")
    options = parser.parse_args()
    table = Table("way", "sent", box=None)
    for moment in ("before", "during", "after"):
        table.add_column(f"p99 ms {moment}", justify="right")
        table.add_column("not whole", justify="right")
    singles = single_bodies(made_up_flows(64, seed=5))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), (QUIET, HOSTILE), singles[0], {}) as (port, keys),
    ):
        calm = Load(SCORE, singles, 8, 1.0, CALM_S, keys[QUIET], per_s=PER_S)
        drive(port, calm)  # warm-up
        for way in options.ways:
            before = drive(port, calm)
            sent, during = attack(port, keys[HOSTILE], way, calm, options)
            after = drive(port, calm)
            row = [f"{one.p99_ms:,.1f} {_not_whole(one)}" for one in (before, during, after)]
            print(way, sent, *row, flush=True)
            table.add_row(
                way,
                sent,
                *(
                    cell
                    for one in (before, during, after)
                    for cell in (f"{one.p99_ms:,.1f}", _not_whole(one))
                ),
            )
    Console(width=160).print(table)


def attack(
    port: int, key: str, way: str, calm: Load, options: argparse.Namespace
) -> tuple[str, Window]:
    """Attack in one way; what was sent, and the measurement of the quiet tenant meanwhile."""
    if way in SLOW:
        connections, head = SLOW[way]
        with holding(port, connections, head(key)) as opened:
            return f"{opened} connections", drive(port, replace(calm, window_s=options.seconds))
    hostile = replace(requests_of(key)[way], window_s=options.seconds, at_most=options.requests)
    sent, during = drive_together(port, hostile, replace(calm, window_s=options.seconds))
    return sent.responses, during


def requests_of(key: str) -> Mapping[str, Load]:
    """Way -> the requests of a tenant with `key` that attacks in that way."""

    def load(path: str, *bodies: bytes, connections: int = CONNECTIONS) -> Load:
        return Load(path, bodies, connections, 0.0, 0.0, key)

    def keyless(path: str) -> Load:
        return Load(path, [b""], CONNECTIONS, 0.0, 0.0, method="GET")

    rows = b'{"network_data":[' + b"{}," * ((BODY_BYTES - 30) // 3) + b"{}]}"
    half_pairs = rb"\ud800" * ((BODY_BYTES - 200) // 6)
    flows = [batch_body(made_up_flows(1000, seed=seed)) for seed in (3, 4)]
    return {
        "field-name-60k": load(SCORE, b'{"kind":"flow","' + b"a" * 60_000 + b'":1}'),
        "field-name-390k": load(SCORE, b'{"kind":"flow","' + b"a " * 195_000 + b'":1}'),
        "detect-rows": load("/models/none/detect", rows),
        "train-rows": load("/models/train", _training(BODY_BYTES)),
        "half-pairs": load(SCORE, _process(half_pairs)),
        "command-lines": load(SCORE, _process(b"x" * (BODY_BYTES - 200))),
        "wide-batches": load(BATCH, _padded_batch(BODY_BYTES)),
        "batches": load(BATCH, *flows),
        "singles": load(SCORE, *single_bodies(made_up_flows(64, seed=6)), connections=64),
        "wrong-key": replace(load(SCORE, b"{}"), key="axon_wrong"),
        "keyless-health": keyless("/health"),
        "keyless-docs": keyless("/docs"),
    }


def _process(command_line: bytes) -> bytes:
    return (
        b'{"kind":"process","name":"sh","parent":"init","user":"u","host":"h","command_line":"'
        + command_line
        + b'"}'
    )


def _padded_batch(size: int) -> bytes:
    events = [{"kind": "flow", "id": "", "features": [0.1234567890123] * 78}] * 1000
    body = json.dumps({"events": events}).encode()
    return body[:-2] + b" " * (size - len(body)) + body[-2:]


def _training(size: int) -> bytes:
    row = b'{"bytes_transferred":1,"packet_count":1,"connection_duration":1,"more":[1,2,3,4]},'
    return b'{"network_data":[' + row * ((size - 200) // len(row)) + row[:-1] + b"]}"


def _head(path: str, key: str, size: int) -> bytes:
    credentials = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{credentials}"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


# way -> number of connections, and what each sends of its request at once, for a key
SLOW: Mapping[str, tuple[int, Callable[[str], bytes]]] = {
    "idle-connections": (IDLE_CONNECTIONS, lambda _: _head(SCORE, "", 100)[:20]),
    "slow-bodies": (SLOW_BODIES, lambda key: _head(SCORE, key, 100_000) + b"{"),
}


@contextmanager
def holding(port: int, count: int, begin: bytes) -> Iterator[int]:
    """Hold `count` connections that sent `begin` and then one byte now and then.

    A connection that the service closed is opened again.
    """
    ended = threading.Event()
    opened = _open(port, count, begin)

    def hold() -> None:
        while not ended.wait(BYTE_EVERY_S):
            for place, one in enumerate(opened):
                try:
                    one.send(b"1")
                except OSError:
                    one.close()
                    with suppress(OSError):
                        opened[place] = _open(port, 1, begin)[0]

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        yield len(opened)
    finally:
        ended.set()
        holder.join()
        for one in opened:
            one.close()
        time.sleep(1.0)


def _open(port: int, count: int, begin: bytes) -> list[socket.socket]:
    opened: list[socket.socket] = []
    for _ in range(count):
        try:
            one = socket.create_connection(
                ("127.0.0.1", port), timeout=2.0, source_address=(FROM, 0)
            )
            opened.append(one)
            one.send(begin)
            one.setblocking(False)  # noqa: FBT003  # of the standard library
        except OSError:  # the service refuses more
            continue
    return opened


def _not_whole(window: Window) -> str:
    """What became of the events of the quiet tenant that got no whole verdict."""
    faults: Sequence[str] = [
        f"{status}: {count}" for status, count in window.statuses.items() if status != "200"
    ]
    degraded = [f"degraded: {window.degraded}"] if window.degraded else []
    unsent = [f"unsent: {window.unsent}"] if window.unsent else []
    return " ".join([*faults, *degraded, *unsent]) or "0"


if __name__ == "__main__":
    main()
