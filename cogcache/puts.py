"""Puts of values: what an entry carries beside its value, and values by the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cogcache._arguments import checked_content_type, checked_tags, milliseconds
from cogcache._types import StoreResult
from cogcache.backends.base import (
    META_ARTIFACT,
    META_CONTENT_TYPE,
    META_COST,
    META_TAGS,
    META_USER,
)
from cogcache.calls import Calls
from cogcache.keys import Key
from cogcache.tiering import Tiers
from cogcache.writing import Drafts, Writing

__all__ = ["NO_CONTEXT", "Context", "Puts", "entry_meta"]

# A batch of ``many``: the first bound that is reached.
BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Context:
    """What a layer above knows of a value: what its entry carries beside it.

    Attributes:
        artifact: Name of the artifact, for statistics and listings.
        tags: (tag, version) pairs; the version is when the value began to be true, in microseconds.
        meta: Further metadata fields by number.
        source: Hash of the canonical URI of the source, 0 for none.
        kind: Hash of profile and artifact, 0 for none.
    """

    artifact: str | None = None
    tags: tuple[tuple[str, int], ...] = ()
    meta: Mapping[int | str, Any] | None = None
    source: int = 0
    kind: int = 0


NO_CONTEXT: Final = Context()


def entry_meta(
    tiers: Tiers,
    tags: Iterable[str],
    cost_seconds: float | None,
    metadata: Mapping[str, Any] | None,
    content_type: str | None,
    context: Context,
) -> dict[int | str, Any]:
    """What the entry of a value carries beside it, as ``CacheManager.store`` is told it."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(metadata).__name__}")
    if content_type is not None:
        content_type = checked_content_type(content_type)
    meta: dict[int | str, Any] = dict(context.meta or {})
    if context.artifact is not None:
        meta[META_ARTIFACT] = context.artifact
    versions = [
        *context.tags,
        *((tag, tiers.capture_stamp([tag])) for tag in checked_tags(tags)),
    ]
    if versions:
        meta[META_TAGS] = [[name, version] for name, version in versions]
    if cost_seconds is not None:
        meta[META_COST] = milliseconds(cost_seconds)
    if content_type is not None:
        meta[META_CONTENT_TYPE] = content_type
    if metadata:
        meta[META_USER] = dict(metadata)
    return meta


class Puts:
    """Puts of one manager.

    Args:
        writing: Of the manager.
        calls: Of the manager; sets are counted here.
    """

    def __init__(self, writing: Writing, calls: Calls) -> None:
        self._writing = writing
        self._calls = calls

    async def put(
        self,
        encoded: bytes,
        value: Any,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        context: Context,
    ) -> StoreResult:
        """Keep one value in every tier that it is for."""
        result = await self._writing.put(
            encoded, value, ttl_ms, meta, source=context.source, kind=context.kind
        )
        self._calls.count("sets", result.stored)
        return result

    async def many(
        self, items: Mapping[str | Key, Any] | Mapping[str, Any], ttl_ms: int | None
    ) -> dict[str | Key, bool]:
        """Keep each item, in batches that each tier writes with one call; what became of each."""
        results: dict[str | Key, bool] = {}
        batch: dict[str | Key, Drafts] = {}
        weight = 0
        try:
            for key, value in items.items():
                encoded = self._calls.encoded(key)
                results[key] = False
                if encoded is None:
                    continue
                batch[key] = await self._writing.drafts(encoded, value, ttl_ms, {})
                weight += max(what.raw_bytes for what in batch[key].values())
                if len(batch) >= BATCH_ITEMS or weight >= BATCH_BYTES:
                    full, batch, weight = batch, {}, 0
                    results.update(await self._put_batch(full))
        except Exception:  # of a value; what was cancelled begins nothing more
            await self._put_batch(batch)
            raise
        results.update(await self._put_batch(batch))
        return results

    async def _put_batch(self, batch: Mapping[str | Key, Drafts]) -> dict[str | Key, bool]:
        if not batch:
            return {}
        results = await self._writing.write_batch(list(batch.values()))
        kept = {key: result.stored for key, result in zip(batch, results, strict=True)}
        self._calls.count("sets", sum(kept.values()))
        return kept
