"""What is stored, counted by profile, artifact, tag and age."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from cogcache._identity import URI_TAG
from cogcache.backends.base import CacheBackend, tags_of
from cogcache.keys import Key
from cogcache.summaries import Usage

if TYPE_CHECKING:
    from cogcache import _core

__all__ = ["usage_of"]

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
# Ages below these, each group without those before it; and all that is older.
_AGES: Final = {
    "1h": _HOUR_MS,
    "1d": _DAY_MS,
    "7d": 7 * _DAY_MS,
    "30d": 30 * _DAY_MS,
    "90d": 90 * _DAY_MS,
    "365d": 365 * _DAY_MS,
}
_OLDER: Final = "older"


async def usage_of(tiers: Iterable[CacheBackend]) -> Usage:
    """See ``CacheManager.usage``."""
    ages = {name: _nothing() for name in (*_AGES, _OLDER)}
    usage = Usage(**_nothing(), profiles={}, artifacts={}, tags={}, ages=ages)
    for tier in tiers:
        try:
            async for entry in tier.scan():
                _add_to_groups(usage, entry)
                _add(ages[_age_group(tier.now_ms() - entry.created_ms)], entry)
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


def _age_group(age_ms: int) -> str:
    return next((name for name, below in _AGES.items() if age_ms < below), _OLDER)


def _nothing() -> dict[str, int]:
    return {"entries": 0, "stored_bytes": 0, "raw_bytes": 0}


def _add(counts: dict[str, Any], entry: _core.Entry) -> None:
    counts["entries"] += 1
    counts["stored_bytes"] += entry.length
    counts["raw_bytes"] += sum(part.raw_size for part in entry.parts())
