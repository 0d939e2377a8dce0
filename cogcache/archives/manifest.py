"""What an archive says of itself, before its entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache.archives.layout import FORMAT, VERSION
from cogcache.archives.tar import TarError
from cogcache.exceptions import shown

__all__ = ["Manifest", "read_manifest"]

_FIRST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first line of a manifest."""

    said: dict[str, Any] = field(default_factory=dict)


def read_manifest(read: Callable[[int], bytes]) -> Manifest:
    """The manifest that ``read`` gives; only its first line is looked at.

    Raises:
        TarError: It is none.
        ValueError: It is of a later version.
    """
    line, newline, _ = read(_FIRST_BYTES).partition(b"\n")
    try:
        said = json.loads(line) if newline else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise TarError("its manifest is none")
    version = said.get("version")
    if version != VERSION:
        raise ValueError(
            f"source is an archive of version {shown(version)}; this version of cogcache reads "
            f"{VERSION}: install a later one"
        )
    return Manifest(said)
