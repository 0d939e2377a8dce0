"""What an archive looks like (docs/archives.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cogcache.selection import SelectedEntry

__all__ = ["ENTRY", "FORMAT", "MANIFEST", "VERSION", "entry_name", "manifest_lines"]

FORMAT: Final = "cogcache archive"
VERSION: Final = 1
MANIFEST: Final = "cogcache-archive/manifest.jsonl"
ENTRY: Final = re.compile(r"(?:\./)?cogcache-archive/entries/([0-9a-f]{32})-([0-9a-f]{32})\.cog")


def entry_name(key_digest: bytes, container_digest: str) -> str:
    """The name of the member that holds one entry."""
    return f"cogcache-archive/entries/{key_digest.hex()}-{container_digest}.cog"


def manifest_lines(entries: list[SelectedEntry]) -> Iterator[bytes]:
    """The manifest: what was selected, a line of JSON for each, behind one that names the
    format.
    """
    yield _line({"format": FORMAT, "version": VERSION, "entries": len(entries)})
    for one in entries:
        said: dict[str, Any] = {
            "key": str(one.key),
            "digest": one.key.digest.hex(),
            "source_uri": one.source_uri,
            "tags": list(one.tags),
            "created_at": one.created_at,
            "expires_at": one.expires_at,
            "stored_bytes": one.stored_bytes,
        }
        yield _line(said)


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
