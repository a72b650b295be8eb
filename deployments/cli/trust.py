"""`axon trust`: the signing key of this machine, the trusted keys and the pinned files."""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.console import Column, plain, print_json, table
from deployments.cli.local_store import now
from deployments.cli.options import JsonOption
from deployments.config import (
    KEY_VARIABLE,
    ROOT,
    SigningRefused,
    TrustFile,
    key_path,
    parse_trust_file,
    read_key,
    read_settings,
    read_trust_file,
)
from ensemble.store import Signer, Store, Tenant, open_bundle, read_pointer, read_release
from ensemble.store.files import replace_atomic, sha256_of, write_new

__all__ = ["init", "pin", "show"]

PINNED = ("tenants/*/CURRENT", "tenants/*/releases/*.json", "tenants/*/bundles/*/*/manifest.json")


def init(
    key: Annotated[
        Path | None,
        typer.Option(
            help="File of the private key, outside the repository; default: "
            "~/.config/axon/signing.key."
        ),
    ] = None,
) -> None:
    """Make a signing key and add it to the trust list.

    An existing key stays as it is. Refused where the file is inside the repository or other users
    can read it.
    """
    list_path = read_settings().trust.resolve()
    known = read_trust_file(list_path)
    path = (key or key_path()).expanduser().absolute()
    if path.resolve().is_relative_to(ROOT):
        raise SigningRefused(
            f"{path} is inside the repository, where a private key would be published sooner or "
            "later: name another place with --key"
        )
    try:
        signer = read_key(path)
        console.out.print(f"the key at {path} stays", highlight=False, markup=False)
    except FileNotFoundError:
        signer = _new_key(path)
        console.out.print(
            f"made a private key at {path}: store a copy where only you can read it",
            highlight=False,
            markup=False,
        )
    if signer.key_id in known.keys:
        console.out.print(f"key {signer.key_id} is trusted already", highlight=False)
    else:
        public = base64.b64encode(signer.public).decode()
        wanted = known.model_copy(update={"keys": {**known.keys, signer.key_id: public}})
        text = list_path.read_text(encoding="utf-8")
        _replace(list_path, _with_key(text, signer, f"axon trust init, {now():%Y-%m-%d}"), wanted)
        console.out.print(
            f"key {signer.key_id} is trusted now; a running service follows within seconds",
            highlight=False,
        )
    if path != key_path().absolute():
        console.out.print(
            f"to sign with this key: export {KEY_VARIABLE}={path}", highlight=False, markup=False
        )


def show(*, as_json: JsonOption = False) -> None:
    """Show the trusted keys and the pinned files.

    The key that this machine signs with is marked.
    """
    path = read_settings().trust
    known = read_trust_file(path)
    try:
        own = read_key(key_path()).key_id
    except FileNotFoundError:
        own = ""
    if as_json:
        print_json(
            {
                "trust_list": str(path),
                "signs_here": own or None,
                "keys": known.keys,
                "pinned": known.pinned,
            }
        )
        return
    console.out.print(f"trust list: {path}", markup=False)
    if known.keys:
        rows = [
            [key_id, "[green]signs here[/green]" if key_id == own else "", public]
            for key_id, public in known.keys.items()
        ]
        console.out.print(table(["key", "", Column("public half", wraps=True)], rows))
    else:
        console.out.print("no keys: `axon trust init` makes one")
    if known.pinned:
        pins = [[plain(what), digest] for what, digest in known.pinned.items()]
        console.out.print(
            table([Column("pinned", wraps=True), Column("SHA-256", wraps=True)], pins)
        )
    else:
        console.out.print("nothing is pinned")


def pin() -> None:
    """Pin the shipped models as they are now.

    For the publisher of Axon. Every pointer, release and manifest in artifacts/ is pinned by its
    digest, and nothing else. Refused where a shipped release would not load.
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
    _require_loadable(Store(settings.shipped, None, wanted.trust()))
    _replace(list_path, _with_pins(list_path.read_text(encoding="utf-8"), pins), wanted)
    new = sum(digest not in known.pinned.values() for digest in pins.values())
    console.out.print(
        f"{len(pins)} files are pinned, {new} of them new or changed; "
        f"commit {list_path.name} with them",
        highlight=False,
    )


def _require_loadable(shipped: Store) -> None:
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
        reason = (problem.strerror or "no reason given").lower()
        raise SigningRefused(f"the key cannot be written to {path}: {reason}") from None
    return signer


def _replace(path: Path, text: str, wanted: TrustFile) -> None:
    """Replace the trust list by `text`, after a check that it parses to `wanted`.

    The check is needed because operators may lay the file out in a way that a text edit breaks.
    """
    if parse_trust_file(text.encode()) != wanted:
        raise SigningRefused(
            f"{path} is laid out in a way that cannot be changed here: give `keys:` and "
            "`pinned:` a line of their own each"
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
    """Return the text of a trust list with one more key; comments and all else are kept."""
    line = f'  "{signer.key_id}": "{base64.b64encode(signer.public).decode()}"  # {about}\n'
    return re.sub(
        r"(?m)^keys:[ \t]*+(?:\{\}|null|~)?+[ \t]*+(?P<comment>#.*)?+\n",
        lambda found: _head("keys", found) + line,
        text,
        count=1,
    )


def _with_pins(text: str, pins: Mapping[str, str]) -> str:
    """Return the text of a trust list with exactly these pins.

    Comments and everything else outside the list of pins are kept.
    """
    lines = "".join(f'  {what}: "{digest}"\n' for what, digest in pins.items())
    block = r"(?m)^pinned:[ \t]*+(?:\{\}|null|~)?+[ \t]*+(?P<comment>#.*)?+\n(?:[ \t]++\S.*\n)*+"
    return re.sub(block, lambda found: _head("pinned", found) + lines, text, count=1)


def _head(name: str, found: re.Match[str]) -> str:
    return f"{name}:  {found['comment']}\n" if found["comment"] else f"{name}:\n"
