"""What an archive says of itself, before its entries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache.archives.layout import FORMAT, VERSION
from cogcache.archives.tar import TarError
from cogcache.exceptions import shown
from cogcache.keys import Key

__all__ = ["Manifest", "read_manifest"]

_LINE_BYTES: Final = 1 << 20
_STEP: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Manifest:
    """The keys that a manifest lists: needed where entries are made from others.

    Attributes:
        keys: Printed, by digest. What is here is a key with that digest, whoever wrote it.
        uris: Of the sources of these, as the manifest says.
    """

    keys: dict[bytes, str] = field(default_factory=dict)
    uris: dict[bytes, str] = field(default_factory=dict)


def read_manifest(read: Callable[[int], bytes], *, most_keys: int) -> Manifest:
    """The manifest that ``read`` gives; with ``most_keys`` 0 only its first line is looked at.

    Raises:
        TarError: It is none.
        ValueError: It is of a later version.
    """
    lines = _lines(read)
    said = _parsed(next(lines, b""))
    if said is None or said.get("format") != FORMAT:
        raise TarError("its manifest is none")
    version = said.get("version")
    if version != VERSION:
        raise ValueError(
            f"source is an archive of version {shown(version)}; this version of cogcache reads "
            f"{VERSION}: install a later one"
        )
    manifest = Manifest()
    while len(manifest.keys) < most_keys and (line := next(lines, None)) is not None:
        one = _parsed(line) or {}
        text, uri = one.get("key"), one.get("source_uri")
        try:
            key = Key.parse(text) if isinstance(text, str) else None
        except ValueError:
            key = None
        if key is not None and key.text is None and isinstance(text, str):
            manifest.keys[key.digest] = text
            manifest.uris[key.digest] = uri if isinstance(uri, str) else ""
    return manifest


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Lines that end; no more after one that is too long to be one of ours."""
    held = b""
    while piece := read(_STEP):
        *whole, held = (held + piece).split(b"\n")
        yield from whole
        if len(held) > _LINE_BYTES:
            return
