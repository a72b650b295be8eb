"""Event digests: a SHA-256 of each event as the models read it.

Two events have the same digest if and only if their kind, host and admitted values are equal. The
caller's id, the dialect of names, the order of keys and differences below float32 precision have no
effect; -0.0 and 0.0 are equal. If admission cut a text, the digest is that of the cut text.

SHA-256 over 32 bytes that identify the kind of event, then
- of a flow: its 78 admitted features as little-endian float32 in the order of the schema, then
  its host in UTF-8;
- of a process start: its admitted fields and its host as one JSON object, keys sorted, without
  blanks, in ASCII.
The 32 bytes are the SHA-256 of `axon input 1 flow <schema>` or `axon input 1 process`, so that
digests of different kinds and schemas differ.

Fit for: showing that a verdict is about this event. Unfit for: hiding an event, because a guess of
the event can be checked.
Cost: 0.8 us a flow of a batch of 1,000, 3 us a process start.
"""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np

from ensemble.events import EventBatch, FlowBatch, ProcessBatch
from ensemble.features import flow

__all__ = ["event_digests"]

_FLOW = sha256(f"axon input 1 flow {flow.schema_sha256()}".encode()).digest()
_PROCESS = sha256(b"axon input 1 process").digest()
_FLOW_BYTES = len(flow.FEATURE_NAMES) * np.dtype("<f4").itemsize
_as_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def event_digests(batch: EventBatch) -> tuple[str, ...]:
    """Digest of each event of a batch, 64 hexadecimal digits, in the order of the events."""
    return _of_flows(batch) if isinstance(batch, FlowBatch) else _of_processes(batch)


def _of_flows(batch: FlowBatch) -> tuple[str, ...]:
    features = batch.features + np.float32(0.0)  # -0.0 + 0.0 is 0.0
    rows = features.astype("<f4", copy=False).tobytes()
    starts = range(0, len(rows), _FLOW_BYTES)
    return tuple(
        sha256(
            _FLOW + rows[start : start + _FLOW_BYTES] + host.encode("utf-8", "surrogatepass")
        ).hexdigest()
        for start, host in zip(starts, batch.hosts, strict=True)
    )


def _of_processes(batch: ProcessBatch) -> tuple[str, ...]:
    columns = (batch.names, batch.parents, batch.command_lines, batch.users, batch.hosts)
    return tuple(
        sha256(
            _PROCESS
            + _as_json(
                {"name": name, "parent": parent, "command_line": line, "user": user, "host": host}
            ).encode()
        ).hexdigest()
        for name, parent, line, user, host in zip(*columns, strict=True)
    )
