"""What is stored, counted by profile, artifact and tag."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cogcache._identity import URI_TAG
from cogcache.backends.base import CacheBackend, tags_of
from cogcache.keys import Key
from cogcache.summaries import Usage

if TYPE_CHECKING:
    from cogcache import _core


async def usage_of(tiers: Iterable[CacheBackend]) -> Usage:
    """See ``CacheManager.usage``."""
    usage = Usage(**_nothing(), profiles={}, artifacts={}, tags={})
    for tier in tiers:
        try:
            async for entry in tier.scan():
                _add_to_groups(usage, entry)
        except Exception as error:
            tier.note_fault("list", error)
    return usage


def _add_to_groups(usage: dict[str, Any], entry: _core.Entry) -> None:
    key = Key.from_encoded(entry.key)
    _add(usage, entry)
    _add(usage["profiles"].setdefault(key.profile, _nothing()), entry)
    _add(usage["artifacts"].setdefault(key.artifact, _nothing()), entry)
    for tag in tags_of(entry):
        if not tag.startswith(URI_TAG):
            _add(usage["tags"].setdefault(tag, _nothing()), entry)


def _nothing() -> dict[str, int]:
    return {"entries": 0, "stored_bytes": 0, "raw_bytes": 0}


def _add(counts: dict[str, Any], entry: _core.Entry) -> None:
    counts["entries"] += 1
    counts["stored_bytes"] += entry.length
    counts["raw_bytes"] += sum(part.raw_size for part in entry.parts())
