"""A tenant's pointer: the one small file that says which release is in use.

The pointer has a serial of its own, which rises with every promotion. Rolling back to an older release is therefore a
newer pointer, and an older pointer that comes back is a replay: a fault, or an attack.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from ensemble.errors import ArtifactMissing, ArtifactUntrusted, PointerMoved
from ensemble.store import canonical, durable
from ensemble.store.layout import POINTER, Store, tenant_parts
from ensemble.store.manifest import Serial, Sha256, refuse_other_format
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.reading import open_directory, read_bounded

__all__ = ["Pointer", "move_pointer", "read_pointer"]

FORMAT: Final = 1
POINTER_LIMIT_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which release is in use.

    Attributes:
        release: serial of the release.
        release_sha256: digest of the release's bytes.
        serial: of the pointer itself; 1 is the first promotion.
    """

    release: int
    release_sha256: str
    serial: int

    @property
    def ref(self) -> ReleaseRef:
        """The release it points to."""
        return ReleaseRef(self.release, self.release_sha256)


def read_pointer(store: Store, tenant: Tenant, *, not_below: int = 0) -> Pointer:
    """The pointer in use: that of `state`, or where it has none, the shipped one.

    A pointer in `state` that is broken is an error and not a reason to look further: falling back to the shipped
    release without a word would be a roll back that nobody asked for.

    Args:
        store: looked through in order.
        tenant: whose pointer.
        not_below: the highest pointer serial the reader has seen; 0 for a reader that has seen none.

    Raises:
        ArtifactMissing: no root has a pointer for this tenant.
        ArtifactCorrupt: it is not what `move_pointer` writes, or it cannot be read.
        ArtifactIncompatible: another format.
        ArtifactUntrusted: its serial is below `not_below`: an old pointer came back.
    """
    for root in store.roots:
        try:
            with open_directory(root, *tenant_parts(tenant), what=POINTER) as directory:
                data = read_bounded(directory, POINTER, limit=POINTER_LIMIT_BYTES, what=POINTER)
        except ArtifactMissing:
            continue
        pointer = _parse(data)
        if pointer.serial < not_below:
            raise ArtifactUntrusted(POINTER, f"serial {pointer.serial} is older than {not_below}, which was seen before")
        return pointer
    raise ArtifactMissing(POINTER)


def move_pointer(store: Store, tenant: Tenant, release: ReleaseRef, expected_serial: int) -> Pointer:
    """Point to `release`. Call it holding the tenant's lock; the release is proven by who calls.

    Raises:
        PointerMoved: the pointer stands elsewhere than the caller saw it.
    """
    actual_serial = _serial_now(store, tenant)
    if actual_serial != expected_serial:
        raise PointerMoved(expected_serial, actual_serial)
    pointer = Pointer(release.serial, release.sha256, actual_serial + 1)
    home = durable.make_directory(store.state, *tenant_parts(tenant))
    with durable.staging(store.state) as staged:
        durable.write_new(staged, POINTER, _encode(pointer), mode=0o644)
        durable.replace(staged / POINTER, home / POINTER)
    return pointer


def _serial_now(store: Store, tenant: Tenant) -> int:
    try:
        return read_pointer(store, tenant).serial
    except ArtifactMissing:
        return 0


@dataclass(frozen=True, slots=True)
class _PointerFile:
    format: int
    release: Serial
    release_sha256: Sha256
    serial: Serial


def _encode(pointer: Pointer) -> bytes:
    return canonical.encode({"format": FORMAT} | asdict(pointer))


def _parse(data: bytes) -> Pointer:
    value = canonical.decode(data, what=POINTER)
    refuse_other_format(value, FORMAT, what=POINTER)
    found = canonical.to_dataclass(value, _PointerFile, what=POINTER)
    return Pointer(found.release, found.release_sha256, found.serial)
