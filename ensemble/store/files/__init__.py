"""Files on a local disk: atomic writes, bounded reads, canonical JSON.

API keys, job records, layer switches and imports use them too.
"""

from ensemble.store.files.atomic import (
    exclusive,
    make_directory,
    replace_atomic,
    write_atomic,
    write_new,
)
from ensemble.store.files.canonical_json import (
    decode,
    encode,
    refuse_other_format,
    timestamp,
    to_dataclass,
)
from ensemble.store.files.fingerprint import file_fingerprint, folder_fingerprint
from ensemble.store.files.safe_read import list_names, open_directory, read_bounded, sha256_of

__all__ = [
    "decode",
    "encode",
    "exclusive",
    "file_fingerprint",
    "folder_fingerprint",
    "list_names",
    "make_directory",
    "open_directory",
    "read_bounded",
    "refuse_other_format",
    "replace_atomic",
    "sha256_of",
    "timestamp",
    "to_dataclass",
    "write_atomic",
    "write_new",
]
