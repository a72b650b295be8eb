"""Sandbox: decode an untrusted file in a child process, and parse its answer as untrusted too.

One flipped bit in a joblib file has crashed, hung, or silently changed the process that decoded it
(RELIABILITY, fact 1), and `except` does not help against the first two. It is common to try in a
child and then decode again in the parent. Here the parent never unpickles: the child returns arrays
and JSON, and the parent decodes only those.

The child is a new interpreter, not a fork, because a fork of a threaded process may hang. It has no
environment variables, and therefore no secrets. Source: setrlimit(2); DESIGN, decision 3.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, Timer
from typing import IO, NoReturn

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactIncompatible,
    ArtifactUntrusted,
    LoadTimeout,
)
from ensemble.legacy.sandbox_child import OUT_OF_MEMORY
from ensemble.model import Parts
from ensemble.store import ARRAYS, CONFIG, decode_parts, installed_libraries

__all__ = ["Limits", "decode_apart", "read_answer"]

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from ensemble.legacy.sandbox_child import main; main()"
)
CHUNK_BYTES = 1 << 20
FIELD_LIMIT = 512  # characters of an error's field; Axon's are shorter
HEADER_LIMIT_BYTES = 8192
# One thread: the stack of each thread counts as memory.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_REFUSALS: dict[str, type[ArtifactError]] = {
    one.__name__: one for one in (ArtifactCorrupt, ArtifactIncompatible, ArtifactUntrusted)
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of decoding one file.

    Attributes:
        file_bytes: largest file.
        memory_bytes: memory of the child in addition to its libraries; also the largest unpacked
            file, and the longest answer.
        cpu_s: seconds of CPU time, an integer.
        wall_s: seconds from the start of the child to its answer.
    """

    file_bytes: int
    memory_bytes: int
    cpu_s: int
    wall_s: float


def decode_apart(name: str, data: bytes, limits: Limits) -> Parts:
    """Decode the file `name` in a child process.

    Args:
        name: one of the four.
        data: its bytes, read once, and verified if there are checksums.
        limits: of the child.

    Raises:
        ArtifactUntrusted: it refers to code that such a file does not need.
        ArtifactCorrupt: it cannot be decoded, is not what its name says, needs too much memory, or
            crashes the child.
        ArtifactIncompatible: it is of another version, or cannot be served.
        LoadTimeout: decoding did not end in time.
    """
    sklearn = installed_libraries()["scikit-learn"]  # the child cannot open files to find it
    request = {
        "name": name,
        "memory_bytes": limits.memory_bytes,
        "cpu_s": limits.cpu_s,
        "sklearn": sklearn,
    }
    # "" is the working directory.
    here = [str(Path(place).absolute()) for place in sys.path]
    child = subprocess.Popen(  # noqa: S603  # this interpreter, with constant arguments
        [sys.executable, "-I", "-B", "-c", BOOT, json.dumps(here)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        start_new_session=True,  # its own children are killed with it
    )
    is_late = Event()
    timer = Timer(limits.wall_s, _abort, (child, is_late))
    feeder = Thread(
        target=_feed, args=(child.stdin, json.dumps(request).encode() + b"\n" + data), daemon=True
    )
    timer.start()
    feeder.start()
    try:
        answer = _read(child.stdout, limits.memory_bytes)
        is_endless = len(answer) > limits.memory_bytes
    finally:
        _kill_unless_done(child, limits)
        timer.cancel()
        feeder.join()
    if is_late.is_set():
        raise LoadTimeout(name, limits.wall_s)
    if is_endless:
        raise ArtifactCorrupt(
            name, f"led to an answer that cannot be read: longer than {limits.memory_bytes:,} bytes"
        )
    if child.returncode:
        _raise_exit_error(name, child.returncode, limits)
    return read_answer(name, answer, limits)


def read_answer(name: str, answer: bytes, limits: Limits) -> Parts:
    """Parse the answer of a child.

    Raises:
        ArtifactError: the error with which the child rejected the file; `ArtifactCorrupt` if the
            answer itself is invalid.
    """
    line, _, rest = answer.partition(b"\n")
    try:
        header = json.loads(line) if len(line) <= HEADER_LIMIT_BYTES else None
    except (ValueError, RecursionError):
        header = None
    match header:
        case {"error": str(error), "fields": list(fields)}:
            raise _refusal(name, error, fields, limits)
        case {"arrays": int(arrays), "config": int(config)} if (
            arrays >= 0 and arrays + config == len(rest)
        ):
            return decode_parts({ARRAYS: rest[:arrays], CONFIG: rest[arrays:]})
    raise ArtifactCorrupt(name, "led to an answer that cannot be read")


def _refusal(name: str, error: str, fields: list[object], limits: Limits) -> ArtifactError:
    """Rebuild the error of the child; its fields are cut and cleaned, as they are untrusted."""
    if error == OUT_OF_MEMORY:
        return ArtifactCorrupt(
            name, f"needs more than the {limits.memory_bytes:,} bytes of memory that it may use"
        )
    parts = [
        "".join(letter if letter.isprintable() else "?" for letter in str(field)[:FIELD_LIMIT])
        for field in fields
    ]
    try:
        return _REFUSALS[error](*parts)
    except (KeyError, TypeError):
        return ArtifactCorrupt(name, "led to an answer that cannot be read")


def _raise_exit_error(name: str, status: int, limits: Limits) -> NoReturn:
    if status == -signal.SIGXCPU:
        raise LoadTimeout(name, limits.cpu_s)
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    raise ArtifactCorrupt(name, f"ends the process that decodes it ({how})")


def _feed(pipe: IO[bytes] | None, request: bytes) -> None:
    if pipe is not None:
        with suppress(OSError), pipe:  # the child died
            pipe.write(request)


def _read(pipe: IO[bytes] | None, limit_bytes: int) -> bytes:
    """Read the answer to its end, or one byte past the limit."""
    chunks, room = [], limit_bytes + 1
    while pipe is not None and room and (chunk := pipe.read(min(room, CHUNK_BYTES))):
        chunks.append(chunk)
        room -= len(chunk)
    return b"".join(chunks)


def _kill_unless_done(child: subprocess.Popen[bytes], limits: Limits) -> None:
    with suppress(subprocess.TimeoutExpired):
        child.wait(min(1.0, limits.wall_s))  # it exits after a complete answer
    _kill(child)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _abort(child: subprocess.Popen[bytes], is_late: Event) -> None:
    is_late.set()
    _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
