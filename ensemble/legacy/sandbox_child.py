"""Child process that decodes an untrusted file: limited memory and time, no files.

It reads one request from its input, drops all rights that it does not need, decodes, and writes
arrays and JSON, never a pickle. A crash or a loop affects only this process. It is started by
`ensemble.legacy.sandbox`, which treats the answer as untrusted.

    request   one line of JSON (name, limits), then the bytes of the file
    answer    one line of JSON (sizes, or an error's name and fields), then safetensors and JSON
"""

from __future__ import annotations

import io
import json
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ensemble.errors import ArtifactCorrupt, ArtifactError
from ensemble.legacy.decode import Terms, decode
from ensemble.legacy.files import CLASSIFIER
from ensemble.store import ARRAYS, CONFIG, encode_parts

__all__ = ["answer", "main"]

OUT_OF_MEMORY = "out of memory"


def main() -> None:
    """Serve the one request on standard input."""
    request, data = _request(sys.stdin.buffer)
    if request["name"] == CLASSIFIER:
        _warm_up()
    _shut(memory_bytes=request["memory_bytes"], cpu_s=request["cpu_s"])
    sys.stdout.buffer.write(
        answer(request["name"], data, Terms(request["memory_bytes"], request["sklearn"]))
    )
    sys.stdout.buffer.flush()


def answer(name: str, data: bytes, terms: Terms) -> bytes:
    """Decode the file and encode its content, or the error, as bytes."""
    try:
        parts = decode(name, data, terms)
        files = encode_parts(parts)
    except MemoryError:
        return _line({"error": OUT_OF_MEMORY, "fields": []})
    except ArtifactError as error:
        return _line(
            {"error": type(error).__name__, "fields": [str(field) for field in error.args]}
        )
    except (ValueError, TypeError):  # a value that JSON does not have
        wrong = ArtifactCorrupt(name, "holds what cannot be written as plain values")
        return _line({"error": type(wrong).__name__, "fields": list(wrong.args)})
    return (
        _line({"arrays": len(files[ARRAYS]), "config": len(files[CONFIG])})
        + files[ARRAYS]
        + files[CONFIG]
    )


def _request(source: BinaryIO) -> tuple[dict[str, Any], bytes]:
    request = json.loads(source.readline())
    return request, source.read()


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _warm_up() -> None:
    """Make torch import its lazy modules while files may still be opened."""
    import torch  # noqa: PLC0415  # only for this file

    saved = io.BytesIO()
    torch.save({"a.weight": torch.zeros(1, 1)}, saved)
    saved.seek(0)
    torch.load(saved, map_location="cpu", weights_only=True)["a.weight"].numpy()


def _shut(*, memory_bytes: int, cpu_s: int) -> None:
    """Limit this process: memory, CPU time, no files, no processes, no core dump.

    The memory limit is added to the present use, because torch alone maps gigabytes. Without a free
    descriptor nothing can be opened, not even the libraries of a program that an attack would
    start.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    used_s = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime + 1)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # SIGXCPU, which gives the reason, and SIGKILL a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + cpu_s, used_s + cpu_s + 1))
    for what in (
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_CORE,
        resource.RLIMIT_NPROC,
        resource.RLIMIT_NOFILE,
    ):
        resource.setrlimit(what, (0, 0))
