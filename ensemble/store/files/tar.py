"""Compressed tar archives; the reader accepts only the form that the writer makes.

The reader knows names and sizes from proven documents before it reads a file. Each header must
equal the one that the writer would have made, byte for byte. So an archive has no links, no second
names, no paths that lead outside and nothing behind its end, and no more is decompressed than
requested.
Any tar program can list an archive.

Sources: POSIX.1-1988 ustar; RFC 1952 (gzip). The same files give the same bytes as long as zlib
stays the same.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterable

from ensemble.errors import ArtifactCorrupt

__all__ = ["Unpacker", "pack"]

_BLOCK = 512
_PIECE_BYTES = 1 << 16  # input of the decompressor at a time, so that it buffers little
_GZIP = 31  # zlib: 15 bits of window, plus 16 for a gzip header
_SIZE = re.compile(rb"[0-7]{11}\0")
_NAME = re.compile(rb"[a-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_FOREIGN = "has content that no export writes"


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Pack `files` into one archive, in their order."""
    squeeze = zlib.compressobj(level=6, wbits=_GZIP)
    pieces = [
        squeeze.compress(_header(name, len(data)) + data + _padding(len(data)))
        for name, data in files
    ]
    return b"".join([*pieces, squeeze.compress(bytes(2 * _BLOCK)), squeeze.flush()])


class Unpacker:
    """Reader of an archive, file by file in order; it decompresses no further than requested.

    Args:
        data: the archive; the caller limits its length.
        what: name of the archive in errors.
    """

    def __init__(self, data: bytes, *, what: str) -> None:
        self._data, self._at, self._what = memoryview(data), 0, what
        self._squeezed = zlib.decompressobj(wbits=_GZIP)

    def first(self, *, limit: int) -> tuple[str, bytes]:
        """Read the next file, of any name, of at most `limit` bytes.

        Raises:
            ArtifactCorrupt: it is longer, or `pack` would not have written it.
        """
        header = self._read(_BLOCK)
        size, name = _SIZE.fullmatch(header[124:136]), _name_in(header)
        if size is None or name is None or header != _header(name, int(size[0][:11], 8)):
            raise ArtifactCorrupt(self._what, _FOREIGN)
        size_bytes = int(size[0][:11], 8)
        if size_bytes > limit:
            raise ArtifactCorrupt(
                self._what, f"{name} is {size_bytes:,} bytes, allowed are {limit:,}"
            )
        return name, self._content(size_bytes)

    def next(self, name: str, size_bytes: int) -> bytes:
        """Read the next file, which must have this name and size.

        Raises:
            ArtifactCorrupt: it is another, or `pack` would not have written it.
        """
        if self._read(_BLOCK) != _header(name, size_bytes):
            raise ArtifactCorrupt(self._what, _FOREIGN)
        return self._content(size_bytes)

    def end(self) -> None:
        """Check that the archive ends here.

        Raises:
            ArtifactCorrupt: it does not.
        """
        if any(self._read(2 * _BLOCK)):
            raise ArtifactCorrupt(self._what, _FOREIGN)
        is_going_on = True
        # the checksum is still to be read, perhaps from another piece
        while is_going_on and not self._squeezed.eof:
            before = self._at, len(self._squeezed.unconsumed_tail)
            if self._more(1):
                raise ArtifactCorrupt(self._what, _FOREIGN)
            is_going_on = before != (self._at, len(self._squeezed.unconsumed_tail))
        if not self._squeezed.eof or self._squeezed.unused_data or self._at < len(self._data):
            raise ArtifactCorrupt(self._what, "is cut short, or has content behind its end")

    def _content(self, size_bytes: int) -> bytes:
        data = self._read(size_bytes)
        if any(self._read(len(_padding(size_bytes)))):
            raise ArtifactCorrupt(self._what, _FOREIGN)
        return data

    def _read(self, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        missing = size_bytes
        while missing:
            piece = self._more(missing)
            if not piece and (self._squeezed.eof or self._at >= len(self._data)):
                raise ArtifactCorrupt(self._what, "is cut short")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _more(self, most: int) -> bytes:
        """Decompress at most `most` bytes; none if another piece of input is needed first."""
        rest = self._squeezed.unconsumed_tail
        if not rest:
            rest = bytes(self._data[self._at : self._at + _PIECE_BYTES])
            self._at += len(rest)
        try:
            return self._squeezed.decompress(rest, most)
        except zlib.error:
            raise ArtifactCorrupt(
                self._what, "is not compressed like an export, or was damaged"
            ) from None


def _header(name: str, size_bytes: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size_bytes, 0o444
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _name_in(header: bytes) -> str | None:
    """Return the name in a header; None if no export could have it."""
    name, before = header[:100].rstrip(b"\0"), header[345:500].rstrip(b"\0")
    path = before + b"/" + name if before else name
    return path.decode() if _NAME.fullmatch(path) else None


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK)
