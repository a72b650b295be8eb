"""`axon trust`: a key to sign models with, and whom this Axon believes."""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from deployments.cli.local_store import now, plain
from deployments.config.settings import ROOT, read_settings
from deployments.config.trust import (
    KEY_VARIABLE,
    SigningRefused,
    TrustFile,
    key_path,
    parse_trust_file,
    read_key,
    read_trust_file,
)
from ensemble.store import Signer, Store, Tenant, open_bundle, read_pointer, read_release
from ensemble.store.files import replace_atomic, sha256_of, write_new

__all__ = ["init", "pin", "show"]

PINNED = ("tenants/*/CURRENT", "tenants/*/releases/*.json", "tenants/*/bundles/*/*/manifest.json")


def init(key: Path | None, console: Console) -> None:
    """Make a key where there is none, and trust it.

    Args:
        key: file of the private key; None for the usual one.
        console: where it is told.

    Raises:
        SigningRefused: the place is inside the repository, others can read the key, or the
            trust list cannot be changed.
        pydantic.ValidationError: the trust list is wrong.
    """
    list_path = read_settings().trust.resolve()
    known = read_trust_file(list_path)
    path = (key or key_path()).expanduser().absolute()
    if path.resolve().is_relative_to(ROOT):
        raise SigningRefused(
            f"{path} is inside the repository, where a private key gets published one day: name another place with --key"
        )
    try:
        signer = read_key(path)
        console.print(f"the key at {path} is kept", highlight=False, markup=False)
    except FileNotFoundError:
        signer = _new_key(path)
        console.print(
            f"made a private key at {path}: keep a copy where only you can read it",
            highlight=False,
            markup=False,
        )
    if signer.key_id in known.keys:
        console.print(f"key {signer.key_id} is trusted already", highlight=False)
    else:
        public = base64.b64encode(signer.public).decode()
        wanted = known.model_copy(update={"keys": {**known.keys, signer.key_id: public}})
        text = list_path.read_text(encoding="utf-8")
        _replace(list_path, _with_key(text, signer, f"axon trust init, {now():%Y-%m-%d}"), wanted)
        console.print(
            f"key {signer.key_id} is trusted now; a running service knows within seconds",
            highlight=False,
        )
    if path != key_path().absolute():
        console.print(
            f"to sign with this key: export {KEY_VARIABLE}={path}", highlight=False, markup=False
        )


def show(console: Console) -> None:
    """The trust list, and which of its keys this machine signs with.

    Raises:
        SigningRefused: this machine's key can be read by others, or is none.
        pydantic.ValidationError: the trust list is wrong.
    """
    path = read_settings().trust
    known = read_trust_file(path)
    try:
        own = read_key(key_path()).key_id
    except FileNotFoundError:
        own = ""
    console.print(f"trust list: {path}", highlight=False, markup=False)
    keys = Table("", "key", Column("public half", overflow="fold"), box=None, header_style="bold")
    for key_id, public in known.keys.items():
        keys.add_row("[green]signs here[/green]" if key_id == own else "", key_id, public)
    console.print(keys if known.keys else "no keys: `axon trust init` makes one", highlight=False)
    pins = Table(
        Column("pinned", overflow="fold"),
        Column("SHA-256", overflow="fold"),
        box=None,
        header_style="bold",
    )
    for what, digest in known.pinned.items():
        pins.add_row(plain(what), digest)
    console.print(pins if known.pinned else "nothing is pinned", highlight=False)


def pin(console: Console) -> None:
    """Trust every pointer, release and manifest of the shipped models as it lies there now, and nothing else that was pinned.

    Raises:
        ArtifactError: what a shipped pointer names would not load; nothing is pinned.
        SigningRefused, pydantic.ValidationError: the trust list cannot be changed, or is wrong.
    """
    settings = read_settings()
    list_path = settings.trust.resolve()
    known = read_trust_file(list_path)
    files = sorted({path for pattern in PINNED for path in settings.shipped.glob(pattern)})
    pins = {
        path.relative_to(settings.shipped).as_posix(): sha256_of(path.read_bytes())
        for path in files
    }
    wanted = known.model_copy(update={"pinned": pins})
    _refuse_what_would_not_load(Store(settings.shipped, None, wanted.trust()))
    _replace(list_path, _with_pins(list_path.read_text(encoding="utf-8"), pins), wanted)
    new = sum(digest not in known.pinned.values() for digest in pins.values())
    console.print(
        f"{len(pins)} files are pinned, {new} of them new or changed; commit {list_path.name} with them",
        highlight=False,
    )


def _refuse_what_would_not_load(shipped: Store) -> None:
    for place in sorted((shipped.state / "tenants").glob("*/CURRENT")):
        tenant = Tenant(place.parent.name)
        for ref in read_release(shipped, tenant, read_pointer(shipped, tenant)).bundles.values():
            open_bundle(shipped, ref)


def _new_key(path: Path) -> Signer:
    signer = Signer.new()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new(path.parent, path.name, signer.to_pem(), mode=0o600)
    except OSError as problem:
        raise SigningRefused(
            f"the key cannot be written to {path}: {(problem.strerror or 'no reason given').lower()}"
        ) from None
    return signer


def _replace(path: Path, text: str, wanted: TrustFile) -> None:
    """Put `text` in the place of the trust list, once it is sure that it says what is wanted.

    People lay such files out freely.
    """
    if parse_trust_file(text.encode()) != wanted:
        raise SigningRefused(
            f"{path} is laid out in a way that cannot be changed here: give `keys:` and `pinned:` a line of their own each"
        )
    staged = f".{path.name}.{uuid.uuid4().hex}"
    try:
        write_new(path.parent, staged, text.encode(), mode=0o644)
        replace_atomic(path.parent / staged, path)
    except OSError as problem:
        (path.parent / staged).unlink(missing_ok=True)
        raise SigningRefused(
            f"{path} cannot be changed: {os.strerror(problem.errno or 0).lower()}"
        ) from None


def _with_key(text: str, signer: Signer, about: str) -> str:
    """The text of a trust list with one key more; everything else, comments too, stays."""
    line = f'  "{signer.key_id}": "{base64.b64encode(signer.public).decode()}"  # {about}\n'
    return re.sub(
        r"(?m)^keys:[ \t]*(?:\{\}|null|~)?[ \t]*(?P<comment>#.*)?\n",
        lambda found: _head("keys", found) + line,
        text,
        count=1,
    )


def _with_pins(text: str, pins: Mapping[str, str]) -> str:
    """The text of a trust list with these pins and no other.

    Everything outside the list, comments too, stays.
    """
    lines = "".join(f'  {what}: "{digest}"\n' for what, digest in pins.items())
    block = r"(?m)^pinned:[ \t]*(?:\{\}|null|~)?[ \t]*(?P<comment>#.*)?\n(?:[ \t]+\S.*\n)*"
    return re.sub(block, lambda found: _head("pinned", found) + lines, text, count=1)


def _head(name: str, found: re.Match[str]) -> str:
    return f"{name}:  {found['comment']}\n" if found["comment"] else f"{name}:\n"
